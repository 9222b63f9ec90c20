"""What a sender finds in `bounced/` when a message did not arrive, or nobody knows whether it did."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from trishula.protocol.envelope import State


@dataclass(frozen=True, slots=True)
class Bounce:
    """An envelope that was refused or given up, or was given up and has been answered after all."""

    seq: int
    agent: str
    id: str
    to: str
    dest: str
    state: State
    reason: str
    at: int
    payload: bytes

    @property
    def name(self) -> str:
        return f"{self.id}~{self.to}.json"


def bounce_file(bounce: Bounce) -> bytes:
    """The file: a JSON object, one key a line."""
    told = {
        "id": bounce.id,
        "from": bounce.agent,
        "to": bounce.to,
        "state": bounce.state.value,
        "reason": bounce.reason,
        "at": iso(bounce.at),
        "subject": json.loads(bounce.payload).get("subject", ""),
        "text": _sentence(bounce),
    }
    return json.dumps(told, ensure_ascii=False, indent=2).encode() + b"\n"


def iso(ms: int) -> str:
    """A moment as messages have it."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _sentence(bounce: Bounce) -> str:
    match bounce.state:
        case State.REFUSED if bounce.reason == "removed":
            return f"{bounce.dest} is no longer in the mesh: {bounce.to} will never get this message."
        case State.REFUSED:
            return f"{bounce.dest} refused it, and {bounce.to} will never get this message: {bounce.reason}"
        case State.UNCONFIRMED:
            return (
                f"It expired without a word from {bounce.dest}. {bounce.to} may have got it all the same; if word comes"
                " later, it is said here."
            )
        case _:
            return (
                f"It had been given up without a word from {bounce.dest}; since then that has come: {bounce.to} got it."
            )
