"""uninstall.yml, held against what the hosts were before anything of TRISHULA came."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faults.breaking import cut_off
from topology.nodes import MAILBOXES, UNITS, eventually
from topology.portrait import before, portrait, undeclared

if TYPE_CHECKING:
    from pathlib import Path

    from operations.operator import Operator
    from topology.nodes import Node

# What prepare.yml has put there for an old file sync, and adopt.yml has switched off.
OLD_SYNC = ("/home/openclaw/trishula", "/var/spool/cron", "/etc/systemd/system/fetch-mail", "fetch-mail")
COPIES = "/var/backups/trishula-adopt"
"""Of the old sync, as adopt.yml has found it: who takes the mesh off may want it back."""


KEPT = rf"(?:file|folder|content) \s (?: {MAILBOXES} | {COPIES} )"
LEFT_OUT = rf"(?:\w+) \s (?: {' | '.join(OLD_SYNC)} )"


def old_folder(node: Node, name: str) -> set[str]:
    """The files in the folder of the old sync, with what is in them."""
    find = f"cd /home/openclaw/{name} 2>/dev/null && find . -type f ! -name .taken-over -exec sha256sum {{}} +"
    return set(node.host.run(find).stdout.splitlines())


def mailbox_files(node: Node) -> set[str]:
    found: str = node.host.check_output(f"cd {MAILBOXES} && find . -type f -exec sha256sum {{}} +")
    return set(found.splitlines())


def test_a_dry_run_says_what_would_go_and_takes_nothing(mesh: dict[str, Node], operator: Operator) -> None:
    run = operator.run("playbooks/uninstall.yml", "--check")
    assert run.code == 0, run.said
    assert run.changes > 0
    for name, node in mesh.items():
        assert node.status()["node"] == name


def test_a_node_that_is_down_may_have_mail_that_nobody_can_see(mesh: dict[str, Node], operator: Operator) -> None:
    agni = mesh["agni"]
    agni.host.check_output(f"systemctl stop {UNITS}")
    try:
        run = operator.run("playbooks/uninstall.yml")
    finally:
        agni.host.check_output(f"systemctl start {UNITS}")
    assert run.code != 0
    assert run.changes == 0
    assert "The node on agni is not ready" in run.text
    assert "No host was touched" in run.text


def test_mail_that_is_on_its_way_is_not_thrown_away(mesh: dict[str, Node], operator: Operator) -> None:
    agni, rushabdev = mesh["agni"], mesh["rushabdev"]
    with cut_off(agni):
        eventually(lambda: agni.linked() == set(), within=15)
        identity = agni.send(rushabdev.agents[0].name)
        run = operator.run("playbooks/uninstall.yml")
    assert run.code != 0
    assert run.changes == 0
    assert "agni has 1 messages that are not delivered yet" in run.text
    assert "No host was touched" in run.text
    eventually(lambda: rushabdev.in_inbox(identity), within=30)


def test_it_leaves_the_mailboxes_as_their_agents_own_and_no_other_trace(
    mesh: dict[str, Node], inventory: Path, operator: Operator
) -> None:
    kept = {name: mailbox_files(node) for name, node in mesh.items()}
    assert kept["mac"]
    assert kept["agni"]
    aside = {name: old_folder(node, "trishula.before-*") for name, node in mesh.items()}
    assert aside["agni"]

    first = operator.run("playbooks/uninstall.yml", "-e", "drop_mail=true")
    assert first.code == 0, first.said
    assert first.changes > 0

    for name, node in mesh.items():
        assert old_folder(node, "trishula") == aside[name]  # as it was before the move
        assert old_folder(node, "trishula.before-*") == set()
    for name, node in mesh.items():
        assert mailbox_files(node) == kept[name]
        for agent in node.agents:
            strangers = f"find {agent.mailbox} ! ( -user {agent.user} -group {agent.group} )"
            assert node.run(*strangers.split()).stdout == ""
            assert node.run("ls", f"{agent.mailbox}/inbox", user=agent.user).rc == 0
        left = undeclared(before(inventory, name), portrait(node), f"(?: {KEPT} | {LEFT_OUT} )")
        assert left == ["+ folder /var/lib/trishula root:root 711"], name


def test_a_second_run_finds_nothing_to_do(operator: Operator) -> None:
    run = operator.run("playbooks/uninstall.yml")
    assert (run.code, run.changes) == (0, 0), run.said


def test_the_mailboxes_go_when_they_are_told_to(mesh: dict[str, Node], inventory: Path, operator: Operator) -> None:
    run = operator.run("playbooks/uninstall.yml", "-e", "remove_mailboxes=true")
    assert run.code == 0, run.said
    for name, node in mesh.items():
        assert undeclared(before(inventory, name), portrait(node), LEFT_OUT) == [], name
