"""What the roles of a node share: who it is, its links, its mail on the way, and what is being committed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from trishula.protocol import frames
from trishula.protocol.clock import Clock, Instant
from trishula.protocol.delivery import Delivery, Pending
from trishula.protocol.directory import Directory
from trishula.protocol.effects import Commit, Effect, Transmit
from trishula.protocol.errors import SendError
from trishula.protocol.limits import Limits
from trishula.protocol.records import Record, Result
from trishula.protocol.routes import LOOPBACK, Line, Offer, Routes
from trishula.protocol.signing import Keyring
from trishula.protocol.trust import Trust

Done = Callable[[Instant, Sequence[Result]], list[Effect]]
"""What follows when a batch is durable."""
Failed = Callable[[Instant, SendError], list[Effect]]
"""What follows when it could not be committed: nothing of it happened."""
Loop = Callable[[Instant, Line, int, Sequence[Pending]], list[Effect]]
"""Takes mail for agents of this node."""

SPARE_MOST = 256
"""Of what a full disk did not take and a link that comes up would ask for: so many are kept."""
_AGAIN_S = 1.0
"""Seconds until what the disk did not take is tried again."""


class _Wanted(NamedTuple):
    """A commit that is insisted on."""

    records: tuple[Record, ...]
    done: Done
    spare: bool


class Desk:
    """Shared by `Origin`, `Recipient` and `Relay`. `random` is uniform in [0, 1) and only spreads retries in time."""

    def __init__(
        self,
        node: str,
        directory: Directory,
        keyring: Keyring,
        limits: Limits,
        peers: Mapping[str, bool],
        random: Callable[[], float],
        *,
        always_on: bool,
    ) -> None:
        self.node = node
        self.directory = directory
        self.limits = limits
        self.trust = Trust(node, directory, keyring, limits)
        self.routes = Routes(node, limits.window_bytes, peers, always_on=always_on)
        self.clock = Clock(limits.max_skew)
        self.random = random
        self.always_on = always_on
        self.full = ""
        """Why the store takes nothing new, or nothing."""
        self.own = {dest: Delivery(dest) for dest in (node, *peers)}
        self.held = {dest: Delivery(dest, held=True) for dest in peers}
        self.begun = False
        """Whether the store has been asked how it is."""
        self.loop: Loop
        self._insisted: list[_Wanted] = []
        self._again_at: float | None = None
        """When to try again what the disk did not take (monotonic)."""
        self._batches: dict[int, tuple[Done, Failed]] = {}
        self._last_batch = 0

    # ------------------------------------------------------------ commits

    def commit(self, records: Iterable[Record], done: Done, failed: Failed) -> Commit:
        self._last_batch += 1
        self._batches[self._last_batch] = (done, failed)
        return Commit(self._last_batch, tuple(records))

    def committed(self, now: Instant, batch: int, results: Sequence[Result]) -> list[Effect]:
        done, _ = self._batches.pop(batch)
        return done(now, results)

    def failed(self, now: Instant, batch: int, error: SendError) -> list[Effect]:
        _, failed = self._batches.pop(batch)
        return failed(now, error)

    def insist(self, records: Iterable[Record], done: Done, *, spare: bool = False) -> Commit:
        """A commit that is tried again until it succeeds, in order with the others that failed.

        For a question that is put once, or a word that is said once. `spare`: it may be forgotten where many wait.
        """
        return self._insist(_Wanted(tuple(records), done, spare))

    def _insist(self, wanted: _Wanted) -> Commit:
        return self.commit(wanted.records, wanted.done, partial(self._not_taken, wanted))

    def _not_taken(self, wanted: _Wanted, now: Instant, _error: SendError) -> list[Effect]:
        if not wanted.spare or len(self._insisted) < SPARE_MOST:
            self._insisted.append(wanted)
        if self._again_at is None:
            self._again_at = now.mono + _AGAIN_S
        return []

    def again(self) -> list[Effect]:
        """Try now what the disk did not take."""
        insisted, self._insisted, self._again_at = self._insisted, [], None
        return [self._insist(wanted) for wanted in insisted]

    def deadline(self) -> float | None:
        return self._again_at

    def tick(self, now: Instant) -> list[Effect]:
        return [] if self._again_at is None or self._again_at > now.mono else self.again()

    # ------------------------------------------------------------ mail on its way out

    def pump(self, now: Instant, dest: str) -> list[Effect]:
        """Offer what the way to `dest` allows, and fetch what there is room for."""
        route = self.routes.route(dest)
        if route is None:
            return self._load(self.own[dest])
        return self.pump_line(now, route.line)

    def pump_line(self, now: Instant, line: Line) -> list[Effect]:
        """Offer on a link what its window allows: a frame's worth of each destination in turn."""
        effects: list[Effect] = []
        sources = self._sources(line)
        expired_by = now.wall if self.clock.trusted(now) else 0
        busy = [*sources]
        while busy and line.unacked < line.window:
            delivery = busy.pop(0)
            batch = delivery.take(expired_by)
            if batch:
                effects += self.offer(now, line, delivery, batch)
                busy.append(delivery)
        for delivery in sources:
            effects += self._load(delivery)
        return effects

    def pump_all(self, now: Instant) -> list[Effect]:
        """After the ways have changed."""
        lines = [*self.routes.lines.values(), *self.routes.posts.values()]
        effects = [effect for line in lines for effect in self.pump_line(now, line)]
        for delivery in (*self.own.values(), *self.held.values()):
            effects += self._load(delivery)
        return effects

    def lose(self, line: Line) -> None:
        """What is under way on a link will not be answered there: offer it again."""
        for offer in line.offers.values():
            offer.delivery.lost(offer.keys)
        line.offers.clear()
        line.unacked = 0

    def _sources(self, line: Line) -> list[Delivery]:
        routes = self.routes
        sources = [
            delivery
            for dest, delivery in self.own.items()
            if (route := routes.route(dest)) is not None and route.line is line
        ]
        if line.node in self.held and routes.line_to(line.node) is line:
            sources.append(self.held[line.node])
        return sources

    def offer(self, now: Instant, line: Line, delivery: Delivery, batch: Sequence[Pending]) -> list[Effect]:
        """Send these as one frame."""
        seq, line.next_seq = line.next_seq, line.next_seq + 1
        size = sum(pending.size for pending in batch)
        line.offers[seq] = Offer(delivery, tuple(pending.envelope.key for pending in batch), size, now.mono)
        line.unacked += size
        if line.number == LOOPBACK:
            return self.loop(now, line, seq, batch)
        sealed = [
            frames.SignedEnvelope.seal(pending.envelope, *(pending.seal or self.trust.seal(pending.envelope)))
            for pending in batch
        ]
        return [Transmit(line.number, frames.Deliver(seq=seq, envelopes=sealed))]

    def _load(self, delivery: Delivery) -> list[Effect]:
        effects: list[Effect] = []
        while self.begun and (wanted := delivery.wants()) is not None:
            effects.append(wanted)
        return effects
