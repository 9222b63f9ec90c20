"""What the engine wants done. The shell carries effects out in the order in which it gets them."""

from __future__ import annotations

from dataclasses import dataclass

from trishula.protocol.errors import TrishulaError
from trishula.protocol.frames import Frame
from trishula.protocol.records import Entry, Progress, Record


@dataclass(frozen=True, slots=True)
class Commit:
    """Apply these records in one transaction; then call `committed` (or `failed`) with this batch number."""

    batch: int
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """Read pending envelopes for `dest` with a seq above `after`, in order; then call `loaded`.

    Up to `limit` of them, and none after those that fill `size` bytes of payload (at least one): a backlog of large
    messages must not come into memory at once.
    """

    dest: str
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
    """One of our envelopes got its answer."""

    progress: Progress


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message for a local agent is durable."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Warn:
    """Something that an operator should see in the journal."""

    text: str


Effect = Commit | Load | Transmit | Disconnect | Stored | Rejected | Progressed | Arrived | Warn
