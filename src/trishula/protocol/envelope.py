"""Envelopes, and the receipts that end them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Key(NamedTuple):
    """What one envelope is called, everywhere: (from, id, to)."""

    sender: str
    id: str
    to: str


class State(StrEnum):
    """How far an envelope has come, as its origin knows it. It only moves forward, see `advances`."""

    STORED = "stored"
    UNCONFIRMED = "unconfirmed"
    REFUSED = "refused"
    DELIVERED = "delivered"
    READ = "read"


_NEXT: dict[State, frozenset[State]] = {
    State.STORED: frozenset({State.UNCONFIRMED, State.REFUSED, State.DELIVERED, State.READ}),
    State.UNCONFIRMED: frozenset({State.REFUSED, State.DELIVERED, State.READ}),
    State.DELIVERED: frozenset({State.READ}),
    State.REFUSED: frozenset(),
    State.READ: frozenset(),
}


def advances(old: State, new: State) -> bool:
    """Whether an origin that knew `old` learns something from `new`. A refusal is final (rule 5)."""
    return new in _NEXT[old]


@dataclass(frozen=True, slots=True)
class Envelope:
    """One payload for one recipient. `expires_at` is in ms since 1970 and signed with the rest."""

    origin: str
    dest: str
    key: Key
    expires_at: int
    payload: bytes
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class Receipt:
    """The word of the recipient's node `dest` on an envelope of `origin`: `delivered`, `read`, or `refused` and why.

    `at` is in ms since 1970 by the recipient's clock.
    """

    origin: str
    dest: str
    key: Key
    expires_at: int
    digest: str
    outcome: State
    reason: str
    at: int
