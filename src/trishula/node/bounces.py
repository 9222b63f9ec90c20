"""What a sender finds in files: in `bounced/` what did not arrive, or was none; in `receipts/` how far a message is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from trishula.node.methods import method_of
from trishula.protocol.envelope import State
from trishula.protocol.errors import TrishulaError
from trishula.protocol.records import Progress

_LAST_MS = round(datetime(9999, 12, 31, tzinfo=UTC).timestamp() * 1000)


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
    return _lines(told)


@dataclass(frozen=True, slots=True)
class ReceiptFile:
    """How far an envelope has come, for a sender who wants that as a file."""

    progress: Progress

    @property
    def agent(self) -> str:
        return self.progress.key.sender

    @property
    def name(self) -> str:
        return f"{self.progress.key.id}~{self.progress.key.to}.json"


def receipt_file(receipt: ReceiptFile) -> bytes:
    """The file: a JSON object, one key a line."""
    row = receipt.progress
    return _lines(
        {
            "id": row.key.id,
            "from": row.key.sender,
            "to": row.key.to,
            "node": row.dest,
            "state": row.state.value,
            "reason": row.reason,
            "route": row.route,
            "method": method_of(row.route),
            "stored_at": iso(row.stored_at),
            "at": iso(row.settled_at or row.stored_at),
            "latency_ms": None if row.latency_ms is None else round(row.latency_ms, 3),
            "expires_at": iso(row.expires_at),
            "digest": row.digest,
        }
    )


def reason_file(agent: str, name: str, size: int, mtime_ns: int, error: TrishulaError, at: int) -> bytes:
    """Beside a file that was dropped into the outbox and can't be sent. By size and mtime it is known to be mended."""
    value = error.value if isinstance(error.value, str | int | None) else str(error.value)
    return _lines(
        {
            "file": name,
            "from": agent,
            "code": error.code,
            "reason": error.message,
            "key": error.key,
            "value": value,
            "fix": error.fix,
            "at": iso(at),
            "size": size,
            "mtime_ns": mtime_ns,
            "text": f"{name} was not sent: {error}. Mend it here, or move it back to outbox/, and it is sent.",
        }
    )


def _lines(told: dict[str, Any]) -> bytes:
    # The name of a file may be no text; what stands for its bytes is JSON all the same.
    return json.dumps(told, ensure_ascii=False, indent=2).encode("utf-8", "backslashreplace") + b"\n"


def changed_at(mtime_ns: int) -> int:
    """When a file was changed, in ms since 1970. It may have any time: this is the nearest that can be written."""
    return min(max(mtime_ns // 1_000_000, 0), _LAST_MS)


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
