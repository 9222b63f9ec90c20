"""How a message ends: read, refused, unconfirmed, corrected; and what is forgotten then (rules 5 to 9 and 14)."""

from __future__ import annotations

from dataclasses import replace

from simulation.store import Disk
from trishula.protocol import frames
from trishula.protocol.clock import DOUBT_S
from trishula.protocol.effects import Answered, Arrived, Effect, Handled, Progressed, Redial, Rejected
from trishula.protocol.envelope import Key, State
from trishula.protocol.errors import SendError
from trishula.protocol.limits import Limits
from trishula.protocol.records import Found
from trishula.protocol.retention import EVERY
from unit.bench import LIMITS, Bench, of, offered, said, sealed, signed, warnings
from unit.letters import WALL, WEEK, envelope, letter, receipt

LINK = 1
LETTER = letter("m1", body="hello")
TRUE = envelope(LETTER)
KEY = TRUE.key
OVER = 2 * LIMITS.max_skew / 1000
"""Seconds after the expiry until its origin gives up."""
YEAR = 365 * 24 * 3600


def origin(disk: Disk | None = None) -> Bench:
    """mac, linked to rushabdev, which confirms its clock; not to agni."""
    bench = Bench("mac", disk=disk)
    bench.link_up(9, "rushabdev")
    return bench


def recipient(limits: Limits = LIMITS, disk: Disk | None = None) -> Bench:
    bench = Bench("agni", limits=limits, disk=disk)
    bench.link_up(LINK, "mac")
    return bench


def got(bench: Bench, *ids: str) -> None:
    bench.deliver(LINK, *[sealed(envelope(letter(message_id))) for message_id in ids])
    bench.commit()


def until_over(bench: Bench, ttl_s: float) -> list[Progressed]:
    """Live through the expiry and what must pass after it, an hour at a time at most, as deadlines make a node."""
    news: list[Progressed] = []
    end = bench.mono + ttl_s + OVER + 1
    while bench.mono < end:
        due = bench.engine.deadline()
        bench.sleep(min(end, max(due or end, bench.mono + 0.001)) - bench.mono)
        news += of(bench.commit_all(), Progressed)
    return news


# ---------------------------------------------------------------- unconfirmed


def test_what_nobody_answers_is_unconfirmed_when_it_is_over_for_certain_and_not_before() -> None:
    bench = origin()
    bench.submit(LETTER, ttl=5000)
    bench.commit_all()
    assert until_over(bench, 5 - OVER) == []
    [news] = until_over(bench, OVER)
    assert (news.progress.key, news.progress.state, news.progress.reason) == (KEY, State.UNCONFIRMED, "expired")
    assert bench.engine._desk.own["agni"].backlog == 0


def test_a_late_receipt_corrects_it() -> None:
    bench = origin()
    bench.submit(LETTER, ttl=5000)
    bench.commit_all()
    item = bench.disk.envelopes[KEY]
    until_over(bench, 5)
    bench.link_up(LINK, "agni")
    bench.hear(LINK, frames.Receipts(receipts=[signed(receipt(item))]))
    [news] = of(bench.commit(), Progressed)
    assert (news.progress.state, news.progress.reason) == (State.DELIVERED, "")


def test_when_the_link_comes_up_its_origin_asks_about_it() -> None:
    bench = origin()
    bench.submit(LETTER, ttl=5000)
    bench.commit_all()
    until_over(bench, 5)
    [query] = said(bench.link_up(LINK, "agni"), frames.Query)
    assert [(item.id, item.state, item.digest) for item in query.items] == [("m1", State.UNCONFIRMED, LETTER.digest)]


def test_nothing_is_given_up_by_a_clock_that_nobody_confirms() -> None:
    bench = Bench("mac")
    bench.submit(LETTER, ttl=5000)
    bench.commit_all()
    assert until_over(bench, 100) == []
    assert len(until_over(bench, DOUBT_S)) == 1


def test_a_clock_that_jumps_a_year_ahead_ends_nothing_until_a_peer_has_confirmed_it() -> None:
    bench = origin()
    bench.submit(LETTER)
    bench.commit_all()
    bench.wall += YEAR * 1000
    assert of(bench.sleep(1), Redial) == [Redial()]
    assert until_over(bench, 100) == []
    bench.take(bench.engine.measured(bench.now, 9, -YEAR * 1000.0, 1.0))
    assert until_over(bench, 1000) == []
    bench.wall -= YEAR * 1000
    bench.sleep(1)
    bench.take(bench.engine.measured(bench.now, 9, 0.0, 1.0))
    assert until_over(bench, 1000) == []
    assert bench.disk.sent[KEY].state is State.STORED


def test_after_a_restart_what_expired_meanwhile_is_given_up() -> None:
    before = origin()
    before.submit(LETTER, ttl=5000)
    before.commit_all()
    after = Bench("mac", disk=before.disk)
    after.wall += 100_000
    after.link_up(9, "rushabdev")
    assert len(until_over(after, 5)) == 1


# ---------------------------------------------------------------- the recipient and time


def test_a_duplicate_is_answered_after_its_expiry_too() -> None:
    bench = recipient()
    got(bench, "m1")
    bench.sleep(WEEK / 1000 + 1)
    bench.commit_all()
    bench.deliver(LINK, sealed(envelope(letter("m1"))), seq=2)
    [word] = [word for frame in said(bench.commit_all(), frames.Receipts) for word in frame.receipts]
    assert word.outcome is State.DELIVERED


def test_a_doubtful_clock_defers_what_it_takes_for_expired() -> None:
    bench = recipient()
    bench.wall += 2 * WEEK
    bench.deliver(LINK, sealed(TRUE))
    effects = bench.commit_all()
    [defer] = said(effects, frames.Defer)
    assert "clock" in defer.items[0].reason
    assert bench.disk.ledger == {}


def test_what_was_pruned_is_never_taken_again_even_by_a_clock_that_fell_back() -> None:
    bench = recipient()
    got(bench, "m1")
    bench.take(bench.engine.done(bench.now, None, "agni", "m1"))
    bench.commit_all()
    bench.disk.unfiled.clear()
    bench.sleep(WEEK / 1000 + OVER + EVERY + 1)
    bench.commit_all()
    assert bench.disk.ledger == {}
    bench.wall -= 2 * WEEK
    bench.deliver(LINK, sealed(envelope(letter("m1"))), seq=2)
    assert of(bench.commit_all(), Arrived) == []


def test_unread_messages_are_kept_beyond_their_expiry() -> None:
    bench = recipient()
    got(bench, "m1")
    bench.sleep(2 * WEEK / 1000)
    bench.commit_all()
    assert KEY in bench.disk.ledger


def test_an_origin_forgets_what_has_ended_and_expired() -> None:
    bench = origin()
    bench.submit(LETTER, ttl=5000)
    bench.commit_all()
    until_over(bench, 5)
    bench.sleep(EVERY + 1)
    bench.commit_all()
    assert (bench.disk.sent, bench.disk.messages) == ({}, {})


# ---------------------------------------------------------------- read


def test_done_makes_a_message_read_and_tells_its_origin() -> None:
    bench = recipient()
    got(bench, "m1")
    bench.take(bench.engine.done(bench.now, "asker", "agni", "m1"))
    effects = bench.commit()
    [answer] = of(effects, Answered)
    assert isinstance(answer.found, Found)
    assert [entry.outcome for entry in answer.found.fresh] == [State.READ]
    assert of(effects, Handled) == [Handled(answer.found.fresh)]
    [word] = [word for frame in said(effects, frames.Receipts, LINK) for word in frame.receipts]
    assert (word.id, word.outcome, word.at) == ("m1", State.READ, WALL)


def test_done_twice_is_answered_twice_and_told_once() -> None:
    bench = recipient()
    got(bench, "m1")
    for _ in range(2):
        bench.take(bench.engine.done(bench.now, "asker", "agni", "m1"))
        effects = bench.commit()
        assert len(of(effects, Answered)) == 1
    assert said(effects, frames.Receipts) == []


def test_done_of_what_never_came_finds_nothing() -> None:
    bench = recipient()
    bench.take(bench.engine.done(bench.now, "asker", "agni", "m9"))
    assert of(bench.commit(), Answered) == [Answered("asker", Found(()))]


def test_done_that_cannot_be_stored_says_so() -> None:
    bench = recipient()
    got(bench, "m1")
    bench.take(bench.engine.done(bench.now, "asker", "agni", "m1"))
    [answer] = of(bench.fail(), Answered)
    assert isinstance(answer.found, SendError)


def test_done_is_told_on_a_silent_link_too_for_it_may_speak_again_and_then_nobody_asks() -> None:
    bench = recipient()
    got(bench, "m1")
    bench.take(bench.engine.suspected(bench.now, LINK, suspect=True))
    bench.take(bench.engine.done(bench.now, None, "agni", "m1"))
    [word] = [word for frame in said(bench.commit(), frames.Receipts, LINK) for word in frame.receipts]
    assert word.outcome is State.READ


def test_done_of_what_came_from_a_node_without_a_way_is_told_to_nobody() -> None:
    bench = recipient()
    got(bench, "m1")
    bench.link_down(LINK)
    gone = Bench("agni", disk=bench.disk, nodes=("agni", "rushabdev"))
    gone.take(gone.engine.done(gone.now, "asker", "agni", "m1"))
    effects = gone.commit()
    assert len(of(effects, Answered)) == 1
    assert said(effects, frames.Receipts) == []


def test_a_read_that_was_said_while_the_link_was_down_is_told_when_asked() -> None:
    bench = recipient()
    got(bench, "m1")
    bench.link_down(LINK)
    bench.take(bench.engine.done(bench.now, None, "agni", "m1"))
    assert said(bench.commit(), frames.Receipts) == []
    bench.link_up(2, "mac")
    digest = letter("m1").digest
    asked = frames.Asked(sender="mac", to="agni", id="m1", digest=digest, state=State.DELIVERED)
    bench.hear(2, frames.Query(items=[asked]))
    [word] = [word for frame in said(bench.commit(), frames.Receipts, 2) for word in frame.receipts]
    assert word.outcome is State.READ


def test_a_question_that_met_a_full_disk_is_asked_again() -> None:
    bench = recipient()
    got(bench, "m1")
    bench.take(bench.engine.done(bench.now, None, "agni", "m1"))
    bench.commit()
    asked = frames.Asked(sender="mac", to="agni", id="m1", digest=letter("m1").digest, state=State.DELIVERED)
    bench.hear(LINK, frames.Query(items=[asked]))
    bench.fail()
    bench.sleep(2)
    [word] = [word for frame in said(bench.commit_all(), frames.Receipts, LINK) for word in frame.receipts]
    assert word.outcome is State.READ


def test_a_query_of_what_is_no_news_or_not_the_askers_own_is_not_answered() -> None:
    bench = recipient()
    got(bench, "m1")
    digest = letter("m1").digest
    asked = frames.Asked(sender="mac", to="agni", id="m1", digest=digest, state=State.DELIVERED)
    bench.hear(LINK, frames.Query(items=[asked]))
    assert said(bench.commit(), frames.Receipts) == []
    bench.link_up(2, "rushabdev")
    bench.hear(2, frames.Query(items=[frames.Asked("mac", "agni", "m1", digest, State.STORED)]))
    assert said(bench.commit(), frames.Receipts) == []


def test_mail_on_one_node_is_read_on_it() -> None:
    bench = Bench("mac")
    bench.submit(letter("m1", to="dhyana"))
    bench.commit_all()
    bench.take(bench.engine.done(bench.now, None, "dhyana", "m1"))
    [news] = of(bench.commit_all(), Progressed)
    assert news.progress.state is State.READ


# ---------------------------------------------------------------- limits and removal


def test_a_full_inbox_defers_new_mail_and_answers_for_what_it_has() -> None:
    bench = recipient(replace(LIMITS, max_unread=2))
    got(bench, "m1", "m2")
    bench.deliver(LINK, sealed(envelope(letter("m3"))), sealed(envelope(letter("m1"))), seq=2)
    effects = bench.commit()
    [defer] = said(effects, frames.Defer)
    assert [(item.id, "limits.max_unread_per_agent" in item.reason) for item in defer.items] == [("m3", True)]
    [words] = said(effects, frames.Receipts)
    assert [word.id for word in words.receipts] == ["m1"]
    bench.take(bench.engine.done(bench.now, None, "agni", "m1"))
    bench.commit()
    bench.deliver(LINK, sealed(envelope(letter("m3"))), seq=3)
    assert len(of(bench.commit(), Arrived)) == 1


def test_an_agent_with_too_much_under_way_is_told_the_limit_and_its_value() -> None:
    bench = Bench("mac", limits=replace(LIMITS, max_open=3))
    for number in range(3):
        bench.submit(letter(f"m{number}"))
    bench.submit(letter("m3"))
    [rejected] = of(bench.commit(), Rejected)
    assert (rejected.error.code, rejected.error.key, rejected.error.value) == ("quota", "limits.max_open_per_agent", 3)
    bench.commit_all()
    bench.link_up(LINK, "agni")
    bench.hear(LINK, frames.Receipts(receipts=[signed(receipt(bench.disk.envelopes[Key("mac", "m0", "agni")]))]))
    bench.commit()
    bench.submit(letter("m3"))
    assert of(bench.commit(), Rejected) == []


def test_what_is_under_way_counts_after_a_restart_too() -> None:
    limits = replace(LIMITS, max_open=1)
    before = Bench("mac", limits=limits)
    before.submit(LETTER)
    before.commit()
    after = Bench("mac", disk=before.disk, limits=limits)
    after.submit(letter("m2"))
    assert len(of(after.commit(), Rejected)) == 1


def test_a_store_beyond_its_size_takes_nothing_new_and_says_so_at_both_ends() -> None:
    bench = recipient()
    bench.take(bench.engine.present(bench.now, {}, storing=True, full="it has 9 bytes (limits.max_store_bytes)"))
    bench.submit(letter("m1", sender="agni", to="mac"))
    [rejected] = of(bench.commit(), Rejected)
    assert (rejected.error.code, "limits.max_store_bytes" in rejected.error.message) == ("store_full", True)
    bench.deliver(LINK, sealed(TRUE))
    [defer] = said(bench.commit(), frames.Defer)
    assert "limits.max_store_bytes" in defer.items[0].reason


def test_mail_for_a_node_that_left_the_mesh_is_refused_as_removed() -> None:
    before = Bench("mac")
    before.submit(letter("m1", to=["agni", "rushabdev"]))
    before.commit()
    after = without_agni(before.disk)
    news = of(after.effects, Progressed)
    assert [(item.progress.key.to, item.progress.state, item.progress.reason) for item in news] == [
        ("agni", State.REFUSED, "removed")
    ]
    assert offered(after.link_up(LINK, "rushabdev")) == ["m1"]


class FullAtFirst(Bench):
    """Its disk is asked how it is, and takes nothing after that."""

    def commit_all(self) -> list[Effect]:
        return self.commit() + self.fail()


def test_mail_for_a_node_that_left_is_refused_when_a_full_disk_has_room_again() -> None:
    before = Bench("mac")
    before.submit(LETTER)
    before.commit()
    after = FullAtFirst("mac", disk=before.disk, nodes=("mac", "rushabdev"))
    assert of(after.effects, Progressed) == []
    after.sleep(2)
    [news] = of(after.commit(), Progressed)
    assert (news.progress.state, news.progress.reason) == (State.REFUSED, "removed")


def without_agni(disk: Disk) -> Bench:
    """mac again, started with a configuration that knows agni no more."""
    return Bench("mac", disk=disk, nodes=("mac", "rushabdev"))


def test_a_clock_that_differs_is_told_to_the_operator_once() -> None:
    bench = recipient()
    effects = bench.take(bench.engine.measured(bench.now, LINK, 60_000.0, 1.0))
    assert "the clock of mac differs from ours by 60 s" in warnings(effects)
    assert warnings(bench.take(bench.engine.measured(bench.now, LINK, 60_000.0, 1.0))) == ""
