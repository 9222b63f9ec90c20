"""A store in memory with the manners of a disk: what is committed survives a crash, what is not is gone."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Sequence
from itertools import accumulate

from trishula.protocol import ledger
from trishula.protocol.effects import Load
from trishula.protocol.envelope import Envelope, Key, State
from trishula.protocol.message import Message
from trishula.protocol.records import Entry, Progress, Record, Result


class Disk:
    """The tables of one node, as they would be found after a power cut."""

    def __init__(self) -> None:
        self.messages: dict[tuple[str, str], str] = {}
        self.envelopes: dict[Key, Envelope] = {}
        self.outgoing: dict[Key, Progress] = {}
        self.ledger: dict[Key, tuple[Entry, ...]] = {}
        self.inbox: dict[Key, bytes] = {}
        self.last_seq = 0

    def begin(self) -> Transaction:
        return Transaction(self)

    def commit(self, *records: Record) -> list[Result]:
        """Apply these records in one transaction that succeeds."""
        transaction = self.begin()
        results = transaction.apply(records)
        transaction.commit()
        return results

    def pending(self, load: Load) -> tuple[list[tuple[int, Envelope]], bool]:
        """What a `Load` asks for, and whether that is all there is."""
        rows = [
            (row.seq, self.envelopes[row.key])
            for row in self.outgoing.values()
            if row.dest == load.dest
            and row.seq > load.after
            and row.state is State.STORED
            and self.envelopes[row.key].urgent is load.urgent
        ]
        filled = accumulate(len(envelope.payload) for _, envelope in rows)
        within = 1 + sum(size < load.size for size in filled)
        fetched = rows[: min(load.limit, within)]
        return fetched, len(fetched) == len(rows)


class Transaction:
    """`Rows` that see their own writes at once, while the disk sees them at `commit`, all or none."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._messages = ChainMap({}, disk.messages)
        self._envelopes = ChainMap({}, disk.envelopes)
        self._outgoing = ChainMap({}, disk.outgoing)
        self._ledger = ChainMap({}, disk.ledger)
        self._inbox = ChainMap({}, disk.inbox)
        self._last_seq = disk.last_seq

    def apply(self, records: Sequence[Record]) -> list[Result]:
        return [ledger.apply(self, record) for record in records]

    def commit(self) -> None:
        for table in (self._messages, self._envelopes, self._outgoing, self._ledger, self._inbox):
            written, kept = table.maps
            kept.update(written)
        self._disk.last_seq = self._last_seq

    def message_digest(self, sender: str, message_id: str) -> str | None:
        return self._messages.get((sender, message_id))

    def add_message(self, message: Message, at: int) -> None:
        del at
        self._messages[message.sender, message.id] = message.digest

    def add_outgoing(self, envelope: Envelope, digest: str, at: int) -> Progress:
        self._last_seq += 1
        progress = Progress(
            seq=self._last_seq,
            key=envelope.key,
            dest=envelope.dest,
            digest=digest,
            expires_at=envelope.expires_at,
            stored_at=at,
        )
        self._envelopes[envelope.key] = envelope
        self._outgoing[envelope.key] = progress
        return progress

    def outgoing(self, sender: str, message_id: str) -> tuple[Progress, ...]:
        mine = (row for key, row in self._outgoing.items() if (key.sender, key.id) == (sender, message_id))
        return tuple(sorted(mine, key=lambda row: row.seq))

    def progress(self, key: Key) -> Progress | None:
        return self._outgoing.get(key)

    def set_progress(self, progress: Progress) -> None:
        self._outgoing[progress.key] = progress

    def entries(self, key: Key) -> tuple[Entry, ...]:
        return self._ledger.get(key, ())

    def add_entry(self, entry: Entry, envelope: Envelope) -> None:
        self._ledger[entry.key] = (*self.entries(entry.key), entry)
        if entry.outcome is State.DELIVERED:
            assert entry.key not in self._inbox, f"{entry.key} is delivered a second time"
            self._inbox[entry.key] = envelope.payload
