"""Whatever happens, the promise is kept: each stored message arrives once and unaltered, or its sender is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from simulation.schedule import failure, live, plan, shrink
from simulation.search import explain, search

FEW, MANY = 400, 2000
"""Schedules of `make test`, and of `make test-all`."""
TESTS = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "schedules", [pytest.param((0, FEW), id="few"), pytest.param((FEW, MANY), id="many", marks=pytest.mark.long)]
)
def test_whatever_happens_the_promise_is_kept(request: pytest.FixtureRequest, schedules: tuple[int, int]) -> None:
    option = request.config.getoption
    nodes, seed = option("nodes", None), option("seed", None)
    if seed is not None:
        live(seed, nodes, keep=option("keep", None))
        return
    before, last = schedules
    if before:
        last = option("schedules", None) or last
    wrong = [(seed, what) for found in search(range(before + 1, last + 1), nodes) for seed, what in found if what]
    told = "\n".join(f"seed {seed}: {what[:500]}" for seed, what in wrong)
    assert not wrong, f"{len(wrong)} schedules failed\n{told}\nthe first of them again:\n{explain(wrong[0][0], nodes)}"


def run(*arguments: str, hashes: str = "1") -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONHASHSEED": hashes, "PYTHONPATH": str(TESTS)}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)


def test_the_same_seed_is_the_same_story_in_every_process() -> None:
    """Else a failure could not be shown again. Python's hashes differ from process to process."""
    program = (
        "from simulation.schedule import live\nfor seed in (11, 12, 13): print(*live(seed).world.story, sep='\\n')"
    )
    stories = [run("-c", program, hashes=hashes) for hashes in ("1", "2")]
    assert stories[0].stdout == stories[1].stdout
    assert "arrived" in stories[0].stdout


def test_a_broken_promise_is_told_with_its_seed_and_story(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulation.witness.Witness.verdict", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError) as told:
        live(7, 3, keep=[0, 1])
    story, again = told.value.__notes__
    assert again == "again: pytest tests/simulation --seed 7 --nodes 3 --keep 0,1"
    assert story.startswith("the story ends:\n")
    assert "is up" in story


def test_a_failing_schedule_is_shrunk_to_the_steps_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulation.schedule.Fate._freeze", lambda _: 1 / 0)
    seed = next(seed for seed in range(1, 200) if any(step.kind == "freeze" for step in plan(seed).steps))
    kept = shrink(seed)
    assert [step.kind for step in plan(seed).steps if step.number in kept] == ["freeze"]
    assert failure(seed, keep=kept).startswith("ZeroDivisionError")
    assert f"pytest tests/simulation --seed {seed} --keep {kept[0]}\n" in explain(seed)


def test_a_soak_ends_with_a_line_of_json() -> None:
    soak = run("-m", "simulation.soak", "--seconds", "0.2", "--seed", "40")
    last = json.loads(soak.stdout.splitlines()[-1])
    assert (soak.returncode, last["violations"], last["seed"]) == (0, 0, 40)
    assert last["schedules"] > 0
