"""The commands of a host: `trishula node run`, `trishula node check` and `trishula node adopt`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from trishula.cli.main import DONE, FAILED
from trishula.cli.output import print_json, visible
from trishula.node.accounts import group_id
from trishula.node.config import Config, ConfigErrors, load
from trishula.node.tls import client_context, server_context
from trishula.protocol.errors import ConfigError


def run(arguments: argparse.Namespace) -> int:
    """`trishula node run`."""
    config, errors = _load(arguments.config)
    if config is None:
        _report(errors)
        return FAILED
    from trishula.node import daemon  # noqa: PLC0415 - `check` must work where the node could not even be loaded

    return daemon.run(config)


def check(arguments: argparse.Namespace) -> int:
    """`trishula node check`."""
    config, errors = _load(arguments.config)
    if config is not None:
        errors = obstacles(config)
    if arguments.json:
        print_json(
            {
                "ok": not errors,
                "errors": [
                    {
                        "message": error.message,
                        "key": error.key,
                        "value": None if error.value is None else str(error.value),
                        "fix": error.fix,
                    }
                    for error in errors
                ],
            }
        )
    elif config is not None and not errors:
        print(f"{arguments.config}: the node {config.node} could start with it")
    else:
        _report(errors)
    return FAILED if errors else DONE


def adopt(arguments: argparse.Namespace) -> int:
    """`trishula node adopt`. Raises `StoreError` while the node runs."""
    config, errors = _load(arguments.config, secrets=False)
    if config is None:
        _report(errors)
        return FAILED
    from trishula.node.store import adopt as adopt_store  # noqa: PLC0415 - as above

    if os.geteuid() == 0:
        _be_the_owner_of(config.state_dir)
    was, incarnation = adopt_store(config.store_dir, config.node)
    if arguments.json:
        print_json({"node": config.node, "was": was, "incarnation": incarnation})
    else:
        print(f"the store of {config.node} is a new one to its peers: {incarnation}, was {was}")
        print("start the node: before it links, it takes what lies in its mailboxes as delivered before")
    return DONE


def _be_the_owner_of(folder: Path) -> None:
    """For good: what root makes in a store, the node could not open."""
    info = folder.stat()
    os.setgroups([])
    os.setgid(info.st_gid)
    os.setuid(info.st_uid)


def obstacles(config: Config) -> list[ConfigError]:
    """Why a node with this configuration could not start: certificates that don't fit, groups that aren't there."""
    groups = [agent.socket_group for agent in config.agents.values() if agent.socket_group is not None]
    checks: list[Callable[[], object]] = [partial(server_context, config), partial(client_context, config)]
    checks += [partial(group_id, group) for group in groups]
    found = []
    for check in checks:
        try:
            check()
        except ConfigError as error:
            found.append(error)
    return found


def _load(path: str, *, secrets: bool = True) -> tuple[Config | None, list[ConfigError]]:
    try:
        return load(Path(path), secrets=secrets), []
    except ConfigErrors as mistakes:
        return None, mistakes.errors


def _report(errors: list[ConfigError]) -> None:
    for error in errors:
        print(f"trishula: {visible(str(error), lines=True)}", file=sys.stderr)
