"""The connection over which an agent asks its node: made again whenever it is lost, with nothing forgotten.

A request waits for its answer across connections: what was not answered is asked again on the next one. That is safe
because asking twice changes nothing; a message goes again with the same id and bytes, which is the same message.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from trishula.client.endpoint import Endpoint, dial, pause, read
from trishula.client.errors import NodeUnreachable, NotOpen, RequestError, TimedOut
from trishula.client.receipt import Receipt
from trishula.protocol.agent_frames import (
    AgentReply,
    AgentRequest,
    Data,
    Failed,
    Greeting,
    Outcome,
    Outcomes,
    Probe,
    Send,
    Stored,
)
from trishula.protocol.errors import FrameError, SendError, TrishulaError
from trishula.protocol.frames import encode

HANDSHAKE_S = 10.0
_STEADY_S = 1.0
"""A connection that lived this long was a good one: the next is tried for at once."""

_SETTLES_S = 0.3
"""A socket is its agent's a moment after a node has made it: until then what seems to last may not."""
_LAST_TRY_S = 0.1
"""For the attempt at the end of all patience."""

_OUR_FAULT = (1003, 1007, 1008, 1009)
"""Codes with which a node closes on what it will not hear: asking again would only repeat it (RFC 6455, 7.4.1)."""

log = logging.getLogger("trishula.client")

Reply = Receipt | dict[str, Any]
Ask = Callable[[int], AgentRequest]
"""Makes a request with the number that it gets."""


@dataclass(frozen=True, slots=True)
class _Request:
    frame: AgentRequest
    answer: Callable[[Reply | TrishulaError], None]


class Session:
    """Requests, answers and receipts. `open` first, then keep `run` running."""

    def __init__(self, endpoint: Endpoint, *, lost: Callable[[], None]) -> None:
        self._endpoint = endpoint
        self._lost = lost
        self._connection: ClientConnection | None = None
        self._trouble: NodeUnreachable | None = None
        self._refs = itertools.count(1)
        self._requests: dict[int, _Request] = {}
        self._receipts: WeakValueDictionary[str, Receipt] = WeakValueDictionary()
        self.greeting: Greeting

    async def open(self, *, patience: float, timeout: float) -> None:
        """The first connection: tried for until `patience` seconds are over, each time for `timeout` at most.

        Raises `NodeUnreachable`, soon where waiting does not help.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        within = min(timeout, HANDSHAKE_S)
        lasting_since: float | None = None
        for attempt in itertools.count():
            try:
                self._connection, self.greeting = await dial(self._endpoint, timeout=within)
            except NodeUnreachable as error:
                now = loop.time()
                left = deadline - now
                lasting_since = (lasting_since or now) if error.lasting else None
                if left <= 0 or (lasting_since is not None and now - lasting_since > _SETTLES_S):
                    raise
                await asyncio.sleep(min(left, pause(self._endpoint, attempt)))
                within = min(within, max(_LAST_TRY_S, deadline - loop.time()))
            else:
                return

    async def run(self) -> None:
        """Hear the node until cancelled, over one connection after the other."""
        loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            since = loop.time()
            if self._connection is not None:
                await self._hear(self._connection)
                self._connection = None
                self._lost()
                attempt = 0 if loop.time() - since > _STEADY_S else attempt
            await asyncio.sleep(pause(self._endpoint, attempt))
            attempt += 1
            with contextlib.suppress(NodeUnreachable):
                await self._reconnect()

    @property
    def connected(self) -> bool:
        return self._connection is not None

    async def close(self) -> None:
        """End it: who waits for an answer or for news hears so now."""
        connection, self._connection = self._connection, None
        for ref in list(self._requests):
            self._answer(ref, closed())
        for receipt in list(self._receipts.values()):
            receipt.answered(closed())
        if connection is not None:
            await connection.close()

    async def request(self, ask: Ask, *, timeout: float) -> Reply:
        """The answer. Raises what the node says against it, `NodeUnreachable` or `TimedOut`."""
        answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def answer(reply: Reply | TrishulaError) -> None:
            if answered.done():
                return
            if isinstance(reply, TrishulaError):
                answered.set_exception(reply)
            else:
                answered.set_result(reply)

        ref = next(self._refs)
        request = self._requests[ref] = _Request(ask(ref), answer)
        try:
            async with asyncio.timeout(timeout):
                if self._connection is not None:
                    await _transmit(self._connection, request)
                return await answered
        except TimeoutError as error:
            if self._connection is None and self._trouble is not None:
                raise self._trouble from error
            raise TimedOut(
                f"the node at {self._endpoint} did not answer within {timeout:.3g} s",
                fix="the same again is safe: under the same id it is the same message",
            ) from error
        finally:
            self._requests.pop(ref, None)

    # ------------------------------------------------------------

    async def _reconnect(self) -> None:
        try:
            connection, self.greeting = await dial(self._endpoint, timeout=HANDSHAKE_S)
        except NodeUnreachable as trouble:
            if self._trouble is None:
                log.warning("%s", trouble)
            self._trouble = trouble
            raise
        log.info("connected to the node at %s", self._endpoint)
        self._trouble = None
        self._connection = connection
        self._ask_about_open_receipts()
        for request in list(self._requests.values()):
            await _transmit(connection, request)

    def _ask_about_open_receipts(self) -> None:
        """Put the questions among the requests, but for those that are there from the last time."""
        frames = [request.frame for request in self._requests.values()]
        asked = {(frame.id, frame.read) for frame in frames if isinstance(frame, Outcomes)}
        for receipt in list(self._receipts.values()):
            if receipt.outcomes and not receipt.settled and (receipt.id, receipt.follows_read) not in asked:
                self._ask_about(receipt)

    def _ask_about(self, receipt: Receipt) -> _Request:
        ref = next(self._refs)
        frame = Outcomes(ref=ref, id=receipt.id, read=receipt.follows_read)
        request = self._requests[ref] = _Request(frame, receipt.answered)
        return request

    async def _ask_on(self, receipt: Receipt) -> None:
        """Somebody waits for more than `delivered`."""
        request = self._ask_about(receipt)
        if self._connection is not None:
            await _transmit(self._connection, request)

    async def _hear(self, connection: ClientConnection) -> None:
        """Take what the node says, until the connection ends."""
        try:
            while True:
                self._take(await read(connection))
        except FrameError as error:
            log.warning("the node at %s breaks the protocol: %s", self._endpoint, error)
            await connection.close(error.close_code)
        except ConnectionClosed as closed:
            why = closed.rcvd.reason if closed.rcvd is not None else ""
            self._trouble = NodeUnreachable(
                f"lost the node at {self._endpoint}{f' ({why})' if why else ''}", value=str(self._endpoint)
            )
            if closed.rcvd is not None and closed.rcvd.code in _OUR_FAULT:
                for ref in list(self._requests):
                    self._answer(ref, RequestError(f"the node closed the connection: {why}", code="protocol"))

    def _take(self, frame: AgentReply) -> None:
        match frame:
            case Stored():
                self._answer(frame.ref, self._receipt(frame))
            case Data():
                self._answer(frame.ref, frame.data)
            case Failed():
                self._answer(frame.ref, self._error(frame))
            case Outcome():
                receipt = self._receipts.get(frame.id)
                if receipt is not None:
                    receipt.learn([frame])

    def _receipt(self, stored: Stored) -> Receipt:
        """The message's one receipt. It is known from here on, because its outcomes may be the next frames."""
        receipt = self._receipts.get(stored.id)
        if receipt is None:
            receipt = self._receipts[stored.id] = Receipt(stored.id, stored.digest, self._ask_on)
        receipt.learn(stored.outcomes)
        return receipt

    def _answer(self, ref: int, reply: Reply | TrishulaError) -> None:
        request = self._requests.pop(ref, None)
        if request is not None:
            request.answer(reply)

    def _error(self, failed: Failed) -> TrishulaError:
        request = self._requests.get(failed.ref)
        sending = request is not None and isinstance(request.frame, Send | Probe)
        kind = SendError if sending else RequestError
        return kind(failed.message, code=failed.code, key=failed.key, value=failed.value, fix=failed.fix)


def closed() -> NotOpen:
    """What a client says that was left."""
    return NotOpen("the client is closed: its `async with` block has ended", fix="use it within, or make a new one")


def not_entered(kind: str) -> NotOpen:
    """What a client says that was only made."""
    return NotOpen("the client is not entered", fix=f"use it within `async with trishula.{kind}() as mesh:`")


async def _transmit(connection: ClientConnection, request: _Request) -> None:
    """Say it, or leave it to the next connection."""
    with contextlib.suppress(ConnectionClosed):
        await connection.send(encode(request.frame), text=True)
