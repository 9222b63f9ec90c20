"""The way of each message in the journal, a line a step, so that it can be followed from host to host.

Each line bears the message's id in a field of its own: `journalctl TRISHULA_ID=<id>` finds it at once. They are debug
messages, and bounded: under load the journal keeps what else is in it, and `trishula trace` knows the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from trishula.node.logs import safe
from trishula.protocol.envelope import State
from trishula.protocol.names import PROBE
from trishula.protocol.records import (
    Accept,
    Adopt,
    Answer,
    Drop,
    Dropped,
    Ended,
    Entrust,
    Found,
    GiveUp,
    Held,
    Hold,
    Originate,
    Originated,
    Progress,
    Read,
    Record,
    Result,
    Settle,
    Settled,
)

MOST = 200
EVERY_S = 10.0

Say = Callable[[str, str], None]
"""What takes an id and a text."""


class Steps:
    """Hears what is to be committed, and says what came of it when it is."""

    def __init__(self, say: Say, *, most: int = MOST, every: float = EVERY_S) -> None:
        self._say = say
        self._most = most
        self._every = every
        self._since = -every
        self._said = 0
        self._batches: dict[int, tuple[Record, ...]] = {}

    def begun(self, batch: int, records: tuple[Record, ...]) -> None:
        self._batches[batch] = records

    def failed(self, batches: Sequence[int]) -> None:
        for batch in batches:
            del self._batches[batch]

    def committed(self, done: Sequence[tuple[int, Sequence[Result]]]) -> None:
        for batch, results in done:
            records = self._batches.pop(batch)
            if self._full():
                self._said += len(records)
                continue
            for record, result in zip(records, results, strict=True):
                for message_id, text in steps(record, result):
                    self._said += 1
                    if self._said <= self._most:
                        self._say(message_id, text)

    def _full(self) -> bool:
        now = time.monotonic()
        if now - self._since >= self._every:
            if self._said > self._most:
                self._say("", f"{self._said - self._most} steps of messages were too many to be noted here")
            self._since, self._said = now, 0
        return self._said > self._most


def steps(record: Record, result: Result) -> Iterator[tuple[str, str]]:  # noqa: C901, PLR0912 - an arm for each record
    """What a committed record says of messages: (id, text). Nothing for what was known before, and of probes."""
    match record, result:
        case Originate(), Originated(progress, fresh=True):
            for row in _mail(progress):
                yield row.key.id, f"from {row.key.sender} to {row.key.to}: stored, for {row.dest}"
        case ((Accept() | Adopt()), Answer(entry, fresh=True)) if entry.key.sender != PROBE:
            by = f"by {entry.route}" if entry.route else "found in the mailbox"
            why = f": {safe(entry.reason)}" if entry.reason else ""
            yield (
                entry.key.id,
                f"from {entry.key.sender} to {entry.key.to}: {entry.outcome.value} here, from {entry.origin} {by}{why}",
            )
        case Settle(), Settled(Progress() as row, fresh=True):
            for answered in _mail((row,)):
                yield answered.key.id, _word_of(answered)
        case GiveUp(), Ended(progress):
            for row in _mail(progress):
                yield row.key.id, _word_of(row)
        case Entrust(keys, custodian), _:
            for key in keys:
                if key.sender != PROBE:
                    yield key.id, f"from {key.sender} to {key.to}: in custody of {custodian}"
        case Hold(envelope), Held() if envelope.key.sender != PROBE:
            key = envelope.key
            yield key.id, f"from {key.sender} to {key.to}: in custody here, from {envelope.origin} for {envelope.dest}"
        case Drop(answered), Dropped(held_bytes) if held_bytes:
            for key, _ in answered:
                if key.sender != PROBE:
                    yield key.id, f"from {key.sender} to {key.to}: out of custody here, for it is answered"
        case Read(), Found(_, fresh):
            for entry in fresh:
                yield entry.key.id, f"from {entry.key.sender} to {entry.key.to}: read here"


def _mail(rows: Sequence[Progress]) -> Iterator[Progress]:
    return (row for row in rows if row.key.sender != PROBE)


def _word_of(row: Progress) -> str:
    """The recipient's node's word, or that there is none."""
    said = f"from {row.key.sender} to {row.key.to}: {row.state.value}"
    if row.state in (State.DELIVERED, State.READ):
        took = "" if row.latency_ms is None or row.state is State.READ else f", after {row.latency_ms:.1f} ms"
        return f"{said}, says {row.dest} by {row.route}{took}"
    return f"{said}: {safe(row.reason)}" if row.reason else said
