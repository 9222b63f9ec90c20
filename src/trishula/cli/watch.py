"""`trishula watch`: what arrives, as it arrives."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import json
import os
import select
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from typing import Any

import trishula
from trishula.cli.main import DONE
from trishula.cli.output import clock, print_json, visible
from trishula.cli.reach import with_node
from trishula.cli.streams import Unprinted
from trishula.protocol.records import UNSIGNED

_MOST_LINES = 40
"""Of a body that are shown; the file has all of it."""


def watch(arguments: argparse.Namespace) -> int:
    """Print messages until told to stop: unread ones first, then new ones."""

    async def work(mesh: trishula.Client) -> int:
        watching = asyncio.ensure_future(_print_all(mesh, as_json=arguments.json, done=arguments.done))
        with _ending(watching) as reader_gone:
            await asyncio.wait([watching])
        if reader_gone.is_set():
            raise Unprinted(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))
        if not watching.cancelled():
            watching.result()
        return DONE

    return with_node(arguments, work)


async def _print_all(mesh: trishula.Client, *, as_json: bool, done: bool) -> None:
    async for message in mesh:
        if as_json:
            print_json({"message": message, "meta": _meta(message)})
        else:
            print(block(message), flush=True)
        if done:
            # Printed comes first: who is killed in between sees the message again, and not never.
            await mesh.done(message)


@contextlib.contextmanager
def _ending(watching: asyncio.Future[None]) -> Iterator[asyncio.Event]:
    """SIGTERM ends it, and so does a reader that goes away, which is what the event says."""
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, watching.cancel)
    try:
        if stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode):
            threading.Thread(target=_await_reader_gone, args=(loop, gone, watching), daemon=True).start()
        yield gone
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def _await_reader_gone(loop: asyncio.AbstractEventLoop, gone: asyncio.Event, watching: asyncio.Future[None]) -> None:
    """Writing would tell, but there may be nothing to write for hours."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # errors are always told
    poll.poll()
    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(gone.set)
        loop.call_soon_threadsafe(watching.cancel)


def block(message: trishula.Message) -> str:
    """One message for people: a line that says what it is, its body below, an empty line."""
    received = clock(round(message.meta.received_at.timestamp() * 1000))
    marks = "".join(f"  [{mark}]" for mark in (message.get("type"), message.get("priority")) if mark not in _USUAL)
    if message.meta.route == UNSIGNED:
        marks += f"  [{UNSIGNED}]"
    head = f"{received}  {message.sender}: {message.get('subject') or '-'}{marks}  ({message.id})"
    body = message.get("body", "")
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False, indent=2)
    lines = text.rstrip("\n").split("\n") if text.strip() else []
    if len(lines) > _MOST_LINES:
        left = len(lines) - _MOST_LINES
        lines = [*lines[:_MOST_LINES], f"... and {left} more lines: trishula show {message.id}"]
    return "\n".join([visible(head), *(f"    {visible(line.rstrip(chr(13)), lines=True)}" for line in lines), ""])


_USUAL = (None, "", "message", "normal")


def _meta(message: trishula.Message) -> dict[str, Any]:
    meta = message.meta
    return {
        "node": meta.from_node,
        "route": meta.route,
        "method": meta.method,
        "received_at": round(meta.received_at.timestamp() * 1000),
        "digest": meta.digest,
    }
