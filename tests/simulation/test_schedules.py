"""Whatever happens, the promise is kept: each stored message arrives once and unaltered, and its sender is told so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from simulation.mesh import live


def test_whatever_happens_the_promise_is_kept(nodes: int, seeds: Iterable[int]) -> None:
    for seed in seeds:
        live(seed, nodes)


def test_the_same_seed_is_the_same_story_in_every_process() -> None:
    """Else a failure could not be shown again. Python's hashes differ from process to process."""
    program = "from simulation.mesh import live; print(*live(11, 3).world.story, sep='\\n')"
    stories = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent.parent)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert stories[0] == stories[1]
    assert "arrived" in stories[0]


def test_a_broken_promise_is_told_with_its_seed_and_story(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulation.witness.Witness.verdict", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError) as told:
        live(7, 2)
    story, again = told.value.__notes__
    assert again == "again: pytest tests/simulation --seed 7 --nodes 2"
    assert story.startswith("the story ends:\n")
    assert "arrived" in story
