"""How long to wait before trying again."""

from __future__ import annotations


def full_jitter(attempt: int, *, base: float, cap: float, random: float) -> float:
    """Seconds to wait before attempt number `attempt` (0 is the first retry).

    Full jitter: uniform between 0 and the exponential ceiling, so that a fleet that lost the same peer doesn't come
    back in step. `random` is uniform in [0, 1).
    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    ceiling = min(cap, base * 2.0 ** min(attempt, 32))
    return ceiling * random
