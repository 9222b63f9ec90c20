"""What the core asks a store to commit, what comes back, and the few rows that the rules need to see.

A store applies each record with `ledger.apply` inside one transaction, over its own `Rows`; so the rules are written
once, whether the rows are SQLite's or, in the simulation, a dictionary's. Questions are records too: they are answered
from what is committed, in order with all else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from trishula.protocol.envelope import Envelope, Key, Receipt, State
from trishula.protocol.message import Message

UNSIGNED = "unsigned"
"""The route of what somebody has put into an inbox himself: nobody is told that it came."""

# ---------------------------------------------------------------- records


@dataclass(frozen=True, slots=True)
class Begin:
    """The first record of a process: nothing is in custody as far as it knows (rule 3)."""


@dataclass(frozen=True, slots=True)
class Originate:
    """A local agent's message, with one envelope for each recipient. `at` is in ms since 1970.

    `unless` is empty, or why it is not taken now if it is new: what is stored already is said to be.
    """

    message: Message
    envelopes: tuple[Envelope, ...]
    at: int
    unless: str = ""


@dataclass(frozen=True, slots=True)
class Accept:
    """An envelope for a local agent, verified. `refusal` is empty, or the final reason against it.

    `unless` is empty, or why it is not taken now if it is new: a duplicate is answered all the same.
    """

    envelope: Envelope
    digest: str
    at: int
    route: str
    refusal: str = ""
    unless: str = ""


@dataclass(frozen=True, slots=True)
class Adopt:
    """A file that a store finds in a mailbox: it has arrived once (rule 14), or nobody vouches for it (`UNSIGNED`).

    `payload` and `file` (its name in `inbox/`) where it is unread.
    """

    key: Key
    digest: str
    origin: str
    expires_at: int
    at: int
    read: bool
    payload: bytes | None
    file: str
    route: str = ""


@dataclass(frozen=True, slots=True)
class Settle:
    """A verified receipt for one of our envelopes. `latency_ms` since its commit, where this process saw that."""

    receipt: Receipt
    route: str
    at: int
    latency_ms: float | None


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End what nobody has answered: up to `limit` envelopes that expired before `before`, or whose node is removed.

    Removed is a node that is not in `nodes`, unless `nodes` is empty: then nothing is asked of it.
    """

    before: int
    nodes: tuple[str, ...]
    at: int
    limit: int


@dataclass(frozen=True, slots=True)
class Entrust:
    """These envelopes of ours are in the custody of another node: not to be offered until they are reclaimed."""

    keys: tuple[Key, ...]
    custodian: str


@dataclass(frozen=True, slots=True)
class Reclaim:
    """What these custodians have is our duty again: all of it, or that for `dest`."""

    custodians: tuple[str, ...]
    dest: str | None


@dataclass(frozen=True, slots=True)
class Hold:
    """Another node's envelope for a third one, in custody, with the MAC that its origin made.

    `unless` is empty, or why it is not taken now if it is new: what is in custody may always be signed anew.
    """

    envelope: Envelope
    seal: Seal
    digest: str
    at: int
    unless: str = ""


@dataclass(frozen=True, slots=True)
class Drop:
    """Custody ends: the recipient's node has answered these, each with the digest that it answered."""

    answered: tuple[tuple[Key, str], ...]


@dataclass(frozen=True, slots=True)
class Read:
    """`agent` has handled the messages with this id, or that of `sender` only."""

    agent: str
    id: str
    sender: str | None
    at: int


@dataclass(frozen=True, slots=True)
class Recall:
    """What does the ledger say of these? Each with the digest that its origin sent."""

    asked: tuple[tuple[Key, str], ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """Our newest envelopes for `dest` that may have come further than we know.

    Those that are unanswered and expired before `before` are among them: they are not offered any more.
    """

    dest: str
    limit: int
    before: int


@dataclass(frozen=True, slots=True)
class Prune:
    """Forget up to `limit` rows of a kind that ended and expired before `before` (rule 8)."""

    before: int
    limit: int


Record = (
    Begin
    | Originate
    | Accept
    | Adopt
    | Settle
    | GiveUp
    | Entrust
    | Reclaim
    | Hold
    | Drop
    | Read
    | Recall
    | Survey
    | Prune
)


# ---------------------------------------------------------------- rows


class Seal(NamedTuple):
    """The MAC of an envelope in custody, and the key that its origin made it with."""

    kid: str
    mac: bytes


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
    custodian: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """What this node has accepted or refused: a row of the ledger, and by itself the receipt (rule 7).

    `at` is when it came, `read_at` when its agent was done with it.
    """

    key: Key
    digest: str
    origin: str
    expires_at: int
    outcome: State
    reason: str
    at: int
    route: str
    read_at: int | None = None


class Rows(Protocol):
    """One open transaction. What is written is seen at once by what reads after it."""

    # ---- what local agents sent

    def message_digest(self, sender: str, message_id: str) -> str | None:
        """The digest of our message with this id, or None."""

    def message_payload(self, sender: str, message_id: str) -> bytes:
        """The payload of our message with this id, which is known."""

    def add_message(self, message: Message, at: int) -> None: ...

    def add_outgoing(self, envelope: Envelope, digest: str, at: int) -> Progress:
        """The envelope's new row, with the next `seq`."""

    def outgoing(self, sender: str, message_id: str) -> tuple[Progress, ...]:
        """The rows of one message, in the order of their commit."""

    def progress(self, key: Key) -> Progress | None: ...

    def set_progress(self, progress: Progress) -> None: ...

    def overdue(self, before: int, limit: int, dest: str | None = None) -> Sequence[Progress]:
        """Unanswered rows, or those for `dest`, that expired before `before`, the oldest first."""

    def orphaned(self, nodes: Collection[str], limit: int) -> Sequence[Progress]:
        """Unanswered rows for none of `nodes`."""

    def next_expiry(self) -> int | None:
        """When the next unanswered row expires."""

    def entrust(self, key: Key, custodian: str) -> None: ...

    def reclaim(self, custodians: Collection[str], dest: str | None) -> int:
        """How many rows are nobody's any more."""

    def newest(self, dest: str, limit: int) -> Sequence[Progress]:
        """The newest rows for `dest` that are unconfirmed or delivered."""

    def open_counts(self) -> Mapping[tuple[str, str], int]:
        """Unanswered rows by sender and destination."""

    # ---- what local agents got

    def entries(self, key: Key) -> tuple[Entry, ...]:
        """The rows under one key: the first that came, and the refusals of other contents."""

    def received(self, agent: str, message_id: str) -> tuple[Entry, ...]:
        """What `agent` got under this id, from whomever."""

    def add_entry(self, entry: Entry, payload: bytes | None, file: str = "") -> None:
        """Keep `entry`, and the payload of what is not refused. `file` is its name in `inbox/`, if it is there."""

    def set_read(self, entry: Entry) -> None: ...

    def vouch(self, entry: Entry) -> None:
        """What was there unsigned has come signed: `origin`, `expires_at` and `route` of the row are these."""

    def unread_counts(self) -> Mapping[str, int]:
        """Unread messages by agent."""

    def forgotten(self) -> int:
        """The latest expiry of what the ledger has ever pruned: nothing new that expires before it is new."""

    # ---- what is in custody here

    def holds(self, key: Key, digest: str) -> bool: ...

    def hold(self, record: Hold) -> Held:
        """Keep it in place of what was under its key."""

    def drop(self, key: Key, digest: str) -> int:
        """Let it go, whenever it was taken. By how many bytes there are less."""

    def held_bytes(self) -> Mapping[str, int]:
        """Bytes of payload by destination."""

    # ---- retention

    def prune(self, before: int, limit: int) -> Pruned: ...


# ---------------------------------------------------------------- results


@dataclass(frozen=True, slots=True)
class Begun:
    """What the limits count, as found."""

    open: Mapping[tuple[str, str], int]
    unread: Mapping[str, int]
    held_bytes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Originated:
    """`progress` has one row for each recipient; `fresh` is false where the message was there already.

    `dated` is the digest that it has there, if a node added another timestamp then; else empty.
    """

    progress: tuple[Progress, ...]
    fresh: bool
    dated: str = ""


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
class Declined:
    """It is new and was not taken."""

    reason: str


@dataclass(frozen=True, slots=True)
class Settled:
    """The row after a receipt, or None for a receipt of nothing that we sent; `fresh` where it moved."""

    progress: Progress | None
    fresh: bool
    was: State | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The rows that were given up, and when the next one expires; `more` where the limit left some."""

    progress: tuple[Progress, ...]
    next_expiry: int | None
    more: bool


@dataclass(frozen=True, slots=True)
class Held:
    """The number of an envelope in custody, and by how many bytes there are more."""

    seq: int
    added: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """So many bytes went out of custody."""

    held_bytes: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """`more` where the limit left some. `held`: destination and size of what went out of custody."""

    more: bool
    held: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Found:
    """Rows of the ledger; `fresh` are those of them that have just been read."""

    entries: tuple[Entry, ...]
    fresh: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class Surveyed:
    progress: tuple[Progress, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """It is so; `count` rows changed."""

    count: int = 0


Result = (
    Begun
    | Originated
    | Conflict
    | Answer
    | Declined
    | Settled
    | Ended
    | Held
    | Dropped
    | Pruned
    | Found
    | Surveyed
    | Done
)
