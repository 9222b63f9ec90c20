"""The origin's part in custody: what a relay has taken, and when it is our duty again.

    relays ── Ack ──► Commit(Entrust) ─ committed ─► out of the window: another node waits with it
    ways, time ─────► Commit(Reclaim) ─ committed ─► read from the store again, and offered

Custody suspends the duty and never ends it (rule 3): what has no receipt is reclaimed when a link to the recipient
comes up, when its custodian has lost the way or its store and there is another way, when the custodian was away and
may have delivered it, and after a while in any case.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from trishula.protocol.clock import Instant
from trishula.protocol.delivery import Pending
from trishula.protocol.desk import Desk
from trishula.protocol.effects import Effect
from trishula.protocol.errors import SendError
from trishula.protocol.records import Done, Entrust, Reclaim, Result
from trishula.protocol.routes import Line, Offer

RECLAIM_BASE = 60.0
RECLAIM_CAP = 3600.0
"""Seconds after which mail in custody is offered again in any case: the first time, and at the most."""
_RETRY_S = 1.0


@dataclass(slots=True)
class _Custodians:
    """Who has mail for one destination, and when to reclaim it in any case (monotonic)."""

    custodians: set[str] = field(default_factory=set)
    missed: set[str] = field(default_factory=set)
    """Those whose link was lost: the recipient's word may have come to them meanwhile."""
    due: float | None = None
    attempts: int = 0


class Custody:
    """Who has our mail, by destination."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._custody = {dest: _Custodians() for dest in desk.own}

    def acked(self, now: Instant, line: Line, offer: Offer) -> list[Effect]:
        """A frame of ours is dealt with. What of it has no answer is in custody, or to be offered again."""
        left = offer.delivery.unanswered(offer.keys)
        if not left:
            return []
        if line.node == offer.delivery.dest:
            self._defer(now, left, f"{line.node} took it and has not answered")
            return []
        record = Entrust(tuple(pending.envelope.key for pending in left), line.node)
        done = partial(self._entrusted, offer.delivery.dest, line.node, left)
        return [self._desk.commit([record], done, partial(self._not_entrusted, left))]

    def _entrusted(
        self, dest: str, custodian: str, pendings: Sequence[Pending], now: Instant, _results: Sequence[Result]
    ) -> list[Effect]:
        for pending in pendings:
            self._desk.own[dest].release(pending)
        custody = self._custody[dest]
        custody.custodians.add(custodian)
        if custody.due is None:
            custody.due = now.mono + self._pause(custody.attempts)
        return self.review(dest) + self._desk.pump(now, dest)

    def _not_entrusted(self, pendings: Sequence[Pending], now: Instant, error: SendError) -> list[Effect]:
        self._defer(now, pendings, error.message)
        return []

    def _defer(self, now: Instant, pendings: Sequence[Pending], reason: str) -> None:
        random = self._desk.random()  # one for all, so that they come back in their order
        for pending in pendings:
            self._desk.own[pending.envelope.dest].deferred(pending.envelope.key, now.mono, random, reason)

    def review(self, dest: str) -> list[Effect]:
        """The ways have changed: what is with a custodian that has lost the way to `dest` goes another, if there is."""
        routes = self._desk.routes
        route = routes.route(dest)
        if route is None or not route.reaches:
            return []
        return self._reclaim(dest, {c for c in self._custody[dest].custodians if not routes.reaches(c, dest)})

    def direct(self, dest: str) -> list[Effect]:
        """A link to `dest` has come up: offer it what has no receipt."""
        self._desk.own[dest].hurry()
        self._custody[dest].attempts = 0
        return self._reclaim(dest, self._custody[dest].custodians)

    def unlinked(self, custodian: str) -> None:
        """The link to a neighbour is lost, and with it what it would have passed on."""
        for custody in self._custody.values():
            custody.missed |= custody.custodians & {custodian}

    def reaches(self, custodian: str) -> list[Effect]:
        """A neighbour has said whom it is linked to. What it may have delivered while we were away is offered again.

        It no longer holds that, so it takes it anew, and the recipient answers it again.
        """
        effects: list[Effect] = []
        for dest, custody in self._custody.items():
            if custodian in custody.missed and self._desk.routes.reaches(custodian, dest):
                custody.missed.discard(custodian)
                effects += self._reclaim(dest, custody.custodians & {custodian})
        return effects

    def forgot(self, custodian: str) -> list[Effect]:
        """A neighbour has come back with another store: it has nothing of ours."""
        return [
            effect
            for dest, custody in self._custody.items()
            for effect in self._reclaim(dest, custody.custodians & {custodian})
        ]

    def deadline(self) -> float | None:
        return min((custody.due for custody in self._custody.values() if custody.due is not None), default=None)

    def tick(self, now: Instant) -> list[Effect]:
        effects: list[Effect] = []
        for dest, custody in self._custody.items():
            if custody.due is not None and custody.due <= now.mono:
                custody.attempts += 1
                effects += self._reclaim(dest, custody.custodians)
        return effects

    def _reclaim(self, dest: str, custodians: Iterable[str]) -> list[Effect]:
        custody = self._custody[dest]
        wanted = tuple(sorted(custodians))
        if not wanted:
            return []
        custody.custodians -= set(wanted)
        if not custody.custodians:
            custody.due = None
        done, failed = partial(self._reclaimed, dest), partial(self._not_reclaimed, dest, wanted)
        return [self._desk.commit([Reclaim(wanted, dest)], done, failed)]

    def _reclaimed(self, dest: str, now: Instant, results: Sequence[Result]) -> list[Effect]:
        (result,) = results
        assert isinstance(result, Done)
        if result.count:
            self._desk.own[dest].rewind()
        return self._desk.pump(now, dest)

    def _not_reclaimed(self, dest: str, custodians: Sequence[str], now: Instant, _error: SendError) -> list[Effect]:
        custody = self._custody[dest]
        custody.custodians.update(custodians)
        custody.due = now.mono + _RETRY_S
        return []

    def _pause(self, attempts: int) -> float:
        ceiling = min(RECLAIM_CAP, RECLAIM_BASE * 2.0 ** min(attempts, 16))
        return ceiling * (1 + self._desk.random()) / 2
