"""site.yml on hosts that it has converged."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from topology.nodes import Node


def test_a_dry_run_finds_nothing_to_change(mesh: dict[str, Node], inventory: Path, pytestconfig: pytest.Config) -> None:
    run = subprocess.run(
        ["ansible-playbook", "--inventory", inventory, "--check", "site.yml"],
        cwd=pytestconfig.rootpath,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    recap = dict(re.findall(r"^(\w+) +: .*changed=(\d+)", run.stdout, re.MULTILINE))
    assert recap == dict.fromkeys(mesh, "0"), run.stdout
