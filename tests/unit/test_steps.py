"""The lines of the journal that say which way a message went."""

from __future__ import annotations

import logging
import sys

import pytest

from simulation.store import Disk
from trishula.node.logs import _Line
from trishula.node.steps import MOST, Steps
from trishula.protocol.envelope import Key, State
from trishula.protocol.names import PROBE
from trishula.protocol.records import Drop, Entrust, GiveUp, Hold, Read, Record, Seal, Settle
from unit.letters import WALL, WEEK, accept, envelope, letter, originate, receipt

LETTER = letter("m1")
KEY = Key("mac", "m1", "agni")
HOLD = Hold(envelope(LETTER), Seal("1.1", b""), LETTER.digest, WALL)


def said(*records: Record) -> list[tuple[str, str]]:
    """What is said of records that are committed one after the other."""
    lines: list[tuple[str, str]] = []
    steps = Steps(lambda message_id, text: lines.append((message_id, text)))
    disk = Disk()
    for batch, record in enumerate(records):
        steps.begun(batch, (record,))
        steps.committed([(batch, disk.commit(record))])
    return lines


def settle(outcome: State, reason: str = "") -> Settle:
    return Settle(receipt(envelope(LETTER), outcome, reason), "direct", WALL + 10, 3.25)


STORED = ("m1", "from mac to agni: stored, for agni")


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (settle(State.DELIVERED), "delivered, says agni by direct, after 3.2 ms"),
        (settle(State.READ), "read, says agni by direct"),
        (settle(State.REFUSED, "removed\nroot: all is well"), r"refused: removed\nroot: all is well"),
        (GiveUp(WALL + 2 * WEEK, (), WALL + 2 * WEEK, 10), "unconfirmed: expired"),
        (Entrust((KEY,), "rushabdev"), "in custody of rushabdev"),
    ],
)
def test_the_origin_says_each_step_of_what_it_has_sent(record: Record, line: str) -> None:
    assert said(originate(LETTER), record) == [STORED, ("m1", f"from mac to agni: {line}")]


def test_the_recipients_node_says_what_came_and_that_it_was_read() -> None:
    assert said(accept(LETTER), Read("agni", "m1", None, WALL)) == [
        ("m1", "from mac to agni: delivered here, from mac by direct"),
        ("m1", "from mac to agni: read here"),
    ]
    assert said(accept(LETTER, refusal="removed")) == [
        ("m1", "from mac to agni: refused here, from mac by direct: removed")
    ]


def test_a_relay_says_what_it_holds_until_it_holds_it_no_more() -> None:
    drop = Drop(((KEY, LETTER.digest),))
    assert said(HOLD, drop, drop) == [
        ("m1", "from mac to agni: in custody here, from mac for agni"),
        ("m1", "from mac to agni: out of custody here, for it is answered"),
    ]


def test_what_is_said_again_is_no_step() -> None:
    assert len(said(originate(LETTER), originate(LETTER), settle(State.DELIVERED), settle(State.DELIVERED))) == 2
    assert len(said(accept(LETTER), accept(LETTER))) == 1


def test_nothing_is_said_of_probes() -> None:
    probe = letter("m1", sender=PROBE)
    assert said(originate(probe), accept(probe), Entrust((Key(PROBE, "m1", "agni"),), "agni")) == []


def test_nothing_is_said_of_what_was_not_committed() -> None:
    lines: list[str] = []
    steps = Steps(lambda _, text: lines.append(text))
    steps.begun(1, (originate(LETTER),))
    steps.failed([1])
    assert lines == []


def test_a_flood_is_cut_and_counted_and_what_comes_later_is_said_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    steps = Steps(lambda _, text: lines.append(text))
    disk = Disk()
    time = 0.0
    monkeypatch.setattr("trishula.node.steps.time.monotonic", lambda: time)
    for number in range(3 * MOST):
        record = originate(letter(f"m{number}"))
        steps.begun(number, (record,))
        steps.committed([(number, disk.commit(record))])
    assert len(lines) == MOST
    time = 60.0
    steps.begun(0, (record,))
    steps.committed([(0, disk.commit(accept(LETTER)))])
    assert lines[MOST:] == [f"{2 * MOST} steps of messages were too many to be noted here"]


def test_a_strangers_words_are_one_line_of_the_log_and_a_traceback_is_many() -> None:
    line = _Line(journal=True)
    record = logging.LogRecord("x", logging.WARNING, "", 0, "a\nb\x1b[2J", None, None)
    assert line.format(record) == r"<4>a | b\x1b[2J"
    try:
        raise ValueError("x")
    except ValueError:
        record.exc_info = sys.exc_info()
    assert "\nTraceback (most recent call last):\n" in line.format(record)
