"""A fourth node comes, says its last, and is forgotten: by an edit of the inventory, and the site."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from operations.operator import AUTHORIZED, kids
from topology.conftest import node_of
from topology.nodes import CONFIG, SERVICE, Node, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from operations.operator import Operator

SITE = "site.yml"
SPARE = {"trishula_address": "vayu", "trishula_agents": [{"name": "vayu"}]}


@pytest.fixture(scope="module")
def spare(inventory: Path, mesh: dict[str, Node]) -> Node:
    """The host that is no node yet."""
    facts = mesh["agni"].facts | SPARE
    facts |= {"ansible_host": facts["ansible_host"].removesuffix("agni") + "vayu"}
    return node_of("vayu", facts, inventory)


def test_a_fourth_node_is_added_by_an_edit_and_the_site(operator: Operator, mesh: dict[str, Node], spare: Node) -> None:
    operator.move("vayu", "trishula", SPARE)
    operator.succeed(SITE)
    assert spare.linked() == set(mesh)
    assert operator.generations["generations"]["vayu"] == [1]
    assert kids(spare) == {"agni": ["2.1"], "mac": ["2.1"], "rushabdev": ["2.1"]}


def test_a_node_that_leaves_has_sent_its_last_mail_and_is_forgotten(
    operator: Operator, mesh: dict[str, Node], spare: Node
) -> None:
    agni, (agent,) = mesh["agni"], spare.agents
    sent = [
        json.loads(spare.run("trishula", "send", "agni", f"farewell {count}", "--json", user=agent.user).stdout)["id"]
        for count in range(5)
    ]
    operator.move("vayu", "trishula_leaving")
    operator.succeed(SITE)
    inbox = f"{agni.agents[0].mailbox}/inbox"
    eventually(lambda: {f"{name}.json" for name in sent} <= set(agni.host.file(inbox).listdir()), within=5)
    assert spare.properties(SERVICE, "ActiveState", "UnitFileState") == {
        "ActiveState": "inactive",
        "UnitFileState": "disabled",
    }
    for node in mesh.values():
        assert "vayu" not in node.host.file(CONFIG).content_string
        assert set(kids(node)) == set(mesh) - {node.name}
        assert "vayu" not in node.host.run(f"cat {AUTHORIZED}").stdout
        refused = node.run("trishula", "send", "vayu", "are you there?", user=node.agents[0].user)
        assert refused.rc == 1
        assert "there is no agent 'vayu'" in refused.stderr
    assert operator.generations["gone"] == ["vayu"]
    assert operator.generations["generations"]["vayu"] == [2]


def test_when_it_is_out_of_the_inventory_a_dry_run_finds_nothing_left_to_do(operator: Operator) -> None:
    operator.move("vayu", None)
    assert operator.succeed(SITE, "--check").changes == 0
