"""What has ended and expired is forgotten, a little at a time (rule 8), by a clock that may be believed (rule 9)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from trishula.protocol.clock import Instant
from trishula.protocol.desk import Desk
from trishula.protocol.effects import Effect
from trishula.protocol.errors import SendError
from trishula.protocol.records import Prune, Pruned, Result

EVERY = 60.0
"""Seconds between two looks for what may be forgotten."""
_ON = 0.5
"""Seconds until the next part of a longer work: it must not hold up deliveries."""
AT_ONCE = 500


class Retention:
    """Prunes the store. `dropped` is told what went out of custody: destination and size."""

    def __init__(self, desk: Desk, dropped: Callable[[Iterable[tuple[str, int]]], None]) -> None:
        self._desk = desk
        self._dropped = dropped
        self._due: float | None = None

    def begin(self, now: Instant) -> None:
        self._due = now.mono + EVERY

    def deadline(self) -> float | None:
        return self._due

    def tick(self, now: Instant) -> list[Effect]:
        if self._due is None or self._due > now.mono:
            return []
        self._due = None
        if not self._desk.clock.trusted(now):
            self._due = now.mono + EVERY
            return []
        before = now.wall - 2 * self._desk.limits.max_skew
        return [self._desk.commit([Prune(before, AT_ONCE)], self._pruned, self._not_pruned)]

    def _pruned(self, now: Instant, results: Sequence[Result]) -> list[Effect]:
        (result,) = results
        assert isinstance(result, Pruned)
        self._dropped(result.held)
        self._due = now.mono + (_ON if result.more else EVERY)
        return []

    def _not_pruned(self, now: Instant, _error: SendError) -> list[Effect]:
        self._due = now.mono + EVERY
        return []
