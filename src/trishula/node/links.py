"""A link to another node: a WebSocket with a `protocol.link.Link` on it."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from websockets.asyncio.connection import broadcast
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from trishula.node.wire import Wire, now, short_reason
from trishula.protocol import frames
from trishula.protocol.frames import Introduction
from trishula.protocol.link import (
    CLOSE_POLICY,
    CLOSE_REPLACED,
    CLOSE_SILENT,
    PING_EVERY,
    Hangup,
    Heard,
    Link,
    LinkEvent,
    Measured,
    Opened,
    Side,
    Suspected,
    Transmit,
)

log = logging.getLogger(__name__)

_MOST_UNSENT = 64 * 1024 * 1024


class LinkOwner(Protocol):
    """Who wants to know of links: the hub."""

    introduction: Introduction

    def link_up(self, wire: LinkWire, peer: Introduction) -> int:
        """The link is greeted. Returns its number."""

    def link_down(self, number: int) -> None: ...

    def heard(self, number: int, frame: frames.MeshFrame) -> None: ...

    def posted(self, number: int) -> None:
        """Files lie for us at the other end of the link."""

    def suspected(self, number: int, *, suspect: bool) -> None: ...

    def measured(self, number: int, offset_ms: float, rtt_ms: float) -> None: ...


class LinkWire:
    """One link from handshake to close."""

    def __init__(self, wire: Wire, side: Side, peer: str, owner: LinkOwner) -> None:
        self.link = Link(side, owner.introduction, peer, now())
        self.up = False
        """Whether the link was ever greeted."""
        self.orderly = False
        """Whether it ended because one of the two nodes stops, or has made a newer link."""
        self._wire = wire
        self._owner = owner
        self._number: int | None = None
        self._ending: Hangup | None = None
        self._closing: asyncio.Task[None] | None = None

    async def run(self) -> str:
        """Serve the link until it ends; says why it did."""
        # The first byte may come between the handshake and this line; a second of grace is in every deadline.
        self._wire.heard = self._bytes_arrived
        ticker = asyncio.create_task(self._tick_forever(), name=f"ticker of {self.link.peer}")
        try:
            self._carry_out(self.link.start())
            while True:
                data = await self._wire.recv(decode=False)
                self._carry_out(self.link.receive(now(), data))
        except ConnectionClosed as closed:
            return self._why(closed)
        except Exception:
            # A mistake of ours must not take the other links with it.
            log.exception("the link to %s met a bug", self.link.peer)
            self.hang_up(CloseCode.INTERNAL_ERROR, "internal error")
            return "internal error"
        finally:
            ticker.cancel()
            if self._number is not None:
                self._owner.link_down(self._number)
            if self._closing is not None:
                await asyncio.wait([self._closing])

    def say_end(self, way: str, reason: str) -> None:
        """A line in the journal, which alarms nobody where all is as it should be. `way`: to or from the peer."""
        if self.orderly:
            log.info("link %s %s closed: %s", way, self.link.peer, "its node stops" if self.link.left else reason)
        else:
            log.warning("link %s %s down: %s", way, self.link.peer, reason)

    def transmit(self, frame: frames.Frame) -> None:
        """Send without waiting. The windows of the engine bound the mail that may pile up here.

        A peer that makes us talk and does not listen loses its link. An older one is spared the frames that it lacks.
        """
        if not self.link.speaks(type(frame)):
            return
        if self._wire.transport.get_write_buffer_size() > _MOST_UNSENT:
            self.hang_up(CLOSE_POLICY, "it does not read what it asks for")
            return
        if not self._wire.transport.is_closing():
            broadcast([self._wire], frames.encode(frame), text=True)

    def hang_up(self, code: int, reason: str) -> None:
        """Close from our side; `run` ends soon after."""
        if self._ending is None:
            self._ending = Hangup(code, reason)
            self._closing = asyncio.create_task(self._close(self._ending))

    def leave(self, reason: str) -> None:
        """Say goodbye and close."""
        self.orderly = True
        self._carry_out(self.link.close(reason))

    # ------------------------------------------------------------

    def _bytes_arrived(self) -> None:
        self._carry_out(self.link.bytes_arrived(now()))

    async def _tick_forever(self) -> None:
        while (due := self.link.deadline()) is not None:
            # A greeting brings the deadline forward, so never sleep past the next ping.
            await asyncio.sleep(min(PING_EVERY, max(0.0, due - now().mono)))
            self._carry_out(self.link.tick(now()))

    def _carry_out(self, events: list[LinkEvent]) -> None:
        for event in events:
            match event:
                case Transmit(frame):
                    self.transmit(frame)
                case Heard(frames.Posted()) if self._number is not None:
                    self._owner.posted(self._number)
                case Heard(frame) if self._number is not None and not isinstance(frame, frames.Posted):
                    self._owner.heard(self._number, frame)
                case Suspected(suspect) if self._number is not None:
                    self._owner.suspected(self._number, suspect=suspect)
                case Measured(offset_ms, rtt_ms) if self._number is not None:
                    self._owner.measured(self._number, offset_ms, rtt_ms)
                case Opened(peer):
                    self.up = True
                    self._number = self._owner.link_up(self, peer)
                case Hangup(code, reason):
                    self.orderly = self.orderly or self.link.left
                    self.hang_up(code, reason)

    async def _close(self, hangup: Hangup) -> None:
        if hangup.code == CLOSE_SILENT:
            # nobody would answer a closing handshake
            self._wire.transport.abort()
        await self._wire.close(hangup.code, short_reason(hangup.reason))

    def _why(self, closed: ConnectionClosed) -> str:
        if self._ending is not None:
            self.orderly = self.orderly or self._ending.code == CLOSE_REPLACED
            return self._ending.reason
        if closed.sent is not None and not closed.rcvd_then_sent:  # the library itself, for what is no WebSocket frame
            return f"closed for what it sent: {closed.sent.code} {closed.sent.reason}".rstrip()
        if closed.rcvd is not None:
            self.orderly = closed.rcvd.code in (CloseCode.GOING_AWAY, CLOSE_REPLACED)
            return f"the peer closed it: {closed.rcvd.code} {closed.rcvd.reason}".rstrip()
        return f"the connection broke: {closed.__cause__ or 'end of stream'}"
