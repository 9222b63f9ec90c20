"""When a wall clock is believed (rule 9)."""

from __future__ import annotations

from trishula.protocol.clock import DOUBT_S, Clock, Instant

SKEW = 30_000
YEAR = 365 * 24 * 3600 * 1000


def running(seconds: float = 0.0, *, jumped: int = 0) -> Instant:
    return Instant(100.0 + seconds, 1_000_000 + round(seconds * 1000) + jumped)


def started() -> Clock:
    clock = Clock(SKEW)
    clock.look(running())
    return clock


def test_a_clock_that_nobody_has_confirmed_is_believed_after_ten_minutes() -> None:
    clock = started()
    assert not clock.trusted(running(DOUBT_S - 1))
    assert clock.trusted(running(DOUBT_S))


def test_a_peer_that_agrees_within_the_skew_confirms_it_at_once() -> None:
    clock = started()
    clock.measured("agni", SKEW, 0)
    assert clock.trusted(running(1))
    clock.measured("agni", SKEW + 1, 0)
    assert not clock.trusted(running(1))


def test_half_the_round_trip_is_no_disagreement() -> None:
    clock = started()
    clock.measured("agni", SKEW + 4000, 8000)
    assert clock.trusted(running(1))


def test_one_peer_with_a_wrong_clock_does_not_outvote_one_with_a_right_one() -> None:
    clock = started()
    clock.measured("agni", YEAR, 0)
    clock.measured("rushabdev", 5, 0)
    assert clock.trusted(running(1))
    assert clock.disagreeing == ["agni"]


def test_a_jump_is_seen_and_makes_it_doubtful_until_a_peer_confirms_it_anew() -> None:
    clock = started()
    clock.measured("agni", 0, 0)
    assert clock.look(running(1, jumped=YEAR))
    assert not clock.trusted(running(2, jumped=YEAR))
    assert not clock.look(running(2, jumped=YEAR))
    clock.measured("agni", -YEAR, 0)
    assert not clock.trusted(running(3, jumped=YEAR))
    assert clock.look(running(4))
    clock.measured("agni", 0, 0)
    assert clock.trusted(running(5))


def test_a_drift_of_a_second_a_minute_is_no_jump() -> None:
    clock = started()
    assert not any(clock.look(Instant(100.0 + 60 * minute, 1_000_000 + 61_000 * minute)) for minute in range(100))


def test_a_peer_that_is_gone_has_no_say() -> None:
    clock = started()
    clock.measured("agni", YEAR, 0)
    clock.unlinked("agni")
    assert clock.trusted(running(DOUBT_S))


def test_it_says_why_it_is_not_trusted() -> None:
    clock = started()
    assert clock.state(running(1)) == "not compared"
    clock.measured("agni", 0, 0)
    assert clock.state(running(1)) == "trusted"
    clock.measured("agni", YEAR, 0)
    assert clock.state(running(2)) == "apart"
    clock.unlinked("agni")
    assert clock.state(running(3)) == "not compared"
    clock.look(running(4, jumped=YEAR))
    assert clock.state(running(4, jumped=YEAR)) == "jumped"
    clock.measured("agni", 0, 0)
    clock.unlinked("agni")
    assert clock.state(running(5, jumped=YEAR)) == "not compared"
    assert clock.state(running(4 + DOUBT_S, jumped=YEAR)) == "trusted"
