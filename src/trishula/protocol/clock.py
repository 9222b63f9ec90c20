"""The time, as the core is told it, and whether to believe it.

What can't be undone (refuse as expired, give up, forget) needs a clock that a peer confirms (rule 9). A laptop that
slept, a clock that was set, a host that has just booted: each could be years off.
"""

from __future__ import annotations

from typing import NamedTuple

JUMP_MS = 2000
"""The wall clock against the monotonic one, between two looks: more is no drift."""
DOUBT_S = 600.0
"""Seconds after which a clock is believed though nobody has confirmed it."""


class Instant(NamedTuple):
    """One moment on both clocks of a node."""

    mono: float
    """Seconds that only run forward: for deadlines. Their zero means nothing."""
    wall: int
    """Milliseconds since 1970, UTC, as the node's clock has them: for expiry and for people. May jump."""


class Clock:
    """What a node knows of its wall clock. `max_skew` in ms is what two clocks may differ by."""

    def __init__(self, max_skew: int) -> None:
        self._max_skew = max_skew
        self._last: Instant | None = None
        self._doubted = 0.0
        """When (monotonic) the clock last gave reason to doubt it."""
        self._jumped = False
        """Whether it was by a jump, which no peer has confirmed since."""
        self._agreed: dict[str, bool] = {}
        """By peer, of those that are linked and were asked since."""

    def look(self, now: Instant) -> bool:
        """Call at each event, with its time. True if the wall clock has jumped since the last one."""
        last, self._last = self._last, now
        if last is None:
            self._doubt(now)
            return False
        jump = (now.wall - last.wall) - (now.mono - last.mono) * 1000
        if abs(jump) <= JUMP_MS:
            return False
        self._doubt(now)
        self._jumped = True
        return True

    def measured(self, peer: str, offset_ms: float, rtt_ms: float) -> None:
        """The clock of `peer` minus ours, right to within half the round trip."""
        self._agreed[peer] = abs(offset_ms) - rtt_ms / 2 <= self._max_skew
        self._jumped = self._jumped and not self._agreed[peer]

    def unlinked(self, peer: str) -> None:
        self._agreed.pop(peer, None)

    def trusted(self, now: Instant) -> bool:
        """Whether at least half of the linked peers agree, or nobody has said anything for `DOUBT_S`."""
        if self._agreed:
            return 2 * sum(self._agreed.values()) >= len(self._agreed)
        return now.mono - self._doubted >= DOUBT_S

    def state(self, now: Instant) -> str:
        """`trusted`, or why not: `apart` from most linked peers, `jumped`, or `not compared` with any peer yet."""
        if self.trusted(now):
            return "trusted"
        if self._agreed:
            return "apart"
        return "jumped" if self._jumped else "not compared"

    def trusted_at(self, now: Instant) -> float:
        """When to ask again, on the monotonic clock."""
        return now.mono + 1.0 if self._agreed else self._doubted + DOUBT_S

    @property
    def disagreeing(self) -> list[str]:
        """The linked peers whose clocks differ by more than they may."""
        return sorted(peer for peer, agrees in self._agreed.items() if not agrees)

    def _doubt(self, now: Instant) -> None:
        self._doubted = now.mono
        self._agreed.clear()
