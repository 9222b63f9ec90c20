"""What `watch` and `trace` make of messages, for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

import trishula
from trishula.cli.status import print_status
from trishula.cli.trace import told
from trishula.cli.watch import block


def message(**fields: Any) -> trishula.Message:
    made = trishula.Message({"id": "m1", "from": "agni", "subject": "S", "body": "", **fields})
    made.meta = trishula.Meta("agni", "direct", "websocket", datetime(2026, 2, 10, tzinfo=UTC), "0" * 64)
    return made


@pytest.mark.parametrize(
    ("fields", "head"),
    [
        ({}, "agni: S  (m1)"),
        ({"subject": "", "type": "message", "priority": "normal"}, "agni: -  (m1)"),
        ({"type": "task", "priority": "urgent"}, "agni: S  [task]  [urgent]  (m1)"),
        ({"subject": "two\nlines"}, r"agni: two\nlines  (m1)"),
    ],
)
def test_a_message_begins_with_one_line_that_says_what_it_is(fields: dict[str, Any], head: str) -> None:
    assert block(message(**fields)).split("\n")[0].endswith(f"  {head}")


def test_its_body_is_below_indented_and_an_object_is_json() -> None:
    assert block(message(body="a\r\nb\n")).split("\n")[1:] == ["    a", "    b", ""]
    assert block(message(body={"green": True})).split("\n")[1:] == ["    {", '      "green": true', "    }", ""]
    assert block(message(body="  \n")).split("\n")[1:] == [""]


def test_a_long_body_is_cut_and_says_where_the_rest_is() -> None:
    lines = block(message(body="\n".join(map(str, range(100))))).split("\n")
    assert lines[40:] == ["    39", "    ... and 60 more lines: trishula show m1", ""]


# ---------------------------------------------------------------- trace

STORED = {
    "from": "mac",
    "to": "agni",
    "dest": "agni",
    "subject": "",
    "state": "stored",
    "stored_at": 0,
    "delivered_at": None,
    "expires_at": 1000,
    "custodian": None,
    "place": "queued",
    "route_now": "direct",
    "attempts": 0,
    "waits_for": "",
    "next_try_s": None,
}


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({}, ["  queued     behind what was sent before it", "  route      direct"]),
        ({"route_now": None}, ["  waits      there is no way to agni"]),
        ({"place": "out"}, ["  offered    the answer is awaited", "  route      direct"]),
        ({"custodian": "rushabdev"}, ["  waits      in custody of rushabdev, which hands it on to agni"]),
        (
            {"place": "waiting", "waits_for": "agni deferred it: full", "next_try_s": 3.2, "attempts": 2},
            ["  waits      agni deferred it: full", "  next try   in 3.2 s, after 2 so far, by direct"],
        ),
    ],
)
def test_a_trace_says_what_a_message_waits_for(known: dict[str, Any], said: list[str]) -> None:
    lines = list(told({"id": "m1", "node": "mac", "sent": [{**STORED, **known}], "received": [], "held": []}))
    assert lines[0] == "m1, as mac knows it"
    assert lines[1] == "from mac to agni on agni: stored"
    assert lines[3:-1] == said


def test_the_page_of_a_status_has_empty_lines_and_no_signs_for_them(capsys: pytest.CaptureFixture[str]) -> None:
    link = {"linked": False, "since": None, "rtt_ms": None, "offset_ms": None, "storing": None, "route": "rsync"}
    mail = {"backlog": 1, "custody": {}, "held": {"count": 0, "bytes": 0}, "agents": {}}
    agent = {"attached": False, "unread": 0, "oldest": None, "outbox": {"waiting": 2, "problem": "the store is full"}}
    found = {
        "node": "mac",
        "ready": True,
        "version": "2",
        "uptime_s": 1,
        "store": {"used": 1, "limit": 2, "held": {"bytes": 0, "limit": 1}},
        "backlog": 0,
        "clock": {"trusted": True},
        "certificate": {"days_left": 1, "ends_soon": True, "refused": "it is out of date"},
        "peers": {"agni": {**link, **mail, "rsync": {"problem": "rsync ended with 12: Permission denied"}}},
        "agents": {"mac": agent},
    }
    print_status(found, now=0)
    page = capsys.readouterr().out
    assert "\n\n2 in the outbox of mac wait: the store is full\n" in page
    assert "\n\nrsync with agni failed last: rsync ended with 12: Permission denied\n" in page
    assert "\\n" not in page
