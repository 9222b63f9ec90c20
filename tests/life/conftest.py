"""Converged hosts whose operator rotates, adds, removes and revokes. The last phase of Molecule's default scenario: it
leaves a mesh without its laptop. By hand, on the hosts that `molecule converge` left:

pytest tests/life --ansible-inventory=molecule/default/inventory --connection=ansible
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import testinfra

from faults.stream import Stream
from life.operator import Operator
from topology.conftest import inventory, mesh, router
from topology.nodes import Node, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["inventory", "mesh", "router"]

SPARE = {"trishula_address": "vayu", "trishula_agents": [{"name": "vayu"}]}


@pytest.fixture(scope="session")
def operator(inventory: Path, tmp_path_factory: pytest.TempPathFactory) -> Operator:
    return Operator(inventory, tmp_path_factory.mktemp("inventory"))


@pytest.fixture(scope="session")
def stream(mesh: dict[str, Node]) -> Iterator[Stream]:
    """Flows until a test tells it to finish."""
    stream = Stream(mesh)
    try:
        eventually(stream.flows, within=15)
        yield stream
    finally:
        stream.finish(within=60)


@pytest.fixture(scope="session")
def spare(inventory: Path, mesh: dict[str, Node]) -> Node:
    """The host that is no node yet."""
    facts = mesh["agni"].facts | SPARE
    facts |= {"ansible_host": facts["ansible_host"].removesuffix("agni") + "vayu"}
    return Node("vayu", facts, testinfra.get_host("ansible://vayu", ansible_inventory=str(inventory)))
