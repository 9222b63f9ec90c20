"""What the core asks a store to commit, what comes back, and the few rows that the rules need to see.

A store applies each record with `ledger.apply` inside one transaction, over its own `Rows`; so the rules are written
once, whether the rows are SQLite's or, in the simulation, a dictionary's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from trishula.protocol.envelope import Envelope, Key, Receipt, State
from trishula.protocol.message import Message

# ---------------------------------------------------------------- records


@dataclass(frozen=True, slots=True)
class Originate:
    """A local agent's message, with one envelope for each recipient. `at` is in ms since 1970."""

    message: Message
    envelopes: tuple[Envelope, ...]
    at: int


@dataclass(frozen=True, slots=True)
class Accept:
    """An envelope for a local agent, verified; `refusal` is empty, or the final reason against it."""

    envelope: Envelope
    digest: str
    at: int
    route: str
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Settle:
    """A verified receipt for one of our envelopes. `latency_ms` since its commit, where this process saw that."""

    receipt: Receipt
    route: str
    at: int
    latency_ms: float | None


Record = Originate | Accept | Settle


# ---------------------------------------------------------------- rows


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one of our envelopes has come: a row of `outgoing`. `seq` is the order of commits."""

    seq: int
    key: Key
    dest: str
    digest: str
    expires_at: int
    stored_at: int
    state: State = State.STORED
    reason: str = ""
    route: str = ""
    settled_at: int | None = None
    latency_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """What this node has accepted or refused: a row of the ledger, and by itself the receipt (rule 7)."""

    key: Key
    digest: str
    origin: str
    expires_at: int
    outcome: State
    reason: str
    at: int
    route: str


class Rows(Protocol):
    """One open transaction. What is written is seen at once by what reads after it."""

    def message_digest(self, sender: str, message_id: str) -> str | None:
        """The digest of our message with this id, or None."""

    def add_message(self, message: Message, at: int) -> None: ...

    def add_outgoing(self, envelope: Envelope, digest: str, at: int) -> Progress:
        """The envelope's new row, with the next `seq`."""

    def outgoing(self, sender: str, message_id: str) -> tuple[Progress, ...]:
        """The rows of one message, in the order of their commit."""

    def progress(self, key: Key) -> Progress | None: ...

    def set_progress(self, progress: Progress) -> None: ...

    def entries(self, key: Key) -> tuple[Entry, ...]:
        """The rows under one key: the first that came, and the refusals of other contents."""

    def add_entry(self, entry: Entry, envelope: Envelope) -> None:
        """Keep `entry`, and the payload with it where the outcome is `delivered`."""


# ---------------------------------------------------------------- results


@dataclass(frozen=True, slots=True)
class Originated:
    """`progress` has one row for each recipient; `fresh` is false where the message was there already."""

    progress: tuple[Progress, ...]
    fresh: bool


@dataclass(frozen=True, slots=True)
class Conflict:
    """The id is taken by another content of the same sender, whose digest this is."""

    digest: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the ledger says of an envelope; `fresh` is false for a duplicate."""

    entry: Entry
    fresh: bool


@dataclass(frozen=True, slots=True)
class Settled:
    """The row after a receipt, or None for a receipt of nothing that we sent; `fresh` where it moved."""

    progress: Progress | None
    fresh: bool


Result = Originated | Conflict | Answer | Settled
