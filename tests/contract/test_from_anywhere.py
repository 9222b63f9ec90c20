"""Playbooks as people run them: from another folder, from a checkout that all may write to, over logins that talk."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.contract.conftest import ROOT, all_tasks, filters

if TYPE_CHECKING:
    from collections.abc import Mapping

site = filters("trishula_site")


def run(cwd: Path, *arguments: Path | str, **environment: str) -> subprocess.CompletedProcess[str]:
    """ansible-playbook where no ansible.cfg is read but one that Ansible finds by itself."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    return subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), *arguments],
        cwd=cwd,
        env=inherited | {"ANSIBLE_LOCAL_TEMP": str(cwd / "tmp"), "COLUMNS": "1000"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


# ── From anywhere ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """That of `inventory/production`, of a mesh that has its secrets."""
    folder = tmp_path / "mesh"
    shutil.copytree(ROOT / "inventory" / "production", folder, ignore=shutil.ignore_patterns(".secrets"))
    secrets = folder / ".secrets"
    secrets.mkdir()
    (secrets / "mesh.yml").write_text("mesh_secret: aaaa\n")
    (secrets / "generations.yml").write_text("generations:\n  agni: [1]\n")
    (secrets / "ca.key").write_text("-----BEGIN PRIVATE KEY-----\naaaa=\n-----END PRIVATE KEY-----\n")
    return folder


def test_every_playbook_finds_its_roles_and_parses_no_secret(tmp_path: Path, inventory: Path) -> None:
    playbooks = [ROOT / "site.yml", *sorted((ROOT / "playbooks").glob("*.yml"))]
    listed = run(tmp_path, "-i", inventory, "--list-tasks", *playbooks)
    assert listed.returncode == 0, listed.stderr
    assert listed.stderr == ""


def test_preflight_runs_from_a_checkout_that_others_may_write_to(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for part in ("ansible.cfg", "site.yml", "playbooks", "roles", "src"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, checkout / part, **({"symlinks": True} if copy is shutil.copytree else {}))
    hosts = {
        name: {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "trishula_port": 8765,
            "trishula_agent_user": "nobody-has-this-login",
            "trishula_agents": [{"name": name}],
        }
        for name in ("agni", "mac")
    }
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"trishula": {"hosts": hosts}}))
    (tmp_path / "bin").mkdir()
    for name, answer in (("id", "0"), ("uname", "Linux")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\ncase $1 in -nG) exit 1 ;; esac\necho {answer}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    checkout.chmod(0o777)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    ended = run(checkout, "-i", tmp_path / "hosts.yml", "playbooks/preflight.yml", PATH=path)
    assert "world writable directory" in ended.stderr, "Ansible has read ansible.cfg, so this tries nothing"
    # It has come to the roles.
    assert "shall run under the login 'nobody-has-this-login', which" in ended.stdout + ended.stderr


def test_secrets_of_a_mesh_that_is_older_stay_where_they_are(tmp_path: Path) -> None:
    wiring = yaml.safe_load((ROOT / "playbooks/group_vars/trishula.yml").read_text())
    play = [
        {
            "hosts": "localhost",
            "gather_facts": False,
            "vars": {"where": wiring["_site_secrets_dir"]},
            "tasks": [{"ansible.builtin.debug": {"msg": "secrets are in {{ where }}."}}],
        }
    ]
    (tmp_path / "play.yml").write_text(yaml.safe_dump(play))
    (tmp_path / "hosts.yml").write_text(
        yaml.safe_dump({"all": {"hosts": {"localhost": {"ansible_connection": "local"}}}})
    )
    assert f"secrets are in {tmp_path}/.secrets." in run(tmp_path, "-i", "hosts.yml", "play.yml").stdout
    (tmp_path / "secrets").mkdir()
    assert f"secrets are in {tmp_path}/secrets." in run(tmp_path, "-i", "hosts.yml", "play.yml").stdout


# ── What is not filled in ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("playbook", ["site.yml", "playbooks/status.yml"])
def test_an_inventory_that_nobody_has_filled_in_is_named_before_anybody_is_dialled(
    tmp_path: Path, playbook: str
) -> None:
    production = ROOT / "inventory" / "production"
    ended = run(tmp_path, "-i", production, ROOT / playbook)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 2
    left = "ansible_host of agni is still the documentation's address 192.0.2.15"
    assert f"{left}: fill in {production}/hosts.yml, ansible_host" in said
    assert "ansible_host of rushabdev is still the documentation's address 198.51.100.184" in said
    assert "TASK [Reach every host]" not in said
    assert "TASK [Ask who is there]" not in said


def test_an_address_is_looked_for_where_it_stands(tmp_path: Path) -> None:
    own = tmp_path / "host_vars" / "agni.yml"
    own.parent.mkdir()
    own.write_text("---\ntrishula_address: 198.51.100.7\n")
    facts = {"ansible_host": "203.0.113.5", "trishula_address": "198.51.100.7"}
    assert site.not_filled_in(facts, "agni", str(tmp_path), "/etc/hosts.yml") == [
        "ansible_host of agni is still the documentation's address 203.0.113.5: fill in /etc/hosts.yml, ansible_host",
        f"trishula_address of agni is still the documentation's address 198.51.100.7: fill in {own}, trishula_address",
    ]


@pytest.mark.parametrize(
    ("address", "is_left"),
    [
        ("192.0.2.15", True),
        ("2001:db8::7", True),
        ("[2001:DB8::7]", True),
        ("3fff::1", True),
        ("10.0.0.7", False),
        ("2001:4860::8", False),
        ("agni.example.org", False),
        ("", False),
    ],
)
def test_documentations_addresses_are_told_from_hosts(tmp_path: Path, address: str, is_left: bool) -> None:  # noqa: FBT001
    assert bool(site.not_filled_in({"trishula_address": address}, "agni", str(tmp_path), "hosts.yml")) is is_left


# ── Logins that talk ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "\r\n{}",
        "We trust you have received the usual lecture.\r\n\r\n{}",
        "Welcome back to agni. {}",
        "{}\x1b]0;agni\x07\nlogout\n",
        "+ echo '<trishula uid=none>'\n{}",
    ],
    ids=["alone", "a password was asked for", "the lecture", "no line end", "a title after it", "a shell that traces"],
)
def test_an_answer_is_read_by_its_mark_whatever_stands_around_it(around: str) -> None:
    said = around.format("<trishula system=Linux>\r\n<trishula uid=0>\r\n")
    assert site.marked(said) == {"system": "Linux", "uid": "0"}


def answers(facts: Mapping[str, str]) -> str:
    return site.why_not(dict(facts))


def test_why_a_host_gave_no_answer_is_what_ssh_or_sudo_said() -> None:
    assert answers({"msg": "Task failed: Missing sudo password."}) == "Missing sudo password"
    assert answers({"stderr": "", "stdout": "\r\n<trishula uid=0>", "msg": "non-zero"}) == "non-zero"
    assert (
        answers({"stderr": "Shared connection to 192.0.2.15 closed.\r\n", "msg": "Task failed: Timed out."})
        == "Timed out"
    )
    assert answers({}) == "no answer"


def test_what_a_login_prints_is_never_read_by_its_position() -> None:
    raw = [task for task in all_tasks() if task.module == "ansible.builtin.raw"]
    assert len(raw) >= 3
    texts = [path.read_text() for path in (ROOT / "playbooks").rglob("*.yml")]
    for task in raw:
        lines = [line for part in str(task.data[task.module]).split("; echo") for line in part.splitlines()]
        assert all(re.match(r"""(echo)? ?["']<trishula [a-z]+=""", line) for line in lines), task
        name = task.data["register"]
        assert not [text for text in texts if re.search(rf"\b{name}\.stdout_lines", text)], name
