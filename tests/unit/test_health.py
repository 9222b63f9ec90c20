"""What the journal says of a node's health: once when something is not as it should be, and once when it is again."""

from __future__ import annotations

import logging

import pytest

from trishula.node.checks import FAILED, OK, SKIPPED, WARNING, Finding
from trishula.node.health import Journal


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    lines = [(record.levelno, record.getMessage()) for record in caplog.records]
    caplog.clear()
    return lines


def journal(excused: bool = False) -> Journal:  # noqa: FBT001, FBT002
    logging.getLogger("trishula.node.health").setLevel(logging.INFO)
    return Journal(lambda _peer, _moment: excused)


def disk(state: str) -> Finding:
    return Finding("disk", state, f"/s is {state}", "make room" if state != OK else "", "/s")


def link(state: str) -> Finding:
    return Finding("link", state, "agni is not linked: connection refused", "start it", "agni")


def test_what_lasts_is_said_once_with_the_fix_and_once_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = journal()
    for second in range(100):
        log.note([disk(FAILED)], second)
    assert said(caplog) == [(logging.ERROR, "/s is failed. Fix: make room")]
    for second in range(100, 200):
        log.note([disk(OK)], second)
    assert said(caplog) == [(logging.INFO, "again: /s is ok")]


def test_a_warning_that_becomes_a_failure_is_said_anew(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = journal()
    for second, state in enumerate((WARNING, WARNING, FAILED, FAILED)):
        log.note([disk(state)], second)
    assert [level for level, _ in said(caplog)] == [logging.WARNING, logging.ERROR]


def test_what_comes_and_goes_is_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    log = journal()
    for second in range(120):
        log.note([disk(FAILED if second % 2 else OK)], second)
    assert len(said(caplog)) == 2


def test_a_peer_that_is_back_within_ten_seconds_alarms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = journal()
    for second in range(10):
        log.note([link(FAILED)], second)
    log.note([link(OK)], 10)
    assert said(caplog) == []
    for second in range(20, 40):
        log.note([link(FAILED)], second)
    log.note([link(OK)], 40)  # the link itself says that it is up
    assert said(caplog) == [(logging.WARNING, "agni is not linked: connection refused. Fix: start it")]


def test_a_peer_that_said_goodbye_or_is_new_has_longer(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = journal(excused=True)
    for second in range(100):
        log.note([link(FAILED)], second)
    assert said(caplog) == []


def test_a_laptop_that_sleeps_and_what_has_no_answer_yet_are_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    log = journal()
    for second in range(30):
        log.note([link(WARNING), Finding("rsync", SKIPPED, "not yet", "", "agni")], second)
    assert said(caplog) == []
