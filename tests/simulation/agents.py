"""Programs that write messages, wait for `stored`, and ask again with the same bytes where they hear nothing."""

from __future__ import annotations

import json
from typing import Any

from simulation.host import Host
from simulation.witness import Submission
from trishula.protocol.message import complete

PATIENCE = 4.0
"""Seconds after which an agent that heard nothing asks again."""


class Agent:
    """One agent, attached to the node on its host."""

    def __init__(self, name: str, host: Host) -> None:
        self.name = name
        self.host = host
        self.submissions: list[Submission] = []
        self._written = 0

    def write(self, to: str | list[str], *, size: int = 20, urgent: bool = False, ttl: int | None = None) -> Submission:
        """Send a new message, as often as it takes."""
        self._written += 1
        fields: dict[str, Any] = {"id": f"{self.name}-{self._written}", "from": self.name, "to": to, "timestamp": "t"}
        fields["body"] = f"{self._written} " + "x" * size
        if urgent:
            fields["priority"] = "urgent"
        return self.send(json.dumps(fields).encode(), ttl)

    def contradict(self, submission: Submission) -> Submission:
        """Send another content under the id of an earlier message."""
        fields = json.loads(submission.raw) | {"body": "on second thoughts"}
        return self.send(json.dumps(fields).encode(), submission.ttl)

    def send(self, raw: bytes, ttl: int | None) -> Submission:
        submission = Submission(self.name, raw, ttl)
        self.submissions.append(submission)
        self.submit(submission)
        return submission

    def submit(self, submission: Submission) -> None:
        """Hand it to the node, if there is one, and come back if nothing is heard."""
        world = self.host.world
        if self.host.process is not None:
            message = complete(
                submission.raw,
                sender=self.name,
                new_id="unused",
                timestamp="unused",
                max_bytes=self.host.wiring.limits.max_message_bytes,
            )
            self.host.witness.submits(message)
            self.host.process.submit(submission, message, submission.ttl)
        world.after(world.random.uniform(0.5, 1.0) * PATIENCE, lambda: self._remind(submission))

    def _remind(self, submission: Submission) -> None:
        if not submission.done:
            self.submit(submission)
