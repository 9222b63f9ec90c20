"""The checks of `doctor`, preflight and `/readyz`, each on something that is as it should be, and on what is not."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trishula.node import checks
from trishula.node.checks import FAILED, OK, SKIPPED, WARNING


def status(**changes: Any) -> dict[str, Any]:
    peer = {"linked": True, "offset_ms": 3.0}
    found = {
        "node": "mac",
        "version": "2.0.0",
        "ready": True,
        "problem": "",
        "clock": {"trusted": True},
        "store": {"used": 10, "limit": 100},
        "peers": {"agni": peer, "rushabdev": {**peer, "linked": False, "offset_ms": None}},
    }
    return found | changes


def states(found: dict[str, Any], **always_on: bool) -> list[tuple[str, str]]:
    known = {"agni": True, "rushabdev": False} | always_on
    return [(finding.check, finding.state) for finding in checks.running(found, 30_000, known)]


def test_a_disk_with_room_is_fine_and_one_without_says_how_much_it_needs(tmp_path: Path) -> None:
    there = tmp_path / "not" / "yet"
    assert checks.disk(there, 1).state == OK
    found = checks.disk(there, 2**60)
    assert found.state == FAILED
    assert found.text.startswith(f"{tmp_path} has ")
    assert found.text.endswith(f" and needs {2**40}")


def test_a_name_that_is_not_known_is_said_with_what_to_do() -> None:
    assert checks.name("localhost").state == OK
    found = checks.name("no-such-host.invalid")
    assert (found.check, found.state) == ("dns", FAILED)
    assert "trishula_address" in found.fix


@pytest.mark.parametrize(
    ("mode", "alone", "with_group"), [(0o600, OK, OK), (0o640, FAILED, OK), (0o644, FAILED, FAILED)]
)
def test_a_secret_that_others_can_read_is_found(tmp_path: Path, mode: int, alone: str, with_group: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text("[]")
    path.chmod(mode)
    assert checks.secret(path).state == alone
    assert checks.secret(path, group=True).state == with_group
    assert checks.secret(tmp_path / "gone").state == FAILED


@pytest.mark.parametrize(
    ("mode", "state"), [(0o2770, OK), (0o2775, FAILED), (0o770, FAILED), (0o2750, FAILED), (0o2700, FAILED)]
)
def test_a_box_that_the_agent_cannot_use_or_others_can_is_found(tmp_path: Path, mode: int, state: str) -> None:
    box = tmp_path / "inbox"
    box.mkdir()
    box.chmod(mode)
    assert [found.state for found in checks.mailbox(tmp_path, ["inbox"], os.getgid())] == [state]


def test_without_a_group_of_its_own_a_box_is_the_nodes_alone(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir(mode=0o700)
    assert [found.state for found in checks.mailbox(tmp_path, ["inbox"], None)] == [OK]
    assert [found.state for found in checks.mailbox(tmp_path, ["gone"], None)] == [FAILED]


def test_a_store_is_whole_damaged_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "trishula.db"
    assert checks.store(path).state == WARNING
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t (x)")
        db.executemany("INSERT INTO t VALUES (?)", [("x" * 500,) for _ in range(100)])
    db.close()
    assert checks.store(path).state == OK
    content = bytearray(path.read_bytes())
    content[4096:8192] = bytes(4096)
    path.write_bytes(content)
    found = checks.store(path)
    assert found.state == FAILED
    assert "is damaged" in found.text


@pytest.mark.parametrize(
    ("said", "code", "state"),
    [
        ("Status: active\n8765/tcp ALLOW Anywhere\n", 0, OK),
        ("Status: active\n22/tcp ALLOW Anywhere\n18765/tcp ALLOW Anywhere\n", 0, FAILED),
        ("Status: active\n8765/tcp DENY Anywhere\n", 0, FAILED),
        ("Status: inactive\n", 0, WARNING),
        ("", 1, SKIPPED),
    ],
)
def test_the_firewall_lets_peers_in_or_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, code: int, state: str
) -> None:
    tool = tmp_path / "ufw"
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{said}END\nexit {code}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert checks.firewall(8765).state == state


def knock(port: int, ssh_port: int, *, is_open: bool = True, by_ssh: bool = True) -> tuple[str, str]:
    [found] = checks.way("agni", "127.0.0.1", port, ssh_port, is_open=is_open, by_ssh=by_ssh)
    return found.state, found.text


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Ports whose calls a firewall drops."""
    ports: set[int] = set()
    connect = socket.create_connection

    def dropping(address: tuple[str, int], within: float) -> socket.socket:
        if address[1] in ports:
            raise TimeoutError
        return connect(address, within)

    monkeypatch.setattr(socket, "create_connection", dropping)
    return ports


def test_a_host_that_refuses_is_there_and_one_that_says_nothing_is_not(silent: set[int]) -> None:
    assert knock(1, 2) == (OK, "agni answers at 127.0.0.1")
    silent |= {1, 2}
    state, text = knock(1, 2)
    assert state == FAILED
    assert "agni gives no answer at 127.0.0.1 (port 2: no answer within 3 s, port 1: no answer within 3 s)" in text


def test_a_port_that_the_hosts_own_firewall_keeps_closed_yet_is_none_that_somebody_elses_does(silent: set[int]) -> None:
    silent.add(1)
    assert knock(1, 2, is_open=False)[0] == OK
    assert knock(1, 2, is_open=True)[0] == FAILED


def test_where_rsync_goes_ssh_must_answer(silent: set[int]) -> None:
    silent.add(2)
    assert knock(1, 2, by_ssh=False)[0] == OK
    assert knock(1, 2, by_ssh=True)[0] == FAILED


def test_where_somebody_prints_into_rsyncs_words_the_likely_file_is_named() -> None:
    found = checks.fallback("agni", "push", "rsync ended with 2: protocol version mismatch -- is your shell clean?")
    assert found.state == FAILED
    assert "/etc/ssh/sshrc" in found.fix
    assert "agni" in found.fix
    assert "/etc/ssh/sshrc" not in checks.fallback("agni", "push", "rsync ended with 255: Permission denied").fix


def test_a_peer_that_refuses_the_connection_is_named_with_its_address() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # bound, and nobody listens
        [found] = checks.peer("agni", "127.0.0.1", sock.getsockname()[1], ssl_context(), "token")
    assert (found.check, found.state) == ("tcp", FAILED)
    assert "agni at 127.0.0.1" in found.text
    assert "refused" in found.text


def ssl_context() -> Any:
    import ssl  # noqa: PLC0415 - for the one test that has no node

    return ssl.create_default_context()


def test_a_running_node_is_judged_by_its_own_words() -> None:
    fine = [("node", OK), ("link", OK), ("link", WARNING), ("clock", OK)]
    assert states(status()) == fine
    assert states(status(), rushabdev=True) == [("node", OK), ("link", OK), ("link", FAILED), ("clock", OK)]
    assert states(status(ready=False, problem="no room"))[0] == ("node", FAILED)
    assert ("store", WARNING) in states(status(store={"used": 95, "limit": 100}))


@pytest.mark.parametrize(
    ("offset", "trusted", "state"), [(1999, True, OK), (-2001, True, WARNING), (30_001, True, FAILED)]
)
def test_a_clock_is_held_against_those_of_the_peers(offset: float, trusted: bool, state: str) -> None:  # noqa: FBT001
    found = status(peers={"agni": {"linked": True, "offset_ms": offset}}, clock={"trusted": trusted})
    assert states(found)[-1] == ("clock", state)


def test_readiness_names_each_obstacle_and_is_empty_without_one() -> None:
    assert checks.readiness("", {}) == []
    found = checks.readiness("disk full", {"mac": "no such folder"})
    assert [finding.text for finding in found] == [
        "the store can't be written: disk full",
        "the mailbox files of mac wait: no such folder",
    ]


def test_the_file_answers_alone_when_it_is_piped_into_an_interpreter() -> None:
    asked = {
        "disk": {"/": 1},
        "ways": {"here": {"host": "localhost", "port": 1, "ssh_port": 1, "open": True, "ssh": True}},
    }
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-", json.dumps(asked)],
        input=Path(checks.__file__).read_text(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert [(finding["check"], finding["state"]) for finding in json.loads(run.stdout)] == [
        ("disk", OK),
        ("dns", OK),
        ("tcp", OK),
    ]
