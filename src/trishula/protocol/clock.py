"""The time, as the core is told it."""

from __future__ import annotations

from typing import NamedTuple


class Instant(NamedTuple):
    """One moment on both clocks of a node."""

    mono: float
    """Seconds that only run forward: for deadlines. Their zero means nothing."""
    wall: int
    """Milliseconds since 1970, UTC, as the node's clock has them: for expiry and for people. May jump."""
