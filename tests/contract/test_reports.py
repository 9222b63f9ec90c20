"""What status.yml and trace.yml show, of answers as hosts give them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.contract.conftest import filters

reports = filters("trishula_reports")

NOW = 1_770_000_000.0


def node(**other: Any) -> dict[str, Any]:
    peer = {
        "linked": True,
        "since": (NOW - 300) * 1000,
        "rtt_ms": 1.25,
        "route": "direct",
        "backlog": 3,
        "custody": {"rushabdev": 2},
        "held": {"count": 1},
    }
    return {
        "ready": True,
        "problem": "",
        "version": "2.0.0",
        "uptime_s": 7200.0,
        "store": {"used": 3 * 1024 * 1024},
        "clock": {"trusted": True},
        "peers": {"agni": peer},
        "agents": {"mac": {"unread": 4, "oldest": (NOW - 600) * 1000, "attached": 0}},
    } | other


def answer(
    said: dict[str, Any] | str = "", *, complained: str = "", why_not: str = "", days: int = 200
) -> dict[str, Any]:
    ends = f"notAfter={'2026-02-02' if days < 14 else '2026-08-20'} 02:40:00Z"
    text = said if isinstance(said, str) else json.dumps(said)
    return {"why_not": why_not, "said": text, "complained": complained, "certificate": ends, "journal": []}


def test_status_shows_hosts_links_backlog_unread_versions_and_certificates() -> None:
    table = reports.status({"mac": answer(node())}, NOW).splitlines()
    assert [line.split() for line in table if line] == [
        ["HOST", "NODE", "VERSION", "UP", "CERTIFICATE", "STORE", "CLOCK", "UNREAD"],
        ["mac", "ready", "2.0.0", "2", "h", "199", "d", "left", "3.0", "MiB", "trusted", "4"],
        ["FROM", "TO", "LINK", "FOR", "ROUND", "TRIP", "ROUTE", "BACKLOG", "HELD", "FOR", "IT"],
        ["mac", "agni", "linked", "5", "min", "1.2", "ms", "direct", "3", "(2", "with", "rushabdev)", "1"],
        ["AGENT", "NODE", "ATTACHED", "UNREAD", "OLDEST"],
        ["mac", "mac", "no", "4", "10", "min"],
    ]


def test_a_host_that_is_not_there_is_named_and_the_others_are_shown() -> None:
    gone = node()["peers"]["agni"] | {"linked": False}
    answers = {"agni": answer(why_not="no route to host"), "mac": answer(node(peers={"agni": gone}))}
    table = reports.status(answers, NOW)
    assert "agni  UNREACHABLE" in table
    assert "mac   ready" in table
    assert reports.status_problems(answers, NOW) == ["agni cannot be reached: no route to host"]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (answer(node()), None),
        (answer(complained="no node\n"), "the node on agni does not answer: no node"),
        (answer(node(ready=False, problem="the disk")), "the node on agni is not ready: the disk"),
        (answer(node(clock={"trusted": False})), "the clock of agni is not trusted: 'timedatectl' there"),
        (answer(node(), days=1), "the certificate of agni ends in 0 days: run site.yml"),
    ],
)
def test_what_is_not_as_it_should_be_is_a_problem(given: dict[str, Any], problem: str | None) -> None:
    assert reports.status_problems({"agni": given}, NOW) == ([] if problem is None else [problem])


def test_a_link_that_is_down_is_one_problem_of_two_hosts() -> None:
    def down(other: str) -> dict[str, Any]:
        said = node()
        return answer(said | {"peers": {other: said["peers"]["agni"] | {"linked": False}}})

    found = reports.status_problems({"mac": down("agni"), "agni": down("mac")}, NOW)
    assert found == ["agni and mac are not linked: 'journalctl -u trishula-node -p info' on both"]


def test_a_trace_is_the_steps_of_all_hosts_in_the_order_of_time() -> None:
    def step(seconds: float, text: str) -> str:
        return json.dumps({"__REALTIME_TIMESTAMP": str(int((NOW + seconds) * 1e6)), "MESSAGE": f"m1 {text}"})

    answers = {
        "agni": answer("m1, as agni knows it\n") | {"journal": [step(0.01, "delivered here")]},
        "mac": answer(complained="nothing is known") | {"journal": [step(0.02, "delivered"), step(0, "stored")]},
        "rushabdev": answer(why_not="no answer"),
    }
    assert reports.trace(answers, "m1").splitlines() == [
        "2026-02-02 02:40:00.000Z  mac        stored",
        "2026-02-02 02:40:00.010Z  agni       delivered here",
        "2026-02-02 02:40:00.020Z  mac        delivered",
        "",
        "agni:",
        "  m1, as agni knows it",
        "",
        "mac:",
        "  nothing is known",
        "",
        "rushabdev:",
        "  cannot be reached: no answer",
    ]


def test_a_trace_without_a_step_says_why_there_may_be_none() -> None:
    assert reports.trace({"mac": answer(complained="nothing")}, "m1").startswith("No journal has a step of it")


def test_a_revoked_node_is_said_to_be_one_and_nothing_is_wrong_with_the_others() -> None:
    silent = answer(complained="it does not run")
    answers = {"agni": answer(node(peers={})), "mac": silent | {"revoked": True}}
    shown = reports.status(answers, NOW)
    assert ["mac", "REVOKED", *"------"] in [line.split() for line in shown.splitlines()]
    assert "mac is revoked: nobody talks to it. Take it out of the inventory and run site.yml" in shown
    assert reports.status_problems(answers, NOW) == []
