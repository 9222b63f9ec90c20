"""Which node a command talks to, and as whom."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import trishula
from trishula.cli.usage import UsageError
from trishula.client.endpoint import DEFAULT_SOCKET, SOCKET_VARIABLE, agents_of
from trishula.protocol.names import is_agent

Work = Callable[[trishula.Client], Awaitable[int]]

_SILENT_S = 2.0


def with_node(arguments: argparse.Namespace, work: Work, *, deadline: float | None = None) -> int:
    """Run `work` with a client of the node that the arguments name.

    A node that can't be reached is waited for: until the `deadline` (monotonic) of a command that has one, else as long
    as a restart may take.
    """
    socket = socket_of(arguments)

    async def run() -> int:
        async with contextlib.AsyncExitStack() as stack:
            if deadline is None:
                mesh = await stack.enter_async_context(trishula.Client(socket))
            else:
                left = max(0.0, deadline - time.monotonic())
                client = trishula.Client(socket, timeout=left, patience=left)
                with _hint(f"no answer yet from {client.endpoint}: waiting for it until --timeout, in {left:.0f} s"):
                    mesh = await stack.enter_async_context(client)
            return await work(mesh)

    return asyncio.run(run())


@contextlib.contextmanager
def _hint(text: str) -> Iterator[None]:
    """Say so to whom it takes too long."""
    hint = asyncio.get_running_loop().call_later(_SILENT_S, lambda: print(f"trishula: {text}", file=sys.stderr))
    try:
        yield
    finally:
        hint.cancel()


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
    known = agents_of(folder)
    if not socket.exists() and known:
        raise UsageError(f"no agent {agent!r} has a socket in {folder}", fix=f"there are {', '.join(known)}")
    if socket.exists() and not os.access(socket, os.R_OK | os.W_OK):
        mine = agents_of(folder, mine=True)
        raise trishula.NodeUnreachable(
            f"this user may not speak for {agent}: {socket} is for its own login's group",
            value=str(socket),
            fix=f"you may speak for {', '.join(mine)}" if mine else f"there are {', '.join(known)}",
        )
    return str(socket)
