"""What status.yml and trace.yml show, of answers as hosts give them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.contract.conftest import filters

reports = filters("trishula_reports")

NOW = 1_770_000_000.0


def finding(check: str, state: str, text: str, fix: str = "", about: str = "") -> dict[str, str]:
    return {"check": check, "state": state, "text": text, "fix": fix, "about": about}


def node(**other: Any) -> dict[str, Any]:
    peer = {
        "linked": True,
        "dials": True,
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
        "findings": [finding("store", "ok", "the store can be written"), finding("rsync", "skipped", "not yet")],
        "store": {"used": 3 * 1024 * 1024},
        "disks": {"store": {"device": 1, "free": 5 * 2**30}, "mailboxes": {"device": 2, "free": 7 * 2**20}},
        "clock": {"trusted": True, "state": "trusted"},
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
        ["HOST", "NODE", "VERSION", "UP", "CERTIFICATE", "STORE", "FREE", "CLOCK", "UNREAD"],
        [
            *[
                "mac",
                "ready",
                "2.0.0",
                "2",
                "h",
                "199",
                "d",
                "left",
                "3.0",
                "MiB",
                "5.0",
                "GiB,",
                "7.0",
                "MiB",
                "trusted",
                "4",
            ]
        ],
        ["FROM", "TO", "LINK", "FOR", "ROUND", "TRIP", "ROUTE", "BACKLOG", "HELD", "FOR", "IT"],
        ["mac", "agni", "linked", "5", "min", "1.2", "ms", "direct", "3", "(2", "with", "rushabdev)", "1"],
        ["AGENT", "NODE", "ATTACHED", "UNREAD", "OLDEST"],
        ["mac", "mac", "no", "4", "10", "min"],
    ]


def test_status_says_which_agents_have_files_that_were_not_sent() -> None:
    agent = node()["agents"]["mac"]
    some = agent | {"bounced": {"count": 9, "oldest": (NOW - 7200) * 1000, "reason": "there is no agent 'x'"}}
    none = agent | {"bounced": {"count": 0, "oldest": None, "reason": ""}}
    table = reports.status({"mac": answer(node(agents={"dhyana": none, "mac": some}))}, NOW).splitlines()
    assert [line for line in table if "bounced" in line] == [
        "mac has 9 files in bounced/, the oldest for 2 h: there is no agent 'x': 'trishula bounced --agent mac' on mac"
    ]
    assert reports.status_problems({"mac": answer(node(agents={"mac": some}))}) == []


def test_a_host_that_is_not_there_is_named_and_the_others_are_shown() -> None:
    gone = node()["peers"]["agni"] | {"linked": False}
    missed = [finding("link", "failed", "agni is not linked: no answer in time", "wait", "agni")]
    mac = node(peers={"agni": gone}, findings=missed)
    answers = {"agni": answer(why_not="no route to host"), "mac": answer(mac)}
    table = reports.status(answers, NOW)
    assert "agni  UNREACHABLE" in table
    assert "mac   ready" in table
    assert reports.status_problems(answers) == ["agni cannot be reached: no route to host"]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (answer(node()), None),
        (answer(complained="no node\n"), "the node on agni does not answer: no node"),
        (
            answer(node(ready=False, findings=[finding("disk", "failed", "no room", "make some", "/")])),
            "agni: no room. Fix: make some",
        ),
        (answer(node(findings=[finding("clock", "warning", "it jumped")])), "agni: it jumped"),
        (answer(node(clock={"trusted": False, "state": "not compared"})), None),
        (answer(node(), days=1), None),  # the node says so itself
    ],
)
def test_what_a_node_found_wrong_is_a_problem_and_nothing_else(given: dict[str, Any], problem: str | None) -> None:
    assert reports.status_problems({"agni": given}) == ([] if problem is None else [problem])


def test_a_node_of_a_release_before_the_findings_is_at_least_ready_or_not() -> None:
    old = node(ready=False, problem="the disk")
    del old["findings"], old["disks"]
    old["clock"] = {"trusted": True}
    assert reports.status_problems({"agni": answer(old)}) == ["the node on agni is not ready: the disk"]
    assert "NOT READY" in reports.status({"agni": answer(old)}, NOW)


def test_a_clock_that_nobody_compared_is_shown_as_that() -> None:
    shown = reports.status({"agni": answer(node(clock={"trusted": False, "state": "not compared"}))}, NOW)
    assert "not compared" in shown
    assert "NOT TRUSTED" not in shown


def test_a_link_that_is_down_is_one_line_of_both_hosts_and_whoever_dials_has_the_first_word() -> None:
    def down(other: str, why: str, *, dials: bool) -> dict[str, Any]:
        peer = node()["peers"]["agni"] | {"linked": False, "dials": dials}
        found = [finding("link", "failed", f"{other} is not linked: {why}", "mend it", other)]
        return answer(node(peers={other: peer}, findings=found))

    answers = {
        "agni": down("mac", "waits for it to dial", dials=False),
        "mac": down("agni", "it does not accept our token (401)", dials=True),
    }
    assert reports.status_problems(answers) == [
        "agni and mac are not linked: mac: it does not accept our token (401); agni: waits for it to dial"
    ]


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
    assert ["mac", "REVOKED", *"-------"] in [line.split() for line in shown.splitlines()]
    assert "mac is revoked: nobody talks to it. Take it out of the inventory and run site.yml" in shown
    assert reports.status_problems(answers) == []


# ── What verify.yml sent ────────────────────────────────────────────────────────────────────────────────────────────


def pinged(*said: dict[str, Any], to: str = "agni rushabdev", stderr: str = "", by: str = "") -> dict[str, Any]:
    command = ["trishula", "ping", *to.split(), *by.split(), "--json"]
    return {"cmd": command, "stdout": "\n".join(map(json.dumps, said)), "stderr": stderr}


def came_back(to: str, *, delivered: bool = True, route: str | None = "direct") -> dict[str, Any]:
    latency = 1.5 if delivered else None
    reason = None if delivered else f"no answer from {to}"
    return {"from": "mac", "to": to, "route": route, "delivered": delivered, "latency_ms": latency, "reason": reason}


def test_every_probe_that_was_sent_is_found_with_its_own_end() -> None:
    by_link = pinged(came_back("agni"), came_back("rushabdev", delivered=False, route=None), stderr="no answer")
    by_rsync = pinged(came_back("agni", route="rsync"), to="agni", by="--route rsync")
    found = reports.probes({"mac": [by_link, by_rsync]})
    assert [(probe["to"], probe["route"], probe["delivered"]) for probe in found] == [
        ("agni", "direct", True),
        ("rushabdev", None, False),
        ("agni", "rsync", True),
    ]
    assert found[1]["reason"] == "no answer from rushabdev"
    assert len(reports.probes_table(found).splitlines()) == 4


def test_a_probe_is_missed_only_from_a_node_that_the_run_is_about() -> None:
    found = reports.probes({"mac": [pinged(came_back("agni"), came_back("rushabdev", delivered=False))]})
    assert reports.probes_missing(found, ["mac", "agni"]) == []
    assert [probe["to"] for probe in reports.probes_missing(found, ["mac", "rushabdev"])] == ["rushabdev"]


def test_of_a_node_that_says_nothing_every_probe_is_missing() -> None:
    silent = pinged(stderr="no node answers at /run/trishula/node.sock", by="--route rsync")
    found = reports.probes({"mac": [silent, {"skipped": True}]})
    assert [(probe["to"], probe["route"], probe["delivered"]) for probe in found] == [
        ("agni", "rsync", False),
        ("rushabdev", "rsync", False),
    ]
    assert {probe["reason"] for probe in found} == {"no node answers at /run/trishula/node.sock"}
