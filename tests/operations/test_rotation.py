"""All secrets are made anew at noon: mail flows on, nothing is refused, and the next time there is nothing to do."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from faults.breaking import paused
from faults.stream import Stream
from operations.operator import kids
from topology.nodes import CREDENTIALS, SERVICE, eventually
from topology.overheard import note as note_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from operations.operator import Operator
    from topology.nodes import Node

ROTATE = "playbooks/rotate_secrets.yml"
COMPLAINTS = r"\btoken\b|turned away|deferred(?!.* has no link to)|ignored a receipt|unknown key|signature"


@pytest.fixture(scope="module")
def stream(mesh: dict[str, Node]) -> Iterator[Stream]:
    """Flows until a test tells it to finish."""
    with Stream(mesh).flowing() as stream:
        yield stream


def complaints(node: Node, since: float) -> str:
    """What a node wrote of mail, receipts or peers that it did not believe."""
    journal = f"journalctl --quiet --no-pager --output short-precise --unit {SERVICE} --since @{since:.0f}"
    return node.host.run(f"{journal} --grep '{COMPLAINTS}'").stdout


def test_a_host_that_cannot_be_reached_ends_a_rotation_before_it_begins(
    operator: Operator, mesh: dict[str, Node], stream: Stream
) -> None:
    before = operator.generations
    with paused(mesh["agni"]) as fault:
        run = operator.run(ROTATE)
    assert run.code != 0
    assert "agni cannot be reached" in run.text
    assert run.changes == 0
    assert operator.generations == before
    eventually(lambda: stream.healthy(since=fault.mended), within=15)


def test_a_check_of_a_rotation_changes_nothing(operator: Operator, mesh: dict[str, Node]) -> None:
    before = operator.generations, [(node.pid, kids(node)) for node in mesh.values()]
    run = operator.succeed(ROTATE, "--check")
    assert run.changes == 1  # the step that it would take
    assert (operator.generations, [(node.pid, kids(node)) for node in mesh.values()]) == before


def test_all_secrets_are_rotated_under_a_stream_and_none_is_said(
    operator: Operator, mesh: dict[str, Node], stream: Stream
) -> None:
    old = {name: node.secrets() for name, node in mesh.items()}
    since = time.time() + 1
    run = operator.succeed(ROTATE, "-vvv")
    for name, node in mesh.items():
        assert kids(node) == {peer: ["2.2"] for peer in mesh if peer != name}
        accepted = json.loads(node.read(f"{CREDENTIALS}/accept.json"))
        assert len(accepted) == len(node.agents) + len([peer for peer in mesh if dials(mesh[peer], node)])
        new = node.secrets()
        assert new & old[name] == node.private_keys()  # of TLS and ssh
        assert not [word for word in new | old[name] if word in run.said]
        assert complaints(node, since) == ""
    assert (operator.secrets / "mesh.yml").read_text().split("mesh_secret: ")[1].split()[0] not in run.said
    note_secrets(mesh.values(), operator.inventory)
    eventually(lambda: stream.healthy(since=since), within=15)


def dials(one: Node, other: Node) -> bool:
    return one.name != other.name and (one.dials_only or (not other.dials_only and one.name < other.name))


def test_a_second_rotation_on_the_same_day_changes_nothing(operator: Operator, mesh: dict[str, Node]) -> None:
    pids = [node.pid for node in mesh.values()]
    assert operator.succeed(ROTATE).changes == 0
    assert [node.pid for node in mesh.values()] == pids


def test_nothing_of_the_stream_was_lost_doubled_or_refused(stream: Stream, mesh: dict[str, Node]) -> None:
    stream.finish(within=60)
    assert stream.stored()
    assert stream.routes().total() == len(stream.stored())
    lost, too_many = stream.lost_and_doubled(within=15)
    assert not lost
    assert not too_many
    for node in mesh.values():
        for agent in node.agents:
            assert node.host.check_output(f"ls {agent.mailbox}/bounced") == ""
