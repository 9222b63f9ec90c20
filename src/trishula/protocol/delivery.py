"""What is pending for one destination, in a bounded window; the store holds the rest.

store ──Load──► lanes (urgent, rest; by seq) ──take──► in flight ──answered──► (its commit) ──release──► gone
                  ▲                                     │                           │
                  └──── link lost, deferred, overdue ───┴──────── unsettled ────────┘
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from trishula.protocol.backoff import full_jitter
from trishula.protocol.envelope import Envelope, Key
from trishula.protocol.frames import BATCH_BYTES, BATCH_COUNT

WINDOW_COUNT = 4096
"""Envelopes of one destination in memory, in both lanes together; the store holds what is beyond."""
WINDOW_BYTES = 8 * 1024 * 1024
URGENT_PER_REST = 8
LOAD_COUNT = 512

_RETRY_BASE = 1.0
_RETRY_CAP = 60.0
_ENVELOPE_BYTES = 400
"""What an envelope adds to its payload on the wire, about."""


@dataclass(slots=True)
class Pending:
    """An envelope without an answer. `stored` is when its commit was seen (monotonic), None after a restart."""

    seq: int
    envelope: Envelope
    stored: float | None = None
    attempts: int = 0
    due: float = 0.0

    @property
    def size(self) -> int:
        return len(self.envelope.payload) + _ENVELOPE_BYTES


@dataclass(slots=True)
class _Lane:
    queue: deque[Pending] = field(default_factory=deque)
    tail: int = 0
    """The highest seq that came into memory."""
    behind: bool = True
    """Whether the store may hold more above `tail`."""
    loading: bool = False
    missed: bool = False
    """Whether something was stored above `tail` while loading."""


class Delivery:
    """The window on the mail for `dest`. Keeps no clock: what depends on time takes `now`, in monotonic seconds."""

    def __init__(self, dest: str) -> None:
        self.dest = dest
        self._lanes = {True: _Lane(), False: _Lane()}
        self._in_flight: dict[Key, Pending] = {}
        self._frames: dict[tuple[int, int], tuple[tuple[Key, ...], int]] = {}
        self._waiting: dict[Key, Pending] = {}
        self._count = 0
        self._bytes = 0
        self._urgent_run = 0
        """Urgent envelopes taken since the last of the rest, over frames: one frame may hold but one large message."""
        self.unacked_bytes = 0

    # ------------------------------------------------------------ coming in

    def push(self, pending: Pending) -> None:
        """A fresh envelope, just committed. If the window is full, or older mail waits in the store, it waits there."""
        lane = self._lanes[pending.envelope.urgent]
        if pending.seq <= lane.tail:
            return  # a load was faster than the news of the commit
        if lane.loading:
            lane.missed = True
        elif lane.behind or not self._room():
            lane.behind = True
        else:
            self._append(lane, pending)

    def wants(self) -> tuple[bool, int, int, int] | None:
        """(urgent, after, limit, size) of the next read from the store, or None. Must be answered by `loaded`."""
        for urgent in (True, False):
            lane = self._lanes[urgent]
            if lane.behind and not lane.loading and len(lane.queue) < LOAD_COUNT // 2 and self._room():
                lane.loading = True
                lane.missed = False
                return urgent, lane.tail, LOAD_COUNT, WINDOW_BYTES - self._bytes
        return None

    def loaded(self, rows: Iterable[tuple[int, Envelope]], *, urgent: bool, complete: bool) -> None:
        """What the store held; `complete` where there was no more than that. What finds no room is read again later."""
        lane = self._lanes[urgent]
        lane.loading = False
        lane.behind = lane.missed or not complete
        for seq, envelope in rows:
            if not self._room():
                lane.behind = True
                break
            self._append(lane, Pending(seq, envelope))

    # ------------------------------------------------------------ going out

    def take(self, wall: int) -> list[Pending]:
        """The next batch: up to a frame's worth, urgent before the rest at 8:1, without what has expired by `wall`."""
        batch: list[Pending] = []
        size = 0
        while len(batch) < BATCH_COUNT:
            lane = self._next_lane()
            if lane is None or (batch and size + lane.queue[0].size > BATCH_BYTES):
                break
            pending = lane.queue.popleft()
            if pending.envelope.expires_at <= wall:
                self.release(pending)
                continue
            self._urgent_run = self._urgent_run + 1 if pending.envelope.urgent else 0
            batch.append(pending)
            size += pending.size
        return batch

    def offered(self, link: int, seq: int, batch: list[Pending]) -> None:
        """`batch` went out as frame number `seq` of `link`."""
        size = sum(pending.size for pending in batch)
        self._in_flight.update((pending.envelope.key, pending) for pending in batch)
        self._frames[link, seq] = (tuple(pending.envelope.key for pending in batch), size)
        self.unacked_bytes += size

    # ------------------------------------------------------------ answers

    def acked(self, link: int, seq: int, now: float, random: float) -> None:
        """The frame is dealt with. What of it has no answer by now is offered again later."""
        keys, size = self._frames.pop((link, seq), ((), 0))
        self.unacked_bytes -= size
        for key in keys:
            self.deferred(key, now, random)

    def answered(self, key: Key) -> Pending | None:
        """The recipient's word has come: not to be offered until it is committed, or not. None if it wasn't out.

        The envelope keeps its room in the window until then, lest a slow disk fill the memory with answers.
        """
        return self._in_flight.pop(key, None) or self._waiting.pop(key, None)

    def release(self, pending: Pending) -> None:
        """The envelope leaves the window: its answer is committed, or it has expired."""
        self._count -= 1
        self._bytes -= pending.size

    def deferred(self, key: Key, now: float, random: float) -> None:
        """Not now: offer it again after a pause that grows."""
        pending = self._in_flight.pop(key, None)
        if pending is not None:
            self._wait(pending, now, random)

    def unsettled(self, pending: Pending, now: float, random: float) -> None:
        """The answer did not settle it: offer it again, so that it is given again."""
        self._wait(pending, now, random)

    # ------------------------------------------------------------ time and links

    def link_lost(self, link: int) -> None:
        """What was offered on `link` is offered again on the next one, in order, and what waited with it."""
        again = list(self._waiting.values())
        self._waiting.clear()
        for frame in [frame for frame in self._frames if frame[0] == link]:
            keys, size = self._frames.pop(frame)
            self.unacked_bytes -= size
            again += [self._in_flight.pop(key) for key in keys if key in self._in_flight]
        self._requeue(again)

    def tick(self, now: float) -> None:
        due = [pending for pending in self._waiting.values() if pending.due <= now]
        for pending in due:
            del self._waiting[pending.envelope.key]
        self._requeue(due)

    def deadline(self) -> float | None:
        return min((pending.due for pending in self._waiting.values()), default=None)

    @property
    def backlog(self) -> int:
        """How many envelopes are in memory without an answer; there may be more in the store."""
        return self._count

    # ------------------------------------------------------------

    def _room(self) -> bool:
        return self._count < WINDOW_COUNT and self._bytes < WINDOW_BYTES

    def _append(self, lane: _Lane, pending: Pending) -> None:
        lane.queue.append(pending)
        lane.tail = pending.seq
        self._count += 1
        self._bytes += pending.size

    def _next_lane(self) -> _Lane | None:
        urgent, rest = self._lanes[True], self._lanes[False]
        if urgent.queue and not (rest.queue and self._urgent_run >= URGENT_PER_REST):
            return urgent
        return rest if rest.queue else None

    def _wait(self, pending: Pending, now: float, random: float) -> None:
        pending.due = (
            now + _RETRY_BASE / 2 + full_jitter(pending.attempts, base=_RETRY_BASE, cap=_RETRY_CAP, random=random)
        )
        pending.attempts += 1
        self._waiting[pending.envelope.key] = pending

    def _requeue(self, again: list[Pending]) -> None:
        for urgent, lane in self._lanes.items():
            mine = [pending for pending in again if pending.envelope.urgent is urgent]
            if mine:
                lane.queue = deque(sorted([*mine, *lane.queue], key=lambda pending: pending.seq))
