"""The host behind NAT: it dials, and nobody can dial it."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

from topology.nodes import CONFIG

if TYPE_CHECKING:
    from topology.nodes import Node

testinfra_hosts = ["ansible://mac"]


def test_nobody_can_dial_it(node: Node, others: list[Node]) -> None:
    assert {other.connect(node.name, node.port) for other in others} == {"dropped"}


def test_it_dials_every_server(node: Node, others: list[Node]) -> None:
    config = tomllib.loads(node.read(CONFIG).decode())
    assert {name for name, peer in config["peers"].items() if peer["dial"]} == {other.name for other in others}
    assert node.linked() == {other.name for other in others}


def test_a_person_lives_beside_the_agent_and_each_reads_its_own_mail_only(node: Node) -> None:
    agent, person = node.agents
    for reader, mine, theirs in [(agent.user, agent, person), (person.user, person, agent)]:
        assert node.run("ls", f"{mine.mailbox}/inbox", user=reader).rc == 0
        assert "Permission denied" in node.run("ls", f"{theirs.mailbox}/inbox", user=reader).stderr
