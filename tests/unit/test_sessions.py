"""An agent's session at its node, at moments that no real node can be held at."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from trishula.node.queries import Letter
from trishula.node.sessions import Node, Session
from trishula.node.wire import ServerWire
from trishula.protocol import agent_frames, frames
from trishula.protocol.envelope import Key, State
from trishula.protocol.limits import Limits
from trishula.protocol.records import Entry, Progress

ROW = Progress(
    seq=1, key=Key("mac", "x1", "agni"), dest="agni", digest="0" * 64, expires_at=2**40, stored_at=1, route="direct"
)
DELIVERED = replace(ROW, state=State.DELIVERED, settled_at=2, latency_ms=1.0)


class Wire:
    """The agent's end of the connection."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[bytes] = asyncio.Queue()
        self.replies: asyncio.Queue[agent_frames.AgentReply] = asyncio.Queue()

    async def recv(self, *, decode: bool) -> bytes:
        assert decode is False
        return await self.requests.get()

    async def send(self, data: bytes, *, text: bool) -> None:
        assert text is True
        self.replies.put_nowait(agent_frames.decode_reply(data))


class Store:
    """Answers each read when it is told to, with what was true when it was asked."""

    incarnation = "one"

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def read(self, _: object) -> Any:
        self.asked.set()
        return await self.answer

    async def read_at_last(self, work: object, _: str) -> Any:
        return await self.read(work)


@pytest.mark.parametrize("when", ["while the store is read", "after the answer"])
def test_an_outcome_is_told_whenever_it_comes_to_who_asks_for_it(when: str) -> None:
    async def story() -> None:
        wire, store = Wire(), Store()
        hub = SimpleNamespace(attach=lambda *_: None, detach=lambda *_: None)
        node = SimpleNamespace(hub=hub, store=store, limits=Limits(), node="mac", software="trishula/2")
        session = Session(cast(ServerWire, wire), "mac", cast(Node, node))
        running = asyncio.create_task(session.run())
        assert isinstance(await wire.replies.get(), agent_frames.Greeting)
        wire.requests.put_nowait(frames.encode(agent_frames.Outcomes(ref=7, id="x1")))
        await store.asked.wait()
        if when == "while the store is read":
            session.progressed(DELIVERED)
        store.answer.set_result((ROW.digest, b"{}", (ROW,)))
        stored = await wire.replies.get()
        assert isinstance(stored, agent_frames.Stored)
        assert stored.ref == 7
        heard = list(stored.outcomes)
        if when == "after the answer":
            session.progressed(DELIVERED)
            pushed = await wire.replies.get()
            assert isinstance(pushed, agent_frames.Outcome)
            heard.append(pushed)
        assert heard[-1].state is State.DELIVERED
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(asyncio.wait_for(story(), 60))


def test_what_another_session_is_done_with_is_not_handed_out_any_more() -> None:
    """It was read from the store, and lay before the socket, when the other said `done`."""

    def letter(cursor: int) -> Letter:
        payload = b'{"id": "x%d"}\n' % cursor
        return Letter(cursor, "mac", f"x{cursor}", "agni", "mac", "0" * 64, "direct", 1, payload)

    async def story() -> None:
        wire, store = Wire(), Store()
        hub = SimpleNamespace(attach=lambda *_: None, detach=lambda *_: None)
        node = SimpleNamespace(hub=hub, store=store, limits=Limits(), node="agni", software="trishula/2")
        session = Session(cast(ServerWire, wire), "agni", cast(Node, node))
        running = asyncio.create_task(session.run())
        assert isinstance(await wire.replies.get(), agent_frames.Greeting)
        wire.requests.put_nowait(frames.encode(agent_frames.Attach(ref=1)))
        await store.asked.wait()
        key = Key("mac", "x1", "agni")
        session.handled(Entry(key, "0" * 64, "mac", 2**40, State.READ, "", 1, "direct", 2))
        store.answer.set_result(([letter(1), letter(2)], False))
        arrival = await wire.replies.get()
        assert isinstance(arrival, agent_frames.Arrival)
        assert arrival.cursor == 2
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(asyncio.wait_for(story(), 60))


def test_an_agent_that_sends_and_does_not_listen_is_not_read_from_for_ever() -> None:
    class Deaf(Wire):
        async def send(self, data: bytes, *, text: bool) -> None:  # noqa: ARG002 - the wire's
            await asyncio.Event().wait()

    async def story() -> None:
        wire = Deaf()
        hub = SimpleNamespace(attach=lambda *_: None, detach=lambda *_: None)
        node = SimpleNamespace(hub=hub, store=Store(), limits=Limits(), node="mac", software="trishula/2")
        running = asyncio.create_task(Session(cast(ServerWire, wire), "mac", cast(Node, node)).run())
        most = 10_000
        for ref in range(most):
            wire.requests.put_nowait(b'{"frame": "send", "ref": %d, "message": {"from": "agni"}}' % ref)
        await asyncio.sleep(0.5)
        assert 0 < wire.requests.qsize() < most
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(asyncio.wait_for(story(), 60))
