"""Releases: made from the lock alone, each in a folder of its own that no later run writes to."""

from __future__ import annotations

import json
import os
import re
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from tests.contract.conftest import ROOT, all_tasks, load, run_role

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
        "__trishula_node_python": {"stdout": "3.11"},
        "__trishula_node_wheel": {"stat": {"checksum": wheel}},
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
    assert [run["tasks_from"] for run in runs(at_once, "trishula_node")] == ["controller", "install"]
    assert [run.get("tasks_from") for run in runs(rolling, "trishula_node")] == [None, "tidy"]


def runs(play: dict[str, Any], role: str) -> list[dict[str, str]]:
    imports = [task.get("ansible.builtin.import_role", {}) for task in play["tasks"]]
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
    facts = {
        "trishula_node_name": "mac",
        "trishula_node_agents": [{"name": "mac", "group": "mac"}],
        "trishula_node_source_dir": str(ROOT),
        "trishula_node_install_dir": str(tmp_path),
    }
    for changed in (1, 0):
        run = run_role(tmp_path, "trishula_node", "tidy", {"mac": facts})
        assert f"changed={changed} " in run.stdout, run.stdout
        assert sorted(path.name for path in releases.iterdir()) == left
