"""What is pending for one destination: bounds, lanes, order, and the races with the store."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trishula.protocol import frames
from trishula.protocol.delivery import LOAD_COUNT, URGENT_PER_REST, WINDOW_BYTES, WINDOW_COUNT, Delivery, Pending, Row
from trishula.protocol.effects import Load
from trishula.protocol.envelope import Envelope, Key
from trishula.protocol.frames import BATCH_BYTES, BATCH_COUNT, FRAME_OVERHEAD

EXPIRES = 10_000
NOW = 100.0


def item(seq: int, *, urgent: bool = False, size: int = 10, expires: int = EXPIRES) -> Pending:
    key = Key("mac", f"m{seq}", "agni")
    return Pending(seq, Envelope("mac", "agni", key, expires, b"x" * size, urgent))


def row(seq: int, *, urgent: bool = False, size: int = 10) -> Row:
    return seq, item(seq, urgent=urgent, size=size).envelope, None


def ready() -> Delivery:
    """A window on an empty store."""
    delivery = Delivery("agni")
    while (wanted := delivery.wants()) is not None:
        delivery.loaded([], urgent=wanted.urgent, complete=True)
    return delivery


def seqs(batch: Iterable[Pending]) -> list[int]:
    return [pending.seq for pending in batch]


def offer(delivery: Delivery) -> list[int]:
    """Take a batch, as for a frame."""
    return seqs(delivery.take(0))


def defer(delivery: Delivery, seq: int, random: float = 0.5, now: float = NOW) -> None:
    delivery.deferred(key(seq), now, random, "not now")


def acknowledge(delivery: Delivery, *numbers: int) -> None:
    """The frame with these is dealt with."""
    for pending in delivery.unanswered([key(seq) for seq in numbers]):
        defer(delivery, pending.seq)


def answer(delivery: Delivery, seq: int) -> None:
    """The recipient's word on it has come, and is committed."""
    pending = delivery.answered(key(seq))
    assert pending is not None
    assert pending.seq == seq
    delivery.release(pending)


def key(seq: int) -> Key:
    return item(seq).envelope.key


# ---------------------------------------------------------------- order and lanes


def test_who_is_pushed_again_with_other_bytes_leaves_none_behind() -> None:
    """A neighbour may put another content under the same id into custody here."""
    delivery = ready()
    delivery.push(item(1, size=3000))
    delivery.push(item(1, size=10))
    answered = delivery.take(0)[0]
    delivery.release(answered)
    assert (delivery.backlog, delivery._bytes) == (0, 0)


def test_what_is_stored_goes_out_in_the_order_of_its_commit() -> None:
    delivery = ready()
    for seq in range(1, 6):
        delivery.push(item(seq))
    assert offer(delivery) == [1, 2, 3, 4, 5]
    assert offer(delivery) == []


def test_urgent_mail_overtakes_the_rest() -> None:
    delivery = ready()
    for seq in range(1, 4):
        delivery.push(item(seq))
    delivery.push(item(4, urgent=True))
    assert offer(delivery) == [4, 1, 2, 3]


def test_the_rest_gets_one_of_nine_places_while_urgent_mail_waits() -> None:
    delivery = ready()
    for seq in range(1, 41):
        delivery.push(item(seq, urgent=seq > 10))
    order = [seq > 10 for seq in offer(delivery)]
    assert order[:18] == ([True] * URGENT_PER_REST + [False]) * 2


def test_the_rest_does_not_starve_behind_urgent_mail_that_fills_a_frame_each() -> None:
    delivery = ready()
    delivery.push(item(1))
    for seq in range(2, 40):
        delivery.push(item(seq, urgent=True, size=BATCH_BYTES))
    frames_until_the_rest = next(frame for frame in range(1, 40) if 1 in offer(delivery))
    assert frames_until_the_rest <= URGENT_PER_REST + 1


def test_what_was_under_way_on_a_lost_link_goes_out_again_first_and_in_order() -> None:
    delivery = ready()
    for seq in range(1, 5):
        delivery.push(item(seq))
    assert offer(delivery) == [1, 2, 3, 4]
    for seq in range(5, 7):
        delivery.push(item(seq))
    answer(delivery, 2)
    defer(delivery, 3)
    delivery.lost([key(seq) for seq in range(1, 5)])
    delivery.hurry()
    assert offer(delivery) == [1, 3, 4, 5, 6]


def test_only_the_mail_of_the_lost_link_goes_out_again() -> None:
    delivery = ready()
    delivery.push(item(1))
    assert offer(delivery) == [1]
    delivery.push(item(2))
    assert offer(delivery) == [2]
    delivery.lost([key(1)])
    assert offer(delivery) == [1]


# ---------------------------------------------------------------- answers


def test_what_is_answered_is_never_offered_again() -> None:
    delivery = ready()
    delivery.push(item(1))
    offer(delivery)
    answer(delivery, 1)
    acknowledge(delivery, 1)
    delivery.lost([key(1)])
    delivery.tick(NOW + 1000)
    assert delivery.take(0) == []
    assert (delivery.backlog, delivery.deadline()) == (0, None)


def test_what_is_acknowledged_without_an_answer_is_offered_again_later() -> None:
    delivery = ready()
    delivery.push(item(1))
    offer(delivery)
    acknowledge(delivery, 1)
    assert delivery.take(0) == []
    due = delivery.deadline()
    assert due is not None
    delivery.tick(due)
    assert offer(delivery) == [1]


def test_the_pause_before_the_next_offer_grows_to_a_minute_and_no_further() -> None:
    delivery = ready()
    delivery.push(item(1))
    pauses = []
    now = NOW
    for _ in range(11):
        offer(delivery)
        defer(delivery, 1, 1.0, now)
        due = delivery.deadline()
        assert due is not None
        pauses.append(due - now)
        now = due
        delivery.tick(now)
    assert pauses == [1.5, 2.5, 4.5, 8.5, 16.5, 32.5, 60.5, 60.5, 60.5, 60.5, 60.5]


def test_an_answer_that_could_not_be_committed_is_asked_for_again() -> None:
    delivery = ready()
    delivery.push(item(1))
    offer(delivery)
    answered = delivery.answered(key(1))
    assert answered is not None
    delivery.unsettled(answered, NOW, 0.5)
    delivery.tick(NOW + 10)
    assert offer(delivery) == [1]


def test_an_answered_envelope_keeps_its_room_until_its_answer_is_committed() -> None:
    delivery = ready()
    for seq in range(1, WINDOW_COUNT + 2):
        delivery.push(item(seq))
    offer(delivery)
    answered = delivery.answered(key(1))
    assert answered is not None
    assert (delivery.backlog, delivery.wants()) == (WINDOW_COUNT, None)
    delivery.release(answered)
    assert delivery.backlog == WINDOW_COUNT - 1


def test_an_answer_or_a_deferral_of_what_is_not_pending_is_ignored() -> None:
    delivery = ready()
    assert delivery.answered(key(9)) is None
    defer(delivery, 9)
    acknowledge(delivery, 9)
    delivery.lost([key(9)])
    assert (delivery.backlog, delivery.deadline()) == (0, None)


def test_what_has_expired_is_not_offered_and_leaves_the_window() -> None:
    delivery = ready()
    delivery.push(item(1, expires=500))
    delivery.push(item(2, expires=501))
    assert seqs(delivery.take(500)) == [2]
    assert delivery.backlog == 1


# ---------------------------------------------------------------- races with the store


def test_after_a_start_the_store_is_asked_for_both_lanes_from_the_beginning() -> None:
    delivery = Delivery("agni")
    assert [delivery.wants(), delivery.wants(), delivery.wants()] == [
        Load("agni", False, True, 0, LOAD_COUNT, WINDOW_BYTES),
        Load("agni", False, False, 0, LOAD_COUNT, WINDOW_BYTES),
        None,
    ]


def test_a_row_that_was_loaded_before_the_news_of_its_commit_is_there_once() -> None:
    delivery = Delivery("agni")
    delivery.wants()
    delivery.wants()
    delivery.loaded([row(1), row(2)], urgent=False, complete=True)
    delivery.push(item(1))
    delivery.push(item(2))
    delivery.push(item(3))
    assert offer(delivery) == [1, 2, 3]
    assert delivery.backlog == 3


def test_a_row_that_was_committed_while_the_store_was_being_read_is_not_lost() -> None:
    delivery = Delivery("agni")
    delivery.wants()
    delivery.wants()
    delivery.push(item(2))  # committed after the read saw the store, before its rows are handed over
    delivery.loaded([row(1)], urgent=False, complete=True)
    wanted = delivery.wants()
    assert wanted is not None
    assert (wanted.urgent, wanted.after) == (False, 1)
    delivery.loaded([row(2)], urgent=False, complete=True)
    assert offer(delivery) == [1, 2]


def test_fresh_mail_does_not_overtake_what_waits_in_the_store() -> None:
    delivery = Delivery("agni")
    delivery.wants()
    delivery.wants()
    delivery.loaded([row(1)], urgent=False, complete=False)
    delivery.push(item(3))
    assert offer(delivery) == [1]
    wanted = delivery.wants()
    assert wanted is not None
    assert (wanted.urgent, wanted.after) == (False, 1)
    delivery.loaded([row(2), row(3)], urgent=False, complete=True)
    assert offer(delivery) == [2, 3]


# ---------------------------------------------------------------- bounds


def test_a_full_window_leaves_the_rest_in_the_store_and_fetches_it_when_there_is_room() -> None:
    delivery = ready()
    total = WINDOW_COUNT + 100
    for seq in range(1, total + 1):
        delivery.push(item(seq))
    assert delivery.backlog == WINDOW_COUNT
    seen: list[int] = []
    while batch := delivery.take(0):
        for pending in batch:
            answer(delivery, pending.seq)
        seen += seqs(batch)
        if (wanted := delivery.wants()) is not None:
            rows = [row(seq) for seq in range(wanted.after + 1, total + 1)][: wanted.limit]
            delivery.loaded(rows, urgent=False, complete=rows[-1:] == [row(total)])
    assert seen == list(range(1, total + 1))


def test_a_full_window_loads_nothing() -> None:
    delivery = ready()
    for seq in range(1, WINDOW_COUNT + 2):
        delivery.push(item(seq))
    assert delivery.wants() is None


def test_mail_that_nobody_takes_now_does_not_hold_up_what_is_behind_it_in_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trishula.protocol.delivery.WINDOW_COUNT", 4)
    delivery = Delivery("agni")
    store = [row(seq) for seq in range(1, 10)]
    offered: list[int] = []
    now = NOW
    while 9 not in offered and len(offered) < 1000:
        while (wanted := delivery.wants()) is not None:
            rows = [item for item in store if item[0] > wanted.after and item[1].urgent is wanted.urgent]
            delivery.loaded(rows[: wanted.limit], urgent=wanted.urgent, complete=len(rows) <= wanted.limit)
        for pending in delivery.take(0):
            offered.append(pending.seq)
            if pending.seq <= 4:
                defer(delivery, pending.seq, now=now)
            else:
                answer(delivery, pending.seq)
                store.remove(row(pending.seq))
        due = delivery.deadline()
        now = now if due is None else max(now, due)
        delivery.tick(now)
    assert 9 in offered


def test_large_messages_fill_the_window_by_their_bytes() -> None:
    delivery = ready()
    for seq in range(1, 100):
        delivery.push(item(seq, size=1024 * 1024))
    assert delivery.backlog * 1024 * 1024 <= WINDOW_BYTES + 1024 * 1024


def test_a_backlog_of_large_messages_does_not_come_into_memory_at_once() -> None:
    delivery = Delivery("agni")
    delivery.wants()
    delivery.wants()
    total, large = 30, 1024 * 1024
    store = [row(seq, size=large) for seq in range(1, total + 1)]
    delivery.loaded(store, urgent=False, complete=True)  # by a store that minds no size
    assert delivery.backlog * large <= WINDOW_BYTES + large

    seen = []
    for _ in range(total):
        [pending] = delivery.take(0)
        answer(delivery, pending.seq)
        seen.append(pending.seq)
        if (wanted := delivery.wants()) is not None:
            assert wanted.size <= WINDOW_BYTES
            delivery.loaded(store[wanted.after :][: wanted.limit], urgent=False, complete=True)
    assert seen == list(range(1, total + 1))


def test_a_batch_is_a_frame_of_bounded_count() -> None:
    delivery = ready()
    for seq in range(1, 1000):
        delivery.push(item(seq))
    assert len(offer(delivery)) == BATCH_COUNT


@pytest.mark.parametrize("size", [1, 600, 1024, 70_000, BATCH_BYTES - 500, 1024 * 1024])
def test_no_frame_is_larger_than_the_other_side_takes(size: int) -> None:
    """With the longest names there are; payloads take their own size on the wire."""
    delivery = ready()
    longest = "x" * 63
    for seq in range(1, 600):
        long_key = Key(longest, f"{seq:0128}", longest)
        payload = b'"' + b"x" * (size - 2) + b'"\n' if size > 2 else b"1\n"
        delivery.push(Pending(seq, Envelope(longest, longest, long_key, 2**53, payload)))
    batch = delivery.take(0)
    sealed = [frames.SignedEnvelope.seal(pending.envelope, "k" * 32, b"m" * 32) for pending in batch]
    assert len(frames.encode(frames.Deliver(seq=2**53, envelopes=sealed))) <= max(size, BATCH_BYTES) + FRAME_OVERHEAD


# ---------------------------------------------------------------- for all histories


class AnyHistory(RuleBasedStateMachine):
    """A store, a window on it and a recipient, in any order of events. Every envelope stays findable until answered."""

    def __init__(self) -> None:
        super().__init__()
        self.delivery = Delivery("agni")
        self.now = NOW
        self.store: dict[int, Envelope] = {}
        self.committed = 0
        self.news = 0
        self.reads: list[tuple[bool, list[Row], bool]] = []
        self.under_way: list[list[Pending]] = []
        self.entrusted: set[int] = set()
        self.answered: set[int] = set()

    @rule(urgent=st.booleans(), size=st.sampled_from([10, 1024, WINDOW_BYTES // 3]))
    def commit(self, urgent: bool, size: int) -> None:  # noqa: FBT001  (Hypothesis passes keywords)
        self.committed += 1
        self.store[self.committed] = item(self.committed, urgent=urgent, size=size).envelope

    @precondition(lambda self: self.news < self.committed)
    @rule()
    def hear_of_a_commit(self) -> None:
        self.news += 1
        if self.news not in self.answered | self.entrusted:
            self.delivery.push(Pending(self.news, self.store[self.news]))

    @rule(limit=st.sampled_from([1, 2, LOAD_COUNT]))
    def read(self, limit: int) -> None:
        while (wanted := self.delivery.wants()) is not None:
            gone = self.answered | self.entrusted
            found: list[Row] = [
                (seq, envelope, None)
                for seq, envelope in self.store.items()
                if seq > wanted.after and envelope.urgent is wanted.urgent and seq not in gone
            ]
            self.reads.append((wanted.urgent, found[:limit], len(found) <= limit))

    @precondition(lambda self: self.reads)
    @rule()
    def hand_over(self) -> None:
        urgent, rows, complete = self.reads.pop(0)
        self.delivery.loaded(rows, urgent=urgent, complete=complete)

    @rule()
    def offer(self) -> None:
        batch = self.delivery.take(0)
        if batch:
            self.under_way.append(batch)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def answer_some_and_acknowledge(self, data: st.DataObject) -> None:
        batch = self.under_way.pop(0)
        for pending in batch:
            fate = data.draw(st.sampled_from(["answered", "answered", "deferred", "silent", "unsettled", "entrusted"]))
            if fate == "deferred":
                defer(self.delivery, pending.seq, now=self.now)
            elif fate == "answered":
                answer(self.delivery, pending.seq)
                self.answered.add(pending.seq)
            elif fate == "entrusted":
                self.delivery.release(pending)
                self.entrusted.add(pending.seq)
            elif fate == "unsettled" and (back := self.delivery.answered(pending.envelope.key)) is not None:
                self.delivery.unsettled(back, self.now, 0.5)
        for pending in self.delivery.unanswered([pending.envelope.key for pending in batch]):
            defer(self.delivery, pending.seq, now=self.now)

    @rule()
    def reclaim_what_is_in_custody(self) -> None:
        self.entrusted.clear()
        self.delivery.rewind()

    @rule()
    def lose_the_link(self) -> None:
        for batch in self.under_way:
            self.delivery.lost([pending.envelope.key for pending in batch])
        self.under_way.clear()

    @rule(seconds=st.floats(0, 70))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.delivery.tick(self.now)

    @invariant()
    def the_window_is_bounded(self) -> None:
        assert 0 <= self.delivery.backlog <= WINDOW_COUNT
        assert 0 <= self.delivery._bytes <= 2 * WINDOW_BYTES

    def teardown(self) -> None:
        """When all is heard and all is answered, everything that was committed has been offered."""
        self.reclaim_what_is_in_custody()
        self.lose_the_link()
        while self.reads:
            self.hand_over()
        while self.news < self.committed:
            self.hear_of_a_commit()
        for _ in range(2 * self.committed + 2):
            self.wait(70)
            self.read(LOAD_COUNT)
            while self.reads:
                self.hand_over()
            while batch := self.delivery.take(0):
                for pending in batch:
                    assert pending.seq not in self.answered
                    answer(self.delivery, pending.seq)
                    self.answered.add(pending.seq)
        assert self.answered == set(self.store)
        assert (self.delivery.backlog, self.delivery._bytes) == (0, 0)


test_whatever_happens_nothing_is_forgotten_and_the_window_is_bounded = AnyHistory.TestCase
test_whatever_happens_nothing_is_forgotten_and_the_window_is_bounded.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True
)
