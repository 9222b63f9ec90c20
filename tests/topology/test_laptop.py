"""The host behind NAT: it dials, and nobody can dial it."""

from __future__ import annotations

import itertools
import tomllib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from topology.nodes import CONFIG

if TYPE_CHECKING:
    from topology.nodes import Node

testinfra_hosts = ["ansible://mac"]


def test_no_way_leads_in(node: Node, others: list[Node], router: Node) -> None:
    tries = itertools.product(others, [node.address, router.source(others[0])], [node.port, 22])
    with ThreadPoolExecutor() as pool:
        assert set(pool.map(lambda attempt: attempt[0].connect(*attempt[1:]), tries)) == {"dropped"}


def test_nobody_at_home_can_dial_it_either(node: Node, router: Node) -> None:
    assert router.connect(node.name, node.port) == "dropped"


def test_the_servers_know_it_by_its_routers_address(node: Node, others: list[Node], router: Node) -> None:
    for other in others:
        links = other.host.check_output(f"ss -Hnt state established sport = :{other.port}").splitlines()
        callers = {line.split()[-1].rsplit(":", 1)[0].strip("[]").removeprefix("::ffff:") for line in links}
        assert router.source(other) in callers
        assert node.address not in callers


def test_it_dials_every_server(node: Node, others: list[Node]) -> None:
    config = tomllib.loads(node.read(CONFIG).decode())
    assert {name for name, peer in config["peers"].items() if peer["dial"]} == {other.name for other in others}
    assert node.linked() == {other.name for other in others}


def test_a_person_lives_beside_the_agent_and_each_reads_its_own_mail_only(node: Node) -> None:
    agent, person = node.agents
    for reader, mine, theirs in [(agent.user, agent, person), (person.user, person, agent)]:
        assert node.run("ls", f"{mine.mailbox}/inbox", user=reader).rc == 0
        assert "Permission denied" in node.run("ls", f"{theirs.mailbox}/inbox", user=reader).stderr
