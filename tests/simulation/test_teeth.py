"""The simulation bites: bugs that are planted one at a time, each found within a few schedules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from simulation.mesh import live
from trishula.protocol import frames, ledger
from trishula.protocol.delivery import Delivery
from trishula.protocol.effects import Arrived, Commit, Effect, Stored, Transmit
from trishula.protocol.engine import Engine
from trishula.protocol.records import Accept, Answer, Rows, Settled
from trishula.protocol.trust import Trust

SCHEDULES = 300

Plant = Callable[[pytest.MonkeyPatch], None]


def acknowledges_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    deliver = Engine._deliver

    def hasty(self: Engine, now: Any, link: int, peer: Any, frame: frames.Deliver) -> list[Effect]:
        return [Transmit(link, frames.Ack(seq=frame.seq)), *deliver(self, now, link, peer, frame)]

    patch.setattr(Engine, "_deliver", hasty)


def says_stored_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    submit = Engine.submit

    def hasty(self: Engine, now: Any, ref: object, message: Any, ttl: int | None = None) -> list[Effect]:
        effects = submit(self, now, ref, message, ttl)
        if isinstance(effects[0], Commit):
            effects.insert(0, Stored(ref, message.id, message.digest, (), fresh=True))
        return effects

    patch.setattr(Engine, "submit", hasty)


def keeps_a_ledger_without_digests(patch: pytest.MonkeyPatch) -> None:
    accept = ledger._accept

    def blind(rows: Rows, record: Accept) -> Answer:
        entries = rows.entries(record.envelope.key)
        return Answer(entries[0], fresh=False) if entries else accept(rows, record)

    patch.setattr(ledger, "_accept", blind)


def keeps_no_ledger(patch: pytest.MonkeyPatch) -> None:
    answer = Engine._answer

    def forgetful(self: Engine, now: Any, delivered: Any, results: list[Answer]) -> list[Effect]:
        effects = answer(self, now, delivered, results)
        return [Arrived(result.entry) for result in results if not result.fresh] + effects

    patch.setattr(Engine, "_answer", forgetful)


def does_not_answer_duplicates(patch: pytest.MonkeyPatch) -> None:
    answer = Engine._answer

    def mute(self: Engine, now: Any, delivered: Any, results: list[Answer]) -> list[Effect]:
        return answer(self, now, delivered, [result for result in results if result.fresh])

    patch.setattr(Engine, "_answer", mute)


def forgets_what_was_under_way_on_a_lost_link(patch: pytest.MonkeyPatch) -> None:
    lost = Delivery.link_lost

    def careless(self: Delivery, link: int) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Delivery, "_requeue", lambda *_: None)
            lost(self, link)

    patch.setattr(Delivery, "link_lost", careless)


def forgets_an_answer_that_was_not_committed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Delivery, "unsettled", lambda *_: None)


def never_offers_again_what_was_deferred(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Delivery, "deferred", lambda self, key, *_: self._in_flight.pop(key, None))


def misses_what_is_stored_while_it_reads(patch: pytest.MonkeyPatch) -> None:
    push = Delivery.push

    def deaf(self: Delivery, pending: Any) -> None:
        if not self._lanes[pending.envelope.urgent].loading:
            push(self, pending)

    patch.setattr(Delivery, "push", deaf)


def believes_every_receipt(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Trust, "doubt", lambda *_: "")


def believes_every_envelope(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Trust, "authentic", lambda *_: True)


def takes_a_receipt_for_any_bytes(patch: pytest.MonkeyPatch) -> None:
    settled = Engine._settled

    def gullible(self: Engine, now: Any, settling: Any, results: list[Settled]) -> list[Effect]:
        for pending in filter(None, settling.pending):
            self._deliveries[pending.envelope.dest].release(pending)
        return settled(self, now, replace(settling, pending=(None,) * len(results)), results)

    patch.setattr(Engine, "_settled", gullible)


def offers_without_a_window(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Delivery, "_room", lambda _: True)


def mixes_up_the_order(patch: pytest.MonkeyPatch) -> None:
    requeue = Delivery._requeue

    def backwards(self: Delivery, again: list[Any]) -> None:
        requeue(self, again)
        for lane in self._lanes.values():
            lane.queue.reverse()

    patch.setattr(Delivery, "_requeue", backwards)


PLANTS: list[Plant] = [
    acknowledges_before_the_commit,
    says_stored_before_the_commit,
    keeps_a_ledger_without_digests,
    keeps_no_ledger,
    does_not_answer_duplicates,
    forgets_what_was_under_way_on_a_lost_link,
    forgets_an_answer_that_was_not_committed,
    never_offers_again_what_was_deferred,
    misses_what_is_stored_while_it_reads,
    believes_every_receipt,
    believes_every_envelope,
    takes_a_receipt_for_any_bytes,
    offers_without_a_window,
    mixes_up_the_order,
]


def hunt() -> None:
    for seed in range(1, SCHEDULES // 2 + 1):
        live(seed, 2)
        live(seed, 3)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_node_that_misbehaves_is_found_out(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        hunt()
