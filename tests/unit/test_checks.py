"""The checks of `doctor`, preflight and `/readyz`, each on something that is as it should be, and on what is not."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from trishula.node import checks
from trishula.node.checks import FAILED, OK, SKIPPED, WARNING

NOW = 1_770_000_000_000
MIB = 2**20


def peer(**changes: Any) -> dict[str, Any]:
    """One that this side dials, and that is linked."""
    found = {"linked": True, "always_on": True, "dials": True, "tried": None, "rejected": None, "fix": "do that"}
    return found | {"rsync": None, "offset_ms": 3.0} | changes


def facts(**changes: Any) -> dict[str, Any]:
    """Of a node with which all is well."""
    store = {"problem": "", "gone": "", "used": 10, "limit": 100, "least_free": 2 * MIB}
    disk = {"path": "/s", "device": 1, "free": 9000 * MIB, "size": 20_000 * MIB, "no_inodes": False}
    found = {
        "store": store | changes.pop("store", {}),
        "disks": {"mailboxes": disk, "store": disk | changes.pop("disk", {})},
        "sockets": {"node": ("", ""), "mac": ("", "")},
        "agents": {"mac": {"mailbox": ""}},
        "transport": "websocket",
        "certificate": {"days_left": 90, "ends_soon": False, "refused": "", "distrusted": ""},
        "clock": {"trusted": True, "state": "trusted", "max_skew_ms": 30_000},
        "peers": {"agni": peer()},
    }
    return found | changes


def bad(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(one.check, one.about, one.state) for one in checks.health(found, NOW) if one.bad]


def texts(found: dict[str, Any]) -> list[str]:
    judged = [one for one in checks.health(found, NOW) if one.bad]
    assert all(one.fix for one in judged)
    return [one.text for one in judged]


def unready(found: dict[str, Any]) -> list[str]:
    return [one.check for one in checks.unready(checks.health(found, NOW))]


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
    box = a_mailbox(tmp_path) / "inbox"
    box.chmod(mode)
    said = checks.mailbox(box.parent, ["inbox"], os.getgid())
    assert checks.mailbox_finding("mac", said).state == state
    assert (str(box) in said) == (state == FAILED)


def a_mailbox(folder: Path) -> Path:
    """As site.yml makes it."""
    (folder / "mailboxes" / "mac" / "inbox").mkdir(parents=True)
    (folder / "mailboxes" / "mac" / "inbox").chmod(0o2770)
    (folder / "mailboxes" / "mac").chmod(0o2750)
    return folder / "mailboxes" / "mac"


def test_without_a_group_of_its_own_a_box_is_the_nodes_alone(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir(mode=0o700)
    assert checks.mailbox(tmp_path, ["inbox"], None) == ""
    assert "No such file" in checks.mailbox(tmp_path, ["gone"], None)


def test_a_mailbox_that_is_gone_or_of_another_group_is_said_in_one_finding_with_the_fix(tmp_path: Path) -> None:
    folder = a_mailbox(tmp_path)
    assert checks.mailbox(folder, ["inbox"], os.getgid()) == ""
    other = next(group for group in range(1, 100) if group != os.getgid())
    assert "not of " in checks.mailbox(folder, ["inbox"], other)
    (folder / "inbox").rmdir()
    folder.rmdir()
    said = checks.mailbox(folder, ["inbox", "outbox", "archive", "bounced"], os.getgid())
    assert said.endswith("; and 2 more")
    found = checks.mailbox_finding("mac", said)
    assert (found.state, found.about) == (FAILED, "mac")
    assert "site.yml" in found.fix


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a moment")
@pytest.mark.parametrize("mode", [0o2670, 0o2570, 0o2370])
def test_a_box_that_the_node_itself_cannot_enter_read_or_write_is_found(mode: int) -> None:
    ask = (
        "import os, sys; from pathlib import Path; from trishula.node import checks\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "print(checks.mailbox(Path(sys.argv[1]), ['inbox'], None))"
    )
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # a folder of pytest's is for its user alone
        folder = a_mailbox(Path(name))
        (folder / "inbox").chmod(mode)
        for path in (Path(name), folder.parent, folder, folder / "inbox"):
            os.chown(path, 65534, 65534)
        run = subprocess.run([sys.executable, "-c", ask, folder], capture_output=True, text=True, check=True)
    assert "inbox can't be entered, read or written by the node" in run.stdout


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


# ---------------------------------------------------------------- a running node


def test_a_node_with_which_all_is_well_has_every_check_answered_and_nothing_to_do() -> None:
    found = checks.health(facts(), NOW)
    assert [one.check for one in found] == ["store", "disk", "mailbox", "socket", "socket", "tls", "link", "clock"]
    assert {one.state for one in found} == {OK}
    assert unready(facts()) == []


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"store": {"problem": "disk full"}}, "store"),
        ({"store": {"gone": "/s/trishula.db was removed"}}, "store"),
        ({"store": {"used": 100}}, "store"),
        ({"disk": {"free": MIB}}, "disk"),
        ({"disk": {"no_inodes": True}}, "disk"),
        ({"agents": {"mac": {"mailbox": "no such folder"}}}, "mailbox"),
        ({"sockets": {"mac": ("there is no group 'mac'", "create it")}}, "socket"),
    ],
)
def test_a_node_that_cannot_do_its_work_is_not_ready(change: dict[str, Any], check: str) -> None:
    assert unready(facts(**change)) == [check]
    assert len(texts(facts(**change))) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"store": {"used": 95}},
        {"disk": {"free": 400 * MIB}},
        {"peers": {"agni": peer(linked=False, dials=False)}},
        {"certificate": {"days_left": -1, "ends_soon": True, "refused": "", "distrusted": ""}},
        {"clock": {"trusted": False, "state": "apart", "max_skew_ms": 30_000}},
    ],
)
def test_what_others_have_to_do_with_or_what_is_only_soon_leaves_it_ready(change: dict[str, Any]) -> None:
    assert unready(facts(**change)) == []
    assert len(texts(facts(**change))) == 1


def test_a_store_that_is_gone_asks_for_a_restart_and_for_no_room() -> None:
    (text,) = texts(facts(store={"gone": "/s/trishula.db was removed", "problem": "the store is gone"}))
    assert text.startswith("the store is gone: restart the node")


@pytest.mark.parametrize(
    ("size", "free", "state"),
    [(20_000, 513, OK), (20_000, 511, WARNING), (64, 7, OK), (64, 6, WARNING), (64, 2, WARNING), (64, 1, FAILED)],
)
def test_a_disk_warns_below_512_mib_or_a_tenth_and_fails_where_the_largest_message_has_no_room(
    size: int, free: int, state: str
) -> None:
    found = checks.health(facts(disk={"size": size * MIB, "free": free * MIB}), NOW)
    assert [one.state for one in found if one.check == "disk"] == [state]


def test_store_and_mailboxes_on_two_file_systems_are_two_disks() -> None:
    found = checks.health(facts(disk={"device": 2, "path": "/other"}), NOW)
    assert {one.about for one in found if one.check == "disk"} == {"/s", "/other"}


def down(**changes: Any) -> dict[str, Any]:
    return facts(peers={"agni": peer(linked=False, offset_ms=None, **changes)})


def test_a_peer_that_is_dialled_and_down_says_why_when_it_was_tried_and_when_it_is_again() -> None:
    tried = {"why": "it does not accept our token (401)", "at": NOW - 3000, "next": NOW + 2000}
    assert texts(down(tried=tried)) == [
        "agni is not linked: it does not accept our token (401); last try 3 s ago, next in 2 s"
    ]
    assert bad(down()) == []  # not tried yet


def test_a_peer_that_dials_and_is_down_is_waited_for_and_whoever_was_turned_away_is_named() -> None:
    rejected = {"address": "10.0.0.7", "why": "no token", "at": NOW - 5000, "known": True}
    wait = "agni is not linked: waits for it to dial"
    assert texts(down(dials=False)) == [f"{wait}; nobody was turned away"]
    assert texts(down(dials=False, rejected=rejected)) == [
        f"{wait}; it was turned away 5 s ago, from 10.0.0.7: no token"
    ]
    guess = texts(down(dials=False, rejected=rejected | {"known": False}))
    assert guess == [f"{wait}; somebody was turned away 5 s ago, from 10.0.0.7: no token"]


def test_a_laptop_that_is_away_is_a_warning_and_with_files_alone_no_link_is_missed() -> None:
    assert bad(down(dials=False, always_on=False)) == [("link", "agni", WARNING)]
    assert bad(down(dials=False, always_on=True)) == [("link", "agni", FAILED)]
    assert bad(down(dials=None)) == []
    ended = {"days_left": -1, "ends_soon": True, "refused": "", "distrusted": ""}
    assert bad(facts(transport="files", certificate=ended)) == []


@pytest.mark.parametrize(
    ("last_run", "seconds", "state"), [(None, 299, SKIPPED), (None, 301, WARNING), (1, 59, SKIPPED), (1, 61, WARNING)]
)
def test_rsync_that_fails_is_a_fault_when_it_lasts(last_run: int | None, seconds: int, state: str) -> None:
    rsync = {"runs": True, "problem": "denied", "last_run": last_run, "fails_since": NOW - seconds * 1000}
    found = checks.health(facts(peers={"agni": peer(rsync=rsync)}), NOW)
    assert [one.state for one in found if one.check == "rsync"] == [state]


@pytest.mark.parametrize(
    ("offset", "clock", "state"),
    [
        (1999, "trusted", OK),
        (-2001, "trusted", WARNING),
        (30_001, "trusted", FAILED),
        (None, "trusted", OK),
        (None, "not compared", SKIPPED),
        (None, "jumped", WARNING),
        (40_000, "apart", FAILED),
    ],
)
def test_a_clock_is_to_blame_only_where_it_disagrees_or_jumped(offset: float | None, clock: str, state: str) -> None:
    said = {"trusted": clock == "trusted", "state": clock, "max_skew_ms": 30_000}
    found = checks.health(facts(peers={"agni": peer(offset_ms=offset)}, clock=said), NOW)
    assert (found[-1].check, found[-1].state) == ("clock", state)


def test_a_certificate_that_is_refused_or_that_nobody_trusts_is_said() -> None:
    shown = facts()["certificate"]
    assert "the old one serves on: why" in texts(facts(certificate=shown | {"refused": "why"}))[0]
    assert "peers don't trust" in texts(facts(certificate=shown | {"distrusted": "why"}))[0]
    assert bad(facts(certificate=shown | {"days_left": 3, "ends_soon": True})) == [("tls", "", WARNING)]


def test_what_a_node_found_is_told_as_it_is_and_an_older_node_says_at_least_whether_it_is_ready() -> None:
    told = {"node": "mac", "version": "2.0.0", "ready": True, "problem": ""}
    finding = {"check": "clock", "state": OK, "text": "fine", "fix": "", "about": ""}
    assert checks.told({**told, "findings": [finding]})[1:] == [checks.Finding(**finding)]
    assert [one.state for one in checks.told(told | {"ready": False, "problem": "full"})] == [FAILED]


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
