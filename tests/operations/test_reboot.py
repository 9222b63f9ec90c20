"""A reboot of each host, which for a container is a restart: systemd goes down and comes up."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from topology.nodes import eventually

if TYPE_CHECKING:
    from topology.nodes import Node


def whole(mesh: dict[str, Node]) -> bool:
    return all(node.linked() == set(mesh) - {name} for name, node in mesh.items())


def switch(how: str, *nodes: Node) -> None:
    """`stop`, `start` or `restart` the hosts; one that is to run lets its agents log in when this returns."""
    hosts = [node.facts["ansible_host"] for node in nodes]
    subprocess.run(["docker", how, *hosts], check=True, stdout=subprocess.DEVNULL)
    if how != "stop":
        eventually(lambda: all(lets_in(node) for node in nodes), within=60)


def lets_in(node: Node) -> bool:
    login = node.ssh(node.agents[0].user, "true")
    return subprocess.run(login, check=False, capture_output=True).returncode == 0


def boot(node: Node) -> str:
    """What differs from boot to boot: when the first process began."""
    started: str = node.host.check_output("cut -d' ' -f22 /proc/1/stat")
    return started


@pytest.mark.parametrize("names", [["mac"], ["agni"], ["rushabdev"], ["mac", "agni", "rushabdev"]], ids="+".join)
def test_the_mesh_is_back_by_itself_after_a_reboot(mesh: dict[str, Node], names: list[str]) -> None:
    nodes = [mesh[name] for name in names]
    before = [boot(node) for node in nodes]
    switch("restart", *nodes)
    eventually(lambda: whole(mesh), within=30)
    assert not set(before) & {boot(node) for node in nodes}
    for node in nodes:
        assert "Status: active" in node.host.check_output("ufw status")
        assert node.host.check_output("systemctl is-system-running --wait || true") == "running"


def test_what_was_stored_for_a_host_that_is_down_is_there_when_it_is_up(mesh: dict[str, Node]) -> None:
    mac, agni = mesh["mac"], mesh["agni"]
    switch("stop", agni)
    sent = mac.run("trishula", "send", "agni", "after the reboot", "--json", user=mac.agents[0].user)
    switch("restart", mac)
    switch("start", agni)
    assert sent.rc == 0, sent.stderr
    inbox = agni.host.file(f"{agni.agents[0].mailbox}/inbox/{json.loads(sent.stdout)['id']}.json")
    eventually(lambda: inbox.exists, within=30)
    eventually(lambda: whole(mesh), within=30)
