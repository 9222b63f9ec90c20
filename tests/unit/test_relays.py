"""Custody: what an origin hands over, what a relay holds, and whose word ends it (rules 2 to 5)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulation.store import Disk
from trishula.protocol import frames
from trishula.protocol.custody import RECLAIM_BASE
from trishula.protocol.effects import Arrived, Disconnect, Progressed, Transmit
from trishula.protocol.envelope import Key, State
from trishula.protocol.limits import Limits
from trishula.protocol.message import digest_of
from trishula.protocol.signing import PairKey
from unit.bench import LIMITS, Bench, introduction, of, offered, pair_key, said, sealed, signed, warnings
from unit.letters import WALL, envelope, letter, receipt

LETTER = letter("m1", to="rushabdev", body="x")
TRUE = envelope(LETTER, "rushabdev", dest="rushabdev")
KEY = TRUE.key
RELAY, DIRECT = 1, 2


def topology(*links: str) -> frames.Topology:
    return frames.Topology(links=list(links))


def laptop(*, relay_reaches: bool = True) -> Bench:
    """mac, linked to agni alone."""
    bench = Bench("mac")
    bench.link_up(RELAY, "agni")
    bench.hear(RELAY, topology("mac", "rushabdev") if relay_reaches else topology("mac"))
    return bench


def entrusted(*ids: str, relay_reaches: bool = True) -> Bench:
    """mac, whose messages to rushabdev are in agni's custody."""
    bench = laptop(relay_reaches=relay_reaches)
    for number, message_id in enumerate(ids or ["m1"], 1):
        bench.submit(letter(message_id, to="rushabdev", body="x"))
        bench.commit()
        bench.hear(RELAY, frames.Ack(seq=number))
        bench.commit()
    return bench


def relay(disk: Disk | None = None, limits: Limits = LIMITS) -> Bench:
    """agni, linked to mac over 1."""
    bench = Bench("agni", disk=disk, limits=limits)
    bench.link_up(RELAY, "mac")
    return bench


def held(bench: Bench) -> set[str]:
    return {key.id for key in bench.disk.held}


# ---------------------------------------------------------------- the origin


def test_mail_for_a_node_without_a_link_goes_over_a_neighbour_that_reaches_it() -> None:
    bench = laptop()
    bench.submit(LETTER)
    [frame] = said(bench.commit(), frames.Deliver, RELAY)
    assert frame.envelopes == [sealed(TRUE)]


def test_what_is_in_custody_leaves_the_window_and_is_not_offered_again_while_its_custodian_has_a_way() -> None:
    bench = entrusted()
    assert bench.disk.sent[KEY].custodian == "agni"
    assert bench.engine._desk.own["rushabdev"].backlog == 0
    assert offered(bench.sleep(RECLAIM_BASE / 2 - 1)) == []


def test_a_receipt_over_the_relay_ends_it_and_names_the_way() -> None:
    bench = entrusted()
    bench.hear(RELAY, frames.Receipts(receipts=[signed(receipt(TRUE))]))
    [news] = of(bench.commit(), Progressed)
    assert (news.progress.state, news.progress.route) == (State.DELIVERED, "relay:agni")


def test_a_relay_cannot_answer_for_the_recipient() -> None:
    bench = entrusted()
    word = receipt(TRUE)
    for forged in (
        signed(word, pair_key("mac", "agni")),
        signed(replace(word, outcome=State.REFUSED), pair_key("agni", "rushabdev")),
        signed(replace(word, dest="agni")),
    ):
        bench.hear(RELAY, frames.Receipts(receipts=[forged]))
        bench.commit()
        assert bench.disk.sent[KEY].state is State.STORED


def test_when_a_link_to_the_recipient_comes_up_it_is_offered_there() -> None:
    bench = entrusted("m1", "m2")
    assert offered(bench.link_up(DIRECT, "rushabdev"), DIRECT) == ["m1", "m2"]
    bench.hear(DIRECT, frames.Receipts(receipts=[signed(receipt(TRUE))]))
    [news] = of(bench.commit(), Progressed)
    assert news.progress.route == "direct"


def test_word_over_the_relay_that_may_be_older_than_the_link_is_followed_by_a_question() -> None:
    bench = entrusted()
    bench.link_up(DIRECT, "rushabdev")
    bench.hear(RELAY, frames.Receipts(receipts=[signed(receipt(TRUE))]))
    [query] = said(bench.commit(), frames.Query, DIRECT)
    assert [(asked.id, asked.state) for asked in query.items] == [("m1", State.DELIVERED)]


def test_word_over_the_link_is_followed_by_no_question() -> None:
    bench = entrusted()
    bench.link_up(DIRECT, "rushabdev")
    bench.hear(DIRECT, frames.Receipts(receipts=[signed(receipt(TRUE))]))
    assert said(bench.commit(), frames.Query) == []


def test_when_its_custodian_loses_the_way_and_there_is_another_it_takes_that_at_once() -> None:
    bench = Bench("mac")
    bench.link_up(RELAY, "agni")
    bench.link_up(DIRECT, "rushabdev")
    bench.hear(RELAY, topology("mac", "rushabdev"))
    bench.take(bench.engine.suspected(bench.now, DIRECT, suspect=True))
    bench.submit(LETTER)
    bench.commit()
    bench.hear(RELAY, frames.Ack(seq=1))
    bench.commit()
    bench.take(bench.engine.suspected(bench.now, DIRECT, suspect=False))
    assert bench.commits == []
    bench.hear(RELAY, topology("mac"))
    assert offered(bench.commit(), DIRECT) == ["m1"]


def test_when_its_custodian_has_lost_its_store_it_is_offered_again() -> None:
    bench = entrusted(relay_reaches=False)
    bench.link_down(RELAY)
    new = replace_incarnation("agni")
    effects = bench.take(bench.engine.link_up(bench.now, 3, new)) + bench.hear(3, topology("mac"))
    assert offered(effects + bench.commit_all(), 3) == ["m1"]


def replace_incarnation(node: str) -> frames.Introduction:
    old = introduction(node)
    return frames.Introduction(
        node=node,
        incarnation="2",
        software=old.software,
        max_message_bytes=old.max_message_bytes,
        window_bytes=old.window_bytes,
    )


def test_when_its_custodian_comes_back_with_the_same_store_it_still_waits_there() -> None:
    bench = entrusted(relay_reaches=False)
    bench.link_down(RELAY)
    assert offered(bench.link_up(3, "agni") + bench.hear(3, topology("mac"))) == []
    assert bench.disk.sent[KEY].custodian == "agni"


def test_a_receipt_that_came_to_the_custodian_while_its_link_was_down_is_had_again_at_once() -> None:
    bench = entrusted(relay_reaches=False)
    bench.link_down(RELAY)
    bench.link_up(3, "agni")
    assert offered(bench.hear(3, topology("mac")) + bench.commit_all()) == []
    bench.hear(3, topology("mac", "rushabdev"))
    assert offered(bench.commit_all(), 3) == ["m1"]
    bench.hear(3, frames.Ack(seq=1))
    bench.commit_all()
    assert offered(bench.hear(3, topology("mac", "rushabdev")) + bench.commit_all()) == []


def test_after_a_while_it_is_offered_again_in_any_case() -> None:
    bench = entrusted()
    bench.sleep(RECLAIM_BASE)
    assert offered(bench.commit_all(), RELAY) == ["m1"]


def test_after_a_restart_nothing_is_in_custody_as_far_as_the_origin_knows() -> None:
    before = entrusted()
    after = Bench("mac", disk=before.disk)
    assert after.disk.sent[KEY].custodian == ""
    assert offered(after.link_up(RELAY, "agni") + after.hear(RELAY, topology("mac")), RELAY) == ["m1"]


def test_custody_that_could_not_be_noted_is_asked_for_again() -> None:
    bench = laptop()
    bench.submit(LETTER)
    bench.commit()
    bench.hear(RELAY, frames.Ack(seq=1))
    bench.fail()
    assert bench.disk.sent[KEY].custodian == ""
    assert offered(bench.sleep(5)) == ["m1"]


def test_a_laptop_hands_its_mail_to_a_server_that_waits_with_it() -> None:
    bench = laptop(relay_reaches=False)
    bench.submit(LETTER)
    assert offered(bench.commit(), RELAY) == ["m1"]


def test_a_neighbour_of_an_older_release_which_says_no_topology_is_given_its_own_mail_alone() -> None:
    bench = Bench("mac")
    bench.link_up(RELAY, "agni")
    for to in ("rushabdev", "agni"):
        bench.submit(letter(f"to-{to}", to=to))
    assert offered(bench.commit(), RELAY) == ["to-agni"]


def test_a_server_waits_with_its_own_mail() -> None:
    bench = Bench("rushabdev")
    bench.link_up(RELAY, "agni")
    bench.submit(letter("m1", sender="rushabdev", to="mac"))
    assert offered(bench.commit()) == []


def test_a_silent_neighbour_is_passed_by() -> None:
    bench = Bench("mac")
    bench.link_up(RELAY, "agni")
    bench.link_up(DIRECT, "rushabdev")
    bench.hear(RELAY, topology("mac", "rushabdev"))
    bench.take(bench.engine.suspected(bench.now, DIRECT, suspect=True))
    bench.submit(LETTER)
    assert offered(bench.commit(), RELAY) == ["m1"]
    bench.take(bench.engine.suspected(bench.now, DIRECT, suspect=False))
    bench.submit(letter("m2", to="rushabdev"))
    assert offered(bench.commit(), DIRECT) == ["m2"]


# ---------------------------------------------------------------- the relay


def test_a_relay_acknowledges_what_it_holds_and_not_before_it_holds_it() -> None:
    bench = relay()
    assert said(bench.deliver(RELAY, sealed(TRUE), seq=7), frames.Ack) == []
    effects = bench.commit()
    assert said(effects, frames.Ack) == [frames.Ack(seq=7)]
    assert held(bench) == {"m1"}
    assert of(effects, Arrived) == []


def test_what_it_holds_goes_to_the_recipient_as_its_origin_signed_it() -> None:
    bench = relay()
    bench.deliver(RELAY, sealed(TRUE))
    bench.commit()
    [frame] = said(bench.link_up(DIRECT, "rushabdev"), frames.Deliver, DIRECT)
    assert frame.envelopes == [sealed(TRUE)]


def test_after_a_restart_it_holds_what_it_held() -> None:
    before = relay()
    before.deliver(RELAY, sealed(TRUE))
    before.commit()
    after = relay(before.disk)
    assert offered(after.link_up(DIRECT, "rushabdev"), DIRECT) == ["m1"]


def test_the_recipients_word_ends_custody_and_goes_back_to_the_origin_unchanged() -> None:
    bench = relay()
    bench.deliver(RELAY, sealed(TRUE))
    bench.commit()
    bench.link_up(DIRECT, "rushabdev")
    word = signed(receipt(TRUE))
    effects = bench.hear(DIRECT, frames.Receipts(receipts=[word]))
    assert said(effects, frames.Receipts, RELAY) == [frames.Receipts(receipts=[word])]
    bench.hear(DIRECT, frames.Ack(seq=1))
    bench.commit()
    assert held(bench) == set()
    assert not +bench.engine._relay._bytes


def test_an_envelope_that_it_no_longer_holds_is_taken_anew() -> None:
    """A relay that acknowledged from memory would be a black hole."""
    bench = relay()
    bench.deliver(RELAY, sealed(TRUE))
    bench.commit()
    bench.link_up(DIRECT, "rushabdev")
    bench.hear(DIRECT, frames.Receipts(receipts=[signed(receipt(TRUE))]))
    bench.commit()
    bench.deliver(RELAY, sealed(TRUE), seq=2)
    assert offered(bench.commit(), DIRECT) == ["m1"]
    assert held(bench) == {"m1"}


def test_a_duplicate_of_what_it_holds_is_acknowledged_and_held_once_with_its_newest_signature() -> None:
    bench = relay()
    bench.deliver(RELAY, sealed(TRUE))
    bench.commit()
    newer = PairKey("2", b"rotated")
    bench.deliver(RELAY, sealed(TRUE, newer), seq=2)
    assert said(bench.commit(), frames.Ack) == [frames.Ack(seq=2)]
    [frame] = said(bench.link_up(DIRECT, "rushabdev"), frames.Deliver, DIRECT)
    assert frame.envelopes == [sealed(TRUE, newer)]
    assert bench.engine._relay._bytes == {"rushabdev": len(TRUE.payload)}


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (replace(TRUE, origin="rushabdev", dest="mac"), "rushabdev"),
        (replace(TRUE, key=Key("rushabdev", "m1", "rushabdev")), "does not live on mac"),
        (replace(TRUE, key=Key("mac", "m1", "dhyana")), "does not live on rushabdev"),
        (replace(TRUE, dest="moon"), "no node moon"),
        (replace(TRUE, expires_at=2**47), "max_ttl_s"),
    ],
    ids=["from a third node", "a foreign sender", "a foreign recipient", "no such node", "for ever"],
)
def test_a_relay_takes_mail_of_its_neighbours_agents_to_their_homes_only(bad: object, why: str) -> None:
    bench = relay()
    effects = bench.deliver(RELAY, sealed(bad, pair_key("mac", "rushabdev")))
    assert why in warnings(effects)
    assert len(said(effects, frames.Defer)) == 1
    assert bench.commits == []


def test_a_relay_that_is_full_defers_naming_the_limit() -> None:
    bench = relay(limits=replace(LIMITS, max_held_bytes=10))
    bench.deliver(RELAY, sealed(TRUE))
    [defer] = said(bench.commit(), frames.Defer)
    assert "limits.max_held_bytes" in defer.items[0].reason


def test_a_laptop_that_is_not_linked_to_the_recipient_takes_no_custody() -> None:
    bench = Bench("mac")
    bench.link_up(RELAY, "agni")
    item = envelope(letter("m1", sender="agni", to="rushabdev"), "rushabdev", origin="agni", dest="rushabdev")
    bench.deliver(RELAY, sealed(item))
    [defer] = said(bench.commit(), frames.Defer)
    assert "no link to rushabdev" in defer.items[0].reason


def test_a_relay_passes_on_receipts_of_the_recipient_only() -> None:
    bench = relay()
    bench.link_up(DIRECT, "rushabdev")
    foreign = signed(replace(receipt(TRUE), dest="agni", origin="rushabdev"))
    effects = bench.hear(RELAY, frames.Receipts(receipts=[foreign]))
    assert of(effects, Transmit) == []


def test_what_expired_in_custody_is_dropped_in_silence() -> None:
    bench = relay()
    short = replace(TRUE, expires_at=WALL + 1000)
    bench.deliver(RELAY, sealed(short))
    bench.commit()
    bench.sleep(2)
    assert offered(bench.link_up(DIRECT, "rushabdev"), DIRECT) == []
    bench.sleep(100)
    bench.commit_all()
    assert held(bench) == set()
    assert not +bench.engine._relay._bytes


# ---------------------------------------------------------------- the recipient


def test_mail_over_a_relay_arrives_and_its_receipt_goes_back_the_way_it_came() -> None:
    bench = Bench("rushabdev")
    bench.link_up(RELAY, "agni")
    bench.deliver(RELAY, sealed(TRUE))
    effects = bench.commit()
    [arrived] = of(effects, Arrived)
    assert (arrived.entry.route, arrived.entry.origin) == ("relay:agni", "mac")
    [frame] = said(effects, frames.Receipts, RELAY)
    assert frame.receipts == [signed(receipt(TRUE, at=WALL))]


def test_what_a_relay_changed_is_not_taken_and_not_refused() -> None:
    bench = Bench("rushabdev")
    bench.link_up(RELAY, "agni")
    changed = replace(TRUE, payload=TRUE.payload.replace(b'"x"', b'"y"'))
    effects = bench.deliver(RELAY, sealed(changed, pair_key("agni", "rushabdev")))
    [defer] = said(effects, frames.Defer)
    assert "signature is wrong" in defer.items[0].reason
    assert bench.commits == []


def test_a_peer_that_minds_no_window_loses_its_link() -> None:
    bench = relay()
    large = replace(TRUE, payload=b"x" * (60 * 1024 * 1024))
    effects = [effect for seq in range(1, 4) for effect in bench.deliver(RELAY, sealed(large), seq=seq)]
    assert [effect.link for effect in of(effects, Disconnect)] == [RELAY]


def test_the_digest_in_custody_is_that_of_the_payload() -> None:
    bench = relay()
    bench.deliver(RELAY, sealed(TRUE))
    [commit] = bench.commits
    assert commit.records[0].digest == digest_of(LETTER.payload)
