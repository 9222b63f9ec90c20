"""A message as an agent handles it: a dictionary, with what the node knows of it beside it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from trishula.protocol import message as protocol
from trishula.protocol.agent_frames import Arrival
from trishula.protocol.errors import MessageError


@dataclass(frozen=True, slots=True)
class Meta:
    """What the node says of a message that arrived: whence, how, when. `digest` is the SHA-256 of its inbox file."""

    from_node: str
    route: str
    method: str
    received_at: datetime
    digest: str


class Message(dict[str, Any]):
    """A received message: its fields, `meta`, and `raw`, the object exactly as its sender wrote it."""

    meta: Meta
    raw: bytes

    @property
    def id(self) -> str:
        return str(self["id"])

    @property
    def sender(self) -> str:
        """The agent that sent it, as its node vouches."""
        return str(self["from"])


def arrived(frame: Arrival) -> Message:
    """The message in a frame from the node."""
    raw = bytes(frame.message)
    message = Message(json.loads(raw))
    message.raw = raw
    message.meta = Meta(
        from_node=frame.meta.from_node,
        route=frame.meta.route,
        method=frame.meta.method,
        received_at=datetime.fromtimestamp(frame.meta.received_at / 1000, UTC),
        digest=frame.meta.digest,
    )
    return message


def compose(to: str | list[str], fields: Mapping[str, Any], *, sender: str) -> dict[str, Any]:
    """A new message in the order in which agents write theirs."""
    message: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "from": sender,
        "to": to,
        "type": "message",
        "priority": "normal",
        "subject": "",
        "body": "",
        "timestamp": _timestamp(),
        "reply_to": None,
    }
    if "id" in fields:
        del message["timestamp"]  # its node adds one: with the same id again, it is the same message
    message.update(fields)
    return message


def fix(message: Mapping[str, Any] | bytes, *, sender: str, max_bytes: int) -> protocol.Message:
    """The message with its bytes settled, id included: sent twice, it is still the same message.

    One that came with an id and without a timestamp gets the timestamp from its node, which knows a retry by the rest.
    A message given as bytes keeps every value as it is spelt. Raises `MessageError`, naming the key.
    """
    new_id = str(uuid.uuid4())
    fixed = protocol.complete(_encoded(message), sender=sender, new_id=new_id, timestamp=None, max_bytes=max_bytes)
    if fixed.id != new_id:
        return fixed
    return protocol.complete(fixed.payload, sender=sender, new_id=new_id, timestamp=_timestamp(), max_bytes=max_bytes)


def _encoded(message: Mapping[str, Any] | bytes) -> bytes:
    if isinstance(message, bytes):
        return message
    try:
        # json and not msgspec, which would write NaN as null and take what JSON has no word for, such as dates.
        return json.dumps(dict(message), ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise MessageError(f"not text that UTF-8 can carry: {error.reason} at {error.start}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise MessageError(f"not a message that JSON can carry: {error}") from error


def _timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
