"""Converged hosts on which an old file sync has moved in, twice: molecule/default/prepare.yml left it there.

A phase of Molecule's default scenario.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from topology.nodes import Node

SAMPLES = {path.name: path.read_bytes() for path in (Path(__file__).parents[1] / "samples").glob("*.json")}
HOME = "/home/openclaw"
MOVED = ["mac", "agni"]


@pytest.fixture(params=MOVED)
def moved(request: pytest.FixtureRequest, mesh: dict[str, Node]) -> Node:
    return mesh[request.param]


def found(node: Node, folder: str) -> dict[str, bytes]:
    names = node.host.check_output(f"ls {folder}").split()
    return {name: node.read(f"{folder}/{name}") for name in names if name in SAMPLES}


def test_every_file_of_the_old_inbox_is_unread_once_and_as_it_was(moved: Node) -> None:
    agent = moved.agents[0]
    assert found(moved, f"{agent.mailbox}/inbox") == SAMPLES
    listed = moved.run("trishula", "inbox", "--json")
    assert listed.rc == 0, listed.stderr
    listed_ids = [message["id"] for message in json.loads(listed.stdout)["messages"]]
    ids = [message["id"] for message in map(json.loads, SAMPLES.values()) if "id" in message]
    assert {id_: listed_ids.count(id_) for id_ in ids} == dict.fromkeys(ids, 1)


def test_what_was_sent_before_is_history_and_was_not_sent_again(moved: Node, mesh: dict[str, Node]) -> None:
    agent = moved.agents[0]
    assert found(moved, f"{agent.mailbox}/outbox") == {}
    history = moved.host.check_output(f"ls -d {agent.mailbox}/outbox/sent/*-imported")
    assert found(moved, history) == SAMPLES
    for other in mesh.values():
        if other.name not in MOVED:
            assert found(other, f"{other.agents[0].mailbox}/inbox") == {}


def test_the_old_sync_runs_no_more_and_is_kept_to_be_read(moved: Node) -> None:
    crontab = moved.read("/var/spool/cron/crontabs/openclaw").decode()
    assert [line for line in crontab.splitlines() if "rsync" in line and not line.startswith("#")] == []
    assert moved.properties("fetch-mail.timer", "ActiveState", "UnitFileState") == {
        "ActiveState": "inactive",
        "UnitFileState": "",
    }
    kept = moved.host.check_output("cat /var/backups/trishula-adopt/*")
    assert "* * * * * rsync -az --update" in kept
    assert "OnUnitInactiveSec=60" in kept


def test_the_login_finds_its_mailbox_where_its_folder_was(moved: Node) -> None:
    agent = moved.agents[0]
    assert moved.host.check_output(f"readlink {HOME}/trishula") == agent.mailbox
    assert sorted(moved.run("ls", f"{HOME}/trishula/", user=agent.user).stdout.split()) == sorted(
        moved.host.check_output(f"ls {agent.mailbox}").split()
    )
