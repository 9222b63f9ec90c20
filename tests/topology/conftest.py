"""Converged hosts, asked from outside. Molecule runs these, and so can anybody on the hosts of `make mesh`:

pytest tests/topology --ansible-inventory=inventory/local --connection=ansible
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import testinfra
from testinfra.utils.ansible_runner import AnsibleRunner

from topology.nodes import Node, way_in
from topology.overheard import note as note_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from testinfra.host import Host


@pytest.fixture(scope="session")
def inventory(pytestconfig: pytest.Config) -> Path:
    return Path(pytestconfig.getoption("ansible_inventory")).resolve()


@pytest.fixture(scope="session")
def mesh(inventory: Path) -> dict[str, Node]:
    """All nodes by name."""
    runner = AnsibleRunner.get_runner(str(inventory))
    nodes = {name: node_of(name, runner.get_variables(name), inventory) for name in runner.get_hosts("trishula")}
    note_secrets(nodes.values(), inventory)
    return nodes


def node_of(name: str, facts: Mapping[str, Any], inventory: Path) -> Node:
    """A host, looked at as root by ssh, whatever its operator logs in as."""
    config = way_in(facts, inventory)
    way = f"ssh://root@{facts['ansible_host']}"
    host = testinfra.get_host(way, ssh_config=str(config), controlpath=f"{_connections()}/%%C")
    return Node(name, facts, host, config)


@cache
def _connections() -> str:
    """A folder for the sockets of warm connections, with a short name: a socket's path has 104 bytes at most."""
    folder = tempfile.mkdtemp(prefix="tri", dir="/tmp")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@pytest.fixture
def node(host: Host, mesh: dict[str, Node]) -> Node:
    """The node that this test was given."""
    return mesh[host.backend.hostname]


@pytest.fixture
def others(node: Node, mesh: dict[str, Node]) -> list[Node]:
    return [other for other in mesh.values() if other is not node]


@pytest.fixture(scope="session")
def router(mesh: dict[str, Node]) -> Node:
    """What the laptop is behind: no node, but the one other host in its network."""
    (laptop,) = (node for node in mesh.values() if node.dials_only)
    container = laptop.facts["ansible_host"].removesuffix(laptop.name) + "router"
    return Node("router", {}, testinfra.get_host(f"docker://{container}"), laptop.ssh_config)


@pytest.fixture
def neighbours(node: Node, others: list[Node], router: Node) -> list[Node]:
    """Those who get as far as the node's own firewall."""
    return [router] if node.dials_only else others
