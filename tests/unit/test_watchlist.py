"""Which outcomes a session tells its agent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trishula.node import watchlist
from trishula.node.watchlist import Watchlist
from trishula.protocol.envelope import Key, State
from trishula.protocol.records import Progress


def row(to: str = "agni", message_id: str = "m1", state: State = State.STORED) -> Progress:
    return Progress(1, Key("mac", message_id, to), to, "0" * 64, 2**40, 1, state)


def told(watched: Watchlist, *states: State) -> list[State]:
    return [state for state in states if watched.wants(replace(row(), state=state))]


def test_delivered_is_the_last_word_and_unconfirmed_is_not() -> None:
    watched = Watchlist()
    watched.watch("m1", [row()])
    assert told(watched, State.UNCONFIRMED, State.DELIVERED, State.READ) == [State.UNCONFIRMED, State.DELIVERED]


def test_who_waits_for_read_hears_of_it_too() -> None:
    watched = Watchlist()
    watched.watch("m1", [row()], read=True)
    assert told(watched, State.DELIVERED, State.READ, State.READ) == [State.DELIVERED, State.READ]


def test_a_refusal_is_the_last_word_for_everybody() -> None:
    watched = Watchlist()
    watched.watch("m1", [row()], read=True)
    assert told(watched, State.REFUSED, State.READ) == [State.REFUSED]


def test_asking_again_does_not_end_the_waiting_for_read() -> None:
    watched = Watchlist()
    watched.watch("m1", [row()], read=True)
    watched.watch("m1", [row()])
    assert told(watched, State.DELIVERED, State.READ) == [State.DELIVERED, State.READ]


def test_each_recipient_has_its_own_last_word() -> None:
    watched = Watchlist()
    watched.watch("m1", [row("agni"), row("rushabdev"), row("mac", state=State.DELIVERED)])
    assert not watched.wants(row("mac", state=State.READ))
    assert watched.wants(row("agni", state=State.DELIVERED))
    assert not watched.wants(row("agni", state=State.READ))
    assert watched.wants(row("rushabdev", state=State.DELIVERED))
    assert not watched.wants(row("rushabdev", "m2", state=State.DELIVERED))


def test_the_oldest_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchlist, "MOST", 2)
    watched = Watchlist()
    for message_id in ("m1", "m2", "m3"):
        watched.watch(message_id, [row(message_id=message_id)])
    heard = [m for m in ("m1", "m2", "m3") if watched.wants(row(message_id=m, state=State.DELIVERED))]
    assert heard == ["m2", "m3"]
