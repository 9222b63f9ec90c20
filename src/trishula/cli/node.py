"""The commands of a host: `trishula node run` and `trishula node check`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from trishula.cli.main import DONE, FAILED
from trishula.cli.output import print_json, visible
from trishula.node.checks import obstacles
from trishula.node.config import Config, ConfigErrors, load
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


def _load(path: str) -> tuple[Config | None, list[ConfigError]]:
    try:
        return load(Path(path)), []
    except ConfigErrors as mistakes:
        return None, mistakes.errors


def _report(errors: list[ConfigError]) -> None:
    for error in errors:
        print(f"trishula: {visible(str(error))}", file=sys.stderr)
