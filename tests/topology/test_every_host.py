"""Who listens on a host, and who is let in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from topology.nodes import eventually

if TYPE_CHECKING:
    from topology.nodes import Node

testinfra_hosts = ["ansible://trishula"]

# What ufw puts around the rules of its users. Whatever else stands in INPUT lets something past them.
UFW_FRAME = [
    "-P INPUT DROP",
    "-A INPUT -j ufw{v6}-before-logging-input",
    "-A INPUT -j ufw{v6}-before-input",
    "-A INPUT -j ufw{v6}-after-input",
    "-A INPUT -j ufw{v6}-after-logging-input",
    "-A INPUT -j ufw{v6}-reject-input",
    "-A INPUT -j ufw{v6}-track-input",
]


def test_sshd_and_the_node_listen_and_nobody_else(node: Node) -> None:
    found = set()
    for line in node.host.check_output("ss -Hltun").splitlines():
        protocol, _, _, _, local, *_ = line.split()
        address, port = local.rsplit(":", 1)
        # Docker's own name server sits in every container, on a port by chance.
        if address != "127.0.0.11":
            found.add((protocol, address, int(port)))
    ours = ("tcp", "127.0.0.1" if node.dials_only else "*", node.port)
    assert found == {("tcp", "0.0.0.0", node.ssh_port), ("tcp", "[::]", node.ssh_port), ours}


@pytest.mark.parametrize(("command", "v6"), [("iptables", ""), ("ip6tables", "6")])
def test_the_firewall_holds_these_rules_and_no_other(node: Node, command: str, v6: str) -> None:
    frame = node.host.check_output(f"{command} -S INPUT").splitlines()
    assert frame == [line.format(v6=v6) for line in UFW_FRAME]

    ports = [node.ssh_port] if node.dials_only else sorted([node.ssh_port, node.port])
    chain = f"ufw{v6}-user-input"
    assert node.host.check_output(f"{command} -S {chain}").splitlines() == [
        f"-N {chain}",
        *(f"-A {chain} -p tcp -m tcp --dport {port} -j ACCEPT" for port in ports),
    ]


def test_the_firewall_stands_again_after_a_reboot(node: Node) -> None:
    assert node.host.service("ufw").is_enabled
    assert node.host.file("/etc/ufw/ufw.conf").contains("^ENABLED=yes$")


def test_ssh_still_answers_the_hosts_around_it(node: Node, neighbours: list[Node]) -> None:
    for neighbour in neighbours:
        assert neighbour.connect(node.name, node.ssh_port) == "open SSH-2.0-"


def test_a_port_that_nobody_named_is_closed_to_the_hosts_around_it(node: Node, neighbours: list[Node]) -> None:
    listener = "trishula-test-listener"
    node.host.check_output(f"systemd-run --quiet --collect --unit {listener} python3 -m http.server 18765")
    try:
        # It is there: the firewall says no, and not an empty port.
        eventually(lambda: node.connect("127.0.0.1", 18765) == "open", within=5)
        assert {neighbour.connect(node.name, 18765) for neighbour in neighbours} == {"dropped"}
    finally:
        node.host.check_output(f"systemctl stop {listener}")
