"""Real-life messages, dropped as files by one agent for another, and what arrives of them."""

from __future__ import annotations

import json
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from topology.nodes import Agent, Node

_SAMPLES = sorted((Path(__file__).parents[1] / "samples").glob("*.json"))

# stdin: a file's name and a message in each line. As agents write them.
_DROP = """
import json, pathlib, sys
for line in sys.stdin:
    name, message = json.loads(line)
    with open(pathlib.Path(sys.argv[1], name), "w") as file:
        json.dump(message, file)
"""

# argv: a mailbox. stdin: ids. Prints the content of each file that has one of them. A file that moves from box to box
# meanwhile may be met twice, and is one file.
_FIND = """
import json, os, pathlib, sys
ids = set(json.load(sys.stdin))
seen = set()
for box in ("inbox", "archive"):
    for path in pathlib.Path(sys.argv[1], box).glob("*.json"):
        try:
            with path.open("rb") as file:
                number, message = os.fstat(file.fileno()).st_ino, json.load(file)
        except FileNotFoundError:
            continue
        if message.get("id") in ids and number not in seen:
            seen.add(number)
            print(json.dumps(message))
"""


class Dropped(NamedTuple):
    to: Agent
    home: Node
    fields: dict[str, Any]

    @property
    def id(self) -> str:
        identity: str = self.fields["id"]
        return identity


def drop_all(here: Node, there: Node) -> list[Dropped]:
    """Every sample, from the first agent of one node to the first of another: with `id`, `from` and `to` of its own."""
    sender, to = here.agents[0], there.agents[0]
    dropped = []
    for sample in _SAMPLES:
        fields = json.loads(sample.read_bytes())
        fields |= {"id": f"{uuid.uuid4()}", "from": sender.name, "to": to.name}
        dropped.append(Dropped(to, there, fields))
    lines = (json.dumps([f"dropped-{item.id}.json", item.fields]) for item in dropped)
    _python(here, sender, _DROP, f"{sender.mailbox}/outbox", said="\n".join(lines))
    return dropped


def lacking(dropped: Iterable[Dropped]) -> list[str]:
    """What is wrong with what has arrived by now; nothing, when each is in its inbox once with equal fields."""
    wrong = []
    by_home: dict[str, list[Dropped]] = {}
    for item in dropped:
        by_home.setdefault(item.to.name, []).append(item)
    for items in by_home.values():
        out = _python(items[0].home, items[0].to, _FIND, items[0].to.mailbox, said=json.dumps([i.id for i in items]))
        found = [json.loads(line) for line in out.splitlines()]
        for item in items:
            copies = [message for message in found if message["id"] == item.id]
            if len(copies) != 1:
                wrong.append(f"{item.id} is in the inbox of {item.to.name} {len(copies)} times")
            elif changed := {name for name, value in item.fields.items() if copies[0].get(name, ...) != value}:
                wrong.append(f"{item.id} came to {item.to.name} with other {sorted(changed)}")
    return wrong


def _python(node: Node, agent: Agent, script: str, *argv: str, said: str) -> str:
    run = subprocess.run(
        node.ssh(agent.user, "python3", "-c", script, *argv), input=said, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout
