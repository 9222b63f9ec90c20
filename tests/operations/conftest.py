"""Converged hosts as their operator treats them: looked at, rebooted, put back from a copy, and left.

The last phase of Molecule's default scenario: at its end TRISHULA is gone. By hand, on the hosts that
`molecule converge` left:

pytest tests/operations --ansible-inventory=molecule/default/inventory --connection=ansible
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from topology.conftest import inventory, mesh, router

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["inventory", "mesh", "router"]


@dataclass(frozen=True)
class Run:
    """How a playbook ended."""

    code: int
    output: str

    @property
    def changed(self) -> int:
        """On all hosts."""
        return sum(map(int, re.findall(r"^\w+ +: ok=\d+ +changed=(\d+)", self.output, re.MULTILINE)))

    @property
    def words(self) -> str:
        """The output as one line, however it was wrapped."""
        return " ".join(self.output.split())


@pytest.fixture(scope="session")
def play(inventory: Path, pytestconfig: pytest.Config) -> Callable[..., Run]:
    """Run a playbook over these hosts: `play("status.yml", "--check")`."""

    def run(name: str, *options: str) -> Run:
        done = subprocess.run(
            ["ansible-playbook", "--inventory", inventory, f"playbooks/{name}", *options],
            cwd=pytestconfig.rootpath,
            capture_output=True,
            text=True,
            check=False,
        )
        return Run(done.returncode, done.stdout + done.stderr)

    return run
