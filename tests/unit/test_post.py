"""When mail goes by rsync, and when no longer."""

from __future__ import annotations

from trishula.protocol import frames
from trishula.protocol.effects import Arrived, Posting, Progressed, Rejected, Transmit, Withdraw
from trishula.protocol.envelope import Key, State
from trishula.protocol.names import PROBE
from trishula.protocol.post import ANSWERED_WITHIN, PATIENCE
from unit.bench import Bench, of, offered, said, sealed, signed
from unit.letters import envelope, letter, receipt

LINK, POST = 1, -1
LETTER = letter("m1", body="x")
KEY = Key("mac", "m1", "agni")


def mac(*, linked: bool = False) -> Bench:
    """mac, which has a post to agni."""
    bench = Bench("mac")
    bench.engine.post(bench.now, POST, "agni")
    if linked:
        bench.link_up(LINK, "agni")
    return bench


def posting() -> Bench:
    """mac, whose message to agni is in the post."""
    bench = mac()
    bench.submit(LETTER)
    bench.commit()
    bench.sleep(PATIENCE)
    return bench


def test_mail_that_has_no_other_way_for_a_while_goes_by_post() -> None:
    bench = mac()
    bench.submit(LETTER)
    assert offered(bench.commit()) == []
    assert offered(bench.sleep(PATIENCE - 0.1)) == []
    effects = bench.sleep(0.1)
    assert of(effects, Posting) == [Posting(POST, open=True)]
    [frame] = said(effects, frames.Deliver, POST)
    assert frame.envelopes == [sealed(envelope(LETTER))]


def test_while_a_link_reaches_the_peer_nothing_goes_by_post() -> None:
    bench = mac(linked=True)
    bench.sleep(100)
    bench.submit(LETTER)
    assert offered(bench.commit(), POST) == []


def test_while_a_relay_reaches_the_peer_nothing_goes_by_post() -> None:
    bench = mac()
    bench.link_up(LINK, "rushabdev")
    bench.hear(LINK, frames.Topology(links=["mac", "agni"]))
    bench.sleep(100)
    bench.submit(LETTER)
    assert offered(bench.commit(), LINK) == ["m1"]


def test_a_link_that_falls_silent_opens_the_post_in_under_two_seconds() -> None:
    bench = mac(linked=True)
    bench.take(bench.engine.suspected(bench.now, LINK, suspect=True))
    assert of(bench.sleep(1.99), Posting) == [Posting(POST, open=True)]


def test_when_there_is_a_link_again_it_takes_over_what_is_in_the_post() -> None:
    bench = posting()
    effects = bench.link_up(LINK, "agni")
    assert of(effects, Posting) == [Posting(POST, open=False)]
    assert offered(effects, LINK) == ["m1"]


def test_a_receipt_by_post_settles_and_is_reported_as_rsync() -> None:
    bench = posting()
    bench.hear(POST, frames.Receipts(receipts=[signed(receipt(envelope(LETTER)))]))
    [news] = of(bench.commit(), Progressed)
    assert (news.progress.state, news.progress.route) == (State.DELIVERED, "rsync")
    bench.hear(POST, frames.Ack(seq=1))
    assert bench.engine._routes.posts["agni"].unacked == 0


def test_a_frame_that_nobody_answers_is_taken_out_of_the_post_and_posted_again() -> None:
    bench = posting()
    assert offered(bench.sleep(ANSWERED_WITHIN - 1), POST) == []
    effects = bench.sleep(1)
    assert of(effects, Withdraw) == [Withdraw(POST, (1,))]
    assert offered(effects, POST) == ["m1"]


def test_who_answers_nothing_is_waited_for_longer_each_time_until_he_answers() -> None:
    bench = posting()
    bench.sleep(ANSWERED_WITHIN)
    assert offered(bench.sleep(2 * ANSWERED_WITHIN - 1), POST) == []
    assert offered(bench.sleep(1), POST) == ["m1"]
    bench.hear(POST, frames.Ack(seq=3))
    bench.submit(letter("m2", body="x"))
    bench.commit()
    assert "m2" in offered(bench.sleep(ANSWERED_WITHIN), POST)


def test_mail_that_lies_with_a_relay_without_a_way_goes_by_post() -> None:
    bench = mac()
    bench.link_up(LINK, "rushabdev")
    bench.hear(LINK, frames.Topology(links=["mac", "agni"]))
    bench.submit(LETTER)
    assert offered(bench.commit(), LINK) == ["m1"]
    bench.hear(LINK, frames.Ack(seq=1))
    bench.commit_all()
    bench.hear(LINK, frames.Topology(links=["mac"]))
    assert offered(bench.sleep(PATIENCE) + bench.commit_all(), POST) == ["m1"]


def test_mail_by_post_arrives_and_is_answered_by_post() -> None:
    bench = Bench("agni")
    bench.engine.post(bench.now, POST, "mac")
    bench.deliver(POST, sealed(envelope(LETTER)))
    effects = bench.commit()
    [arrived] = of(effects, Arrived)
    assert arrived.entry.route == "rsync"
    assert [type(effect.frame) for effect in of(effects, Transmit)] == [frames.Receipts, frames.Ack]
    assert {effect.link for effect in of(effects, Transmit)} == {POST}


def test_a_probe_goes_by_post_on_request_though_there_is_a_link() -> None:
    bench = mac(linked=True)
    probe = letter("p1", sender=PROBE, to=PROBE)
    bench.take(bench.engine.probe(bench.now, "ref", probe, "agni", 5000, by_post=True))
    effects = bench.commit()
    assert offered(effects, POST) == ["p1"]
    assert offered(effects, LINK) == []


def test_a_probe_by_post_that_nobody_answers_goes_by_the_link_there_is() -> None:
    bench = mac(linked=True)
    probe = letter("p1", sender=PROBE, to=PROBE)
    bench.take(bench.engine.probe(bench.now, "ref", probe, "agni", 300_000, by_post=True))
    assert offered(bench.commit(), POST) == ["p1"]
    assert offered(bench.sleep(ANSWERED_WITHIN), LINK) == ["p1"]


def test_a_probe_by_post_to_a_peer_without_one_is_rejected() -> None:
    bench = mac()
    probe = letter("p1", sender=PROBE, to=PROBE)
    [rejected] = of(bench.engine.probe(bench.now, "ref", probe, "rushabdev", 5000, by_post=True), Rejected)
    assert rejected.error.code == "no_fallback"
