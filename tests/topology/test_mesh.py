"""What the hosts do together: messages, and a node that dies."""

from __future__ import annotations

import hashlib
import itertools
import json
import time

import pytest

from topology.nodes import SERVICE, Node, eventually

PAIRS = list(itertools.permutations(["mac", "agni", "rushabdev"], 2))


@pytest.mark.parametrize(("sender", "recipient"), PAIRS)
def test_what_an_agent_sends_is_a_file_in_the_others_inbox(mesh: dict[str, Node], sender: str, recipient: str) -> None:
    here, there = mesh[sender], mesh[recipient]
    me, you = here.agents[0], there.agents[0]
    sent = here.run(
        *("trishula", "send", you.name, f"from {me.name}", "--subject", "topology", "--wait", "delivered", "--json"),
        user=me.user,
    )
    assert sent.rc == 0, sent.stderr
    name = f"{json.loads(sent.stdout)['id']}.json"

    inbox = there.host.file(f"{you.mailbox}/inbox/{name}")
    eventually(lambda: inbox.exists, within=5)
    assert (inbox.user, inbox.group) == ("trishula", you.group)
    assert inbox.mode & 0o007 == 0

    message = there.read(inbox.path)
    assert json.loads(message)["from"] == me.name
    assert json.loads(message)["body"] == f"from {me.name}"
    assert hashlib.sha256(message).hexdigest() == here.host.file(f"{me.mailbox}/outbox/{name}").sha256sum
    # The agent may file it away.
    assert there.run("mv", inbox.path, f"{you.mailbox}/archive/", user=you.user).rc == 0


@pytest.mark.parametrize("name", ["mac", "agni", "rushabdev"])
def test_a_node_that_is_killed_is_back_and_linked_in_under_five_seconds(mesh: dict[str, Node], name: str) -> None:
    node = mesh[name]
    others = set(mesh) - {name}
    eventually(lambda: node.linked() == others, within=5)
    before = node.pid

    killed = time.monotonic()
    node.host.check_output(f"systemctl kill --signal=KILL --kill-whom=main {SERVICE}")
    eventually(lambda: node.pid not in (0, before) and node.linked() == others, within=5)
    for other in others:
        eventually(lambda other=other: name in mesh[other].linked(), within=5 - (time.monotonic() - killed))
