"""The workflow: all parts of `make test-all`, each in a job of its own that can end in time."""

from __future__ import annotations

import re

from tests.contract.conftest import ROOT, load

WORKFLOW = ROOT / ".github/workflows/ci.yml"
JOBS = load(WORKFLOW)["jobs"]


def test_each_part_of_the_tests_has_its_job() -> None:
    scenarios = {path.parent.name for path in ROOT.glob("molecule/*/molecule.yml")}
    parts = {entry["part"] for entry in JOBS["test"]["strategy"]["matrix"]["include"]}
    assert parts == {"lint", "python", "processes"} | scenarios - {"short"}
    assert "macos" in JOBS


def test_each_job_ends_in_time_and_leaves_its_logs_when_it_fails() -> None:
    for name, job in JOBS.items():
        assert job["timeout-minutes"], name
        *_, run, keep = job["steps"]
        assert ".ci/run" in run["run"]
        assert keep["if"] == "failure()"
        assert keep["with"]["path"] == run["env"]["TRISHULA_LOGS"]


def test_an_action_is_a_commit_and_not_a_tag_that_can_be_moved() -> None:
    used = re.findall(r"uses: (\S+)(.*)", WORKFLOW.read_text())
    assert used
    for action, comment in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), action
