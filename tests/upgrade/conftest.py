"""Hosts that the release before this one has converged, and a stream of messages over them from first to last.

Molecule's scenario `upgrade`. By hand, on the hosts that `molecule converge --scenario-name upgrade` left:

pytest tests/upgrade --ansible-inventory=molecule/upgrade/inventory --connection=ansible
"""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Protocol

import pytest

from faults.stream import Stream
from topology.conftest import inventory, mesh
from topology.playbooks import ROOT, Run, play

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from topology.nodes import Node

__all__ = ["inventory", "mesh"]


class Upgrade(Protocol):
    """Brings the mesh to the release of a tree."""

    def __call__(self, tree: Path, *options: str) -> Run: ...


@pytest.fixture(scope="session")
def upgrade(inventory: Path) -> Upgrade:
    return lambda tree, *options: play("playbooks/upgrade.yml", *options, inventory=inventory, tree=tree)


@pytest.fixture(scope="session")
def stream(mesh: dict[str, Node]) -> Iterator[Stream]:
    """From the former release until it is told to finish. Its agents have the former release's client throughout."""
    with Stream(mesh).flowing() as stream:
        yield stream


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A release that brings the store to a new format, and then does not come up."""
    tree = tmp_path / "broken"
    left_out = shutil.ignore_patterns(".*", "__pycache__", "build", "secrets", "tests", "*.whl")
    shutil.copytree(ROOT, tree, ignore=left_out, symlinks=True)
    shutil.copytree(ROOT / "dist" / "wheels", tree / "dist" / "wheels", dirs_exist_ok=True)
    node = tree / "src" / "trishula" / "node"
    step = len(list((node / "schema").iterdir())) + 1
    (node / "schema" / f"{step}.sql").write_text("CREATE TABLE novelty (number INTEGER PRIMARY KEY) STRICT;\n")
    replace(node / "database.py", r"^SCHEMA_VERSION = \d+", f"SCHEMA_VERSION = {step}")
    replace(tree / "src" / "trishula" / "__init__.py", '__version__ = ".*"', '__version__ = "99.0.0"')
    with (node / "adoption.py").open("a") as file:
        file.write('\n\ndef take_stock(*_):\n    raise StoreError("this release is broken on purpose")\n')
    return tree


def replace(path: Path, pattern: str, by: str) -> None:
    text, count = re.subn(pattern, by, path.read_text("utf-8"), flags=re.MULTILINE)
    assert count == 1, (path, pattern)
    path.write_text(text)
