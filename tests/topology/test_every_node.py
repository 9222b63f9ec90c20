"""The service on each host: what it is, what it may, and what it keeps to itself."""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from topology.nodes import CONFIG, CREDENTIALS, INSTALL, MAILBOXES, SERVICE, TLS

if TYPE_CHECKING:
    from pathlib import Path

    from topology.nodes import Node

testinfra_hosts = ["ansible://trishula"]

FILES = ["accept.json", "dial.json", "keys.json"]


# ── The unit ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def rendered(inventory: Path, pytestconfig: pytest.Config) -> dict[str, Any]:
    """What the roles' templates give for each host."""
    render = pytestconfig.rootpath / "tests/contract/render.py"
    request = json.dumps({"inventory": str(inventory)})
    done = subprocess.run([sys.executable, render], input=request, capture_output=True, text=True, check=True)
    return {host: parts["templates"] for host, parts in json.loads(done.stdout)["answer"].items()}


@pytest.mark.parametrize("unit", ["trishula-node.service", "trishula-node.socket"])
def test_the_unit_is_its_template_and_nothing_is_added_to_it(node: Node, unit: str, rendered: dict[str, Any]) -> None:
    path = f"/etc/systemd/system/{unit}"
    loaded = node.properties(unit, "FragmentPath", "DropInPaths", "NeedDaemonReload")
    assert loaded == {"FragmentPath": path, "DropInPaths": "", "NeedDaemonReload": "no"}
    assert node.read(path).decode() == rendered[node.name]["trishula_node"][unit]


def test_the_configuration_is_its_template(node: Node, rendered: dict[str, Any]) -> None:
    assert node.rights(CONFIG) == {"root:trishula 640"}
    assert node.read(CONFIG).decode() == rendered[node.name]["trishula_node"]["node.toml"]


def test_the_service_runs_and_comes_back_at_boot(node: Node) -> None:
    for unit in ("trishula-node.service", "trishula-node.socket"):
        state = node.properties(unit, "ActiveState", "UnitFileState")
        assert state == {"ActiveState": "active", "UnitFileState": "enabled"}


def test_systemd_finds_the_service_well_confined(node: Node) -> None:
    run = node.run("systemd-analyze", "security", "--no-pager", "--threshold=15", SERVICE)
    assert run.rc == 0, run.stdout


def test_the_process_has_no_privilege_and_no_way_to_one(node: Node) -> None:
    status = dict(
        line.split(":\t", 1) for line in node.read(f"/proc/{node.pid}/status").decode().splitlines() if ":\t" in line
    )
    user = node.host.user("trishula")
    groups = {user.gid} | {node.host.group(agent.group).gid for agent in node.agents}
    if not node.dials_only:
        groups.add(node.host.group("trishula-sync").gid)
    assert user.uid > 0
    assert set(status["Uid"].split()) == {str(user.uid)}
    assert set(status["Gid"].split()) == {str(user.gid)}
    assert {int(group) for group in status["Groups"].split()} <= groups
    assert [int(status[f"Cap{which}"], 16) for which in ("Inh", "Prm", "Eff", "Bnd", "Amb")] == [0] * 5
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


# ── The release ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_runs_a_whole_release_that_is_named_by_what_is_in_it(node: Node) -> None:
    locked = hashlib.sha256(node.read(f"{INSTALL}/current/requirements.txt")).hexdigest()
    release = f"releases/{node.status()['version']}-{locked[:12]}"
    assert node.host.file(f"{INSTALL}/current").linked_to == f"{INSTALL}/{release}"
    started = node.read(f"/proc/{node.pid}/cmdline").decode().split("\0")[0]
    assert started.startswith(f"{INSTALL}/{release}/bin/python")


def test_there_is_one_release_to_go_back_to_at_most(node: Node) -> None:
    releases = node.host.file(f"{INSTALL}/releases").listdir()
    assert 1 <= len(releases) <= 2
    for release in releases:
        assert node.host.file(f"{INSTALL}/releases/{release}/requirements.txt").is_file


def test_an_operator_can_ask_whether_the_node_could_start(node: Node) -> None:
    run = node.run("trishula", "node", "check", "--config", CONFIG)
    assert run.rc == 0, run.stdout + run.stderr


# ── Secrets ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_credentials_are_for_root_and_reach_the_node_by_systemd_alone(node: Node) -> None:
    assert node.rights(*(f"{CREDENTIALS}/{name}" for name in FILES)) == {"root:root 600"}
    assert node.run("ls", CREDENTIALS, user="trishula").rc != 0
    handed_over = f"/run/credentials/{SERVICE}"
    environment = node.read(f"/proc/{node.pid}/environ").decode().split("\0")
    assert f"CREDENTIALS_DIRECTORY={handed_over}" in environment
    assert sorted(node.host.file(handed_over).listdir()) == FILES
    assert node.run("ls", handed_over, user="nobody").rc != 0


def test_no_secret_is_in_an_argument_an_environment_or_the_configuration(node: Node) -> None:
    exposed = node.output(
        f"cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ {CONFIG} /etc/systemd/system/trishula-* 2>/dev/null"
    )
    assert b"node\0run" in exposed
    assert b"CREDENTIALS_DIRECTORY=" in exposed
    assert b"[node]" in exposed
    assert [secret for secret in node.secrets() if secret.encode() in exposed] == []


def test_an_agents_token_is_for_its_own_login(node: Node) -> None:
    for agent in node.agents:
        assert node.rights(f"/etc/trishula/agents/{agent.name}.token") == {f"root:{agent.group} 640"}


# ── The certificate ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_certificate_is_this_nodes_own_from_the_mesh_ca(node: Node) -> None:
    ca = x509.load_pem_x509_certificate(node.read(f"{TLS}/ca.crt"))
    certificate = x509.load_pem_x509_certificate(node.read(f"{TLS}/node.crt"))
    certificate.verify_directly_issued_by(ca)

    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"

    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    dialled_at = node.facts.get("trishula_address", node.name)
    assert set(names.get_values_for_type(x509.DNSName)) == {node.name, "localhost", dialled_at}
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("127.0.0.1")]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca

    left = certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)
    assert dt.timedelta(days=60) < left <= dt.timedelta(days=365)


def test_the_certificate_is_readable_by_the_node_and_by_nobody_else(node: Node) -> None:
    assert node.rights(f"{TLS}/node.crt", f"{TLS}/node.key") == {"root:trishula 640"}
    assert node.run("cat", f"{TLS}/node.key", user=node.agents[0].user).rc != 0


def test_no_private_key_but_the_nodes_own_is_on_the_host(node: Node) -> None:
    # The mesh CA's key, above all, never leaves the controller.
    found = node.run("grep", "-rlI", "PRIVATE KEY-----", "/etc/trishula", "/var/lib/trishula")
    assert sorted(found.stdout.split()) == [
        "/etc/trishula/fallback/pull",
        "/etc/trishula/fallback/push",
        f"{TLS}/node.key",
    ]


# ── Mailboxes and sockets ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_mailbox_is_the_nodes_and_its_agents_and_closed_to_the_world(node: Node) -> None:
    for agent in node.agents:
        folders = [f"{agent.mailbox}/{name}" for name in ("inbox", "outbox", "archive", "bounced", "receipts")]
        assert node.rights(agent.mailbox) == {f"trishula:{agent.group} 2750"}
        assert node.rights(*folders) == {f"trishula:{agent.group} 2770"}
    assert node.rights("/var/lib/trishula", MAILBOXES) == {"trishula:trishula 711"}


def test_a_logins_own_folder_is_the_mailbox_of_its_first_agent(node: Node) -> None:
    firsts: dict[str, str] = {}
    for agent in node.agents:
        firsts.setdefault(agent.user, agent.mailbox)
    for user, mailbox in firsts.items():
        link = f"/home/{user}/trishula"
        assert node.host.file(link).linked_to == mailbox
        assert node.host.check_output(f"stat --format %U {link}") == user
        assert node.run("sh", "-c", "ls ~/trishula/inbox", user=user).rc == 0


def test_an_agent_reads_its_inbox_and_nobody_else_does(node: Node) -> None:
    for agent in node.agents:
        assert node.run("ls", f"{agent.mailbox}/inbox", user=agent.user).rc == 0
        assert node.run("trishula", "inbox", "--socket", agent.socket, user=agent.user).rc == 0
        strangers = {"openclaw", "dhyana", "nobody"} - {agent.user}
        for stranger in strangers:
            assert "Permission denied" in node.run("ls", f"{agent.mailbox}/inbox", user=stranger).stderr
            assert node.run("trishula", "inbox", "--socket", agent.socket, user=stranger).rc == 3


def test_the_operators_socket_speaks_for_the_first_agent(node: Node) -> None:
    first = node.agents[0]
    assert node.run("trishula", "inbox", user=first.user).rc == 0
    assert node.run("trishula", "inbox", user="nobody").rc == 3
