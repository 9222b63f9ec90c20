"""What an operator does at noon: each playbook does it, says so, and the next time finds nothing to do."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from faults.breaking import paused
from life.conftest import SPARE
from topology.nodes import CONFIG, CREDENTIALS, SERVICE, eventually

if TYPE_CHECKING:
    from faults.stream import Stream
    from life.operator import Operator
    from topology.nodes import Node

ROTATE = "playbooks/rotate_secrets.yml"
SITE = "site.yml"
AUTHORIZED = "/etc/ssh/authorized_keys.d/trishula-sync"
COMPLAINTS = r"\btoken\b|deferred|ignored a receipt|unknown key|signature"


def kids(node: Node) -> dict[str, list[str]]:
    keys = json.loads(node.read(f"{CREDENTIALS}/keys.json"))
    return {peer: [key["kid"] for key in pair] for peer, pair in keys.items()}


def complaints(node: Node, since: float) -> str:
    """What a node wrote of mail, receipts or peers that it did not believe."""
    journal = f"journalctl --quiet --no-pager --output cat --unit {SERVICE} --since @{since:.0f}"
    return node.host.run(f"{journal} --grep '{COMPLAINTS}'").stdout


# ── Rotation ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_host_that_cannot_be_reached_ends_a_rotation_before_it_begins(
    operator: Operator, mesh: dict[str, Node], stream: Stream
) -> None:
    before = operator.generations
    with paused(mesh["agni"]) as fault:
        run = operator.run(ROTATE)
    assert run.code != 0
    assert "agni cannot be reached" in run.text
    assert set(run.changed.values()) == {0}
    assert operator.generations == before
    eventually(lambda: stream.healthy(since=fault.mended), within=15)


def test_a_check_of_a_rotation_changes_nothing(operator: Operator, mesh: dict[str, Node]) -> None:
    before = operator.generations, [(node.pid, kids(node)) for node in mesh.values()]
    run = operator.succeed(ROTATE, "--check")
    assert sum(run.changed.values()) == 1  # the step that it would take
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
        ssh_and_tls = {word for word in new & old[name] if len(word) > 43}
        assert new & old[name] == ssh_and_tls
        assert not [word for word in new | old[name] if word in run.said]
        assert complaints(node, since) == ""
    assert (operator.secrets / "mesh.yml").read_text().split("mesh_secret: ")[1].split()[0] not in run.said
    eventually(lambda: stream.healthy(since=since), within=15)


def dials(one: Node, other: Node) -> bool:
    return one.name != other.name and (one.dials_only or (not other.dials_only and one.name < other.name))


def test_a_second_rotation_on_the_same_day_changes_nothing(operator: Operator, mesh: dict[str, Node]) -> None:
    pids = [node.pid for node in mesh.values()]
    assert set(operator.succeed(ROTATE).changed.values()) == {0}
    assert [node.pid for node in mesh.values()] == pids


def test_nothing_of_the_stream_was_lost_doubled_or_refused(stream: Stream, mesh: dict[str, Node]) -> None:
    stream.finish(within=60)
    stored = {(sent.id, sent.to, sent.digest) for sent in stream.stored()}
    assert stored
    assert stream.routes().total() == len(stored)

    def received() -> Counter[tuple[str, str, str]]:
        return Counter((file.id, file.agent, file.digest) for file in stream.files() if file.box != "outbox")

    eventually(lambda: received().keys() >= stored, within=15)
    assert received() == Counter(stored)
    for node in mesh.values():
        for agent in node.agents:
            assert node.host.check_output(f"ls {agent.mailbox}/bounced") == ""


# ── A fourth node ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_fourth_node_is_added_by_an_edit_and_the_site(operator: Operator, mesh: dict[str, Node], spare: Node) -> None:
    operator.move("vayu", "trishula", SPARE)
    operator.succeed(SITE)
    assert spare.linked() == set(mesh)
    assert operator.generations["generations"]["vayu"] == [1]
    assert kids(spare) == {"agni": ["2.1"], "mac": ["2.1"], "rushabdev": ["2.1"]}


def test_a_node_that_leaves_has_sent_its_last_mail_and_is_forgotten(
    operator: Operator, mesh: dict[str, Node], spare: Node
) -> None:
    agni, (agent,) = mesh["agni"], spare.agents
    sent = [
        json.loads(spare.run("trishula", "send", "agni", f"farewell {count}", "--json", user=agent.user).stdout)["id"]
        for count in range(5)
    ]
    operator.move("vayu", "trishula_leaving")
    operator.succeed(SITE)
    inbox = f"{agni.agents[0].mailbox}/inbox"
    eventually(lambda: {f"{name}.json" for name in sent} <= set(agni.host.file(inbox).listdir()), within=5)
    assert spare.properties(SERVICE, "ActiveState", "UnitFileState") == {
        "ActiveState": "inactive",
        "UnitFileState": "disabled",
    }
    for node in mesh.values():
        assert "vayu" not in node.host.file(CONFIG).content_string
        assert set(kids(node)) == set(mesh) - {node.name}
        assert "vayu" not in node.host.run(f"cat {AUTHORIZED}").stdout
        refused = node.run("trishula", "send", "vayu", "are you there?", user=node.agents[0].user)
        assert refused.rc == 1
        assert "there is no agent 'vayu'" in refused.stderr
    assert operator.generations["gone"] == ["vayu"]
    assert operator.generations["generations"]["vayu"] == [2]


def test_when_it_is_out_of_the_inventory_there_is_nothing_left_to_do(operator: Operator) -> None:
    operator.move("vayu", None)
    assert set(operator.succeed(SITE).changed.values()) == {0}


# ── A stolen one ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_stolen_node_is_cut_off_even_while_one_host_cannot_be_reached(
    operator: Operator, mesh: dict[str, Node]
) -> None:
    with paused(mesh["agni"]):
        run = operator.run(ROTATE, "-e", "revoke=mac")
    assert run.code != 0
    assert "agni cannot be reached" in run.text
    assert "It still trusts mac" in run.text
    assert set(kids(mesh["rushabdev"])) == {"agni"}
    assert set(kids(mesh["agni"])) == {"mac", "rushabdev"}


def test_the_next_run_cuts_it_off_everywhere(operator: Operator, mesh: dict[str, Node]) -> None:
    mac = mesh["mac"]
    since = time.time() + 1
    operator.succeed(ROTATE, "-e", "revoke=mac")
    for name, other in (("agni", "rushabdev"), ("rushabdev", "agni")):
        node = mesh[name]
        assert kids(node) == {other: ["2.2"]}
        assert [row for row in json.loads(node.read(f"{CREDENTIALS}/accept.json")) if row.get("node") == "mac"] == []
        assert "mac" not in node.host.file(CONFIG).content_string
        assert " mac " not in node.host.run(f"cat {AUTHORIZED}").stdout
        eventually(lambda node=node, other=other: node.linked() == {other}, within=15)
    for name in ("agni", "rushabdev"):
        said = f"can't link to {name} .*: it does not accept our token"
        journal = f'journalctl --quiet --output cat --unit {SERVICE} --since @{since:.0f} --grep "{said}"'
        eventually(lambda journal=journal: mac.host.run(journal).stdout, within=60)
    assert mac.linked() == set()
    sent = mesh["agni"].run("trishula", "send", "rushabdev", "without mac", "--wait", "delivered", user="openclaw")
    assert sent.rc == 0, sent.stderr


def test_its_ssh_is_let_in_no_more_nor_is_a_connection_that_it_had_open(mesh: dict[str, Node]) -> None:
    mac, agni = mesh["mac"], mesh["agni"]
    if not agni.host.file(AUTHORIZED).exists:
        pytest.skip("this mesh has no rsync")
    for use in ("push", "pull"):
        command = f"ssh -F /etc/trishula/fallback/ssh_config -o ControlPath=none trishula-{use}-agni"
        tried = mac.run("timeout", "20", *command.split(), user="trishula")
        assert "Permission denied" in tried.stderr
    established = agni.host.check_output("ss --no-header --numeric --tcp state established sport = :22").splitlines()
    assert [line for line in established if mesh["rushabdev"].address not in line] == []


def test_to_revoke_it_once_more_changes_nothing(operator: Operator, mesh: dict[str, Node]) -> None:
    pids = [mesh[name].pid for name in ("agni", "rushabdev")]
    assert set(operator.succeed(ROTATE, "-e", "revoke=mac").changed.values()) == {0}
    assert [mesh[name].pid for name in ("agni", "rushabdev")] == pids
