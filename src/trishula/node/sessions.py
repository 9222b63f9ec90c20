"""An agent's connection: its requests, its messages, the outcomes of what it sent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

import msgspec
from websockets.exceptions import ConnectionClosed

from trishula.node import queries
from trishula.node.database import StoreError
from trishula.node.hub import Hub
from trishula.node.store import Store
from trishula.node.wire import ServerWire, now, short_reason
from trishula.protocol import agent_frames, effects, frames
from trishula.protocol.envelope import State
from trishula.protocol.errors import FrameError, MessageError, TrishulaError
from trishula.protocol.limits import Limits
from trishula.protocol.message import complete
from trishula.protocol.names import PROBE
from trishula.protocol.records import Entry, Progress

log = logging.getLogger(__name__)

_MOST_OPEN = 1024
"""Messages of one connection that may be on their way into the store; reading waits beyond."""
_MOST_WATCHED = 100_000
"""Messages of one connection whose outcomes it is still told of; the oldest make room."""
_PER_READ = 256
_MOST_UNHEARD = 16
_LISTEN_CHECK = 0.05
_READ_AGAIN_AFTER = 1.0


class Node(Protocol):
    """What a session needs of its node."""

    hub: Hub
    store: Store
    limits: Limits
    node: str
    software: str

    async def status(self) -> dict[str, Any]: ...


def method_of(route: str) -> str:
    """What the interface before this one calls a route."""
    return {"": "", "rsync": "file_fallback"}.get(route, "websocket")


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


class Session:
    """Serves one agent on one connection."""

    def __init__(self, wire: ServerWire, agent: str, node: Node) -> None:
        self.agent = agent
        self._wire = wire
        self._node = node
        self._replies: asyncio.Queue[frames.Frame] = asyncio.Queue()
        self._slots = asyncio.Semaphore(_MOST_OPEN)
        self._watched: OrderedDict[str, set[str]] = OrderedDict()
        self._meanwhile: list[Progress] | None = None
        """What settles while the store is read for `Outcomes`: too late for the reading, too early to be watched."""
        self._mail = asyncio.Event()
        self._mail.set()
        self._pump: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve until the agent leaves."""
        node = self._node
        self._replies.put_nowait(
            agent_frames.Greeting(
                version=frames.VERSIONS[1],
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

    async def _take(self, request: agent_frames.AgentRequest) -> None:
        match request:
            case agent_frames.Send():
                await self._send(request)
            case agent_frames.Probe():
                await self._slots.acquire()
                body = b'{"to": "%b", "type": "ping"}' % PROBE.encode()
                self._node.hub.probe(
                    _Request(self, request.ref), self._complete(body, PROBE), request.node, request.ttl_s * 1000
                )
            case agent_frames.Attach():
                if self._pump is None:
                    self._pump = asyncio.create_task(self._deliver(request.after), name=f"mail of {self.agent}")
            case agent_frames.Outcomes():
                await self._answer(request.ref, lambda: self._outcomes(request))
            case agent_frames.Inbox():
                await self._answer(request.ref, lambda: self._inbox(request))
            case agent_frames.Show():
                await self._answer(request.ref, lambda: self._show(request))
            case agent_frames.Status():
                await self._answer(request.ref, lambda: self._status(request))

    async def _send(self, request: agent_frames.Send) -> None:
        try:
            message = self._complete(bytes(request.message), self.agent)
        except MessageError as error:
            self._fail(request.ref, error)
            return
        await self._slots.acquire()
        ttl = None if request.ttl_s is None else request.ttl_s * 1000
        self._node.hub.submit(_Request(self, request.ref), message, ttl)

    def _complete(self, raw: bytes, sender: str) -> Any:
        stamp = datetime.fromtimestamp(now().wall / 1000, UTC).isoformat(timespec="milliseconds")
        return complete(
            raw,
            sender=sender,
            new_id=str(uuid.uuid4()),
            timestamp=stamp.replace("+00:00", "Z"),
            max_bytes=self._node.limits.max_message_bytes,
        )

    async def _answer(self, ref: int, answer: Callable[[], Awaitable[frames.Frame]]) -> None:
        try:
            self._replies.put_nowait(await answer())
        except TrishulaError as error:
            self._fail(ref, error)
        # An agent that asks and does not listen is not read from any more.
        while self._replies.qsize() > _MOST_UNHEARD:  # noqa: ASYNC110 - rare, and the queue has no event for it
            await asyncio.sleep(_LISTEN_CHECK)

    async def _outcomes(self, request: agent_frames.Outcomes) -> frames.Frame:
        self._meanwhile = meanwhile = list[Progress]()
        try:
            found = await self._node.store.read(lambda db: queries.sent(db, self.agent, request.id))
        finally:
            self._meanwhile = None
        if found is None:
            raise _not_found(request.id, f"{self.agent} has sent no message {request.id}")
        digest, _, rows = found
        newer = {row.key: row for row in meanwhile}
        progress = tuple(newer.get(row.key, row) for row in rows)
        self._watch(request.id, progress)
        return agent_frames.Stored(request.ref, request.id, digest, [_outcome(row) for row in progress])

    async def _inbox(self, request: agent_frames.Inbox) -> frames.Frame:
        letters, more = await self._node.store.read(
            partial(queries.letters, agent=self.agent, after=request.after, limit=request.limit + 1)
        )
        more = more or len(letters) > request.limit
        messages = [_summary(letter) for letter in letters[: request.limit]]
        return agent_frames.Data(request.ref, {"messages": messages, "more": more})

    async def _show(self, request: agent_frames.Show) -> frames.Frame:
        letter = await self._node.store.read(lambda db: queries.letter(db, self.agent, request.id))
        if letter is not None:
            shown: dict[str, Any] = {"box": "inbox", "digest": letter.digest, "payload": letter.payload.decode()}
            return agent_frames.Data(request.ref, {**shown, "meta": _meta(letter)})
        found = await self._node.store.read(lambda db: queries.sent(db, self.agent, request.id))
        if found is None:
            raise _not_found(request.id, f"{self.agent} has neither got nor sent a message {request.id}")
        digest, payload, progress = found
        shown = {"box": "outbox", "digest": digest, "payload": payload.decode()}
        return agent_frames.Data(request.ref, {**shown, "outcomes": [_outcome(row) for row in progress]})

    async def _status(self, request: agent_frames.Status) -> frames.Frame:
        return agent_frames.Data(request.ref, await self._node.status())

    # ------------------------------------------------------------ word from the hub

    def request_stored(self, ref: int, effect: effects.Stored) -> None:
        self._slots.release()
        self._watch(effect.message_id, effect.progress)
        self._replies.put_nowait(
            agent_frames.Stored(ref, effect.message_id, effect.digest, [_outcome(row) for row in effect.progress])
        )

    def request_failed(self, ref: int, error: TrishulaError) -> None:
        self._slots.release()
        self._fail(ref, error)

    def progressed(self, progress: Progress) -> None:
        if self._meanwhile is not None:
            self._meanwhile.append(progress)
        open_recipients = self._watched.get(progress.key.id)
        if open_recipients is None or progress.key.to not in open_recipients:
            return
        self._replies.put_nowait(_outcome(progress))
        if _is_last(progress):
            open_recipients.discard(progress.key.to)
            if not open_recipients:
                del self._watched[progress.key.id]

    def arrived(self, entry: Entry) -> None:  # noqa: ARG002 - the pump reads it from the store
        self._mail.set()

    # ------------------------------------------------------------

    def _watch(self, message_id: str, progress: tuple[Progress, ...]) -> None:
        open_recipients = {row.key.to for row in progress if not _is_last(row)}
        if open_recipients:
            self._watched[message_id] = open_recipients
            if len(self._watched) > _MOST_WATCHED:
                self._watched.popitem(last=False)

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
                try:
                    letters, more = await self._node.store.read(
                        partial(queries.letters, agent=self.agent, after=after, limit=_PER_READ)
                    )
                except StoreError:
                    more = True
                    await asyncio.sleep(_READ_AGAIN_AFTER)
                    continue
                for letter in letters:
                    await self._wire.send(frames.encode(_arrival(letter)), text=True)
                    after = letter.cursor


def _is_last(progress: Progress) -> bool:
    """Whether nothing more is to be said of an envelope, as far as this release's ladder goes."""
    return progress.state in (State.DELIVERED, State.READ, State.REFUSED)


def _not_found(message_id: str, message: str) -> TrishulaError:
    return TrishulaError(message, code="not_found", key="id", value=message_id)


def _outcome(row: Progress) -> agent_frames.Outcome:
    return agent_frames.Outcome(
        sender=row.key.sender,
        id=row.key.id,
        to=row.key.to,
        dest=row.dest,
        state=row.state,
        reason=row.reason,
        route=row.route,
        method=method_of(row.route),
        at=row.settled_at,
        latency_ms=None if row.latency_ms is None else round(row.latency_ms, 3),
    )


def _arrival(letter: queries.Letter) -> agent_frames.Arrival:
    return agent_frames.Arrival(letter.cursor, _arrival_meta(letter), msgspec.Raw(letter.payload[:-1]))


def _arrival_meta(letter: queries.Letter) -> agent_frames.ArrivalMeta:
    return agent_frames.ArrivalMeta(letter.origin, letter.route, method_of(letter.route), letter.at, letter.digest)


def _meta(letter: queries.Letter) -> dict[str, Any]:
    meta: dict[str, Any] = msgspec.to_builtins(_arrival_meta(letter))
    return meta


_head = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _summary(letter: queries.Letter) -> dict[str, Any]:
    fields = _head.decode(letter.payload)
    texts = {key: msgspec.json.decode(fields[key]) for key in ("subject", "type", "priority") if key in fields}
    return {
        "cursor": letter.cursor,
        "id": letter.id,
        "from": letter.sender,
        "subject": texts.get("subject", ""),
        "type": texts.get("type", ""),
        "priority": texts.get("priority", ""),
        "received_at": letter.at,
        "digest": letter.digest,
        "route": letter.route,
        "method": method_of(letter.route),
        "size": len(letter.payload),
    }
