"""`trishula doctor`: all that can be asked of this host, its node and the way to its peers, with what to do."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trishula
from trishula.cli.main import DONE, FAILED
from trishula.cli.output import print_json, visible
from trishula.node import checks
from trishula.node.accounts import group_id
from trishula.node.checks import Finding
from trishula.node.config import AgentConfig, Config, ConfigErrors, PeerConfig, load
from trishula.node.courier import Courier, courier_to
from trishula.node.credentials import FILES
from trishula.node.files import BOXES
from trishula.node.tls import client_context, server_context
from trishula.protocol.errors import ConfigError

Question = Callable[[], Iterable[Finding]]

_WSS_PORT = 443
_HERE = {"::": "127.0.0.1", "0.0.0.0": "127.0.0.1"}  # noqa: S104 - compared, not bound
_SHOWN = {checks.OK: "ok", checks.WARNING: "WARNING", checks.FAILED: "FAILED", checks.SKIPPED: "-"}


def doctor(arguments: argparse.Namespace) -> int:
    """`trishula doctor`. Exit code 1 where a finding is `failed`."""
    try:
        config = load(Path(arguments.config))
    except ConfigErrors as mistakes:
        found = [_mistake(mistake) for mistake in mistakes.errors]
        if os.path.exists(arguments.config) and not os.access(arguments.config, os.R_OK):  # noqa: PTH110 - beside access
            found = [Finding("config", checks.FAILED, f"this user can't read {arguments.config}", "run this as root")]
    else:
        node = _answer(partial(_node, config, arguments.socket))
        asked = {finding.check for finding in node}  # what the node has found out itself, nobody judges anew
        with ThreadPoolExecutor() as pool:  # they mostly wait
            answers = [pool.submit(_answer, question) for question in _questions(config, asked)]
            found = [finding for answer in answers for finding in answer.result()] + node
    failed = any(finding.state == checks.FAILED for finding in found)
    if arguments.json:
        print_json({"ok": not failed, "findings": [asdict(finding) for finding in found]})
    else:
        for finding in found:
            fix = f". Fix: {finding.fix}" if finding.fix else ""
            print(visible(f"{_SHOWN[finding.state]:<8} {finding.check:<9} {finding.text}{fix}"))
    return FAILED if failed else DONE


def _questions(config: Config, asked: Collection[str]) -> list[Question]:
    """What else there is to ask, in the order in which one thing depends on another."""
    questions: list[Question] = [partial(_rights, config)]
    if "disk" not in asked:
        questions += [partial(_disks, config)]
    if "mailbox" not in asked:
        questions += [partial(_mailbox, config, agent) for agent in config.agents.values()]
    questions += [lambda: [checks.store(config.store_dir / "trishula.db")]]
    if config.transport == "websocket":
        questions += [partial(_listening, config)]
        questions += [partial(_peer, config, peer) for peer in config.peers.values() if peer.dial]
    couriers = [courier for peer in config.peers.values() if (courier := courier_to(config, peer)) is not None]
    questions += [partial(_rsync, courier) for courier in couriers]
    return questions


def _answer(question: Question) -> list[Finding]:
    try:
        return [*question()]
    except ConfigError as error:
        return [_mistake(error)]
    except OSError as error:
        return [Finding("rights", checks.FAILED, str(error), "run this as root, or as the user of the node")]


def _mistake(error: ConfigError) -> Finding:
    return Finding("config", checks.FAILED, error.message, error.fix or "see docs/configuration.md")


def _disks(config: Config) -> list[Finding]:
    folders = {config.store_dir, config.mailbox_dir}
    return [*dict.fromkeys(checks.disk(folder) for folder in sorted(folders))]


def _rights(config: Config) -> list[Finding]:
    files = [checks.secret(config.private_key, group=True)]
    if config.credentials.directory is not None:
        files += [checks.secret(config.credentials.directory / name) for name in FILES]
    if config.fallback is not None:
        files += [checks.secret(config.fallback.ssh_config.parent / key) for key in _rsync_keys(config)]
    return files


def _rsync_keys(config: Config) -> list[str]:
    syncs = {peer.sync for peer in config.peers.values()} - {"none", "never"}
    return sorted({key for sync in syncs for key in sync.split("+")})


def _mailbox(config: Config, agent: AgentConfig) -> list[Finding]:
    group = None if agent.socket_group is None else group_id(agent.socket_group)
    return [checks.mailbox_finding(agent.name, checks.mailbox(config.mailbox_dir / agent.name, BOXES, group))]


def _listening(config: Config) -> list[Finding]:
    """The certificate, on disk and as it is served, and the firewall before it."""
    own, on_disk = checks.certificate(server_context(config), client_context(config))
    address = _HERE.get(config.listen_address, config.listen_address)
    found = [own]
    if on_disk:
        found.append(checks.served(address, config.listen_port, on_disk))
    if address != config.listen_address:
        found.append(checks.firewall(config.listen_port))
    return found


def _peer(config: Config, peer: PeerConfig) -> list[Finding]:
    url = urlsplit(peer.url)
    token = config.credentials.dial.get(peer.name)
    return checks.peer(peer.name, url.hostname or "", url.port or _WSS_PORT, client_context(config), token)


def _rsync(courier: Courier) -> list[Finding]:
    """Both ways to a peer, as far as its forced commands and without a file."""
    tried = {"push": asyncio.run(courier.push(dry=True))}
    if courier.pulls:
        tried["pull"] = asyncio.run(courier.pull(dry=True))
    return [checks.fallback(courier.peer, way, why) for way, why in tried.items()]


def _node(config: Config, socket: str | None) -> list[Finding]:
    """What the node has found out about itself."""

    async def ask() -> dict[str, Any]:
        async with trishula.Client(socket or config.runtime_dir / "node.sock", patience=0) as mesh:
            return await mesh.status()

    try:
        status = asyncio.run(ask())
    except trishula.TrishulaError as error:
        return [Finding("node", checks.FAILED, error.message, error.fix or "is it running?")]
    return checks.told(status)
