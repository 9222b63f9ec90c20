"""A host that was put back as a whole: nothing on it says so, and its operator does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from topology.nodes import CONFIG, UNITS, eventually

if TYPE_CHECKING:
    from topology.nodes import Node

ADOPT = ("trishula", "node", "adopt", "--config", CONFIG, "--json")


def test_an_operator_says_that_a_store_was_put_back_and_nothing_comes_twice(mesh: dict[str, Node]) -> None:
    mac, agni = mesh["mac"], mesh["agni"]
    me, you = mac.agents[0], agni.agents[0]

    def send() -> str:
        sent = mac.run("trishula", "send", you.name, "x", "--wait", "delivered", "--json", user=me.user)
        assert sent.rc == 0, sent.stderr
        message_id: str = json.loads(sent.stdout)["id"]
        return message_id

    refused = agni.run(*ADOPT)
    assert refused.rc == 1
    assert "another node is running" in refused.stderr

    first = send()
    agni.host.check_output(f"systemctl stop {UNITS}")
    try:
        adopted = agni.run(*ADOPT)
    finally:
        agni.host.check_output(f"systemctl start {UNITS}")
    assert adopted.rc == 0, adopted.stderr
    eventually(lambda: agni.linked() == set(mesh) - {"agni"}, within=15)
    assert agni.status()["incarnation"] == json.loads(adopted.stdout)["incarnation"]
    assert agni.rights("/var/lib/trishula/store/trishula.db") == {"trishula:trishula 640"}

    second = send()
    inbox = f"{you.mailbox}/inbox"
    eventually(lambda: agni.host.file(f"{inbox}/{second}.json").exists, within=5)
    names = [name for name in agni.host.file(inbox).listdir() if first in name or second in name]
    assert sorted(names) == sorted([f"{first}.json", f"{second}.json"])
    for message_id in (first, second):
        assert agni.run("trishula", "done", message_id, user=you.user).rc == 0
