"""Releases: made from the lock alone, each in a folder of its own that no later run writes to."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.conftest import ROOT, all_tasks, load, run_role

from trishula import __version__

if TYPE_CHECKING:
    from pathlib import Path


# ── The build ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_what_builds_the_wheel_is_one_version_and_it_is_in_the_lock(project: dict[str, Any]) -> None:
    [backend] = project["build-system"]["requires"]
    locked = {package["name"]: package for package in tomllib.loads((ROOT / "uv.lock").read_text("utf-8"))["package"]}
    assert backend == f"hatchling=={locked['hatchling']['version']}"
    assert backend in project["dependency-groups"]["build"]
    for name in ("hatchling", "pip"):
        assert all(wheel["hash"].startswith("sha256:") for wheel in locked[name]["wheels"])


def test_the_controller_runs_nothing_that_is_not_in_the_lock() -> None:
    tools = load(ROOT / "roles/trishula_node/vars/main.yml")["_trishula_node_build_tools"]
    assert {"uv", "--isolated", "--frozen", "--only-group=build"} <= set(tools)
    commands = [
        json.dumps(task.data) for task in all_tasks() if task.where.endswith("trishula_node/tasks/controller.yml")
    ]
    for command in commands:
        if re.search(r"\buv\b|\bpip\b|hatchling", command):
            assert "_trishula_node_build_tools" in command or "--frozen" in command
    assert sum("_trishula_node_build_tools" in command for command in commands) == 2


# ── What a host gets ────────────────────────────────────────────────────────────────────────────────────────────────

as_root = pytest.mark.skipif(os.getuid() != 0, reason="a release belongs to root")


def facts_of_a_host(folder: Path, source: str) -> dict[str, Any]:
    return {
        "trishula_node_name": "mac",
        "trishula_node_agents": [{"name": "mac", "group": "mac"}],
        "trishula_node_source_dir": str(ROOT),
        "trishula_node_artifacts_dir": str(folder / "dist"),
        "trishula_node_install_dir": str(folder / "opt"),
        "trishula_node_install_source": source,
        "trishula_node_python": sys.executable,
        "trishula_node_listen_port": 18765,
    }


@as_root
@pytest.mark.parametrize("source", ["controller", pytest.param("index", marks=pytest.mark.long)])
def test_a_release_runs_and_an_agents_own_environment_is_made_of_its_wheels(tmp_path: Path, source: str) -> None:
    facts = facts_of_a_host(tmp_path, source)
    run = run_role(tmp_path, "trishula_node", "controller install", {"mac": facts})
    assert run.returncode == 0, run.stdout
    [release] = (tmp_path / "opt" / "releases").iterdir()
    assert (
        subprocess.check_output([release / "bin" / "trishula", "--version"], text=True) == f"trishula {__version__}\n"
    )
    venv = tmp_path / "agent"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pip = [venv / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    wheels = [f"--find-links={release / 'wheels'}", f"--requirement={release / 'requirements.txt'}"]
    subprocess.run([*pip, *wheels], check=True)
    subprocess.run([venv / "bin" / "python", "-c", "import trishula; trishula.Client"], check=True)


@as_root
@pytest.mark.long
def test_a_wheel_that_is_not_the_one_in_the_lock_is_not_installed(tmp_path: Path) -> None:
    facts = facts_of_a_host(tmp_path, "controller")
    made = run_role(tmp_path, "trishula_node", "controller", {"mac": facts})
    assert made.returncode == 0, made.stdout
    [wheel] = (tmp_path / "dist" / "wheels").glob("*/msgspec-*.whl")
    with zipfile.ZipFile(wheel, "a") as forged:
        forged.writestr("msgspec/evil.py", "")
    run = run_role(tmp_path, "trishula_node", "controller install", {"mac": facts})
    assert run.returncode != 0
    assert "DO NOT MATCH THE HASHES" in run.stdout
    assert not [*(tmp_path / "opt" / "releases").glob("*/requirements.txt")]


def test_pip_takes_wheels_by_hash_alone_whichever_source_they_come_from() -> None:
    by_hash = load(ROOT / "roles/trishula_node/vars/main.yml")["_trishula_node_by_hash"]
    assert {"--require-hashes", "--only-binary=:all:"} <= set(by_hash)
    commands = [json.dumps(task.data) for task in all_tasks() if task.where.endswith("trishula_node/tasks/release.yml")]
    pips = [command for command in commands if "/bin/pip" in command]
    assert len(pips) == 2
    assert all("_trishula_node_by_hash" in command for command in pips)
    assert sum("--no-index" in command for command in pips) == 1  # what is installed was there before


# ── The folders ─────────────────────────────────────────────────────────────────────────────────────────────────────


def release_folder(folder: Path, wheel: str) -> str:
    """Where a wheel of these bytes would be installed."""
    (folder / "requirements.txt").write_text("msgspec==1 --hash=sha256:00\n")
    facts = {
        "trishula_node_name": "mac",
        "trishula_node_agents": [{"name": "mac", "group": "mac"}],
        "trishula_node_source_dir": str(ROOT),
        "trishula_node_artifacts_dir": str(folder),
        "trishula_node_install_dir": str(folder),
        "trishula_node_version": "2.0.0",
        "__trishula_node_python": {"stdout_lines": ["3.11"]},
        "__trishula_node_wheel": {"stdout": wheel},
    }
    run = run_role(folder, "trishula_node", "install", {"mac": facts}, "--check")
    found = re.search(r"would install (\S+)", run.stdout)
    assert found is not None, run.stdout
    return found[1]


def test_other_content_under_the_same_version_goes_to_another_folder(tmp_path: Path) -> None:
    one, other = (release_folder(tmp_path, digest * 64) for digest in "ab")
    for path in (one, other):
        assert re.fullmatch(rf"{tmp_path}/releases/2\.0\.0-[0-9a-f]{{12}}", path)
    assert one != other


def test_what_runs_is_switched_on_one_host_after_the_other() -> None:
    [link] = [task for task in all_tasks() if '"dest": "{{ _trishula_node_link }}"' in json.dumps(task.data)]
    assert link.where == "roles/trishula_node/tasks/configure.yml"
    at_once, rolling = load(ROOT / "playbooks/deploy.yml")
    assert [run["tasks_from"] for run in runs(at_once, "trishula_node")] == ["controller", "install", "compare"]
    assert [run.get("tasks_from") for run in runs(rolling, "trishula_node")] == ["keep", None, "tidy"]


def runs(play: dict[str, Any], role: str) -> list[dict[str, str]]:
    tasks = itertools.chain.from_iterable(task.get("block", [task]) for task in play["tasks"])
    imports = [task.get("ansible.builtin.import_role", {}) for task in tasks]
    return [run for run in imports if run.get("name") == role]


@pytest.mark.parametrize(("current", "left"), [("d", ["b", "d"]), ("b", ["b", "d"])], ids=["upgrade", "way back"])
def test_the_running_release_and_the_one_before_it_stay(tmp_path: Path, current: str, left: list[str]) -> None:
    releases = tmp_path / "releases"
    for age, name in enumerate("dcba"):
        (releases / name / "bin").mkdir(parents=True)
        if name != "c":  # half of one
            (releases / name / "requirements.txt").touch()
            os.utime(releases / name / "requirements.txt", (1e9 - age, 1e9 - age))
    (tmp_path / "current").symlink_to(f"releases/{current}")
    kept = [tmp_path / "before.tar", tmp_path / "state" / "store" / "former.db"]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    facts = {
        "trishula_node_name": "mac",
        "trishula_node_agents": [{"name": "mac", "group": "mac"}],
        "trishula_node_source_dir": str(ROOT),
        "trishula_node_install_dir": str(tmp_path),
        "trishula_node_state_dir": str(tmp_path / "state"),
    }
    for changed in (1, 0):
        run = run_role(tmp_path, "trishula_node", "tidy", {"mac": facts})
        assert not any(path.exists() for path in kept)
        assert f"changed={changed} " in run.stdout, run.stdout
        assert sorted(path.name for path in releases.iterdir()) == left


# ── A node that was revoked, and is taken back ──────────────────────────────────────────────────────────────────────


def test_the_store_of_a_node_that_was_revoked_goes_and_its_mailboxes_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launchctl = tmp_path / "bin" / "launchctl"
    launchctl.parent.mkdir()
    launchctl.write_text(f'#!/bin/sh\necho "$1" >>{tmp_path}/told\ntest "$1" != print\n')
    launchctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{launchctl.parent}:{os.environ['PATH']}")
    state = tmp_path / "state"
    drop = state / "mailboxes" / "mac" / "outbox" / "written-by-a-thief.json"
    for path in (state / "store" / "trishula.db", state / "store.life", drop):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    facts = facts_of_a_host(tmp_path, "controller") | {
        "trishula_node_supervisor": "launchd",
        "trishula_node_state_dir": str(state),
    }
    checked = run_role(tmp_path, "trishula_node", "renew", {"mac": facts}, "--check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert (state / "store" / "trishula.db").exists()
    run = run_role(tmp_path, "trishula_node", "renew", {"mac": facts})
    assert run.returncode == 0, run.stdout + run.stderr
    assert "mac was revoked. What its store holds was written while it was not trusted" in run.stdout
    assert "bootout" in (tmp_path / "told").read_text()
    assert [path.name for path in state.iterdir()] == ["mailboxes"]
    assert drop.exists()
    again = run_role(tmp_path, "trishula_node", "renew", {"mac": facts})
    assert "changed=0" in again.stdout


def test_the_store_of_a_revoked_node_goes_before_it_is_handed_secrets() -> None:
    rolling = load(ROOT / "playbooks/deploy.yml")[-1]
    names = [task["name"] for task in rolling["tasks"][1]["block"]]
    assert names.index("Mail of a stolen node") < names.index("Secrets") < names.index("Note that it is taken back")
