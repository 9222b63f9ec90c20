"""What the hosts have written down. Pytest goes by name: this comes last, after all that could have been said."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from topology.nodes import Node

testinfra_hosts = ["ansible://trishula"]


def test_no_secret_was_ever_written_to_the_journal(node: Node) -> None:
    # All of it, not only the node's: sudo, ssh and Ansible write there too.
    journal = node.output("journalctl --no-pager --output export")
    assert b"trishula-node.service" in journal
    assert [secret for secret in node.secrets() if secret.encode() in journal] == []


def test_the_node_never_fell_over_its_own_feet(node: Node) -> None:
    said = node.host.check_output("journalctl --no-pager --output cat --unit trishula-node.service")
    assert "Traceback" not in said


def test_a_first_installation_starts_the_node_once_and_alarms_nobody(node: Node) -> None:
    # Of its first minute: on hosts that stand, something has happened since, as the tests before this one.
    ours = "journalctl --quiet --unit trishula-node.service --unit trishula-node.socket"
    first = node.host.check_output(f"{ours} --output short-unix --grep '^Started ' | head -n 1")
    until = int(float(first.split()[0])) + 60
    starts = node.host.check_output(f"{ours} --output cat --until @{until} --grep '^Started trishula-node.service'")
    assert len(starts.splitlines()) == 1
    alarms = node.host.run(f"{ours} --output cat --until @{until} --priority warning").stdout.splitlines()
    # Who moves in over an old sync is told what became of its mail.
    assert [line for line in alarms if "are taken as delivered before" not in line] == []
