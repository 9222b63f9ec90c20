"""site.yml on hosts that it has converged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from topology.playbooks import play

if TYPE_CHECKING:
    from pathlib import Path

    from topology.nodes import Node


def test_a_dry_run_finds_nothing_to_change(mesh: dict[str, Node], inventory: Path) -> None:
    run = play("site.yml", "--check", inventory=inventory)
    assert run.code == 0, run.said
    assert run.changed == dict.fromkeys(mesh, 0), run.said
