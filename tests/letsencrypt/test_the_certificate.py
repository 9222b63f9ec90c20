"""Issued, renewed, refused: and the laptop's link stays up through all of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from topology.nodes import SERVICE, TLS, eventually
from topology.playbooks import play

if TYPE_CHECKING:
    from pathlib import Path

    from faults.stream import Stream
    from topology.nodes import Node

RENEW = "trishula-renew.service"
CLOSED = "INPUT --protocol tcp --destination-port 80 --jump REJECT --reject-with tcp-reset"

# argv: name, port. What the host, which trusts the public roots alone, is shown there: serial, issuer.
SHOWN = """
import socket, ssl, sys
name, port = sys.argv[1], int(sys.argv[2])
with socket.create_connection((name, port), timeout=5) as plain:
    with ssl.create_default_context().wrap_socket(plain, server_hostname=name) as peer:
        found = peer.getpeercert()
print(found["serialNumber"], dict(pair for (pair,) in found["issuer"])["commonName"])
"""


def shown(agni: Node, mac: Node) -> tuple[str, str]:
    """What the laptop sees: serial and issuer."""
    serial, issuer = mac.python(SHOWN, agni.facts["trishula_address"], agni.port).split(" ", 1)
    return serial, issuer


def in_file(agni: Node) -> str:
    return agni.host.check_output(f"openssl x509 -noout -serial -in {TLS}/node.crt").removeprefix("serial=")


def rules(agni: Node) -> set[str]:
    """What ufw was told of port 80, now."""
    return {line for line in agni.host.check_output("ufw show added").splitlines() if "80/tcp" in line}


def since(mesh: dict[str, Node]) -> list[int]:
    """When the link came up, by both ends."""
    return [mesh[name].status()["peers"][peer]["since"] for name, peer in (("mac", "agni"), ("agni", "mac"))]


def test_the_server_shows_a_certificate_of_the_ca_on_443(agni: Node, mac: Node) -> None:
    assert agni.port == 443
    serial, issuer = shown(agni, mac)
    assert issuer.startswith("Pebble Intermediate CA")
    assert serial == in_file(agni) == agni.status()["certificate"]["serial"]
    assert agni.rights(f"{TLS}/node.crt", f"{TLS}/node.key") == {"root:trishula 640"}


def test_the_laptop_has_none_and_the_link_is_up(agni: Node, mac: Node) -> None:
    assert "TRISHULA mesh CA" in mac.host.check_output(f"openssl x509 -noout -issuer -in {TLS}/node.crt")
    assert mac.linked() == {"agni"}
    assert agni.linked() == {"mac"}


def test_a_certificate_that_ends_soon_is_warned_of(agni: Node) -> None:
    # The CA's hold for ten days.
    assert agni.status()["certificate"]["days_left"] == 9
    assert "CERTIFICATE ENDS IN 9 d" in agni.run("trishula", "status").stdout
    said = agni.host.check_output(f"journalctl --output cat --unit {SERVICE} --priority warning")
    assert "ends in 9 d: run site.yml, or see why it was not renewed" in said


def test_port_80_is_closed_and_a_timer_renews(agni: Node) -> None:
    assert rules(agni) == set()
    state = agni.properties("trishula-renew.timer", "ActiveState", "UnitFileState")
    assert state == {"ActiveState": "active", "UnitFileState": "enabled"}
    assert "--no-random-sleep-on-renew" in agni.properties(RENEW, "ExecStart")["ExecStart"]


def test_a_renewal_is_served_and_not_one_link_is_lost(
    mesh: dict[str, Node], agni: Node, mac: Node, stream: Stream
) -> None:
    up, old, pid = since(mesh), in_file(agni), agni.pid
    stored = len(stream.stored())
    # Ten days are less than certbot wants: it is due, and no force is needed.
    agni.host.check_output(f"systemctl start {RENEW}")
    new = in_file(agni)
    assert new != old
    eventually(lambda: agni.status()["certificate"]["serial"] == new, within=10)
    assert shown(agni, mac)[0] == new
    eventually(lambda: len(stream.stored()) > stored + 20, within=10)
    assert since(mesh) == up
    assert agni.pid == pid
    assert rules(agni) == set()


def test_with_port_80_closed_the_renewal_fails_clearly_and_the_old_one_serves_on(
    mesh: dict[str, Node], agni: Node, mac: Node, stream: Stream
) -> None:
    up, old = since(mesh), in_file(agni)
    agni.host.check_output(f"iptables --insert {CLOSED}")
    try:
        assert agni.run("systemctl", "start", RENEW).rc != 0
    finally:
        agni.host.check_output(f"iptables --delete {CLOSED}")
    said = agni.host.check_output(f"journalctl --output cat --unit {RENEW}")
    assert "failed to authenticate" in said
    assert re.search(r"Domain: agni\.mesh\.internal.*Detail: .*connection refused", said, re.DOTALL | re.IGNORECASE), (
        said
    )
    assert shown(agni, mac)[0] == old == in_file(agni) == agni.status()["certificate"]["serial"]
    assert since(mesh) == up
    assert rules(agni) == set()
    assert stream.flows()


def test_a_pair_that_is_none_is_refused_and_the_old_one_serves_on(
    mesh: dict[str, Node], agni: Node, mac: Node, stream: Stream
) -> None:
    up, old = since(mesh), in_file(agni)
    agni.host.check_output(
        f"cd {TLS} && cp --archive node.key kept && openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"
        f" > node.key && systemctl reload {SERVICE}"
    )
    try:
        eventually(lambda: "don't make a pair" in agni.status()["certificate"]["refused"], within=10)
        assert shown(agni, mac)[0] == old
    finally:
        agni.host.check_output(f"cd {TLS} && mv kept node.key && systemctl reload {SERVICE}")
    eventually(lambda: not agni.status()["certificate"]["refused"], within=10)
    said = agni.host.check_output(f"journalctl --output cat --unit {SERVICE} --priority err")
    assert f"the new certificate is refused, the old one (serial {old}" in said
    assert since(mesh) == up
    assert stream.flows()


def test_nothing_of_the_stream_was_lost_or_doubled(mesh: dict[str, Node], stream: Stream) -> None:
    del mesh
    stream.finish(within=60)
    assert stream.stored()
    assert set(stream.routes()) == {"direct"}
    lost, too_many = stream.lost_and_doubled(within=15)
    assert not lost
    assert not too_many


def test_uninstalled_it_leaves_no_certbot_no_timer_and_no_rule(agni: Node, inventory: Path) -> None:
    run = play("playbooks/uninstall.yml", "-e", "drop_mail=true", inventory=inventory)
    assert run.code == 0, run.said
    assert rules(agni) == set()
    for trace in (
        "dpkg-query --show certbot",
        "systemctl cat trishula-renew.timer",
        "ls /etc/trishula",
        "ls /etc/letsencrypt",
    ):
        assert agni.host.run(trace).rc != 0, trace
