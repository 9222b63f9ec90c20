"""The Unix sockets of the agents here: made and served, and made again where one is gone.

A group that is not there keeps its own agent out, and nobody else: the socket waits for it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trishula.node.accounts import group_id
from trishula.node.credentials import Identity
from trishula.node.listener import Doorman, agent_socket
from trishula.places import HERE
from trishula.protocol.errors import ConfigError

Start = Callable[[Coroutine[Any, Any, None], str], "asyncio.Task[None]"]


@dataclass(slots=True)
class _Socket:
    path: Path
    identity: Identity
    group: str | None
    file: tuple[int, int] | None = None
    """What it is on the disk, while it is served."""
    given: bool = False
    """Whether its group has got it."""
    task: asyncio.Task[None] | None = None


class AgentSockets:
    """All of them, by name: that of the agent, or `node`."""

    def __init__(self, runtime_dir: Path, sockets: Iterable[tuple[str, Identity, str | None]]) -> None:
        self._all = {name: _Socket(runtime_dir / f"{name}.sock", identity, group) for name, identity, group in sockets}
        self.problems: dict[str, tuple[str, str]] = dict.fromkeys(self._all, ("", ""))
        """By socket: why its agent can't use it, and what to do; empty where it can."""

    async def open(self, doorman: Doorman, start: Start) -> None:
        """Make all of them, listening from here on, and serve them in tasks of `start`. Raises `ConfigError`."""
        self._doorman, self._start = doorman, start
        made = {name: agent_socket(each.path) for name, each in self._all.items()}
        for name, sock in made.items():
            self._serve(name, sock)
        await self._give()

    async def look(self) -> None:
        """Make again what is gone."""
        for name, each in self._all.items():
            if each.file is not None and each.file == _identity(each.path):
                continue
            if each.task is not None:  # first: it takes its socket with it
                each.task.cancel()
                await asyncio.wait([each.task])
                each.task = None
            try:
                self._serve(name, agent_socket(each.path))
            except ConfigError as error:
                each.file = None
                self.problems[name] = (error.message, f"`{HERE.restart}`, which makes its folder anew")
        await self._give()

    def _serve(self, name: str, sock: socket.socket) -> None:
        each = self._all[name]
        each.file, each.given = _identity(each.path), False
        each.task = self._start(self._doorman.serve_agent(sock, each.identity), f"agents on {each.path.name}")

    async def _give(self) -> None:
        for name, each in self._all.items():
            if each.file is not None and not each.given:
                self.problems[name] = await asyncio.to_thread(_give_to, each.path, each.group)
                each.given = not self.problems[name][0]


def _give_to(path: Path, group: str | None) -> tuple[str, str]:
    """Let a group use a socket. Returns why it can't, and what to do."""
    if group is None:
        return "", ""
    try:
        os.chown(path, -1, group_id(group))
    except ConfigError:
        fix = f"create the group (`groupadd {group}`) with its login in it, then run site.yml, or `{HERE.restart}`"
        return f"there is no group {group!r}, so its agent can't use it", fix
    except OSError:
        return (
            f"the node is not in the group {group!r}",
            f"run site.yml, then `{HERE.restart}`: groups are had at a start",
        )
    return "", ""


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        at = path.lstat()
    except OSError:
        return None
    return at.st_dev, at.st_ino
