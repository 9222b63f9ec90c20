"""One node's engine: what it takes and what it refuses, what it says and when."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from trishula.protocol import frames
from trishula.protocol.clock import DOUBT_S
from trishula.protocol.effects import Arrived, Commit, Disconnect, Progressed, Redial, Rejected, Stored, Transmit, Warn
from trishula.protocol.envelope import Envelope, Key, State
from trishula.protocol.limits import Limits
from trishula.protocol.link import CLOSE_REPLACED
from trishula.protocol.message import digest_of
from trishula.protocol.names import PROBE
from trishula.protocol.records import Accept, Originate
from trishula.protocol.signing import PairKey
from unit.bench import LIMITS, Bench, converse, of, offered, pair_key, said, sealed, signed, warnings
from unit.letters import DAY, WALL, envelope, letter, receipt

LINK = 1
LETTER = letter("m1", body="hello")
KEY = Key("mac", "m1", "agni")


def origin(*, linked: bool = True) -> Bench:
    """mac, whose agents send."""
    bench = Bench("mac")
    if linked:
        bench.link_up(LINK, "agni")
    return bench


def recipient() -> Bench:
    """agni, whose agent receives from mac over link 1."""
    bench = Bench("agni")
    bench.link_up(LINK, "mac")
    return bench


def backlog(bench: Bench, dest: str) -> int:
    """Our envelopes for a node that are in memory without an answer."""
    return bench.engine._desk.own[dest].backlog


def stored(bench: Bench, *ids: str, urgent: bool = False, size: int = 1) -> list[str]:
    """Submit and commit these messages to agni; returns what was offered meanwhile."""
    effects = []
    for message_id in ids:
        effects += bench.submit(letter(message_id, body="x" * size, urgent=urgent))
    return offered(effects + bench.commit())


def answered(bench: Bench, *ids: str, seq: int = 1) -> None:
    """agni takes these and acknowledges the frame."""
    words = [signed(receipt(bench.disk.envelopes[Key("mac", message_id, "agni")])) for message_id in ids]
    bench.hear(LINK, frames.Receipts(receipts=words))
    bench.hear(LINK, frames.Ack(seq=seq))
    bench.commit()


# ---------------------------------------------------------------- the origin: before `stored`


def test_nothing_is_said_of_a_message_before_its_commit() -> None:
    bench = origin()
    effects = bench.submit(LETTER)
    assert [type(effect) for effect in effects] == [Commit]


def test_a_jump_of_the_clock_is_not_lost_on_a_message_that_is_refused_at_once() -> None:
    bench = origin()
    bench.submit(LETTER)
    bench.wall += DAY
    assert [type(effect) for effect in bench.submit(letter("m2", to="nobody"))] == [Redial, Warn, Rejected]


def test_after_its_commit_a_message_is_stored_and_then_offered() -> None:
    bench = origin()
    bench.submit(LETTER, ref="first")
    effects = bench.commit()
    assert [type(effect) for effect in effects] == [Stored, Transmit]
    [news] = of(effects, Stored)
    assert (news.ref, news.message_id, news.digest, news.fresh) == ("first", "m1", digest_of(LETTER.payload), True)
    [frame] = said(effects, frames.Deliver, LINK)
    assert frame.envelopes == [sealed(envelope(LETTER))]


def test_a_message_to_several_is_one_transaction_with_one_result_each() -> None:
    bench = origin()
    [commit] = of(bench.submit(letter("m1", to=["ALL", "agni", "mac"])), Commit)
    [record] = commit.records
    assert isinstance(record, Originate)
    assert [(item.dest, item.key.to) for item in record.envelopes] == [
        ("agni", "agni"),
        ("mac", "dhyana"),
        ("rushabdev", "rushabdev"),
        ("mac", "mac"),
    ]
    [news] = of(bench.commit(), Stored)
    assert [row.key.to for row in news.progress] == ["agni", "dhyana", "rushabdev", "mac"]


def test_a_message_that_cannot_be_committed_is_rejected_and_never_offered() -> None:
    bench = origin()
    bench.submit(LETTER, ref="first")
    effects = bench.fail()
    [rejected] = of(effects, Rejected)
    assert (rejected.ref, str(rejected.error)) == ("first", "the disk is full")
    bench.link_down(LINK)
    assert offered(bench.effects + bench.link_up(2, "agni")) == []


def test_a_retry_with_the_same_id_and_bytes_is_stored_without_being_offered_twice() -> None:
    bench = origin()
    assert stored(bench, "m1") == ["m1"]
    bench.submit(letter("m1", body="x"), ref="again")
    effects = bench.commit()
    [news] = of(effects, Stored)
    assert (news.ref, news.fresh) == ("again", False)
    assert offered(effects) == []


def test_an_id_with_another_content_is_rejected_naming_it() -> None:
    bench = origin()
    stored(bench, "m1")
    bench.submit(letter("m1", body="something else"), ref="other")
    effects = bench.commit()
    [rejected] = of(effects, Rejected)
    assert (rejected.error.code, rejected.error.key) == ("id_conflict", "id")
    assert "m1" in str(rejected.error)
    assert offered(effects) == []


def test_an_unknown_recipient_is_rejected_and_nobody_gets_anything() -> None:
    bench = origin()
    effects = bench.submit(letter("m1", to=["agni", "nobody"]))
    assert [type(effect) for effect in effects] == [Rejected]
    assert "'nobody'" in str(of(effects, Rejected)[0].error)


@pytest.mark.parametrize("ttl", [0, -1, LIMITS.max_ttl + 1])
def test_a_life_that_is_too_short_or_too_long_is_rejected_naming_the_limit(ttl: int) -> None:
    effects = origin().submit(LETTER, ttl=ttl)
    [rejected] = of(effects, Rejected)
    assert (rejected.error.code, rejected.error.key) == ("bad_ttl", "ttl_s")
    assert str(LIMITS.max_ttl // 1000) in str(rejected.error)


@pytest.mark.parametrize(("ttl", "expected"), [(None, LIMITS.default_ttl), (5000, 5000), (LIMITS.max_ttl,) * 2])
def test_the_expiry_is_the_time_of_sending_and_the_life(ttl: int | None, expected: int) -> None:
    bench = origin()
    bench.submit(LETTER, ttl=ttl)
    [frame] = said(bench.commit(), frames.Deliver)
    assert frame.envelopes[0].expires_at == WALL + expected


# ---------------------------------------------------------------- the origin: offers


def test_without_a_link_a_message_waits_and_goes_out_when_the_link_is_up() -> None:
    bench = origin(linked=False)
    assert stored(bench, "m1", "m2") == []
    assert offered(bench.link_up(LINK, "agni")) == ["m1", "m2"]


def test_after_a_restart_what_was_stored_goes_out_in_order_and_what_is_answered_does_not() -> None:
    before = origin()
    stored(before, "m1", "m2", "m3")
    answered(before, "m2")
    after = Bench("mac", disk=before.disk)
    assert offered(after.link_up(LINK, "agni")) == ["m1", "m3"]


def test_what_was_under_way_on_a_lost_link_is_offered_again_on_the_next() -> None:
    bench = origin()
    stored(bench, "m1")
    stored(bench, "m2")
    stored(bench, "m3")
    answered(bench, "m2", seq=2)
    bench.link_down(LINK)
    assert offered(bench.link_up(2, "agni"), link=2) == ["m1", "m3"]


def test_what_was_under_way_on_a_lost_link_goes_over_the_other_one_at_once() -> None:
    bench = origin()
    bench.link_up(2, "agni")
    assert stored(bench, "m1") == ["m1"]
    assert offered(bench.link_down(2), link=LINK) == ["m1"]


def test_a_newer_link_takes_over_what_is_under_way_on_the_older_one_in_order() -> None:
    """The older one may be half-open: a laptop that slept dials anew while its peer still waits for the old link."""
    bench = origin()
    stored(bench, "m1")
    stored(bench, "m2")
    assert offered(bench.link_up(2, "agni"), link=2) == ["m1", "m2"]
    answered(bench, "m1", "m2")  # late, over the older link
    assert offered(bench.link_down(LINK)) == []
    assert backlog(bench, "agni") == 0


def test_mail_goes_over_the_newest_of_two_links() -> None:
    bench = origin()
    bench.link_up(2, "agni")
    bench.submit(LETTER)
    assert offered(bench.commit(), link=2) == ["m1"]


def test_the_lower_named_node_closes_the_older_of_two_links_and_the_other_does_not() -> None:
    agni, mac = Bench("agni"), Bench("mac")
    agni.link_up(1, "mac")
    mac.link_up(1, "agni")
    assert of(agni.link_up(2, "mac"), Disconnect) == [Disconnect(1, CLOSE_REPLACED, "replaced by a newer link")]
    assert of(mac.link_up(2, "agni"), Disconnect) == []


def test_a_link_carries_no_more_than_its_window_until_it_is_acknowledged() -> None:
    bench = origin(linked=False)
    bench.link_up(LINK, "agni", window=600_000)
    ids = [f"m{number}" for number in range(20)]
    first = stored(bench, *ids, size=100_000)
    assert 6 <= len(first) <= 8
    answered(bench, *first[:2], seq=1)
    assert len(offered(bench.effects)) > len(first)


@pytest.mark.parametrize(("ours", "theirs"), [(1000, 10**6), (10**6, 1000)])
def test_the_window_is_the_smaller_one_of_both_sides(ours: int, theirs: int) -> None:
    bench = Bench("mac", limits=Limits(window_bytes=ours))
    bench.link_up(LINK, "agni", window=theirs)
    assert stored(bench, "m1", size=2000) == ["m1"]
    assert stored(bench, "m2") == []


def test_what_has_expired_is_not_offered() -> None:
    bench = origin(linked=False)
    bench.submit(LETTER, ttl=1000)
    bench.commit()
    bench.sleep(DOUBT_S)  # after which the clock is believed, though no peer has confirmed it
    assert offered(bench.link_up(LINK, "agni")) == []
    assert backlog(bench, "agni") == 0


def test_a_deferred_message_is_told_to_the_operator_and_offered_again() -> None:
    bench = origin()
    stored(bench, "m1")
    item = frames.Deferred(sender="mac", to="agni", id="m1", reason="the disk is full")
    effects = bench.hear(LINK, frames.Defer(items=[item]))
    assert "agni deferred 1 envelopes, the first m1: the disk is full" in warnings(effects)
    bench.hear(LINK, frames.Ack(seq=1))
    due = bench.engine.deadline()
    assert due is not None
    assert offered(bench.sleep(due - bench.mono)) == ["m1"]


def test_what_was_deferred_together_comes_back_in_its_order() -> None:
    bench = Bench("mac", random=itertools.cycle([0.9, 0.5, 0.1]))
    bench.link_up(LINK, "agni")
    stored(bench, "m1", "m2", "m3")
    items = [frames.Deferred(sender="mac", to="agni", id=f"m{number}", reason="full") for number in (1, 2, 3)]
    bench.hear(LINK, frames.Defer(items=items))
    bench.hear(LINK, frames.Ack(seq=1))
    due = bench.engine.deadline()
    assert due is not None
    assert offered(bench.sleep(due - bench.mono)) == ["m1", "m2", "m3"]


# ---------------------------------------------------------------- the origin: answers


def test_an_answer_is_reported_after_its_own_commit() -> None:
    bench = origin()
    stored(bench, "m1")
    effects = bench.hear(LINK, frames.Receipts(receipts=[signed(receipt(envelope(letter("m1", body="x"))))]))
    assert of(effects, Progressed) == []
    bench.mono += 0.25
    [news] = of(bench.commit(), Progressed)
    assert (news.progress.key, news.progress.state, news.progress.route) == (KEY, State.DELIVERED, "direct")
    assert bench.disk.sent[KEY] == news.progress


def test_an_answer_that_could_not_be_committed_is_kept_until_there_is_room_for_it() -> None:
    bench = origin()
    stored(bench, "m1")
    bench.hear(LINK, frames.Receipts(receipts=[signed(receipt(envelope(letter("m1", body="x"))))]))
    bench.hear(LINK, frames.Ack(seq=1))
    assert of(bench.fail(), Progressed) == []
    assert offered(bench.sleep(2)) == []
    assert of(bench.fail(), Progressed) == []
    bench.sleep(2)
    assert len(of(bench.commit_all(), Progressed)) == 1
    assert offered(bench.sleep(70)) == []


FORGED: dict[str, Callable[[frames.SignedReceipt], frames.SignedReceipt]] = {
    "a changed outcome": lambda word: msgspec.structs.replace(word, outcome=State.REFUSED),
    "a changed reason": lambda word: msgspec.structs.replace(word, reason="because"),
    "another message's": lambda word: msgspec.structs.replace(word, id="m2"),
    "another digest": lambda word: msgspec.structs.replace(word, digest="cd" * 32),
    "another time": lambda word: msgspec.structs.replace(word, at=1),
    "no signature": lambda word: msgspec.structs.replace(word, mac=b""),
    "an unknown key": lambda word: msgspec.structs.replace(word, kid="9"),
    "another pair's key": lambda word: signed(word.open(), pair_key("mac", "rushabdev")),
    "an envelope's signature": lambda word: msgspec.structs.replace(
        word, mac=sealed(envelope(letter("m1", body="x"))).mac
    ),
    "the word of a third node": lambda word: signed(replace(word.open(), dest="rushabdev"), pair_key("mac", "agni")),
    "no answer at all": lambda word: signed(replace(word.open(), outcome=State.STORED)),
    "what only an origin can say": lambda word: signed(replace(word.open(), outcome=State.UNCONFIRMED)),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED.keys())
def test_a_receipt_that_is_not_the_recipients_word_to_us_is_told_and_ignored(
    forge: Callable[[frames.SignedReceipt], frames.SignedReceipt],
) -> None:
    bench = origin()
    stored(bench, "m1", "m2")
    word = signed(receipt(envelope(letter("m1", body="x"))))
    effects = bench.hear(LINK, frames.Receipts(receipts=[forge(word)]))
    assert "ignored a receipt of" in warnings(effects)
    assert bench.commits == []
    bench.link_down(LINK)
    assert offered(bench.link_up(2, "agni")) == ["m1", "m2"]


def test_a_receipt_for_other_bytes_does_not_end_our_message() -> None:
    bench = origin()
    stored(bench, "m1")
    other = receipt(envelope(letter("m1", body="other bytes")), State.REFUSED, "id_conflict")
    bench.hear(LINK, frames.Receipts(receipts=[signed(other)]))
    assert "ignored a receipt" in warnings(bench.commit())
    bench.hear(LINK, frames.Ack(seq=1))
    assert bench.disk.sent[KEY].state is State.STORED
    assert offered(bench.sleep(70)) == ["m1"]


def test_a_third_node_cannot_answer_for_the_recipient() -> None:
    """rushabdev's own true word, about mail that was for agni."""
    bench = origin()
    stored(bench, "m1")
    word = replace(receipt(envelope(letter("m1", body="x"))), dest="rushabdev")
    bench.hear(LINK, frames.Receipts(receipts=[signed(word)]))
    assert "never sent" in warnings(bench.commit())
    assert bench.disk.sent[KEY].state is State.STORED


def test_a_receipt_for_what_was_never_sent_is_told_and_ignored() -> None:
    bench = origin()
    bench.hear(LINK, frames.Receipts(receipts=[signed(receipt(envelope(LETTER)))]))
    assert "never sent" in warnings(bench.commit())
    assert bench.disk.sent == {}


def test_a_late_receipt_for_a_probe_is_no_news() -> None:
    """A probe is forgotten when nobody waits for it; its answer may lie in a room of rsync for minutes."""
    bench = origin()
    forgotten = replace(envelope(LETTER), key=Key(PROBE, "p1", PROBE))
    bench.hear(LINK, frames.Receipts(receipts=[signed(receipt(forgotten))]))
    assert warnings(bench.commit()) == ""


def test_the_same_receipt_twice_is_one_answer() -> None:
    bench = origin()
    stored(bench, "m1")
    word = signed(receipt(envelope(letter("m1", body="x"))))
    bench.hear(LINK, frames.Receipts(receipts=[word, word]))
    bench.hear(LINK, frames.Receipts(receipts=[word]))
    assert len(of(bench.commit(), Progressed)) == 1


# ---------------------------------------------------------------- the recipient: takes


def test_nothing_is_said_of_an_envelope_before_its_commit() -> None:
    bench = recipient()
    assert [type(effect) for effect in bench.deliver(LINK, sealed(envelope(LETTER)))] == [Commit]


def test_after_its_commit_an_envelope_has_arrived_and_is_answered_and_then_acknowledged() -> None:
    bench = recipient()
    bench.deliver(LINK, sealed(envelope(LETTER)), seq=7)
    arrived, word, ack = bench.commit()
    assert arrived == Arrived(bench.disk.ledger[KEY][0])
    expected = receipt(envelope(LETTER), at=WALL)
    assert word == Transmit(LINK, frames.Receipts(receipts=[signed(expected)]))
    assert ack == Transmit(LINK, frames.Ack(seq=7))
    assert bench.disk.inbox == {KEY: LETTER.payload}


def test_a_replay_is_answered_again_and_does_not_arrive_again() -> None:
    bench = recipient()
    copy = sealed(envelope(LETTER))
    bench.deliver(LINK, copy)
    first = bench.commit()
    bench.sleep(60)
    bench.deliver(LINK, copy, seq=2)
    again = bench.commit()
    assert of(again, Arrived) == []
    assert said(again, frames.Receipts) == said(first, frames.Receipts)
    assert said(again, frames.Ack) == [frames.Ack(seq=2)]


def test_copies_in_one_frame_arrive_once() -> None:
    bench = recipient()
    bench.deliver(LINK, *[sealed(envelope(LETTER))] * 3)
    effects = bench.commit()
    assert len(of(effects, Arrived)) == 1
    assert [len(frame.receipts) for frame in said(effects, frames.Receipts)] == [3]


def test_a_replay_after_a_restart_is_answered_from_the_ledger() -> None:
    before = recipient()
    before.deliver(LINK, sealed(envelope(LETTER)))
    first = before.commit()
    after = Bench("agni", disk=before.disk)
    after.link_up(LINK, "mac")
    after.deliver(LINK, sealed(envelope(LETTER)))
    again = after.commit()
    assert of(again, Arrived) == []
    assert said(again, frames.Receipts) == said(first, frames.Receipts)


def test_an_envelope_that_could_not_be_committed_is_deferred_and_taken_later() -> None:
    bench = recipient()
    bench.deliver(LINK, sealed(envelope(LETTER)))
    effects = bench.fail()
    assert said(effects, frames.Receipts) == []
    item = frames.Deferred(sender="mac", to="agni", id="m1", reason="the disk is full")
    assert said(effects, frames.Defer) == [frames.Defer(items=[item])]
    assert said(effects, frames.Ack) == [frames.Ack(seq=1)]
    bench.deliver(LINK, sealed(envelope(LETTER)), seq=2)
    assert len(of(bench.commit(), Arrived)) == 1


def test_when_the_link_is_lost_before_the_commit_the_envelope_has_arrived_and_nothing_is_said() -> None:
    bench = recipient()
    bench.deliver(LINK, sealed(envelope(LETTER)))
    bench.link_down(LINK)
    effects = bench.commit()
    assert [type(effect) for effect in effects] == [Arrived]


def test_frames_of_a_link_that_is_gone_are_ignored() -> None:
    bench = recipient()
    bench.link_down(LINK)
    assert bench.deliver(LINK, sealed(envelope(LETTER))) == []
    assert bench.link_down(LINK) == []


# ---------------------------------------------------------------- the recipient: refuses

TRUE = envelope(LETTER)


def tampered(**changes: object) -> frames.SignedEnvelope:
    """The true envelope, changed after it was signed."""
    return msgspec.structs.replace(sealed(TRUE), **changes)


def rushabdevs(sender: str, origin_: str = "agni") -> frames.SignedEnvelope:
    """What agni might sign for rushabdev with the key that they share."""
    message = letter("m1", sender=sender)
    return sealed(envelope(message, "rushabdev", origin=origin_, dest="rushabdev"), pair_key("agni", "rushabdev"))


NOT_AUTHENTIC: dict[str, tuple[frames.SignedEnvelope, str]] = {
    "a tampered payload": (tampered(payload=msgspec.Raw(LETTER.payload[:-1].replace(b"hello", b"hullo"))), "signature"),
    "a payload with broken text": (
        tampered(payload=msgspec.Raw(LETTER.payload[:-1].replace(b"hello", b"hell\xff"))),
        "signature",
    ),
    "a tampered id": (tampered(id="m2"), "signature"),
    "a tampered expiry": (tampered(expires_at=TRUE.expires_at + 1), "signature"),
    "a tampered sender": (tampered(sender="dhyana"), "signature"),
    "a tampered recipient": (tampered(to=PROBE), "signature"),
    "a tampered destination": (tampered(dest="rushabdev"), "does not live on rushabdev"),
    "a tampered origin": (tampered(origin="rushabdev"), "signature"),
    "no signature": (tampered(mac=b""), "signature"),
    "a signature cut short": (tampered(mac=sealed(TRUE).mac[:16]), "signature"),
    "a receipt's signature": (tampered(mac=signed(receipt(TRUE)).mac), "signature"),
    "another pair's key": (sealed(TRUE, pair_key("mac", "rushabdev")), "signature"),
    "an unknown key": (sealed(TRUE, PairKey("7", b"rotated")), "unknown key '7'"),
    "a known secret under another kid": (sealed(TRUE, PairKey("2", pair_key("mac", "agni").secret)), "unknown key '2'"),
    "an agent that lives elsewhere": (sealed(envelope(letter("m1", sender="rushabdev"))), "does not live on mac"),
    "an agent that nobody knows": (sealed(envelope(letter("m1", sender="nobody"))), "does not live on mac"),
}


@pytest.mark.parametrize(("bad", "why"), NOT_AUTHENTIC.values(), ids=NOT_AUTHENTIC.keys())
def test_what_is_not_authentic_is_told_and_neither_taken_nor_finally_refused(
    bad: frames.SignedEnvelope, why: str
) -> None:
    bench = recipient()
    effects = bench.deliver(LINK, bad)
    assert why in warnings(effects)
    assert bench.commits == []
    assert said(effects, frames.Receipts) == []
    [defer] = said(effects, frames.Defer)
    assert (defer.items[0].id, why in defer.items[0].reason) == (bad.id, True)
    assert said(effects, frames.Ack) == [frames.Ack(seq=1)]
    bench.deliver(LINK, sealed(TRUE), seq=2)
    assert len(of(bench.commit(), Arrived)) == 1


@pytest.mark.parametrize(
    ("forged", "why"),
    [
        (rushabdevs("mac"), "mac does not live on agni"),
        (rushabdevs("mac", origin_="mac"), "its signature is wrong"),
        (rushabdevs("rushabdev", origin_="rushabdev"), "reflected"),
    ],
    ids=["as its own mail", "as mac's mail", "as our own mail"],
)
def test_agni_cannot_speak_for_mac(forged: frames.SignedEnvelope, why: str) -> None:
    bench = Bench("rushabdev")
    bench.link_up(LINK, "agni")
    assert why in warnings(bench.deliver(LINK, forged))
    assert bench.commits == []


def test_our_own_mail_reflected_to_us_is_dropped() -> None:
    mac = origin()
    stored(mac, "m1")
    effects = mac.deliver(LINK, sealed(envelope(letter("m1", body="x"))))
    assert "reflected" in warnings(effects)
    assert mac.commits == []
    assert said(effects, frames.Ack) == [frames.Ack(seq=1)]


def test_an_expired_envelope_is_acknowledged_in_silence() -> None:
    bench = recipient()
    bench.sleep((TRUE.expires_at - WALL) / 1000)
    bench.deliver(LINK, sealed(TRUE))
    effects = bench.commit()
    assert effects == [Transmit(LINK, frames.Ack(seq=1))]
    assert bench.disk.ledger == {}


def test_an_envelope_is_taken_until_the_moment_of_its_expiry() -> None:
    bench = recipient()
    bench.sleep((TRUE.expires_at - WALL - 1) / 1000)
    bench.deliver(LINK, sealed(TRUE))
    assert len(of(bench.commit(), Arrived)) == 1


def payload_of(fields: dict[str, object]) -> Envelope:
    """An envelope of mac's m1 with any payload, signed by mac: what no honest node sends."""
    return replace(TRUE, payload=json.dumps(fields).encode() + b"\n")


HEAD: dict[str, object] = {"id": "m1", "from": "mac", "to": "agni"}
REFUSED: dict[str, tuple[Envelope, str]] = {
    "a payload with another id": (payload_of(HEAD | {"id": "m2"}), "rejected: the payload's id"),
    "a payload from another agent": (payload_of(HEAD | {"from": "dhyana"}), "rejected: the payload's id or from"),
    "a payload without an id": (payload_of({"from": "mac", "to": "agni"}), "rejected"),
    "a payload with a bad field": (payload_of(HEAD | {"subject": 1}), 'rejected: "subject" is text'),
    "a key that is there twice": (
        replace(TRUE, payload=b'{"id": "m1", "from": "mac", "to": "agni", "x": 1, "x": 2}\n'),
        "rejected: the key 'x' is there twice",
    ),
    "a payload in broken text": (
        replace(TRUE, payload=b'{"id": "m1", "from": "mac", "to": "agni", "x": "\xff"}\n'),
        "rejected: not valid JSON",
    ),
    "too large a payload": (
        payload_of(HEAD | {"body": "x" * LIMITS.max_message_bytes}),
        f"too_large: the message has 1048630 bytes, the limit is {LIMITS.max_message_bytes}",
    ),
    "mail for an agent of another node": (
        envelope(LETTER, "dhyana"),
        "unknown_recipient: dhyana does not live on agni",
    ),
    "mail for an unknown agent": (envelope(LETTER, "nobody"), "unknown_recipient: nobody does not live on agni"),
}


@pytest.mark.parametrize(("bad", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_what_can_never_be_taken_is_refused_after_the_commit_of_the_refusal(bad: Envelope, why: str) -> None:
    bench = recipient()
    assert [type(effect) for effect in bench.deliver(LINK, sealed(bad))] == [Commit]
    effects = bench.commit()
    assert "refused m1 from mac" in warnings(effects)
    assert of(effects, Arrived) == []
    [word] = [word for frame in said(effects, frames.Receipts) for word in frame.receipts]
    assert word.outcome is State.REFUSED
    assert why in word.reason
    assert word.digest == digest_of(bad.payload)
    assert bench.disk.inbox == {}


def test_what_lives_too_long_is_deferred_for_it_passes_with_time() -> None:
    bench = recipient()
    bench.deliver(LINK, sealed(replace(TRUE, expires_at=WALL + LIMITS.max_ttl + LIMITS.max_skew + 1)))
    [defer] = said(bench.commit(), frames.Defer)
    assert "limits.max_ttl_s" in defer.items[0].reason
    bench.sleep(1)
    bench.deliver(LINK, sealed(replace(TRUE, expires_at=WALL + LIMITS.max_ttl + LIMITS.max_skew + 1)), seq=2)
    assert len(of(bench.commit(), Arrived)) == 1


def test_a_life_within_the_limit_and_the_skew_of_two_clocks_is_taken() -> None:
    bench = recipient()
    bench.deliver(LINK, sealed(replace(TRUE, expires_at=WALL + LIMITS.max_ttl + LIMITS.max_skew)))
    assert len(of(bench.commit(), Arrived)) == 1


def test_an_id_reused_with_another_content_is_refused_and_the_first_stays() -> None:
    bench = recipient()
    bench.deliver(LINK, sealed(TRUE))
    bench.commit()
    bench.deliver(LINK, sealed(envelope(letter("m1", body="other"))), seq=2)
    effects = bench.commit()
    [word] = [word for frame in said(effects, frames.Receipts) for word in frame.receipts]
    assert (word.outcome, word.reason) == (State.REFUSED, "id_conflict")
    assert bench.disk.inbox == {KEY: LETTER.payload}


def test_one_bad_envelope_does_not_hold_up_the_others_of_its_frame() -> None:
    bench = recipient()
    good = [sealed(envelope(letter(f"g{number}"))) for number in range(2)]
    expired = sealed(replace(envelope(letter("e1")), expires_at=WALL))
    bench.deliver(LINK, good[0], tampered(id="t1"), expired, sealed(payload_of(HEAD | {"subject": 1})), good[1])
    effects = bench.commit()
    [words] = said(effects, frames.Receipts)
    assert [(word.id, word.outcome) for word in words.receipts] == [
        ("g0", State.DELIVERED),
        ("m1", State.REFUSED),
        ("g1", State.DELIVERED),
    ]
    assert [item.id for frame in said(effects, frames.Defer) for item in frame.items] == ["t1"]
    assert said(effects, frames.Ack) == [frames.Ack(seq=1)]


def test_during_a_rotation_mail_under_either_key_is_taken() -> None:
    bench = recipient()
    bench.engine._desk.trust._keyring._all["mac", "2"] = PairKey("2", b"new")
    bench.deliver(LINK, sealed(TRUE, PairKey("2", b"new")), sealed(envelope(letter("m2"))))
    assert len(of(bench.commit(), Arrived)) == 2


# ---------------------------------------------------------------- on one node


def test_mail_to_an_agent_of_the_same_node_takes_the_same_ladder() -> None:
    bench = origin()
    bench.submit(letter("m1", to="dhyana"))
    effects = bench.commit_all()
    kinds = [type(effect) for effect in effects if not isinstance(effect, Commit)]
    assert kinds == [Stored, Arrived, Progressed]
    key = Key("mac", "m1", "dhyana")
    assert bench.disk.sent[key].state is State.DELIVERED
    assert key in bench.disk.inbox
    assert said(effects, frames.Frame) == []


def test_mail_to_oneself_arrives() -> None:
    bench = origin()
    bench.submit(letter("m1", to="mac"))
    assert len(of(bench.commit_all(), Arrived)) == 1


def test_mail_on_one_node_survives_each_failed_commit_on_its_way() -> None:
    bench = origin()
    bench.submit(letter("m1", to="dhyana"))
    bench.commit()
    assert of(bench.fail(), Arrived) == []
    bench.sleep(70)
    assert any(isinstance(commit.records[0], Accept) for commit in bench.commits)
    assert len(of(bench.commit(), Arrived)) == 1
    assert of(bench.fail(), Progressed) == []
    bench.sleep(70)
    effects = bench.commit_all()
    assert of(effects, Arrived) == []
    assert len(of(effects, Progressed)) == 1
    assert backlog(bench, "mac") == 0


def test_mail_on_one_node_survives_a_restart_at_each_step() -> None:
    bench = origin()
    bench.submit(letter("m1", to="dhyana"))
    for _ in range(3):
        bench.commit()
        bench = Bench("mac", disk=bench.disk)
    bench.commit_all()
    assert bench.disk.sent[Key("mac", "m1", "dhyana")].state is State.DELIVERED
    assert backlog(bench, "mac") == 0


# ---------------------------------------------------------------- probes


def test_a_probe_goes_to_the_node_itself_and_back() -> None:
    mac, agni = Bench("mac"), Bench("agni")
    probe = letter("p1", sender=PROBE, to=PROBE)
    mac.take(mac.engine.probe(mac.now, "ref", probe, "agni", 5000))
    mac.commit()
    converse(mac, agni)
    assert mac.disk.sent[Key(PROBE, "p1", PROBE)].state is State.DELIVERED


def test_a_probe_to_an_unknown_node_is_rejected_naming_those_that_are_known() -> None:
    bench = origin()
    [rejected] = of(bench.engine.probe(bench.now, "ref", letter("p1", sender=PROBE), "moon", 5000), Rejected)
    assert rejected.error.code == "unknown_node"
    assert "agni, mac, rushabdev" in str(rejected.error)


# ---------------------------------------------------------------- two engines


def test_a_thousand_messages_each_way_cross_once_and_both_sides_know() -> None:
    mac, agni = Bench("mac"), Bench("agni")
    for number in range(1000):
        mac.submit(letter(f"m{number}", to="agni", urgent=number % 10 == 0))
        agni.submit(letter(f"m{number}", sender="agni", to=["mac", "dhyana"]))
    mac.commit()
    agni.commit()
    converse(mac, agni)
    assert (len(agni.disk.inbox), len(mac.disk.inbox)) == (1000, 2000)
    assert len(of(agni.effects, Arrived)) == 1000
    for bench in (mac, agni):
        assert {row.state for row in bench.disk.sent.values()} == {State.DELIVERED}
        assert backlog(bench, "agni") == backlog(bench, "mac") == 0


def test_mail_arrives_in_the_order_of_its_commit_in_each_lane() -> None:
    mac, agni = Bench("mac"), Bench("agni")
    for number in range(600):
        mac.submit(letter(f"{number:03}", urgent=number % 3 == 0))
    mac.commit()
    converse(mac, agni)
    arrived = [effect.entry.key.id for effect in of(agni.effects, Arrived)]
    urgent = [message_id for message_id in arrived if int(message_id) % 3 == 0]
    rest = [message_id for message_id in arrived if int(message_id) % 3]
    assert urgent == sorted(urgent)
    assert rest == sorted(rest)
    assert len(arrived) == 600


def test_a_receipt_lost_with_its_link_is_given_again_on_the_next() -> None:
    mac, agni = Bench("mac"), Bench("agni")
    mac.link_up(1, "agni")
    agni.link_up(1, "mac")
    mac.submit(LETTER)
    [frame] = said(mac.commit(), frames.Deliver)
    agni.hear(1, frame)
    agni.link_down(1)
    mac.link_down(1)
    assert len(of(agni.commit(), Arrived)) == 1
    converse(mac, agni, link=2)
    assert mac.disk.sent[KEY].state is State.DELIVERED
    assert len(of(agni.effects, Arrived)) == 1


def test_an_old_copy_weeks_later_does_not_arrive_again() -> None:
    mac, agni = Bench("mac"), Bench("agni")
    mac.submit(LETTER)
    mac.commit()
    converse(mac, agni)
    agni.disk.ledger.clear()  # pruned, as it may be once the envelope has expired
    agni.sleep(30 * DAY / 1000)
    agni.deliver(1, sealed(TRUE), seq=99)
    assert of(agni.commit_all(), Arrived) == []
    assert agni.disk.ledger == {}
