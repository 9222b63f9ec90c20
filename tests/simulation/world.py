"""Virtual time, one source of chance, and the story of what happened."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from itertools import count
from random import Random

STORY_LINES = 400
MOST_AT_ONCE = 100_000
"""Actions at one moment; more is a deadline in the past that nobody moves."""


class ViolationError(AssertionError):
    """A promise was broken."""


class World:
    """Runs actions at their time. The same seed is the same story, to the last frame."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.now = 0.0
        """Seconds since the world began."""
        self.story: deque[str] = deque(maxlen=STORY_LINES)
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    def at(self, time: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (time, next(self._number), action))

    def after(self, delay: float, action: Callable[[], None]) -> None:
        self.at(self.now + delay, action)

    def run(self, until: float, *, stop: Callable[[], bool] = lambda: False) -> None:
        """Live until then, or until `stop` says so (asked every tenth of a second)."""
        check = self.now
        here = 0
        while self._agenda and self._agenda[0][0] <= until:
            if self._agenda[0][0] >= check:
                if stop():
                    return
                check = self._agenda[0][0] + 0.1
            before = self.now
            self.now, _, action = heapq.heappop(self._agenda)
            here = here + 1 if self.now == before else 0
            if here > MOST_AT_ONCE:
                raise ViolationError("time stands still: somebody is called again and again at the same moment")
            action()
        self.now = until

    def tell(self, who: str, what: str) -> None:
        self.story.append(f"{self.now:9.4f} {who:9} {what}")

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability
