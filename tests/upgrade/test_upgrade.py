"""From the release before this one to this one, under a stream of messages; and back from one that does not come up."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from faults.breaking import paused
from topology.nodes import INSTALL, SERVICE, eventually
from topology.playbooks import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from faults.stream import Stream
    from topology.nodes import Node
    from upgrade.conftest import Upgrade

STORE = "/var/lib/trishula/store"
FORMAT = f"""
import sqlite3
db = sqlite3.connect("file:{STORE}/trishula.db?mode=ro", uri=True)
print(db.execute("PRAGMA user_version").fetchone()[0])
"""


def release(node: Node) -> str:
    """The release folder that the node's process runs from; it is the one that is linked to."""
    (python, *_) = node.read(f"/proc/{node.pid}/cmdline").decode().split("\0")
    running = python.removeprefix(f"{INSTALL}/releases/").partition("/")[0]
    assert node.host.check_output(f"readlink {INSTALL}/current") == f"releases/{running}"
    return running


def started(node: Node) -> float:
    """When its process began, in seconds since 1970."""
    return float(node.host.check_output(f"stat --format %Y /proc/{node.pid}"))


def store_format(node: Node) -> int:
    return int(node.python(FORMAT))


def test_a_check_of_an_upgrade_says_what_it_would_change_and_changes_nothing(
    mesh: dict[str, Node], stream: Stream, upgrade: Upgrade
) -> None:
    before = [(node.pid, release(node)) for node in mesh.values()]
    run = upgrade(ROOT, "--check")
    assert run.code == 0, run.said
    assert run.changes > 0
    assert [(node.pid, release(node)) for node in mesh.values()] == before
    assert stream.flows()


def test_an_upgrade_does_not_begin_while_a_host_cannot_be_reached(
    mesh: dict[str, Node], stream: Stream, upgrade: Upgrade
) -> None:
    before = release(mesh["agni"])
    with paused(mesh["rushabdev"]) as fault:
        run = upgrade(ROOT)
    assert run.code != 0
    assert run.changes == 0
    assert "rushabdev cannot be reached" in run.text
    assert release(mesh["agni"]) == before
    eventually(lambda: stream.healthy(since=fault.mended), within=15)


def test_old_and_new_talk_while_one_node_after_the_other_is_upgraded(
    mesh: dict[str, Node], stream: Stream, upgrade: Upgrade
) -> None:
    agni, rushabdev = mesh["agni"], mesh["rushabdev"]
    before = {node.name: release(node) for node in mesh.values()}
    formats = {node.name: store_format(node) for node in mesh.values()}
    run = upgrade(ROOT)
    assert run.code == 0, run.said
    for node in mesh.values():
        assert release(node) != before[node.name]
        assert store_format(node) > formats[node.name]
    assert started(agni) < started(rushabdev)
    for sender, to in (("agni", "rushabdev"), ("rushabdev", "agni")):
        assert stream.crossed(sender, to, since=started(agni) + 1, until=started(rushabdev) - 1) > 0
    now = time.time()
    eventually(lambda: stream.healthy(since=now), within=15)


def test_a_second_upgrade_to_the_same_release_changes_nothing(
    mesh: dict[str, Node], stream: Stream, upgrade: Upgrade
) -> None:
    before = {node.name: node.pid for node in mesh.values()}
    run = upgrade(ROOT)
    assert run.code == 0, run.said
    assert run.changes == 0
    assert {node.name: node.pid for node in mesh.values()} == before
    assert stream.flows()


def test_a_release_that_does_not_come_up_is_taken_back_on_its_node_and_the_others_are_left_alone(
    mesh: dict[str, Node], stream: Stream, upgrade: Upgrade, broken: Path
) -> None:
    agni, rushabdev = mesh["agni"], mesh["rushabdev"]
    before = release(agni), store_format(agni), agni.status()["incarnation"]
    untouched = rushabdev.pid
    run = upgrade(broken)
    assert run.code != 0
    assert "this release is broken on purpose" in agni.host.check_output(f"journalctl --no-pager --unit {SERVICE}")
    assert "agni: taken back to what it ran with before." in run.said, run.said
    assert "the node is ready" in run.said
    assert (release(agni), store_format(agni), agni.status()["incarnation"]) == before
    assert rushabdev.pid == untouched
    assert not agni.host.file(f"{INSTALL}/before.tar").exists
    assert agni.host.file(STORE).listdir() == rushabdev.host.file(STORE).listdir()
    now = time.time()
    eventually(lambda: stream.healthy(since=now), within=15)


def test_nothing_was_lost_or_doubled_on_the_way(mesh: dict[str, Node], stream: Stream) -> None:
    stream.finish(within=60)
    assert stream.stored()
    lost, too_many = stream.lost_and_doubled(within=15)
    assert not lost
    assert not too_many
    for node in mesh.values():
        assert "Traceback" not in node.host.check_output(f"journalctl --no-pager --output cat --unit {SERVICE}")
