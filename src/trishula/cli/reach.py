"""Which node a command talks to, and as whom."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import trishula
from trishula.cli.usage import UsageError
from trishula.client.endpoint import DEFAULT_SOCKET, SOCKET_VARIABLE
from trishula.protocol.names import is_agent

Work = Callable[[trishula.Client], Awaitable[int]]


def with_node(arguments: argparse.Namespace, work: Work, *, timeout: float = 30.0) -> int:
    """Run `work` with a client of the node that the arguments name."""
    socket = socket_of(arguments)

    async def run() -> int:
        async with trishula.Client(socket, timeout=timeout) as mesh:
            return await work(mesh)

    return asyncio.run(run())


def socket_of(arguments: argparse.Namespace) -> str | None:
    """`--socket`, or the socket of `--agent` beside the default one; None: the default one.

    Raises `UsageError` for an agent that has none here, `NodeUnreachable` for one whose socket we may not open.
    """
    named: str | None = arguments.socket
    agent: str | None = arguments.agent
    if agent is None:
        return named
    if named is not None:
        raise UsageError("--socket says already who speaks: leave out --agent, or --socket")
    if not is_agent(agent):
        raise UsageError(f"{agent!r} is no agent's name")
    folder = Path(os.environ.get(SOCKET_VARIABLE) or DEFAULT_SOCKET).parent
    socket = folder / f"{agent}.sock"
    known = _known(folder)
    if not socket.exists() and known:
        raise UsageError(f"no agent {agent!r} has a socket in {folder}", fix=f"there are {', '.join(known)}")
    if socket.exists() and not os.access(socket, os.R_OK | os.W_OK):
        mine = [name for name in known if os.access(folder / f"{name}.sock", os.R_OK | os.W_OK)]
        raise trishula.NodeUnreachable(
            f"this user may not speak for {agent}: {socket} is for its own login's group",
            value=str(socket),
            fix=f"you may speak for {', '.join(mine)}" if mine else f"there are {', '.join(known)}",
        )
    return str(socket)


def _known(folder: Path) -> list[str]:
    """The agents that have sockets here; `node` is the default agent's."""
    try:
        return sorted(path.stem for path in folder.iterdir() if path.suffix == ".sock" and path.stem != "node")
    except OSError:
        return []
