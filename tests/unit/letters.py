"""Messages and envelopes as tests need them."""

from __future__ import annotations

import json

from trishula.protocol.envelope import Envelope, Key, Receipt, State
from trishula.protocol.message import Message, complete, digest_of
from trishula.protocol.records import Accept, Originate

WALL = 1_770_000_000_000
"""ms since 1970: when tests happen."""
DAY = 24 * 3600 * 1000
WEEK = 7 * DAY


def letter(
    message_id: str = "m1", *, sender: str = "mac", to: str | list[str] = "agni", body: str = "", urgent: bool = False
) -> Message:
    fields = {"to": to, "body": body} | ({"priority": "urgent"} if urgent else {})
    return complete(
        json.dumps(fields).encode(), sender=sender, new_id=message_id, timestamp="t", max_bytes=10 * 1024 * 1024
    )


def envelope(message: Message, to: str = "agni", *, origin: str = "mac", dest: str = "agni") -> Envelope:
    key = Key(message.sender, message.id, to)
    return Envelope(origin, dest, key, WALL + WEEK, message.payload, message.urgent)


def originate(message: Message, *recipients: str) -> Originate:
    """The record of a message to agents who live on nodes of their own names."""
    return Originate(message, tuple(envelope(message, to, dest=to) for to in recipients or ("agni",)), WALL)


def accept(message: Message, to: str = "agni", *, refusal: str = "", at: int = WALL) -> Accept:
    return Accept(envelope(message, to), message.digest, at, "direct", refusal)


def receipt(item: Envelope, outcome: State = State.DELIVERED, reason: str = "", *, at: int = WALL + 9) -> Receipt:
    return Receipt(item.origin, item.dest, item.key, item.expires_at, digest_of(item.payload), outcome, reason, at)
