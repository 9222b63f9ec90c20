"""An agent's connection: its requests, its messages, the outcomes of what it sent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

from websockets.exceptions import ConnectionClosed

from trishula.node import queries, questions, replies
from trishula.node.hub import Hub
from trishula.node.store import Store
from trishula.node.watchlist import Watchlist
from trishula.node.wire import ServerWire, now, short_reason
from trishula.protocol import agent_frames, effects, frames
from trishula.protocol.envelope import Key
from trishula.protocol.errors import FrameError, MessageError, SendError, TrishulaError
from trishula.protocol.limits import Limits
from trishula.protocol.message import complete
from trishula.protocol.names import PROBE
from trishula.protocol.records import Entry, Found, Progress

log = logging.getLogger(__name__)

_MOST_OPEN = 1024
"""Messages of one connection that may be on their way into the store; reading waits beyond."""
_PER_READ = 256
_MOST_UNHEARD = 16
"""Answers to questions, which may be large, that an agent may leave unheard; beyond, it is not read from."""
_MOST_UNHEARD_WORDS = 4 * _MOST_OPEN
"""As above, for all that it is told."""
_LISTEN_CHECK = 0.05


class Node(Protocol):
    """What a session needs of its node."""

    hub: Hub
    store: Store
    limits: Limits
    node: str
    software: str

    async def status(self) -> dict[str, Any]: ...

    async def find(self, beginning: str, agent: str | None) -> dict[str, Any]:
        """Messages whose ids begin so. `agent` as below."""

    async def trace(self, message_id: str, agent: str | None) -> dict[str, Any]:
        """The way of a message, as far as it is this agent's business; None: the operator's."""


class _Request:
    """One message on its way into the store, and who waits for word of it."""

    __slots__ = ("_ref", "_session")

    def __init__(self, session: Session, ref: int) -> None:
        self._session = session
        self._ref = ref

    def stored(self, effect: effects.Stored) -> None:
        self._session.request_stored(self._ref, effect)

    def rejected(self, effect: effects.Rejected) -> None:
        self._session.request_failed(self._ref, effect.error)


class _Done:
    """One `done` on its way into the store, and who waits for word of it."""

    __slots__ = ("_request", "_session")

    def __init__(self, session: Session, request: agent_frames.Done) -> None:
        self._session = session
        self._request = request

    def answered(self, found: Found | SendError) -> None:
        self._session.request_answered(self._request, found)


class Session:
    """Serves one agent on one connection. `operator`: who may ask about the messages of others, too."""

    def __init__(self, wire: ServerWire, agent: str, node: Node, *, operator: bool = False) -> None:
        self.agent = agent
        self._operator = operator
        self._wire = wire
        self._node = node
        self._replies: asyncio.Queue[frames.Frame] = asyncio.Queue()
        self._slots = asyncio.Semaphore(_MOST_OPEN)
        self._watched = Watchlist()
        self._meanwhile: list[Progress] | None = None
        """What settles while the store is read for `Outcomes`: too late for the reading, too early to be watched."""
        self._mail = asyncio.Event()
        self._mail.set()
        self._handled: set[Key] | None = None
        """What was read since letters are on their way from the store to the agent; None while there are none."""
        self._pump: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve until the agent leaves."""
        node = self._node
        self._replies.put_nowait(
            agent_frames.Greeting(
                version=agent_frames.VERSION,
                node=node.node,
                agent=self.agent,
                incarnation=node.store.incarnation,
                software=node.software,
                max_message_bytes=node.limits.max_message_bytes,
            )
        )
        writer = asyncio.create_task(self._write(), name=f"writer of {self.agent}")
        node.hub.attach(self.agent, self)
        node.hub.attach(PROBE, self)
        try:
            while True:
                await self._take(agent_frames.decode_request(await self._wire.recv(decode=False)))
                await self._until_heard(_MOST_UNHEARD_WORDS)
        except ConnectionClosed:
            pass
        except FrameError as error:
            log.warning("closed the connection of agent %s: %s", self.agent, error)
            await self._wire.close(error.close_code, short_reason(str(error)))
        finally:
            node.hub.detach(PROBE, self)
            node.hub.detach(self.agent, self)
            for task in filter(None, (writer, self._pump)):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    @property
    def receiving(self) -> bool:
        """Whether the agent has asked for its messages as they arrive."""
        return self._pump is not None

    # ------------------------------------------------------------ requests

    async def _take(self, request: agent_frames.AgentRequest) -> None:  # noqa: C901 - an arm for each request
        node = self._node
        match request:
            case agent_frames.Send():
                await self._send(request)
            case agent_frames.Probe():
                await self._slots.acquire()
                body = b'{"to": "%b", "type": "ping"}' % PROBE.encode()
                message = self._complete(body, PROBE)
                asker, ttl_ms, by_post = _Request(self, request.ref), request.ttl_s * 1000, request.route == "rsync"
                node.hub.probe(asker, message, request.node, ttl_ms, by_post=by_post)
            case agent_frames.Done():
                await self._slots.acquire()
                node.hub.done(_Done(self, request), self.agent, request.id, request.sender)
            case agent_frames.Attach():
                if self._pump is None:
                    self._pump = asyncio.create_task(self._deliver(request.after), name=f"mail of {self.agent}")
            case agent_frames.Outcomes():
                await self._answer(request.ref, self._outcomes(request))
            case agent_frames.Inbox():
                await self._answer(request.ref, questions.inbox(node.store, self.agent, request))
            case agent_frames.Show():
                await self._answer(request.ref, questions.show(node.store, self.agent, request.id))
            case agent_frames.Trace():
                await self._answer(request.ref, node.trace(request.id, None if self._operator else self.agent))
            case agent_frames.Find():
                whose = None if self._operator and request.everywhere else self.agent
                await self._answer(request.ref, node.find(request.beginning, whose))
            case agent_frames.Status():
                await self._answer(request.ref, node.status())

    async def _send(self, request: agent_frames.Send) -> None:
        begun = now().mono
        try:
            message = self._complete(bytes(request.message), self.agent)
        except MessageError as error:
            self._fail(request.ref, error)
            return
        await self._slots.acquire()
        ttl = None if request.ttl_s is None else request.ttl_s * 1000
        self._node.hub.submit(_Request(self, request.ref), message, ttl, begun=begun)

    def _complete(self, raw: bytes, sender: str) -> Any:
        stamp = datetime.fromtimestamp(now().wall / 1000, UTC).isoformat(timespec="milliseconds")
        return complete(
            raw,
            sender=sender,
            new_id=str(uuid.uuid4()),
            timestamp=stamp.replace("+00:00", "Z"),
            max_bytes=self._node.limits.max_message_bytes,
        )

    async def _answer(self, ref: int, answer: Awaitable[frames.Frame | dict[str, Any]]) -> None:
        try:
            said = await answer
            self._replies.put_nowait(agent_frames.Data(ref, said) if isinstance(said, dict) else said)
        except TrishulaError as error:
            self._fail(ref, error)
        await self._until_heard(_MOST_UNHEARD)

    async def _until_heard(self, most: int) -> None:
        """An agent that talks and does not listen is not read from any more."""
        while self._replies.qsize() > most:  # noqa: ASYNC110 - rare, and the queue has no event for it
            await asyncio.sleep(_LISTEN_CHECK)

    async def _outcomes(self, request: agent_frames.Outcomes) -> frames.Frame:
        self._meanwhile = meanwhile = list[Progress]()
        try:
            found = await self._node.store.read(lambda db: queries.sent(db, self.agent, request.id))
        finally:
            self._meanwhile = None
        if found is None:
            raise questions.not_found(request.id, f"{self.agent} has sent no message {request.id}")
        digest, _, rows = found
        newer = {row.key: row for row in meanwhile}
        progress = tuple(newer.get(row.key, row) for row in rows)
        self._watched.watch(request.id, progress, read=request.read)
        return agent_frames.Stored(request.ref, request.id, digest, [replies.outcome(row) for row in progress])

    # ------------------------------------------------------------ word from the hub

    def request_stored(self, ref: int, effect: effects.Stored) -> None:
        self._slots.release()
        self._watched.watch(effect.message_id, effect.progress)
        route = self._node.hub.engine.route
        outcomes = [replies.outcome(row, route_now=route(row.dest)) for row in effect.progress]
        self._replies.put_nowait(agent_frames.Stored(ref, effect.message_id, effect.digest, outcomes))

    def request_failed(self, ref: int, error: TrishulaError) -> None:
        self._slots.release()
        self._fail(ref, error)

    def request_answered(self, request: agent_frames.Done, found: Found | SendError) -> None:
        self._slots.release()
        if isinstance(found, SendError):
            self._fail(request.ref, found)
        elif found.entries:
            self._replies.put_nowait(agent_frames.Data(request.ref, replies.done(found.entries, found.fresh)))
        else:
            whose = "" if request.sender is None else f" from {request.sender}"
            text = f"{self.agent} has got no message {request.id}{whose}"
            self._fail(request.ref, questions.not_found(request.id, text))

    def progressed(self, progress: Progress) -> None:
        if self._meanwhile is not None:
            self._meanwhile.append(progress)
        if self._watched.wants(progress):
            self._replies.put_nowait(replies.outcome(progress))

    def arrived(self, entry: Entry) -> None:  # noqa: ARG002 - the pump reads it from the store
        self._mail.set()

    def handled(self, entry: Entry) -> None:
        if self._handled is not None:
            self._handled.add(entry.key)

    # ------------------------------------------------------------

    def _fail(self, ref: int, error: TrishulaError) -> None:
        value = None if error.value is None else str(error.value)
        self._replies.put_nowait(agent_frames.Failed(ref, error.code, error.message, error.key, value, error.fix))

    async def _write(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self._wire.send(frames.encode(await self._replies.get()), text=True)

    async def _deliver(self, after: int) -> None:
        """Send what has arrived. The store is the queue, the cursor our place in it, the socket the back-pressure."""
        with contextlib.suppress(ConnectionClosed):
            more = False
            while True:
                if not more:
                    await self._mail.wait()
                    self._mail.clear()
                self._handled = handled = set[Key]()
                letters, more = await self._node.store.read_at_last(
                    partial(queries.letters, agent=self.agent, after=after, limit=_PER_READ), f"mail of {self.agent}"
                )
                for letter in letters:
                    if Key(letter.sender, letter.id, letter.recipient) not in handled:
                        await self._wire.send(frames.encode(replies.arrival(letter)), text=True)
                    after = letter.cursor
                self._handled = None
