"""A laptop is stolen: it is cut off, everywhere, though one host can't be reached at first."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from faults.breaking import paused
from operations.operator import AUTHORIZED, kids
from topology.nodes import CONFIG, CREDENTIALS, SERVICE, eventually

if TYPE_CHECKING:
    from operations.operator import Operator
    from topology.nodes import Node

ROTATE = "playbooks/rotate_secrets.yml"


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
    for use in ("push", "pull"):
        command = f"ssh -F /etc/trishula/fallback/ssh_config -o ControlPath=none trishula-{use}-agni"
        tried = mac.run("timeout", "20", *command.split(), user="trishula")
        assert "Permission denied" in tried.stderr
    operator = agni.host.check_output("echo $SSH_CONNECTION").split()[0]
    established = agni.host.check_output("ss --no-header --numeric --tcp state established sport = :22").splitlines()
    allowed = (mesh["rushabdev"].address, operator)
    assert [line for line in established if not any(address in line for address in allowed)] == []


def test_to_revoke_it_once_more_changes_nothing(operator: Operator, mesh: dict[str, Node]) -> None:
    pids = [mesh[name].pid for name in ("agni", "rushabdev")]
    assert operator.succeed(ROTATE, "-e", "revoke=mac").changes == 0
    assert [mesh[name].pid for name in ("agni", "rushabdev")] == pids
