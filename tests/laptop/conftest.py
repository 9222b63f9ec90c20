"""A laptop, its owner, and the two servers that the mesh is to be put on: as README says, and in its order.

Molecule's scenario `laptop`. By hand, on hosts that `molecule create` and `molecule prepare --scenario-name laptop` left:

pytest tests/laptop --ansible-inventory=molecule/laptop/inventory --connection=ansible
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from testinfra.utils.ansible_runner import AnsibleRunner

from laptop.terminal import Terminal
from topology.conftest import inventory, node_of
from topology.playbooks import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from topology.nodes import Node

__all__ = ["inventory"]

OWNER = "dhyana"


@pytest.fixture(scope="session")
def hosts(inventory: Path) -> dict[str, Node]:
    """The three, looked at from outside; no node is on them at first."""
    runner = AnsibleRunner.get_runner(str(inventory))
    return {name: node_of(name, runner.get_variables(name), inventory) for name in runner.get_hosts("trishula")}


@pytest.fixture(scope="session")
def person(hosts: dict[str, Node]) -> Iterator[Terminal]:
    """The laptop's owner, logged in on it."""
    password = (ROOT / "molecule/shared/sudo-password").read_text().strip()
    with Terminal(hosts["mac"], OWNER, password) as terminal:
        yield terminal


@pytest.fixture(scope="session")
def steps() -> list[str]:
    """What README's "Put it on your hosts" has a person type, line by line."""
    readme = (ROOT / "README.md").read_text("utf-8")
    section = re.split(r"^## ", readme.split("\n## Put it on your hosts\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    section = section.split("\n### ", 1)[0]
    blocks = re.findall(r"^```console\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return [re.sub(r"\s+#.*", "", line[2:]) for block in blocks for line in block.splitlines() if line.startswith("$ ")]
