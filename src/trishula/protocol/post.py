"""The last way to a peer: frames as files that rsync carries, in use while no link and no relay reaches it.

A post is a link on which everything takes seconds. The same frames travel on it and are answered on it, so all rules
hold as they stand; only when it is open to new mail is decided here: when a node has been out of reach for `PATIENCE`.
"""

from __future__ import annotations

from collections.abc import Callable

from trishula.protocol.clock import Instant
from trishula.protocol.desk import Desk
from trishula.protocol.effects import Effect, Posting, Withdraw
from trishula.protocol.routes import Line

PATIENCE = 1.5
"""Seconds without a usable way after which mail goes by post. A link is suspect after two seconds of silence."""
ANSWERED_WITHIN = 60.0
ANSWERED_CAP = 3600.0
"""Seconds after which a frame in the post is taken for lost and its mail offered again: the first time, and at most."""
WINDOW = 8 * 1024 * 1024
"""Bytes in one direction of a post that wait for an answer."""


class Post:
    """The posts of a node, by peer."""

    def __init__(self, desk: Desk, opened: Callable[[str], list[Effect]]) -> None:
        """`opened` is asked what follows when the post to a node takes its mail."""
        self._desk = desk
        self._opened = opened
        self._cut_off: dict[str, float] = {}
        """Since when (monotonic) there is no other way to a peer."""

    def add(self, now: Instant, number: int, node: str) -> None:
        """A peer can be reached by rsync. `number` is negative, to tell it from a link's."""
        self._desk.routes.posts[node] = Line(number, node, WINDOW, files=True)
        self._cut_off[node] = now.mono

    def review(self, now: Instant) -> list[Effect]:
        """Who is linked to whom has changed."""
        effects: list[Effect] = []
        for node, line in self._desk.routes.posts.items():
            if self._desk.routes.by_link(node) is None:
                self._cut_off.setdefault(node, now.mono)
                continue
            self._cut_off.pop(node, None)
            if line.open:
                line.open = False
                self._desk.lose(line)
                effects.append(Posting(line.number, open=False))
        return effects

    def deadline(self) -> float | None:
        dues = [since + PATIENCE for node, since in self._cut_off.items() if not self._desk.routes.posts[node].open]
        dues += [
            next(iter(line.offers.values())).at + _within(line)
            for line in self._desk.routes.posts.values()
            if line.offers
        ]
        return min(dues, default=None)

    def tick(self, now: Instant) -> list[Effect]:
        effects: list[Effect] = []
        for node, line in self._desk.routes.posts.items():
            if not line.open and node in self._cut_off and self._cut_off[node] + PATIENCE <= now.mono:
                line.open = True
                effects += [Posting(line.number, open=True), *self._opened(node), *self._desk.pump_line(now, line)]
            within = _within(line)
            late = tuple(seq for seq, offer in line.offers.items() if offer.at + within <= now.mono)
            for seq in late:
                offer = line.offers.pop(seq)
                line.unacked -= offer.size
                offer.delivery.lost(offer.keys)
            if late:
                line.late += 1
                effects += [Withdraw(line.number, late), *self._desk.pump(now, node)]
        return effects


def _within(line: Line) -> float:
    """How long an answer is waited for: longer each time, for a host that sleeps answers nothing."""
    return min(ANSWERED_CAP, ANSWERED_WITHIN * 2.0 ** min(line.late, 16))
