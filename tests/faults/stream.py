"""A stream of messages over the hosts, and what the agents tell of it meanwhile."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import uuid
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from topology.nodes import INSTALL, MAILBOXES, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from topology.nodes import Agent, Node

Received = tuple[str, str, str]
"""A message's id, its recipient and its digest."""


class Stored(NamedTuple):
    sender: str
    to: str
    id: str
    digest: str


class File(NamedTuple):
    agent: str
    box: str
    id: str
    digest: str


_AGENT = Path(__file__).with_name("agent.py").read_text("utf-8")

# argv: a stream, the folder of mailboxes, agents. Prints [agent, box, id, sha256] of each of its files.
_FILES = """
import hashlib, json, pathlib, sys
stream, mailboxes, *agents = sys.argv[1:]
for agent in agents:
    for box in ("inbox", "archive", "outbox"):
        for path in pathlib.Path(mailboxes, agent, box).glob("*.json"):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            message = json.loads(content)
            if message.get("stream") == stream:
                print(json.dumps([agent, box, message["id"], hashlib.sha256(content).hexdigest()]))
"""


class Teller:
    """A process on a host that tells in lines of JSON what happens there, until its stdin ends."""

    def __init__(self, node: Node, user: str, *argv: str) -> None:
        self.said: list[dict[str, Any]] = []
        self._process = subprocess.Popen(node.ssh(user, *argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def end(self) -> None:
        self._process.stdin.close()

    def ended(self, within: float) -> int:
        """Its exit code, when it has said all."""
        with self._process:
            try:
                return self._process.wait(within)
            except subprocess.TimeoutExpired:
                self._process.kill()
                raise
            finally:
                self._reader.join()

    def _read(self) -> None:
        for line in self._process.stdout:
            self.said.append(json.loads(line))


class Stream:
    """Every agent writes to every other one, from the beginning until `finish`."""

    def __init__(self, mesh: Mapping[str, Node], *, every_s: float = 0.4) -> None:
        """`every_s`: how often each agent writes to each other one."""
        self.name = str(uuid.uuid4())
        self.mesh = mesh
        self.homes = {agent.name: node for node in mesh.values() for agent in node.agents}
        self._every_s = every_s
        self._agents = {agent.name: self._start(node, agent) for node in mesh.values() for agent in node.agents}

    def _start(self, node: Node, agent: Agent) -> Teller:
        others = [name for name in self.homes if name != agent.name]
        python = f"{INSTALL}/current/bin/python"
        return Teller(
            node, agent.user, python, "-c", _AGENT, agent.socket, agent.mailbox, self.name, str(self._every_s), *others
        )

    @contextlib.contextmanager
    def flowing(self) -> Iterator[Self]:
        """From when every agent has heard from every other one until `finish`, which a test may have called before."""
        try:
            eventually(self.flows, within=15)
            yield self
        finally:
            self.finish(within=60)

    def finish(self, within: float) -> None:
        """Write no more, and return when all is confirmed."""
        tellers = self._tellers()
        for teller in tellers.values():
            teller.end()
        codes = {name: teller.ended(within) for name, teller in tellers.items()}
        assert codes == dict.fromkeys(tellers, 0)

    def _tellers(self) -> dict[str, Teller]:
        """All that run on the hosts for this."""
        return dict(self._agents)

    # ── What happens ────────────────────────────────────────────────────────────────────────────────────────────────

    def flows(self) -> bool:
        """Whether every agent has heard from every other one."""
        return all(
            {line["sender"] for line in teller.said if "arrived" in line} >= set(self.homes) - {name}
            for name, teller in self._agents.items()
        )

    def healthy(self, since: float) -> bool:
        """Whether every node has said after `since` that it is linked to all others."""
        return all(self._linked(node, since) == set(self.mesh) - {node.name} for node in self.mesh.values())

    def _linked(self, node: Node, since: float) -> set[str]:
        said = reversed(self._agents[node.agents[0].name].said)
        last = next((line for line in said if "linked" in line), {"at": 0.0, "linked": []})
        return set(last["linked"]) if last["at"] > since else set()

    def arrivals(self, route: str, since: float) -> list[tuple[float, float]]:
        """Of the messages that came by this route after `since`: when they were stored, and when they came."""
        stored = {
            (line["stored"], line["to"]): line["at"]
            for said in self._agents.values()
            for line in said.said
            if "stored" in line
        }
        return [
            (stored[line["arrived"], name], line["at"])
            for name, teller in self._agents.items()
            for line in teller.said
            if "arrived" in line and line["route"] == route and line["at"] > since and (line["arrived"], name) in stored
        ]

    def came(self) -> dict[tuple[str, str], str]:
        """The routes of all messages that agents have heard of, by id and recipient."""
        return {
            (line["arrived"], name): line["route"]
            for name, teller in self._agents.items()
            for line in teller.said
            if "arrived" in line
        }

    def wait_for_detour(self, here: str, there: str, since: float, *, within: float) -> float:
        """When the first message from one node to the other, after `since`, came by way of a third."""

        def first() -> float | None:
            senders = {agent.name for agent in self.mesh[here].agents}
            return min(
                (
                    line["at"]
                    for agent in self.mesh[there].agents
                    for line in self._agents[agent.name].said
                    if line.get("sender") in senders and line["route"].startswith("relay:") and line["at"] > since
                ),
                default=None,
            )

        return eventually(first, within=within)

    def crossed(self, sender: str, to: str, *, since: float, until: float) -> int:
        """How many messages from one agent came to the other in this time."""
        said = self._agents[to].said
        return sum(line.get("sender") == sender and since < line["at"] < until for line in said)

    def wrote(self, sender: str, to: str, since: float) -> bool:
        """Whether an agent has stored something for another one after `since`."""
        said = reversed(self._agents[sender].said)
        return any("stored" in line and line["to"] == to and line["at"] > since for line in said)

    # ── What became of it ───────────────────────────────────────────────────────────────────────────────────────────

    def stored(self) -> list[Stored]:
        """All that was reported stored."""
        return [
            Stored(name, line["to"], line["stored"], line["digest"])
            for name, teller in self._agents.items()
            for line in teller.said
            if "stored" in line
        ]

    def lost_and_doubled(self, *, within: float) -> tuple[set[Received], Counter[Received]]:
        """What was stored and lies in no inbox, byte for byte; and what lies there too often."""
        stored = {(sent.id, sent.to, sent.digest) for sent in self.stored()}

        def received() -> Counter[Received]:
            return Counter((file.id, file.agent, file.digest) for file in self.files() if file.box != "outbox")

        # The files follow the confirmations, a moment later; and what is too much would not go away.
        with contextlib.suppress(AssertionError):
            eventually(lambda: received().keys() >= stored, within=within)
        found = received()
        return stored - found.keys(), found - Counter(stored)

    def routes(self) -> Counter[str]:
        """How many were confirmed, by the way that they went."""
        return Counter(line["route"] for teller in self._agents.values() for line in teller.said if "confirmed" in line)

    def files(self) -> list[File]:
        """All mailbox files of this stream."""
        files = []
        for node in self.mesh.values():
            agents = [agent.name for agent in node.agents]
            out = node.python(_FILES, self.name, MAILBOXES, *agents)
            files += [File(*json.loads(line)) for line in out.splitlines()]
        return files
