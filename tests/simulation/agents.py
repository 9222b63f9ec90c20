"""Programs that write messages, wait for `stored`, and ask again with the same bytes where they hear nothing.

And read what they get: at once, late or never, by saying so to their node or by moving the file.
"""

from __future__ import annotations

import json
from typing import Any

from simulation.host import Host
from simulation.witness import Submission
from trishula.protocol.message import Message, complete
from trishula.protocol.names import PROBE

PATIENCE = 4.0
"""Seconds after which an agent that heard nothing asks again."""


class Agent:
    """One agent, attached to the node on its host."""

    def __init__(self, name: str, host: Host) -> None:
        self.name = name
        self.host = host
        self.submissions: list[Submission] = []
        self.reads_after: float | None = None
        """Seconds after which it handles what has come; None: never."""
        self.moves_files = False
        """Whether it says so by moving the file."""
        self._written = 0
        self._about_to_read = False
        host.agents[name] = self

    # ------------------------------------------------------------ writing

    def write(self, to: str | list[str], *, size: int = 20, urgent: bool = False, ttl: int | None = None) -> Submission:
        """Send a new message, as often as it takes."""
        self._written += 1
        fields: dict[str, Any] = {"id": f"{self.name}-{self._written}", "to": to}
        if self._written % 2:
            fields |= {"from": self.name, "timestamp": "t"}
        fields["body"] = f"{self._written} " + "x" * size
        if urgent:
            fields["priority"] = "urgent"
        return self.send(json.dumps(fields).encode(), ttl)

    def contradict(self, submission: Submission) -> None:
        """Send another content under the id of an earlier message, as long as that is known."""
        fields = json.loads(submission.raw) | {"body": "on second thoughts"}
        if not submission.is_over(self.host.world.now):
            self.send(json.dumps(fields).encode(), submission.ttl, began=submission.began)

    def probe(self, node: str, ttl: int, *, by_post: bool = False) -> Submission:
        """Ask whether mail gets to a node."""
        self._written += 1
        fields = {"id": f"ping-{self.name}-{self._written}", "from": PROBE, "to": PROBE, "timestamp": "t"}
        return self.send(json.dumps(fields).encode(), ttl, node, by_post=by_post)

    def send(
        self, raw: bytes, ttl: int | None, node: str | None = None, *, began: float | None = None, by_post: bool = False
    ) -> Submission:
        began = self.host.world.now if began is None else began
        submission = Submission(self.name, raw, self._complete(raw, node), ttl, node, began, by_post=by_post)
        self.submissions.append(submission)
        self.submit(submission)
        return submission

    def _complete(self, raw: bytes, node: str | None) -> Message:
        """As its node takes it: a missing timestamp is that of the moment, another one at each try."""
        return complete(
            raw,
            sender=self.name if node is None else PROBE,
            new_id="unused",
            timestamp=f"{self.host.wall()}",
            max_bytes=self.host.wiring.limits.max_message_bytes,
        )

    def submit(self, submission: Submission) -> None:
        """Hand it to the node, if there is one, and come back if nothing is heard."""
        world = self.host.world
        submission.brief = submission.brief or self.host.error != 0
        submission.message = self._complete(submission.raw, submission.node)
        self.host.witness.submits(submission)
        if self.host.process is not None:
            if submission.node is None:
                self.host.process.submit(submission, submission.message, submission.ttl)
            else:
                assert submission.ttl is not None
                self.host.process.probe(submission, submission.message, submission.node, submission.ttl)
        world.after(world.random.uniform(0.5, 1.0) * PATIENCE, lambda: self._remind(submission))

    def _remind(self, submission: Submission) -> None:
        """As long as the first try could be known to the node: a later one would be another message."""
        if submission.is_over(self.host.world.now):
            submission.done = True
        if not submission.done and not self.host.removed:
            self.submit(submission)

    # ------------------------------------------------------------ reading

    def attach(self) -> None:
        """Its node is there again, and hands over what is unread."""
        self.arrived()

    def arrived(self) -> None:
        """There is something to read."""
        if self.reads_after is not None and not self._about_to_read:
            self._about_to_read = True
            self.host.world.after(self.reads_after + self.host.world.random.uniform(0.0, 0.01), self._read)

    def _read(self) -> None:
        self._about_to_read = False
        host = self.host
        if self.moves_files:
            files = host.files.inbox(self.name)
            for file in files:
                host.files.archive(file)
            if files and host.process is not None:
                host.process.noticed()
        elif (process := host.process) is not None:
            for key in host.disk.unread(self.name):
                process.done(self, self.name, key)
