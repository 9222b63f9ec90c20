"""Preflight, run for real on hosts that can't be: it stops, and says what to do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.contract.conftest import ROOT, load, raw, refusals

PREFLIGHT = "playbooks/preflight.yml"
SITE_FACTS = "playbooks/tasks/site_facts.yml"
FINE = {
    "ansible_connection": "local",
    "ansible_python_interpreter": sys.executable,
    "trishula_port": 8765,
    "trishula_agent_user": "root",
}


def inventory(folder: Path, hosts: dict[str, dict[str, Any]]) -> Path:
    path = folder / "hosts.yml"
    path.write_text(yaml.safe_dump({"trishula": {"hosts": {host: FINE | facts for host, facts in hosts.items()}}}))
    return path


def preflight(folder: Path, hosts: dict[str, dict[str, Any]], **commands: str) -> str:
    """What preflight says when it stops on these hosts, on which `commands` print what they are given."""
    for name, answer in commands.items():
        command = folder / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f"#!/bin/sh\necho {answer}\n")
        command.chmod(0o755)
    run = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory(folder, hosts), "playbooks/preflight.yml"],
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_LOCAL_TEMP": str(folder / "tmp"),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2, run.stdout
    assert "changed=0" in run.stdout
    assert "changed=1" not in run.stdout
    return " ".join((run.stdout + run.stderr).split())


def lives(*agents: str, **facts: Any) -> dict[str, Any]:
    return {"trishula_agents": [{"name": agent} for agent in agents], **facts}


def test_a_host_that_cannot_be_reached_stops_all(tmp_path: Path) -> None:
    gone = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    said = preflight(tmp_path, {"mac": lives("mac"), "agni": lives("agni", **gone)}, id="0")
    assert "agni cannot be reached" in said
    assert "Connection refused" in said
    assert "Is ansible_host right in the inventory" in said


def test_the_inventory_may_say_what_to_do_about_it(tmp_path: Path) -> None:
    gone = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    said = preflight(tmp_path, {"mac": lives("mac", **gone, trishula_unreachable_hint="Run 'make mesh'.")})
    assert "Run 'make mesh'." in said


def test_a_host_that_can_take_no_node_is_named_and_nothing_is_changed(tmp_path: Path) -> None:
    said = preflight(tmp_path, {"mac": lives("mac")}, uname="OpenBSD", id="0")
    assert "mac is neither a Linux nor a Mac." in said


# ── What it says, without a run ─────────────────────────────────────────────────────────────────────────────────────


def test_a_host_that_can_take_a_node_is_taken(tmp_path: Path) -> None:
    hosts = inventory(tmp_path, {"mac": lives("mac"), "agni": lives("agni")})
    assert refusals(hosts, PREFLIGHT, raw(PREFLIGHT, tmp_path, uname="Linux", id="0")) == []
    assert refusals(hosts, SITE_FACTS, {}) == []


@pytest.mark.parametrize(
    ("commands", "what_to_do"),
    [
        (
            {"uname": "Darwin", "id": "0"},
            "mac is a Mac. A node runs on Debian or Ubuntu, or on a Mac that is in the group trishula_macos",
        ),
        ({"uname": "OpenBSD", "id": "0"}, "mac is neither a Linux nor a Mac."),
        ({"python3": "3.10", "id": "0"}, "mac has Python 3.10; a node needs 3.11 or newer"),
        ({"python3": "none", "id": "0"}, "mac has no Python; a node needs 3.11 or newer"),
        ({"id": "1000"}, "On mac we are user id 1000, and installing a node takes root. Set 'ansible_become: true'"),
    ],
    ids=["a Mac", "OpenBSD", "an old Python", "no Python", "not root"],
)
def test_a_host_that_can_take_no_node_is_named(tmp_path: Path, commands: dict[str, str], what_to_do: str) -> None:
    answered = raw(PREFLIGHT, tmp_path, **{"uname": "Linux"} | commands)
    [said] = refusals(inventory(tmp_path, {"mac": lives("mac")}), PREFLIGHT, answered)
    assert what_to_do in said


@pytest.mark.parametrize(
    ("hosts", "what_to_do"),
    [
        ({"mac": lives("mac", "agni"), "agni": lives("agni")}, "these have several: agni, on agni and mac Rename"),
        ({"mac": lives("Mac")}, "'Mac' on mac is no name of a node or an agent: small letters"),
        ({"my_mac": lives("mac")}, "'my_mac' on my_mac is no name of a node"),
        ({"mac": {}}, "No agent lives on mac. Give it at least one"),
        (
            {name: lives(name, trishula_outbound_only=True) for name in ("book", "mac")},
            "book and mac are all outbound only, so none of them can dial another",
        ),
        (
            {name: lives(name, trishula_address="mesh.example.org") for name in ("agni", "rushabdev")},
            "Two nodes would be dialled at the same place: mesh.example.org:8765, mesh.example.org:8765",
        ),
        (
            {
                "mac": lives("mac", trishula_limits={"max_message_bytes": 2048}),
                "agni": lives("agni", trishula_limits={"max_message_bytes": 1024}),
            },
            "trishula_limits.max_message_bytes is agni: 1024, mac: 2048. Set it once for all",
        ),
        (
            {"agni": lives("agni", trishula_address="agni.example.org", trishula_tls_names=["agni"])},
            "The other nodes dial agni at agni.example.org, and its certificate will hold for agni, 127.0.0.1 only.",
        ),
    ],
)
def test_an_inventory_that_makes_no_mesh_is_refused(
    tmp_path: Path, hosts: dict[str, dict[str, Any]], what_to_do: str
) -> None:
    said = refusals(inventory(tmp_path, hosts), SITE_FACTS, {})
    assert what_to_do in " ".join(" ".join(said).split())


def test_an_inventory_is_looked_at_before_its_hosts() -> None:
    first, *_ = load(ROOT / "playbooks/preflight.yml")[0]["tasks"]
    assert first["ansible.builtin.include_tasks"] == SITE_FACTS.removeprefix("playbooks/")


# ── Runs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_rule_that_ufw_would_not_take_is_refused_before_anything_is_changed(tmp_path: Path) -> None:
    allow = [{"port": "443", "comment": "the cat's"}, {"port": "80", "from": "example.org"}]
    who = '$(test "$1" = -u && echo 0 || echo root)'
    said = preflight(tmp_path, {"mac": lives("mac", trishula_firewall_allow=allow)}, id=who)
    assert "In trishula_firewall_allow of mac: the comment of port 443 has an apostrophe" in said
    assert "'example.org' is no address or network" in said


def as_root(tmp_path: Path) -> dict[str, str]:
    """Commands that make root the agent of this machine, with a home of its own."""
    home = tmp_path / "home"
    home.mkdir()
    return {"id": '$(test "$1" = -u && echo 0 || echo root)', "getent": f"root:x:0:0:root:{home}:/bin/sh"}


@pytest.mark.parametrize("folder", ["a folder", "a link"])
def test_what_is_no_link_to_a_mailbox_is_not_taken_for_one(tmp_path: Path, folder: str) -> None:
    commands = as_root(tmp_path)
    path = tmp_path / "home" / "trishula"
    if folder == "a folder":
        path.mkdir()
        expected = f"{path} on mac is a real folder, where the link to the mailbox of 'mac' belongs."
    else:
        path.symlink_to("/srv/trishula")
        expected = f"{path} on mac is a link to /srv/trishula, where the link to the mailbox of 'mac' belongs."
    said = preflight(tmp_path, {"mac": lives("mac")}, **commands)
    assert expected in said
    assert "playbooks/adopt.yml' moves it aside and takes over what is in it" in said


def test_what_would_turn_rsync_away_stops_before_anything_is_changed(tmp_path: Path) -> None:
    commands = as_root(tmp_path) | {"sshd": '"allowusers root deploy"', "ss": '""'}
    said = preflight(
        tmp_path,
        {"mac": lives("mac", trishula_fallback_enabled=True), "agni": lives("agni", trishula_fallback_enabled=True)},
        **commands,
    )
    assert "rsync, which carries the mail where no link works, would not get into mac:" in said
    assert "sshd lets in the users root deploy only (AllowUsers): add the user trishula-sync to that line" in said


def test_a_clock_that_is_wrong_stops_before_anything_is_changed(tmp_path: Path) -> None:
    late = tmp_path / "late"
    late.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'import time\nt = time.time\ntime.time = lambda: t() - 60\n'\"$2\"\n"
    )
    late.chmod(0o755)
    hosts = {"mac": lives("mac"), "agni": lives("agni", trishula_node_python=str(late))}
    said = preflight(tmp_path, hosts, id="0")
    assert "Clocks of two hosts are more than 2 s apart" in said
    assert re.search(r"agni -(5\d|60)\.\d s", said)


def test_a_secret_that_was_copied_from_another_mesh_stops_all(tmp_path: Path) -> None:
    theirs = ROOT / "molecule" / "no-such-scenario" / "inventory" / ".secrets"
    theirs.mkdir(parents=True)
    ours = tmp_path / ".secrets"
    ours.mkdir()
    try:
        for folder in (theirs, ours):
            (folder / "mesh.yml").write_text("mesh_secret: the same\n")
        said = preflight(tmp_path, {"mac": lives("mac")}, id="0")
    finally:
        shutil.rmtree(theirs.parents[1])
    assert f"The mesh secret in {ours}/mesh.yml is also in {theirs}/mesh.yml" in said


def test_a_full_disk_and_a_name_that_is_not_known_are_named(tmp_path: Path) -> None:
    commands = as_root(tmp_path) | {"ss": '""'}
    full = tmp_path / "full"
    full.write_text(
        f'#!/bin/sh\ntest "$1" = - || exec {sys.executable} "$@"\n'
        f'exec {sys.executable} - "$(echo "$2" | sed "s/[0-9][0-9]*/{2**60}/g")"\n'
    )
    full.chmod(0o755)
    hosts = {
        "agni": lives("agni", trishula_node_python=str(full), trishula_agent_user="root"),
        "rushabdev": lives("rushabdev", trishula_address="no-such-host.invalid"),
    }
    said = preflight(tmp_path, hosts, **commands)
    assert "MiB free, and needs 1099511627776: make room there" in said
    assert "no-such-host.invalid is not known here" in said
