from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from trishula.protocol.backoff import full_jitter


def test_the_ceiling_doubles_from_the_base_up_to_the_cap() -> None:
    almost = 1 - 2**-53
    ceilings = [round(full_jitter(attempt, base=0.1, cap=2.0, random=almost), 6) for attempt in range(7)]
    assert ceilings == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_the_jitter_is_full_so_that_the_pause_may_be_nothing() -> None:
    assert full_jitter(5, base=0.1, cap=2.0, random=0.0) == 0.0
    assert full_jitter(1, base=0.1, cap=2.0, random=0.5) == 0.1


@given(attempt=st.integers(0, 10**9), random=st.floats(0, 1, exclude_max=True))
@settings(deadline=None, derandomize=True)
def test_it_never_waits_longer_than_the_cap_however_long_it_has_tried(attempt: int, random: float) -> None:
    assert 0 <= full_jitter(attempt, base=0.1, cap=2.0, random=random) <= 2.0
