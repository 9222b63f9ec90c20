"""What the engine wants done. The shell carries effects out in the order in which it gets them."""

from __future__ import annotations

from dataclasses import dataclass

from trishula.protocol.envelope import State
from trishula.protocol.errors import SendError, TrishulaError
from trishula.protocol.frames import Frame
from trishula.protocol.records import Entry, Found, Progress, Record


@dataclass(frozen=True, slots=True)
class Commit:
    """Apply these records in one transaction; then call `committed` (or `failed`) with this batch number."""

    batch: int
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """Read pending envelopes for `dest` with a seq above `after`, in order; then call `loaded`.

    Of ours that are in nobody's custody; with `held`, those in custody here. Up to `limit` of them, and none after
    those that fill `size` bytes of payload (at least one): a backlog of large messages must not come into memory at
    once.
    """

    dest: str
    held: bool
    urgent: bool
    after: int
    limit: int
    size: int


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send a frame on a link."""

    link: int
    frame: Frame


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close a link, saying why."""

    link: int
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Stored:
    """The message that was submitted under `ref` is durable."""

    ref: object
    message_id: str
    digest: str
    progress: tuple[Progress, ...]
    fresh: bool


@dataclass(frozen=True, slots=True)
class Rejected:
    """The message that was submitted under `ref` was not stored."""

    ref: object
    error: TrishulaError


@dataclass(frozen=True, slots=True)
class Progressed:
    """One of our envelopes got its answer, or was given up."""

    progress: Progress
    was: State = State.STORED


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message for a local agent is durable."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Handled:
    """Agents here are done with these messages: their files leave the inbox."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of the question, or of the `done`, under `ref`."""

    ref: object
    found: Found | SendError


@dataclass(frozen=True, slots=True)
class Posting:
    """A post is open to new mail, for there is no other way; or no longer, and the mail in it goes another way."""

    link: int
    open: bool


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Nobody has answered these frames in the post: what is in them goes anew."""

    link: int
    seqs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Redial:
    """The clock jumped, as after a sleep: the links are old news, dial anew."""


@dataclass(frozen=True, slots=True)
class Warn:
    """Something that an operator should see in the journal."""

    text: str


Effect = (
    Commit
    | Load
    | Transmit
    | Disconnect
    | Stored
    | Rejected
    | Progressed
    | Arrived
    | Handled
    | Answered
    | Posting
    | Withdraw
    | Redial
    | Warn
)
