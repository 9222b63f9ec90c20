"""status.yml and trace.yml: what an operator asks of all hosts at once."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from faults.breaking import paused
from topology.nodes import eventually

if TYPE_CHECKING:
    from operations.operator import Operator
    from topology.nodes import Node


@pytest.fixture(scope="module")
def message(mesh: dict[str, Node]) -> str:
    """The id of one that went from mac to agni and was read."""
    mac, agni = mesh["mac"], mesh["agni"]
    me, you = mac.agents[0], agni.agents[0]
    sent = mac.run("trishula", "send", you.name, "trace me", "--wait", "delivered", "--json", user=me.user)
    assert sent.rc == 0, sent.stderr
    message_id: str = json.loads(sent.stdout)["id"]
    assert agni.run("trishula", "done", message_id, user=you.user).rc == 0
    eventually(lambda: "read" in mac.run("trishula", "show", message_id, user=me.user).stdout, within=5)
    return message_id


def test_status_shows_every_host_link_and_agent(mesh: dict[str, Node], operator: Operator) -> None:
    eventually(lambda: all(node.linked() == set(mesh) - {name} for name, node in mesh.items()), within=15)
    run = operator.run("playbooks/status.yml")
    assert (run.code, run.changes) == (0, 0), run.said
    for name, node in mesh.items():
        version = re.escape(node.status()["version"])
        assert re.search(rf"{name} +ready +{version} +.* d left +.* MiB +.* GiB +trusted +\d+", run.text), run.said
        for other in set(mesh) - {name}:
            assert re.search(rf"{name} +{other} +linked", run.text), run.said
        for agent in node.agents:
            assert re.search(rf"{agent.name} +{name} +(yes|no) +\d+", run.text), run.said


def test_a_run_that_changes_nothing_looks_at_no_host_by_itself_and_says_so_in_a_line(
    mesh: dict[str, Node], operator: Operator
) -> None:
    run = operator.succeed("site.yml", "-v")
    assert run.changes == 0, run.said
    assert "Ask what differs" in run.said
    assert "Keep what the node runs with" not in run.said
    ways = len(mesh) * (len(mesh) - 1)
    verified = rf"{len(mesh)} nodes; {ways} directions by link and {ways} by rsync verified; nothing changed; \d+ s"
    assert re.search(verified, run.text), run.said


def test_of_one_node_every_way_from_it_is_verified(operator: Operator) -> None:
    run = operator.succeed("playbooks/verify.yml", "--limit", "agni")
    assert "1 node; 2 directions by link and 2 by rsync verified" in run.text, run.said


def test_a_trace_leads_from_host_to_host(message: str, operator: Operator) -> None:
    run = operator.run("playbooks/trace.yml", "-e", f"id={message}")
    assert (run.code, run.changes) == (0, 0), run.said
    steps = [
        r"mac +from mac to agni: stored, for agni",
        r"agni +from mac to agni: delivered here, from mac by direct",
        r"mac +from mac to agni: delivered, says agni by direct, after [\d.]+ ms",
        r"agni +from mac to agni: read here",
        r"mac +from mac to agni: read, says agni by direct",
        rf"mac: {message}, as mac knows it",
        r"rushabdev: trishula: nothing is known here of a message",
    ]
    for step in steps:
        assert re.search(step, run.text), run.said


def test_what_a_message_leaves_in_a_journal_is_for_who_asks_for_it(mesh: dict[str, Node], message: str) -> None:
    journal = "journalctl --quiet --output cat --unit trishula-node.service"
    assert message in mesh["mac"].host.check_output(f"{journal} --grep {message}")
    assert message not in mesh["mac"].host.check_output(f"{journal} --priority info")


def test_a_trace_without_an_id_says_what_it_takes(operator: Operator) -> None:
    for options in ([], ["-e", "id=../../etc/passwd"]):
        run = operator.run("playbooks/trace.yml", *options)
        assert run.code != 0
        assert "is no id of a message. Name one with '-e id=…'" in run.text


@pytest.mark.parametrize("name", ["status.yml", "trace.yml"])
def test_a_dry_run_changes_nothing_either(operator: Operator, message: str, name: str) -> None:
    run = operator.run(f"playbooks/{name}", "--check", "-e", f"id={message}")
    assert (run.code, run.changes) == (0, 0), run.said


@pytest.mark.parametrize("playbook", ["site.yml", "playbooks/adopt.yml", "playbooks/upgrade.yml"])
def test_what_changes_hosts_does_not_begin_while_one_is_not_there(
    mesh: dict[str, Node], operator: Operator, playbook: str
) -> None:
    with paused(mesh["rushabdev"]):
        run = operator.run(playbook)
    assert run.code != 0
    assert run.changes == 0
    assert "rushabdev cannot be reached" in run.text, run.said
    eventually(lambda: all(node.linked() == set(mesh) - {name} for name, node in mesh.items()), within=15)


def test_to_move_in_where_nothing_old_stands_is_nothing_to_do(operator: Operator) -> None:
    for options in (["--check", "-e", "adopt=true"], []):
        assert operator.succeed("playbooks/adopt.yml", *options).changes == 0


def test_a_host_that_is_not_there_is_named_and_the_others_are_shown(
    mesh: dict[str, Node], message: str, operator: Operator
) -> None:
    with paused(mesh["rushabdev"]):
        status, trace, gone = (
            operator.run("playbooks/status.yml"),
            operator.run("playbooks/trace.yml", "-e", f"id={message}"),
            operator.run("playbooks/uninstall.yml"),
        )
    for run in (status, trace, gone):
        assert run.code != 0
        assert run.changes == 0
        assert re.search(r"rushabdev:? cannot be reached", run.text), run.said
    assert re.search(r"rushabdev +UNREACHABLE", status.text)
    for name in ("mac", "agni"):
        assert re.search(rf"{name} +ready", status.text)
        assert f"{message}, as {name} knows it" in trace.text
    assert "No host was touched." in gone.text
    eventually(lambda: all(node.linked() == set(mesh) - {name} for name, node in mesh.items()), within=15)
