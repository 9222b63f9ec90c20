"""`trishula demo`: three real nodes on this machine, one of them killed under a stream of messages, and the count."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import msgspec

import trishula
from trishula.cli.main import DONE, FAILED
from trishula.cli.output import milliseconds, print_json, print_table
from trishula.cli.sandbox import Sandbox, until

VICTIM = "rushabdev"
STREAM_S = 3.0
KILL_AT_S = 1.0
BACK_AT_S = 2.0
_EVERY_S = 0.05
_BIN_S = 0.25
_PATIENCE_S = 10.0
_RESTART_S = 1.0
_INDENT = " " * 8

_TERMINATED = 128 + 15


def demo(arguments: argparse.Namespace) -> int:
    """Run the command."""
    with contextlib.suppress(asyncio.CancelledError):
        return asyncio.run(_until_terminated(arguments))
    return _TERMINATED


async def _until_terminated(arguments: argparse.Namespace) -> int:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with _folder(arguments.dir) as folder, Sandbox(folder) as mesh:
        if arguments.serve:
            return await _serve(mesh)
        return await _show(mesh, as_json=arguments.json)


@contextlib.contextmanager
def _folder(given: str | None) -> Iterator[Path]:
    if given is not None:
        yield Path(given)
    else:
        with tempfile.TemporaryDirectory(prefix="trishula-demo-") as folder:
            yield Path(folder)


# ---------------------------------------------------------------- --serve


async def _serve(mesh: Sandbox) -> int:
    mesh.start()
    await mesh.linked()
    nodes = [
        {
            "node": place.name,
            "agent": agent,
            "socket": str(place.socket(agent)),
            "mailbox": str(place.mailbox(agent)),
            "url": place.url,
            "ca": str(place.ca),
            "token_file": str(place.token_file(agent)),
            "log": str(place.log),
        }
        for place in mesh.places.values()
        for agent in place.agents
    ]
    print_json({"dir": str(mesh.directory), "nodes": nodes})
    print(
        f"Try: trishula send agni 'Hello.' --wait delivered --socket {nodes[0]['socket']}\nCtrl-C ends it.",
        file=sys.stderr,
    )
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    while not stop.is_set():
        for name in mesh.places:
            if not mesh.alive(name):
                print(f"{name} has ended and is started again, as systemd would", file=sys.stderr)
                mesh.start(name)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _RESTART_S)
    return DONE


# ---------------------------------------------------------------- the show


@dataclass(slots=True)
class _Story:
    """What happened, by the clock of the story."""

    out: TextIO
    begun: float = field(default_factory=time.monotonic)
    begun_wall: float = field(default_factory=time.time)
    receipts: list[trishula.Receipt] = field(default_factory=list)
    arrivals: dict[tuple[str, str], float] = field(default_factory=dict)
    """When (id, to) came to its recipient's node, in seconds of the story."""

    @property
    def now(self) -> float:
        return time.monotonic() - self.begun

    def tell(self, text: str) -> None:
        print(f"{self.now:6.2f} s  {text}", file=self.out, flush=True)


async def _show(mesh: Sandbox, *, as_json: bool) -> int:
    story = _Story(sys.stderr if as_json else sys.stdout)
    with contextlib.redirect_stdout(story.out):
        story.tell(f"three nodes start, with TLS, tokens and pair keys of their own, in {mesh.directory}")
        mesh.start()
        await mesh.linked()
        story.tell("all are up and linked; mac, as behind NAT, only dials out")
        async with _clients(mesh) as clients, asyncio.TaskGroup() as listening:
            listeners = [listening.create_task(_listen(client, story)) for client in clients.values()]
            directions = await _cross(clients, story)
            await _stream(mesh, clients, story)
            await _settle(story)
            for listener in listeners:
                listener.cancel()
        result = await _count(mesh, story)
        _print_timeline(story, list(clients))
        story.tell(", ".join(f"{word} {result[word]}" for word in ("stored", "delivered", "lost", "doubled")))
    if as_json:
        print_json({"directions": directions, **result, "seconds": round(story.now, 2)})
    crossed = all(direction["delivered"] for direction in directions)
    return DONE if crossed and not result["lost"] and not result["doubled"] else FAILED


@contextlib.asynccontextmanager
async def _clients(mesh: Sandbox) -> AsyncIterator[dict[str, trishula.Client]]:
    async with contextlib.AsyncExitStack() as stack:
        yield {
            agent: await stack.enter_async_context(mesh.client(agent))
            for place in mesh.places.values()
            for agent in place.agents
        }


async def _listen(client: trishula.Client, story: _Story) -> None:
    async for message in client:
        moment = message.meta.received_at.timestamp() - story.begun_wall
        story.arrivals[message.id, client.agent] = moment


async def _cross(clients: dict[str, trishula.Client], story: _Story) -> list[dict[str, Any]]:
    """One message in each direction."""
    directions: list[dict[str, Any]] = []
    for sender, to in itertools.permutations(clients, 2):
        receipt = await clients[sender].send(to, subject=f"{sender} greets {to}")
        story.receipts.append(receipt)
        with contextlib.suppress(trishula.TimedOut):
            await receipt.delivered(timeout=_PATIENCE_S)
        (outcome,) = receipt.outcomes
        directions.append(
            {
                "from": sender,
                "to": to,
                "route": outcome.route or None,
                "delivered": receipt.settled,
                "latency_ms": outcome.latency_ms,
            }
        )
    story.tell("a message has crossed in each direction, each on its recipient's disk before it was confirmed:")
    print()
    print_table(
        (f"{_INDENT}FROM", "TO", "ROUTE", "LATENCY"),
        [(f"{_INDENT}{d['from']}", d["to"], d["route"] or "-", milliseconds(d["latency_ms"])) for d in directions],
        right=(3,),
    )
    print()
    return directions


async def _stream(mesh: Sandbox, clients: dict[str, trishula.Client], story: _Story) -> None:
    """Everybody writes to everybody; one node is killed in the midst of it."""
    start = story.now
    story.tell(f"everybody writes to everybody, {round(1 / _EVERY_S)} messages a second each way")
    async with asyncio.TaskGroup() as writing:
        for sender, to in itertools.permutations(clients, 2):
            writing.create_task(_write(clients[sender], to, story, until_s=start + STREAM_S))
        await asyncio.sleep(start + KILL_AT_S - story.now)
        mesh.kill(VICTIM)
        story.tell(f"kill -9 {VICTIM}")
        await asyncio.sleep(start + BACK_AT_S - story.now)
        waiting = sum(not receipt.settled for receipt in story.receipts)
        story.tell(f"{waiting} messages are stored and wait for it; {VICTIM} is started again")
        started = story.now
        mesh.start(VICTIM)
        await mesh.linked(VICTIM)
        story.tell(f"{VICTIM} is up and linked again, {story.now - started:.2f} s after its start")


async def _write(client: trishula.Client, to: str, story: _Story, *, until_s: float) -> None:
    """While its own node is away, `send` waits, and then sends the same message again: never two."""
    for number in itertools.count(1):
        if story.now >= until_s:
            return
        story.receipts.append(await client.send(to, subject=f"number {number}", timeout=_PATIENCE_S))
        await asyncio.sleep(_EVERY_S)


async def _settle(story: _Story) -> None:
    """Until all is confirmed, and seen by those who listen; what is not, the count will tell."""
    with contextlib.suppress(trishula.TimedOut):
        await until(lambda: all(receipt.settled for receipt in story.receipts), "all is confirmed")
        expected = sum(len(receipt.outcomes) for receipt in story.receipts)
        await until(lambda: len(story.arrivals) >= expected, "all has been read")


# ---------------------------------------------------------------- the count


async def _count(mesh: Sandbox, story: _Story) -> dict[str, int]:
    """What is in the inboxes against what `send` had reported stored."""
    stored = {(receipt.id, outcome.to) for receipt in story.receipts for outcome in receipt.outcomes}
    # The files follow the confirmations, a moment later.
    with contextlib.suppress(trishula.TimedOut):
        await until(lambda: stored <= inbox_files(mesh).keys(), "all files are there")
    return tally(stored, inbox_files(mesh))


def tally(stored: Collection[tuple[str, str]], files: Counter[tuple[str, str]]) -> dict[str, int]:
    """The result: each (id, to) that was stored against the number of its files."""
    delivered = sum(files[envelope] > 0 for envelope in stored)
    return {
        "stored": len(stored),
        "delivered": delivered,
        "lost": len(stored) - delivered,
        "doubled": sum(max(0, files[envelope] - 1) for envelope in stored),
    }


def inbox_files(mesh: Sandbox) -> Counter[tuple[str, str]]:
    """How many inbox files hold the message (id, to), whatever they are called."""
    head = msgspec.json.Decoder(dict[str, msgspec.Raw])
    return Counter(
        (str(msgspec.json.decode(head.decode(path.read_bytes())["id"])), agent)
        for place in mesh.places.values()
        for agent in place.agents
        for path in (place.mailbox(agent) / "inbox").glob("*.json")
    )


def _print_timeline(story: _Story, agents: list[str]) -> None:
    ours = {receipt.id for receipt in story.receipts}
    bins = Counter((to, int(at / _BIN_S)) for (key, to), at in story.arrivals.items() if key in ours)
    moments = range(min(moment for _, moment in bins), max(moment for _, moment in bins) + 1)
    story.tell(f"what arrived when: messages in each {_BIN_S:g} s, from the second above it on")
    print()
    width = max(map(len, agents))
    print(_INDENT + " " * width + "".join(f"{moment * _BIN_S:6.2f}" for moment in moments))
    for agent in agents:
        print(_INDENT + f"{agent:<{width}}" + "".join(f"{bins[agent, moment] or '.':>6}" for moment in moments))
    print()
