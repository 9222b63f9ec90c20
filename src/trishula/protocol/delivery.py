"""What is pending for one destination, in a bounded window; the store holds the rest.

store ──Load──► lanes (urgent, rest; by seq) ──take──► out ──answered, in custody──► (its commit) ──release──► gone
                  ▲                                     │                                 │
                  └──── link lost, deferred, overdue ───┴──────────── unsettled ──────────┘
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from trishula.protocol.backoff import full_jitter
from trishula.protocol.effects import Load
from trishula.protocol.envelope import Envelope, Key
from trishula.protocol.frames import BATCH_BYTES, BATCH_COUNT
from trishula.protocol.records import Seal

WINDOW_COUNT = 4096
"""Envelopes of one destination in memory, in both lanes together; the store holds what is beyond."""
WINDOW_BYTES = 8 * 1024 * 1024
URGENT_PER_REST = 8
LOAD_COUNT = 512

_RETRY_BASE = 1.0
_RETRY_CAP = 60.0
_ENVELOPE_BYTES = 400
"""What an envelope adds to its payload on the wire, about."""


Row = tuple[int, Envelope, Seal | None]
"""An envelope in the store, with its number; and the MAC of its origin where it is another's."""


@dataclass(slots=True, eq=False)
class Pending:
    """An envelope without an answer. `stored` is when its commit was seen (monotonic), None after a restart."""

    seq: int
    envelope: Envelope
    seal: Seal | None = None
    stored: float | None = None
    attempts: int = 0
    due: float = 0.0
    waits_for: str = ""
    """Why it was not taken at its last offer."""

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
    stale: bool = False
    """Whether what is being loaded is to be loaded anew."""


class Delivery:
    """The window on the mail for `dest`: ours, or, if `held`, what is in custody here.

    Keeps no clock: what depends on time takes `now`, in monotonic seconds.
    """

    def __init__(self, dest: str, *, held: bool = False) -> None:
        self.dest = dest
        self.held = held
        self._lanes = {True: _Lane(), False: _Lane()}
        self._known: dict[Key, Pending] = {}
        """All that is in memory."""
        self._out: dict[Key, Pending] = {}
        """Offered on a link, and not answered."""
        self._waiting: dict[Key, Pending] = {}
        self._due: float | None = None
        """When to look at what waits: never late, at times early. It is asked for at every event."""
        self._rewind_at: float | None = None
        """When to read anew what waits in the store because it filled the window with waiting."""
        self._rewinds = 0
        self._bytes = 0
        self._urgent_run = 0
        """Urgent envelopes taken since the last of the rest, over frames: one frame may hold but one large message."""

    # ------------------------------------------------------------ coming in

    def push(self, pending: Pending) -> None:
        """A fresh envelope, just committed. If the window is full, or older mail waits in the store, it waits there."""
        known = self._known.get(pending.envelope.key)
        if known is not None:
            # In custody anew: its origin may have signed it with a newer key.
            self._bytes += pending.size - known.size
            known.seq, known.envelope, known.seal = pending.seq, pending.envelope, pending.seal
            return
        lane = self._lanes[pending.envelope.urgent]
        if pending.seq <= lane.tail:
            return  # a load was faster than the news of the commit
        if lane.loading:
            lane.missed = True
        elif lane.behind or not self._room():
            lane.behind = True
        else:
            self._append(lane, pending)

    def taken(self, pending: Pending) -> None:
        """A fresh envelope that is being offered by a way of its own. If the window is full, it waits in the store."""
        lane = self._lanes[pending.envelope.urgent]
        if pending.seq <= lane.tail:
            return  # as in `push`
        if self._room():
            self._known[pending.envelope.key] = self._out[pending.envelope.key] = pending
            self._bytes += pending.size
        else:
            lane.behind = True

    def wants(self) -> Load | None:
        """The next read from the store, or None. Must be answered by `loaded`."""
        for urgent in (True, False):
            lane = self._lanes[urgent]
            if lane.behind and not lane.loading and len(lane.queue) < LOAD_COUNT // 2 and self._room():
                lane.loading = True
                lane.missed = False
                return Load(self.dest, self.held, urgent, lane.tail, LOAD_COUNT, WINDOW_BYTES - self._bytes)
        return None

    def loaded(self, rows: Iterable[Row], *, urgent: bool, complete: bool) -> None:
        """What the store held; `complete` where there was no more than that. What finds no room is read again later."""
        lane = self._lanes[urgent]
        lane.loading = False
        if lane.stale:
            lane.stale = False
            return
        lane.behind = lane.missed or not complete
        for seq, envelope, seal in rows:
            if not self._room():
                lane.behind = True
                break
            if envelope.key not in self._known:
                self._append(lane, Pending(seq, envelope, seal))
            lane.tail = seq

    def rewind(self) -> None:
        """The store has more than it had below `tail`: read it from its beginning."""
        self._rewind_at = None
        for lane in self._lanes.values():
            for pending in lane.queue:
                self.release(pending)
            lane.queue.clear()
            lane.tail = 0
            lane.behind = True
            lane.stale = lane.loading

    # ------------------------------------------------------------ going out

    def take(self, expired_by: int) -> list[Pending]:
        """The next batch: up to a frame's worth, urgent before the rest at 8:1.

        What expired by `expired_by` (ms since 1970) leaves the window: its end is somebody else's word.
        """
        batch: list[Pending] = []
        size = 0
        while len(batch) < BATCH_COUNT:
            lane = self._next_lane()
            if lane is None or (batch and size + lane.queue[0].size > BATCH_BYTES):
                break
            pending = lane.queue.popleft()
            if pending.envelope.expires_at <= expired_by:
                self.release(pending)
            if self._known.get(pending.envelope.key) is not pending:
                continue  # it has ended while it stood here
            self._urgent_run = self._urgent_run + 1 if pending.envelope.urgent else 0
            batch.append(pending)
            size += pending.size
            self._out[pending.envelope.key] = pending
        return batch

    # ------------------------------------------------------------ answers

    def unanswered(self, keys: Iterable[Key]) -> list[Pending]:
        """Of an acknowledged frame, what has neither an answer nor a deferral."""
        return [self._out[key] for key in keys if key in self._out]

    def answered(self, key: Key) -> Pending | None:
        """The recipient's word has come: not to be offered until it is committed, or not. None if it wasn't out.

        The envelope keeps its room in the window until then, lest a slow disk fill the memory with answers.
        """
        return self._out.pop(key, None) or self._waiting.pop(key, None)

    def release(self, pending: Pending) -> None:
        """The envelope leaves the window: its answer is committed, or its custody, or its end."""
        if self._known.get(pending.envelope.key) is pending:
            self._out.pop(pending.envelope.key, None)
            self._waiting.pop(pending.envelope.key, None)
            del self._known[pending.envelope.key]
            self._bytes -= pending.size

    def ended(self, key: Key) -> None:
        """As `release`, for one that was given up wherever it is."""
        if (pending := self._known.get(key)) is not None:
            self.release(pending)

    def deferred(self, key: Key, now: float, random: float, reason: str) -> None:
        """Not now: offer it again after a pause that grows."""
        pending = self._out.pop(key, None)
        if pending is not None:
            pending.waits_for = reason
            self._wait(pending, now, random)

    def unsettled(self, pending: Pending, now: float, random: float) -> None:
        """The answer did not settle it: offer it again, so that it is given again."""
        if self._known.get(pending.envelope.key) is pending:
            self._wait(pending, now, random)

    # ------------------------------------------------------------ time and links

    def lost(self, keys: Iterable[Key]) -> None:
        """What was offered in a frame that will not be answered is offered again, in order."""
        self._requeue([self._out.pop(key) for key in keys if key in self._out])

    def hurry(self) -> None:
        """A link has come up: what waits after a deferral need not wait for its time."""
        self._rewinds = 0
        self.tick(float("inf"))

    def tick(self, now: float) -> None:
        if self._rewind_at is not None and self._rewind_at <= now:
            self.rewind()
        due = [pending for pending in self._waiting.values() if pending.due <= now]
        for pending in due:
            del self._waiting[pending.envelope.key]
        self._due = min((pending.due for pending in self._waiting.values()), default=None)
        self._requeue(due)

    def deadline(self) -> float | None:
        if self._due is None or self._rewind_at is None:
            return self._rewind_at if self._due is None else self._due
        return min(self._due, self._rewind_at)

    @property
    def backlog(self) -> int:
        """How many envelopes are in memory without an answer; there may be more in the store."""
        return len(self._known)

    def find(self, key: Key) -> tuple[Pending, str] | None:
        """An envelope in memory, and where in its way it is: `out`, `waiting` or `queued`."""
        pending = self._known.get(key)
        if pending is None:
            return None
        return pending, "out" if key in self._out else "waiting" if key in self._waiting else "queued"

    # ------------------------------------------------------------

    def _room(self) -> bool:
        return len(self._known) < WINDOW_COUNT and self._bytes < WINDOW_BYTES

    def _append(self, lane: _Lane, pending: Pending) -> None:
        lane.queue.append(pending)
        lane.tail = pending.seq
        self._known[pending.envelope.key] = pending
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
        self._due = pending.due if self._due is None else min(self._due, pending.due)
        if not self._room() and 2 * len(self._waiting) > len(self._known):
            self._shed(now, random)

    def _shed(self, now: float, random: float) -> None:
        """What nobody takes waits in the store: one full inbox must not hold up a node's other mail."""
        for pending in list(self._waiting.values()):
            self.release(pending)
        if self._rewind_at is None:
            pause = full_jitter(self._rewinds, base=_RETRY_BASE, cap=_RETRY_CAP, random=random)
            self._rewind_at = now + _RETRY_BASE + pause
            self._rewinds += 1

    def _requeue(self, again: list[Pending]) -> None:
        for urgent, lane in self._lanes.items():
            mine = [pending for pending in again if pending.envelope.urgent is urgent]
            if mine:
                lane.queue = deque(sorted([*mine, *lane.queue], key=lambda pending: pending.seq))
