"""The rules by which a node keeps its word: rules 3, 5, 6, 7 and 10 of the promise."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulation.store import Disk
from trishula.protocol.envelope import Key, State, advances
from trishula.protocol.ledger import ID_CONFLICT
from trishula.protocol.message import Message, complete
from trishula.protocol.records import Answer, Conflict, Entry, Originated, Record, Result, Settle, Settled
from unit.letters import WALL, accept, envelope, letter, originate, receipt

hypothesis = settings(max_examples=150, deadline=None, derandomize=True)

LETTER = letter("m1", body="one")
OTHER = letter("m1", body="another content under the same id")
KEY = Key("mac", "m1", "agni")


def commit(disk: Disk, record: Record) -> Result:
    [result] = disk.commit(record)
    return result


def answer(disk: Disk, record: Record) -> Answer:
    result = commit(disk, record)
    assert isinstance(result, Answer)
    return result


def settle(outcome: State = State.DELIVERED, *, reason: str = "", latency_ms: float | None = None) -> Settle:
    return Settle(receipt(envelope(LETTER), outcome, reason), "direct", WALL + 10, latency_ms)


def settled(disk: Disk, record: Settle) -> Settled:
    result = commit(disk, record)
    assert isinstance(result, Settled)
    return result


# ---------------------------------------------------------------- the origin's side


def test_all_envelopes_of_a_message_are_stored_in_the_order_of_its_recipients() -> None:
    disk = Disk()
    result = commit(disk, originate(LETTER, "rushabdev", "agni", "mac"))
    assert isinstance(result, Originated)
    assert result.fresh
    assert [(row.seq, row.key.to, row.state) for row in result.progress] == [
        (1, "rushabdev", State.STORED),
        (2, "agni", State.STORED),
        (3, "mac", State.STORED),
    ]
    assert list(disk.sent.values()) == list(result.progress)


def test_the_same_id_and_bytes_again_are_the_same_message() -> None:
    disk = Disk()
    first = commit(disk, originate(LETTER))
    again = commit(disk, originate(LETTER))
    assert isinstance(first, Originated)
    assert again == Originated(first.progress, fresh=False)
    assert disk.numbers["seq"] == 1


def test_a_retry_learns_how_far_the_message_has_come() -> None:
    disk = Disk()
    disk.commit(originate(LETTER), settle())
    again = commit(disk, originate(LETTER))
    assert isinstance(again, Originated)
    assert [row.state for row in again.progress] == [State.DELIVERED]


def test_an_id_is_good_for_one_content_of_one_sender() -> None:
    disk = Disk()
    commit(disk, originate(LETTER))
    assert commit(disk, originate(OTHER)) == Conflict(LETTER.digest)
    assert disk.numbers["seq"] == 1
    same_id_of_another = letter("m1", sender="dhyana", body="mine")
    result = commit(disk, originate(same_id_of_another))
    assert isinstance(result, Originated)
    assert result.fresh


def undated(at: str, body: str = "x", **fields: str) -> Message:
    """A message without a timestamp, as a node takes it at this time."""
    raw = json.dumps({"to": "agni", "id": "m1", "body": body, **fields}).encode()
    return complete(raw, sender="mac", new_id="-", timestamp=at, max_bytes=1000)


def test_a_message_without_a_timestamp_is_the_same_whenever_it_comes() -> None:
    disk = Disk()
    first = commit(disk, originate(undated("10:00")))
    again = commit(disk, originate(undated("10:01")))
    assert isinstance(first, Originated)
    assert again == Originated(first.progress, fresh=False, dated=undated("10:00").digest)
    assert disk.numbers["seq"] == 1
    as_it_was_signed = complete(undated("10:00").payload, sender="mac", new_id="-", timestamp="10:02", max_bytes=1000)
    assert commit(disk, originate(as_it_was_signed)) == Originated(first.progress, fresh=False)


@pytest.mark.parametrize(
    "other",
    [
        undated("10:01", body="y"),
        undated("10:01", mood="calm"),
        undated("10:00", timestamp="10:01"),
        undated("10:01", z='",\n  "timestamp": "10:00'),
    ],
    ids=["another body", "another field", "another timestamp of its own", "a text that ends like a payload"],
)
def test_another_content_is_another_message_though_the_node_dated_both(other: Message) -> None:
    disk = Disk()
    commit(disk, originate(undated("10:00")))
    assert commit(disk, originate(other)) == Conflict(undated("10:00").digest)


def test_a_message_that_was_dated_by_its_agent_conflicts_with_another_date_of_its_own() -> None:
    disk = Disk()
    commit(disk, originate(undated("-", timestamp="10:00")))
    assert isinstance(commit(disk, originate(undated("-", timestamp="10:01"))), Conflict)


def test_a_retry_in_the_same_transaction_as_the_first_try_is_a_retry() -> None:
    disk = Disk()
    first, again, conflict = disk.commit(originate(LETTER), originate(LETTER), originate(OTHER))
    assert isinstance(first, Originated)
    assert isinstance(again, Originated)
    assert (first.fresh, again.fresh) == (True, False)
    assert conflict == Conflict(LETTER.digest)


def test_a_receipt_settles_its_envelope_and_no_other() -> None:
    disk = Disk()
    disk.commit(originate(LETTER, "agni", "rushabdev"))
    result = settled(disk, settle())
    assert result.fresh
    assert disk.sent[KEY].state is State.DELIVERED
    assert disk.sent[KEY].settled_at == WALL + 10
    assert disk.sent[KEY._replace(to="rushabdev")].state is State.STORED


def test_a_refusal_is_kept_with_its_reason() -> None:
    disk = Disk()
    disk.commit(originate(LETTER), settle(State.REFUSED, reason="id_conflict"))
    assert (disk.sent[KEY].state, disk.sent[KEY].reason) == (State.REFUSED, "id_conflict")


def test_a_receipt_again_changes_nothing() -> None:
    disk = Disk()
    disk.commit(originate(LETTER), settle(latency_ms=5.0))
    before = disk.sent[KEY]
    late = Settle(replace(settle().receipt, at=WALL + 99), "relay:rushabdev", WALL + 100, 77.0)
    assert settled(disk, late) == Settled(before, fresh=False, was=State.DELIVERED)
    assert disk.sent[KEY] == before


def test_a_receipt_for_other_bytes_is_no_answer_to_ours() -> None:
    disk = Disk()
    disk.commit(originate(LETTER))
    other = Settle(receipt(envelope(OTHER), State.REFUSED, ID_CONFLICT), "direct", WALL, None)
    assert settled(disk, other) == Settled(None, fresh=False)
    assert disk.sent[KEY].state is State.STORED


def test_a_receipt_of_another_node_is_no_answer() -> None:
    disk = Disk()
    disk.commit(originate(LETTER))
    stranger = Settle(replace(receipt(envelope(LETTER)), dest="rushabdev"), "direct", WALL, None)
    assert settled(disk, stranger) == Settled(None, fresh=False)
    assert disk.sent[KEY].state is State.STORED


def test_a_receipt_for_what_was_never_sent_is_ignored() -> None:
    disk = Disk()
    assert settled(disk, settle()) == Settled(None, fresh=False)
    assert not disk.sent


@pytest.mark.parametrize(
    ("latency_ms", "expected"), [(5.25, 5.25), (None, 10.0)], ids=["measured", "told from the rows after a restart"]
)
def test_the_latency_is_from_the_commit_to_the_answer(latency_ms: float | None, expected: float) -> None:
    disk = Disk()
    disk.commit(originate(LETTER), settle(latency_ms=latency_ms))
    assert disk.sent[KEY].latency_ms == expected


RANK = {State.STORED: 0, State.UNCONFIRMED: 1, State.DELIVERED: 2, State.REFUSED: 3, State.READ: 3}


@pytest.mark.parametrize("old", State)
@pytest.mark.parametrize("new", State)
def test_states_only_move_forward(old: State, new: State) -> None:
    if advances(old, new):
        assert RANK[new] > RANK[old]
    else:
        assert RANK[new] <= RANK[old] or {old, new} == {State.DELIVERED, State.REFUSED}


def test_a_late_receipt_corrects_what_was_unconfirmed() -> None:
    assert advances(State.UNCONFIRMED, State.DELIVERED)
    assert advances(State.UNCONFIRMED, State.REFUSED)


@given(words=st.lists(st.sampled_from([State.DELIVERED, State.READ, State.REFUSED]), max_size=6))
@hypothesis
def test_whatever_receipts_come_in_whatever_order_a_state_never_falls_back(words: list[State]) -> None:
    disk = Disk()
    disk.commit(originate(LETTER))
    states = [State.STORED]
    for word in words:
        disk.commit(settle(word))
        states.append(disk.sent[KEY].state)
    assert all(new is old or advances(old, new) for old, new in pairwise(states))
    if words:
        assert states[1] is words[0]


# ---------------------------------------------------------------- the recipient's side


def test_the_first_copy_is_delivered_with_its_bytes() -> None:
    disk = Disk()
    result = answer(disk, accept(LETTER))
    assert (result.fresh, result.entry.outcome, result.entry.reason) == (True, State.DELIVERED, "")
    assert disk.inbox == {KEY: LETTER.payload}


def test_a_duplicate_is_answered_with_the_first_answer() -> None:
    disk = Disk()
    first = answer(disk, accept(LETTER))
    again = answer(disk, accept(LETTER, at=WALL + 5000))
    assert (again.fresh, again.entry) == (False, first.entry)
    assert disk.ledger[KEY] == (first.entry,)


def test_another_content_under_the_same_key_is_refused_and_its_duplicates_are_too() -> None:
    disk = Disk()
    first = answer(disk, accept(LETTER))
    other = answer(disk, accept(OTHER))
    assert (other.fresh, other.entry.outcome, other.entry.reason) == (True, State.REFUSED, ID_CONFLICT)
    assert answer(disk, accept(OTHER)) == Answer(other.entry, fresh=False)
    assert answer(disk, accept(LETTER)) == Answer(first.entry, fresh=False)
    assert disk.inbox == {KEY: LETTER.payload}


def test_a_refusal_is_final_even_when_its_reason_has_passed() -> None:
    disk = Disk()
    refused = answer(disk, accept(LETTER, refusal="too_large: the limit is 5"))
    assert refused.entry.outcome is State.REFUSED
    assert answer(disk, accept(LETTER)) == Answer(refused.entry, fresh=False)
    assert not disk.inbox


def test_what_was_accepted_is_not_refused_later() -> None:
    disk = Disk()
    first = answer(disk, accept(LETTER))
    assert answer(disk, accept(LETTER, refusal="too_large: the limit is 5")) == Answer(first.entry, fresh=False)


def test_each_recipient_and_each_sender_has_keys_of_its_own() -> None:
    disk = Disk()
    results = disk.commit(accept(LETTER), accept(LETTER, "dhyana"), accept(letter("m1", sender="rushabdev")))
    assert [result.fresh for result in results if isinstance(result, Answer)] == [True, True, True]
    assert len(disk.inbox) == 3


@given(copies=st.lists(st.tuples(st.sampled_from([LETTER, OTHER, letter("m1", body="3")]), st.booleans()), max_size=8))
@hypothesis
def test_whatever_copies_come_one_content_at_most_is_delivered_and_once(copies: list[tuple[Message, bool]]) -> None:
    disk = Disk()  # its inbox asserts that nothing is delivered a second time
    answers: dict[str, Entry] = {}
    for copy, refuse in copies:
        result = answer(disk, accept(copy, refusal="no" if refuse else ""))
        assert answers.setdefault(result.entry.digest, result.entry) == result.entry
    delivered = [entry for entry in disk.ledger.get(KEY, ()) if entry.outcome is State.DELIVERED]
    assert len(delivered) <= 1
