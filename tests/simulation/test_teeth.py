"""The simulation bites: bugs that are planted one at a time, each found within a few schedules, and not by a crash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from simulation.host import Host, NodeProcess
from simulation.search import search
from simulation.store import Disk
from trishula.protocol import frames, ledger, post
from trishula.protocol.clock import Clock, Instant
from trishula.protocol.custody import Custody
from trishula.protocol.delivery import Delivery, Pending
from trishula.protocol.desk import Desk
from trishula.protocol.effects import Arrived, Commit, Effect, Stored, Transmit
from trishula.protocol.engine import Engine
from trishula.protocol.envelope import Receipt, State
from trishula.protocol.message import digest_of
from trishula.protocol.origin import Origin
from trishula.protocol.post import Post
from trishula.protocol.recipient import Recipient
from trishula.protocol.records import Accept, Answer, Declined, Drop, Rows, Settle
from trishula.protocol.relay import Relay
from trishula.protocol.retention import Retention
from trishula.protocol.routes import Route, Routes
from trishula.protocol.trust import DeferError, Trust

SCHEDULES = 600

Plant = Callable[[pytest.MonkeyPatch], None]
PLANTS: list[Plant] = []
RARE = {
    "calls_expired_by_a_clock_that_jumped",
    "forgets_an_answer_that_was_not_committed",
    "forgets_what_nobody_answered_by_post",
    "gives_up_by_a_clock_that_jumped",
    "misses_what_is_stored_while_it_reads",
    "prunes_after_a_clock_jump",
    "takes_a_number_in_the_post_for_another",
    "takes_a_receipt_for_any_bytes",
    "waits_for_ever_for_an_answer_by_post",
}
"""Found after many schedules only: each takes seconds."""


def plant(bug: Plant) -> Plant:
    PLANTS.append(bug)
    return bug


# ---------------------------------------------------------------- custody


@plant
def a_relay_acknowledges_duplicates_from_memory(patch: pytest.MonkeyPatch) -> None:
    judge = Relay.judge

    def remember(self: Relay, now: Instant, neighbour: str, signed: Any, envelope: Any) -> Any:
        memory = vars(self).setdefault("memory", set())
        if envelope in memory:
            return None
        hold = judge(self, now, neighbour, signed, envelope)
        memory.add(envelope)
        return hold

    patch.setattr(Relay, "judge", remember)


@plant
def the_origin_stops_at_custody(patch: pytest.MonkeyPatch) -> None:
    def let_be(self: Custody, dest: str, _custodians: Any) -> list[Effect]:
        self._custody[dest].due = None
        return []

    patch.setattr(Custody, "_reclaim", let_be)


@plant
def a_relay_lets_go_of_what_was_acknowledged_without_a_receipt(patch: pytest.MonkeyPatch) -> None:
    def careless(self: Relay, _now: Instant, _line: Any, offer: Any) -> list[Effect]:
        left = offer.delivery.unanswered(offer.keys)
        keys = tuple((pending.envelope.key, digest_of(pending.envelope.payload)) for pending in left)
        return [self._desk.commit([Drop(keys)], partial(self._dropped, offer.delivery.dest, left), lambda *_: [])]

    patch.setattr(Relay, "acked", careless)


@plant
def a_relay_signs_what_it_carries(patch: pytest.MonkeyPatch) -> None:
    offer = Desk.offer

    def signing(self: Desk, now: Instant, line: Any, delivery: Delivery, batch: Sequence[Pending]) -> list[Effect]:
        return offer(self, now, line, delivery, [replace(pending, seal=None) for pending in batch])

    patch.setattr(Desk, "offer", signing)


@plant
def custody_is_counted_and_never_discounted(patch: pytest.MonkeyPatch) -> None:
    dropped = Relay._dropped

    def leaky(self: Relay, dest: str, pendings: Any, now: Instant, results: Sequence[Any]) -> list[Effect]:
        return dropped(self, dest, pendings, now, [replace(result, held_bytes=0) for result in results])

    patch.setattr(Relay, "_dropped", leaky)


# ---------------------------------------------------------------- commits and answers


@plant
def acknowledges_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    deliver = Recipient.deliver

    def hasty(self: Recipient, now: Instant, line: Any, frame: frames.Deliver) -> list[Effect]:
        return [Transmit(line.number, frames.Ack(seq=frame.seq)), *deliver(self, now, line, frame)]

    patch.setattr(Recipient, "deliver", hasty)


@plant
def says_stored_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    submit = Engine.submit

    def hasty(self: Engine, now: Instant, ref: object, message: Any, ttl: int | None = None) -> list[Effect]:
        effects = submit(self, now, ref, message, ttl)
        if isinstance(effects[0], Commit):
            effects.insert(0, Stored(ref, message.id, message.digest, (), fresh=True))
        return effects

    patch.setattr(Engine, "submit", hasty)


@plant
def the_ledgers_key_has_no_digest(patch: pytest.MonkeyPatch) -> None:
    accept = ledger._accept

    def blind(rows: Rows, record: Accept) -> Answer | Declined:
        entries = rows.entries(record.envelope.key)
        return Answer(entries[0], fresh=False) if entries else accept(rows, record)

    patch.setattr(ledger, "_accept", blind)


@plant
def refuses_and_then_accepts(patch: pytest.MonkeyPatch) -> None:
    """What can pass is refused, in a word that no ledger holds."""
    committed = Recipient._committed

    def hasty(self: Recipient, taken: Any, records: Any, now: Instant, results: Any) -> list[Effect]:
        effects = committed(self, taken, records, now, results)
        words = []
        for record, result in zip(records, results, strict=True):
            if isinstance(record, Accept) and isinstance(result, Declined):
                envelope = record.envelope
                word = Receipt(
                    envelope.origin,
                    envelope.dest,
                    envelope.key,
                    envelope.expires_at,
                    record.digest,
                    State.REFUSED,
                    result.reason,
                    now.wall,
                )
                words.append(word)
        remote = [word for word in words if word.origin != self._desk.node]
        receipts = [self._desk.trust.sign(word) for word in remote]
        return [*([Transmit(taken.line.number, frames.Receipts(receipts=receipts))] if receipts else []), *effects]

    patch.setattr(Recipient, "_committed", hasty)


@plant
def refuses_for_good_what_it_cannot_verify(patch: pytest.MonkeyPatch) -> None:
    verify, accept = Trust.verify, Recipient._accept

    def lenient(self: Trust, signed: Any, envelope: Any) -> None:
        try:
            verify(self, signed, envelope)
        except DeferError as reason:
            vars(self).setdefault("wrong", {})[envelope] = str(reason)

    def harsh(self: Recipient, now: Instant, line: Any, envelope: Any) -> Accept:
        record = accept(self, now, line, envelope)
        return replace(record, refusal=vars(self._desk.trust).get("wrong", {}).get(envelope, record.refusal))

    patch.setattr(Trust, "verify", lenient)
    patch.setattr(Recipient, "_accept", harsh)


@plant
def keeps_no_ledger(patch: pytest.MonkeyPatch) -> None:
    committed = Recipient._committed

    def forgetful(self: Recipient, taken: Any, records: Any, now: Instant, results: Any) -> list[Effect]:
        again = [result.entry for result in results if isinstance(result, Answer) and not result.fresh]
        return [*map(Arrived, again), *committed(self, taken, records, now, results)]

    patch.setattr(Recipient, "_committed", forgetful)


@plant
def does_not_answer_duplicates(patch: pytest.MonkeyPatch) -> None:
    committed = Recipient._committed

    def mute(self: Recipient, taken: Any, records: Any, now: Instant, results: Any) -> list[Effect]:
        heard = [
            (record, result)
            for record, result in zip(records, results, strict=True)
            if not (isinstance(result, Answer) and not result.fresh)
        ]
        return committed(self, taken, [record for record, _ in heard], now, [result for _, result in heard])

    patch.setattr(Recipient, "_committed", mute)


@plant
def forgets_an_answer_that_was_not_committed(patch: pytest.MonkeyPatch) -> None:
    not_taken = Desk._not_taken

    def forgetful(self: Desk, wanted: Any, *rest: Any) -> list[Effect]:
        return [] if isinstance(wanted.records[0], Settle) else not_taken(self, wanted, *rest)

    patch.setattr(Desk, "_not_taken", forgetful)


@plant
def takes_a_receipt_for_any_bytes(patch: pytest.MonkeyPatch) -> None:
    settled = Origin._settled

    def gullible(self: Origin, line: Any, answered: Any, now: Instant, results: Any) -> list[Effect]:
        believed = []
        for (key, pending), result in zip(answered, results, strict=True):
            if pending is not None and result.progress is None:
                self._desk.own[pending.envelope.dest].release(pending)
            believed.append((key, None if result.progress is None else pending))
        return settled(self, line, believed, now, results)

    patch.setattr(Origin, "_settled", gullible)


@plant
def states_move_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ledger, "advances", lambda old, new: old is not new)


@plant
def asks_nothing_when_a_link_comes_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Origin, "_surveyed", lambda *_: [])


# ---------------------------------------------------------------- the window


@plant
def forgets_what_was_under_way_on_a_lost_link(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Delivery, "lost", lambda self, keys: [self._out.pop(key, None) for key in keys])


@plant
def never_offers_again_what_was_deferred(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Delivery, "deferred", lambda self, key, *_: self._out.pop(key, None))


@plant
def misses_what_is_stored_while_it_reads(patch: pytest.MonkeyPatch) -> None:
    push = Delivery.push

    def deaf(self: Delivery, pending: Pending) -> None:
        if not self._lanes[pending.envelope.urgent].loading:
            push(self, pending)

    patch.setattr(Delivery, "push", deaf)


@plant
def offers_without_a_window(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Delivery, "_room", lambda _: True)


@plant
def mixes_up_the_order(patch: pytest.MonkeyPatch) -> None:
    requeue = Delivery._requeue

    def backwards(self: Delivery, again: list[Pending]) -> None:
        requeue(self, again)
        for lane in self._lanes.values():
            lane.queue.reverse()

    patch.setattr(Delivery, "_requeue", backwards)


# ---------------------------------------------------------------- by post


@plant
def a_post_never_closes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Post, "review", lambda *_: [])


@plant
def forgets_what_is_in_a_post_that_closes(patch: pytest.MonkeyPatch) -> None:
    lose = Desk.lose

    def forgetful(self: Desk, line: Any) -> None:
        if line.files:
            line.offers.clear()
        lose(self, line)

    patch.setattr(Desk, "lose", forgetful)


@plant
def waits_for_ever_for_an_answer_by_post(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(post, "_within", lambda _: float("inf"))


@plant
def forgets_what_nobody_answered_by_post(patch: pytest.MonkeyPatch) -> None:
    tick = Post.tick

    def forgetful(self: Post, now: Instant) -> list[Effect]:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Delivery, "lost", lambda *_: None)
            return tick(self, now)

    patch.setattr(Post, "tick", forgetful)


@plant
def posts_what_a_relay_could_take(patch: pytest.MonkeyPatch) -> None:
    def blind(self: Routes, dest: str) -> Any:
        line = self.line_to(dest)
        return None if line is None else Route(line, dest, reaches=True)

    patch.setattr(Routes, "by_link", blind)


@plant
def a_relay_posts_what_it_holds(patch: pytest.MonkeyPatch) -> None:
    sources = Desk._sources

    def eager(self: Desk, line: Any) -> list[Delivery]:
        held = [self.held[line.node]] if line.files and line.open else []
        return [*sources(self, line), *held]

    patch.setattr(Desk, "_sources", eager)


@plant
def takes_a_number_in_the_post_for_another(patch: pytest.MonkeyPatch) -> None:
    """What was answered to a former life settles what lies under the same number now."""
    acked = Custody.acked

    def sure(self: Custody, now: Instant, line: Any, offer: Any) -> list[Effect]:
        if line.files:
            for pending in offer.delivery.unanswered(offer.keys):
                offer.delivery.release(pending)
        return acked(self, now, line, offer)

    patch.setattr(Custody, "acked", sure)


# ---------------------------------------------------------------- whom to believe


@plant
def believes_every_receipt(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Trust, "doubt", lambda *_: "")


@plant
def believes_the_receipts_of_a_relay(patch: pytest.MonkeyPatch) -> None:
    """It looks for any key that fits, not for that of the recipient."""
    doubt = Trust.doubt

    def trusting(self: Trust, signed: Any, receipt: Receipt) -> str:
        peers = {peer for peer, _ in self._keyring._all}
        return min(doubt(self, signed, receipt), *(_doubt_as(self, peer, signed, receipt) for peer in peers), key=len)

    def _doubt_as(self: Trust, peer: str, signed: Any, receipt: Receipt) -> str:
        from trishula.protocol.signing import receipt_mac  # noqa: PLC0415

        key = self._keyring.find(peer, signed.kid)
        return "" if key is not None and receipt_mac(key, receipt) == signed.mac else "it does not fit"

    patch.setattr(Trust, "doubt", trusting)


@plant
def believes_every_envelope(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Trust, "verify", lambda *_: None)


# ---------------------------------------------------------------- clocks, expiry, retention, removal


@plant
def prunes_after_a_clock_jump(patch: pytest.MonkeyPatch) -> None:
    _always_trusts(patch, Retention, "tick")


@plant
def gives_up_by_a_clock_that_jumped(patch: pytest.MonkeyPatch) -> None:
    _always_trusts(patch, Origin, "_give_up")


@plant
def calls_expired_by_a_clock_that_jumped(patch: pytest.MonkeyPatch) -> None:
    _always_trusts(patch, Recipient, "_unless")


def _always_trusts(patch: pytest.MonkeyPatch, role: type, method: str) -> None:
    former = getattr(role, method)

    def trusting(self: Any, *arguments: Any, **named: Any) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Clock, "trusted", lambda *_: True)
            return former(self, *arguments, **named)

    patch.setattr(role, method, trusting)


@plant
def takes_what_has_expired(patch: pytest.MonkeyPatch) -> None:
    unless = Recipient._unless

    def lax(self: Recipient, now: Instant, envelope: Any) -> str:
        return unless(self, now, replace(envelope, expires_at=now.wall + 1))

    patch.setattr(Recipient, "_unless", lax)


@plant
def gives_up_when_it_expires(patch: pytest.MonkeyPatch) -> None:
    give_up = Origin._give_up

    def hasty(self: Origin, now: Instant) -> list[Effect]:
        return give_up(self, now._replace(wall=now.wall + 2 * self._desk.limits.max_skew))

    patch.setattr(Origin, "_give_up", hasty)


@plant
def never_gives_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Origin, "_expects", lambda *_: None)


@plant
def never_forgets(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Retention, "begin", lambda *_: None)


@plant
def does_not_tell_of_a_removal(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Disk, "orphaned", lambda *_: [])


# ---------------------------------------------------------------- restarts, stores, files


@plant
def counts_what_waits_twice(patch: pytest.MonkeyPatch) -> None:
    begin = Recipient.begin

    def adding(self: Recipient, unread: Any) -> None:
        before = self._unread.copy()
        begin(self, unread)
        self._unread.update(before)
        self._unread.update(unread)

    patch.setattr(Recipient, "begin", adding)


@plant
def adopts_nothing_after_a_restore(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Host, "_adopt", lambda _: None)


@plant
def writes_a_file_anew_that_its_agent_has_archived(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(NodeProcess, "_has_written", lambda *_: False)


@plant
def marks_files_before_they_are_synced(patch: pytest.MonkeyPatch) -> None:
    mark = NodeProcess._mark_files

    def sync_late(self: NodeProcess, due: list[Any]) -> None:
        mark(self, due)
        self.later(2.0, self.host.files.sync)

    patch.setattr(NodeProcess, "_sync_files", sync_late)


# ---------------------------------------------------------------- the hunt


def test_the_rare_ones_are_planted() -> None:
    assert {plant.__name__ for plant in PLANTS} > RARE


@pytest.mark.parametrize(
    "plant",
    [
        pytest.param(plant, id=plant.__name__, marks=[pytest.mark.long] if plant.__name__ in RARE else [])
        for plant in PLANTS
    ],
)
def test_a_node_that_misbehaves_is_found_out(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    lived, wrong = 0, ""
    for found in search(range(1, SCHEDULES + 1), chunk=4, stop=lambda: bool(wrong)):  # noqa: B023 - asked while it loops
        lived += len(found)
        wrong = wrong or next((what for _, what in found if what), "")
    assert wrong.startswith("ViolationError"), f"{wrong or 'nothing was found'} in {lived} schedules"
