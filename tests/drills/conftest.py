"""Converged hosts on which something goes wrong that an operator meets one day; who tells of it names cause and cure.

A phase of Molecule's default scenario. By hand, on hosts that stand:

pytest tests/drills --ansible-inventory=inventory/local --connection=ansible
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from drills.witnesses import Witnesses
from faults.stream import Stream
from operations.operator import Operator
from topology.conftest import inventory, mesh, router
from topology.nodes import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from topology.nodes import Node

__all__ = ["inventory", "mesh", "router"]


@pytest.fixture(scope="session")
def operator(inventory: Path, tmp_path_factory: pytest.TempPathFactory) -> Operator:
    return Operator(inventory, tmp_path_factory.mktemp("inventory"))


@pytest.fixture
def witnesses(mesh: dict[str, Node], operator: Operator) -> Iterator[Witnesses]:
    """The five that tell how a node is. When the test is over all is well again, and they say so."""
    eventually(lambda: all(well(node, mesh) for node in mesh.values()), within=60)
    yield Witnesses(mesh, operator, since=time.time())
    eventually(lambda: all(well(node, mesh) for node in mesh.values()), within=60)
    status = operator.run("playbooks/status.yml")
    assert status.code == 0, status.said


@pytest.fixture
def stream(mesh: dict[str, Node], witnesses: Witnesses) -> Iterator[Stream]:
    """Mail between all agents, until a test tells it to finish."""
    del witnesses  # who say that all is well once it is over
    with Stream(mesh).flowing() as stream:
        yield stream


def well(node: Node, mesh: dict[str, Node]) -> bool:
    """Ready, linked to all, and nothing found that anybody should look after."""
    return node.status().get("ready", False) and node.linked() == set(mesh) - {node.name} and not node.ailments()
