"""status.yml and trace.yml: what an operator asks of all hosts at once."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from faults.breaking import paused
from topology.nodes import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from operations.conftest import Run
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


def test_status_shows_every_host_link_and_agent(mesh: dict[str, Node], play: Callable[..., Run]) -> None:
    eventually(lambda: all(node.linked() == set(mesh) - {name} for name, node in mesh.items()), within=15)
    run = play("status.yml")
    assert (run.code, run.changed) == (0, 0), run.output
    for name, node in mesh.items():
        version = re.escape(node.status()["version"])
        assert re.search(rf"{name} +ready +{version} +.* d left +.* MiB +trusted +\d+", run.words), run.output
        for other in set(mesh) - {name}:
            assert re.search(rf"{name} +{other} +linked", run.words), run.output
        for agent in node.agents:
            assert re.search(rf"{agent.name} +{name} +(yes|no) +\d+", run.words), run.output


def test_a_trace_leads_from_host_to_host(message: str, play: Callable[..., Run]) -> None:
    run = play("trace.yml", "-e", f"id={message}")
    assert (run.code, run.changed) == (0, 0), run.output
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
        assert re.search(step, run.words), run.output


def test_what_a_message_leaves_in_a_journal_is_for_who_asks_for_it(mesh: dict[str, Node], message: str) -> None:
    journal = "journalctl --quiet --output cat --unit trishula-node.service"
    assert message in mesh["mac"].host.check_output(f"{journal} --grep {message}")
    assert message not in mesh["mac"].host.check_output(f"{journal} --priority info")


def test_a_trace_without_an_id_says_what_it_takes(play: Callable[..., Run]) -> None:
    for options in ([], ["-e", "id=../../etc/passwd"]):
        run = play("trace.yml", *options)
        assert run.code != 0
        assert "is no id of a message. Name one with '-e id=…'" in run.words


@pytest.mark.parametrize("name", ["status.yml", "trace.yml"])
def test_a_dry_run_changes_nothing_either(play: Callable[..., Run], message: str, name: str) -> None:
    run = play(name, "--check", "-e", f"id={message}")
    assert (run.code, run.changed) == (0, 0), run.output


def test_a_host_that_is_not_there_is_named_and_the_others_are_shown(
    mesh: dict[str, Node], message: str, play: Callable[..., Run]
) -> None:
    with paused(mesh["rushabdev"]):
        status, trace, gone = play("status.yml"), play("trace.yml", "-e", f"id={message}"), play("uninstall.yml")
    for run in (status, trace, gone):
        assert run.code != 0
        assert run.changed == 0
        assert re.search(r"rushabdev:? cannot be reached", run.words), run.output
    assert re.search(r"rushabdev +UNREACHABLE", status.words)
    for name in ("mac", "agni"):
        assert re.search(rf"{name} +ready", status.words)
        assert f"{message}, as {name} knows it" in trace.words
    assert "No host was touched." in gone.words
    eventually(lambda: all(node.linked() == set(mesh) - {name} for name, node in mesh.items()), within=15)
