"""One authenticated connection between two nodes: greeting, roles, liveness. Pure: the shell moves the bytes.

             bytes                       frames
    shell ──────────► receive(now, data) ──────► Opened, Heard, Measured, Transmit, Hangup
          ──────────► tick(now)          ──────► Transmit (a ping), Suspected, Hangup (silence)

    state     side      may say                                   and then
    GREETING  dialler   Welcome                                   OPEN
    GREETING  listener  Hello                                     OPEN
    OPEN      both      Deliver Ack Receipts Defer Ping Pong      OPEN
                        from version 2 on, too:
                        Query Topology Posted                     OPEN
    any       both      Bye                                       CLOSED

A frame that isn't in the row of its state, or is of a later version than both speak, ends the link with a code and a
reason.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum

from trishula.protocol import frames
from trishula.protocol.clock import Instant
from trishula.protocol.errors import FrameError
from trishula.protocol.frames import Introduction

PING_EVERY = 1.0
SUSPECT_AFTER = 2.0
"""Seconds without a byte after which a link is no longer trusted with new mail."""
SILENT_AFTER = 3.0
"""Seconds without a byte after which a link is given up. Life is bytes, not frames: a slow link is not dead."""
GREETING_WITHIN = 5.0

CLOSE_NORMAL = 1000
CLOSE_POLICY = 1008
CLOSE_VERSION = 4001
CLOSE_SILENT = 4002
CLOSE_REPLACED = 4003

_REMEMBERED_PINGS = 16


class Side(Enum):
    DIALLER = "dialler"
    LISTENER = "listener"


class LinkState(Enum):
    GREETING = "greeting"
    OPEN = "open"
    CLOSED = "closed"


_MESH = (frames.Deliver, frames.Ack, frames.Receipts, frames.Defer, frames.Query, frames.Topology)
_SPOKEN = frozenset({*_MESH, frames.Posted, frames.Ping, frames.Pong, frames.Bye})
_TABLE: dict[tuple[LinkState, Side], frozenset[type]] = {
    (LinkState.GREETING, Side.DIALLER): frozenset({frames.Welcome, frames.Bye}),
    (LinkState.GREETING, Side.LISTENER): frozenset({frames.Hello, frames.Bye}),
    (LinkState.OPEN, Side.DIALLER): _SPOKEN,
    (LinkState.OPEN, Side.LISTENER): _SPOKEN,
    (LinkState.CLOSED, Side.DIALLER): frozenset(),
    (LinkState.CLOSED, Side.LISTENER): frozenset(),
}


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send this frame."""

    frame: frames.Frame


@dataclass(frozen=True, slots=True)
class Opened:
    """The greeting is done; the peer introduced itself as this."""

    peer: Introduction


@dataclass(frozen=True, slots=True)
class Heard:
    """A frame for the engine, or for whom files lie."""

    frame: frames.MeshFrame | frames.Posted


@dataclass(frozen=True, slots=True)
class Suspected:
    """The peer has been silent for too long to be trusted with new mail; or no longer, for a byte has come."""

    suspect: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """The peer's wall clock minus ours, right to within half the round trip."""

    offset_ms: float
    rtt_ms: float


@dataclass(frozen=True, slots=True)
class Hangup:
    """Close the connection with this code and reason."""

    code: int
    reason: str


LinkEvent = Transmit | Opened | Heard | Suspected | Measured | Hangup


class Link:
    """The state of one connection to the node that its credential says is `peer`."""

    def __init__(self, side: Side, me: Introduction, peer: str, now: Instant) -> None:
        self.side = side
        self.peer = peer
        self.state = LinkState.GREETING
        self.version = frames.VERSIONS[0]
        """Of the protocol; when the link is open, the last one that both speak."""
        self.rtt_ms: float | None = None
        """Round trip of the last ping."""
        self.offset_ms: float | None = None
        """The peer's wall clock minus ours, as of the last ping."""
        self.left = False
        """Whether the peer has said goodbye."""
        self._me = me
        self._began = now.mono
        self._heard = now.mono
        self._next_ping = now.mono + PING_EVERY
        self._pings: OrderedDict[int, float] = OrderedDict()
        self._suspect = False

    def start(self) -> list[LinkEvent]:
        """What to say first: the dialler speaks."""
        if self.side is Side.LISTENER:
            return []
        return [Transmit(frames.Hello(frames.VERSIONS, self._me))]

    def speaks(self, frame: type[frames.Frame]) -> bool:
        """Whether the version that both speak has this frame. What it has not is left unsaid."""
        return frames.LATER.get(frame, self.version) <= self.version

    def bytes_arrived(self, now: Instant) -> list[LinkEvent]:
        """Some bytes of the peer have come, be they a part of a frame."""
        self._heard = now.mono
        if not self._suspect or self.state is not LinkState.OPEN:
            return []
        self._suspect = False
        return [Suspected(False)]

    def receive(self, now: Instant, data: bytes) -> list[LinkEvent]:
        """One WebSocket message from the peer. Never raises: garbage comes back as a `Hangup`."""
        if self.state is LinkState.CLOSED:
            return []
        try:
            frame = frames.decode_peer(data)
            if type(frame) not in _TABLE[self.state, self.side]:
                raise FrameError(f"{type(frame).__name__.lower()} is out of turn: the link is {self.state.value}")
            if not self.speaks(type(frame)):
                raise FrameError(f"{type(frame).__name__.lower()} is no frame of version {self.version}")
            return self._take(now, frame)
        except FrameError as error:
            return self._hang_up(error.close_code, error.message)

    def tick(self, now: Instant) -> list[LinkEvent]:
        """Call at `deadline()` or later: pings, and gives up on a peer that says nothing."""
        if self.state is LinkState.CLOSED:
            return []
        if self.state is LinkState.GREETING and now.mono >= self._began + GREETING_WITHIN:
            return self._hang_up(CLOSE_POLICY, f"no greeting within {GREETING_WITHIN:.0f} s")
        if now.mono >= self._heard + SILENT_AFTER:
            return self._hang_up(CLOSE_SILENT, f"silent for {SILENT_AFTER:.0f} s")
        if self.state is not LinkState.OPEN:
            return []
        events: list[LinkEvent] = []
        if not self._suspect and now.mono >= self._heard + SUSPECT_AFTER:
            self._suspect = True
            events.append(Suspected(True))
        if now.mono >= self._next_ping:
            self._next_ping = now.mono + PING_EVERY
            self._pings[now.wall] = now.mono
            if len(self._pings) > _REMEMBERED_PINGS:
                self._pings.popitem(last=False)
            events.append(Transmit(frames.Ping(sent=now.wall)))
        return events

    def deadline(self) -> float | None:
        """When to call `tick` next, on the monotonic clock."""
        if self.state is LinkState.CLOSED:
            return None
        silence = self._heard + (SILENT_AFTER if self._suspect else SUSPECT_AFTER)
        if self.state is LinkState.OPEN:
            return min(self._next_ping, silence)
        return min(self._began + GREETING_WITHIN, self._heard + SILENT_AFTER)

    def close(self, reason: str) -> list[LinkEvent]:
        """This side leaves."""
        if self.state is LinkState.CLOSED:
            return []
        return [Transmit(frames.Bye(reason=reason)), *self._hang_up(CLOSE_NORMAL, reason)]

    def _take(self, now: Instant, frame: frames.PeerFrame) -> list[LinkEvent]:
        match frame:
            case frames.Hello():
                return self._welcome(now, frame)
            case frames.Welcome():
                low, high = frames.VERSIONS
                if not low <= frame.version <= high:
                    raise FrameError(f"version {frame.version} is not one of {low} to {high}", close_code=CLOSE_VERSION)
                return self._open(now, frame.me, frame.version)
            case frames.Ping():
                return [Transmit(frames.Pong(sent=frame.sent, read=now.wall))]
            case frames.Pong():
                return self._measure(now, frame)
            case frames.Bye():
                self.left = True
                return self._hang_up(CLOSE_NORMAL, f"the peer left: {frame.reason}")
            case _:
                return [Heard(frame)]

    def _welcome(self, now: Instant, hello: frames.Hello) -> list[LinkEvent]:
        low, high = max(hello.versions[0], frames.VERSIONS[0]), min(hello.versions[1], frames.VERSIONS[1])
        if low > high:
            raise FrameError(
                "no common version: it speaks {}-{}, we speak {}-{}".format(*hello.versions, *frames.VERSIONS),
                close_code=CLOSE_VERSION,
            )
        return [Transmit(frames.Welcome(high, self._me)), *self._open(now, hello.me, high)]

    def _open(self, now: Instant, peer: Introduction, version: int) -> list[LinkEvent]:
        if peer.node != self.peer:
            raise FrameError(f"its credential is {self.peer}'s, but it calls itself {peer.node}")
        self.state = LinkState.OPEN
        self.version = version
        self._next_ping = now.mono
        return [Opened(peer), *self.tick(now)]

    def _measure(self, now: Instant, pong: frames.Pong) -> list[LinkEvent]:
        sent = self._pings.pop(pong.sent, None)
        if sent is None:
            return []
        self.rtt_ms = (now.mono - sent) * 1000
        self.offset_ms = pong.read - (now.wall - self.rtt_ms / 2)
        return [Measured(self.offset_ms, self.rtt_ms)]

    def _hang_up(self, code: int, reason: str) -> list[LinkEvent]:
        self.state = LinkState.CLOSED
        return [Hangup(code, reason)]
