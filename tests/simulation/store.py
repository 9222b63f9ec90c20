"""A store in memory with the manners of a disk: what is committed survives a crash, what is not is gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, islice
from typing import NamedTuple

from trishula.protocol import ledger
from trishula.protocol.delivery import Row
from trishula.protocol.effects import Load
from trishula.protocol.envelope import Envelope, Key, State
from trishula.protocol.message import Message
from trishula.protocol.names import PROBE
from trishula.protocol.records import UNSIGNED, Entry, Held, Hold, Progress, Pruned, Record, Result, Seal

TABLES = ("messages", "payloads", "envelopes", "sent", "ledger", "inbox", "unfiled", "held", "numbers")


class Custody(NamedTuple):
    """A row of `held`."""

    seq: int
    envelope: Envelope
    seal: Seal
    digest: str


class Disk:
    """The tables of one node, as they would be found after a power cut: `records.Rows`.

    `sent` and `held` are in the order of their numbers, `inbox` in that of arrival.
    """

    def __init__(self) -> None:
        self.messages: dict[tuple[str, str], str] = {}
        self.payloads: dict[tuple[str, str], bytes] = {}
        self.envelopes: dict[Key, Envelope] = {}
        self.sent: dict[Key, Progress] = {}
        self.ledger: dict[Key, tuple[Entry, ...]] = {}
        self.inbox: dict[Key, bytes] = {}
        """Of what was delivered here."""
        self.unfiled: dict[Key, None] = {}
        """Of that, what has no mailbox file for certain."""
        self.held: dict[Key, Custody] = {}
        self.numbers: dict[str, int] = {"seq": 0, "held": 0, "forgotten": 0}

    def commit(self, *records: Record) -> list[Result]:
        """Apply these records, all of them: who wants none of them applies them to a copy."""
        return [ledger.apply(self, record) for record in records]

    def copy(self) -> Disk:
        """A backup."""
        backup = Disk()
        for table in TABLES:
            getattr(backup, table).update(getattr(self, table))
        return backup

    def pending(self, load: Load) -> tuple[list[Row], bool]:
        """What a `Load` asks for, and whether that is all there is."""
        rows: list[Row] = []
        if load.held:
            held = self.held.values()
            rows = [(row.seq, row.envelope, row.seal) for row in held if self._is_wanted(load, row.envelope, row.seq)]
        else:
            rows = [
                (row.seq, self.envelopes[row.key], None)
                for row in self.sent.values()
                if row.state is State.STORED
                and not row.custodian
                and self._is_wanted(load, self.envelopes[row.key], row.seq)
            ]
        filled = accumulate(len(envelope.payload) for _, envelope, _ in rows)
        within = 1 + sum(size < load.size for size in filled)
        fetched = rows[: min(load.limit, within)]
        return fetched, len(fetched) == len(rows)

    @staticmethod
    def _is_wanted(load: Load, envelope: Envelope, seq: int) -> bool:
        return (envelope.dest, envelope.urgent) == (load.dest, load.urgent) and seq > load.after

    def unread(self, agent: str) -> list[Key]:
        """What `agent` gets when it attaches."""
        return [
            entry.key
            for entries in self.ledger.values()
            for entry in entries
            if entry.key.to == agent and entry.outcome is State.DELIVERED
        ]

    # ------------------------------------------------------------ what local agents sent

    def message_digest(self, sender: str, message_id: str) -> str | None:
        return self.messages.get((sender, message_id))

    def message_payload(self, sender: str, message_id: str) -> bytes:
        return self.payloads[sender, message_id]

    def add_message(self, message: Message, at: int) -> None:
        del at
        self.messages[message.sender, message.id] = message.digest
        self.payloads[message.sender, message.id] = message.payload

    def add_outgoing(self, envelope: Envelope, digest: str, at: int) -> Progress:
        progress = Progress(
            seq=self._next("seq"),
            key=envelope.key,
            dest=envelope.dest,
            digest=digest,
            expires_at=envelope.expires_at,
            stored_at=at,
        )
        self.envelopes[envelope.key] = envelope
        self.sent[envelope.key] = progress
        return progress

    def outgoing(self, sender: str, message_id: str) -> tuple[Progress, ...]:
        return tuple(row for row in self.sent.values() if row.key[:2] == (sender, message_id))

    def progress(self, key: Key) -> Progress | None:
        return self.sent.get(key)

    def set_progress(self, progress: Progress) -> None:
        self.sent[progress.key] = replace(progress, custodian="")

    def overdue(self, before: int, limit: int, dest: str | None = None) -> Sequence[Progress]:
        overdue = [row for row in self._open() if row.expires_at < before and dest in (None, row.dest)]
        return sorted(overdue, key=lambda row: (row.expires_at, row.seq))[:limit]

    def orphaned(self, nodes: Collection[str], limit: int) -> Sequence[Progress]:
        return [row for row in self._open() if row.dest not in nodes][:limit]

    def next_expiry(self) -> int | None:
        return min((row.expires_at for row in self._open()), default=None)

    def entrust(self, key: Key, custodian: str) -> None:
        row = self.sent.get(key)
        if row is not None and row.state is State.STORED:
            self.sent[key] = replace(row, custodian=custodian)

    def reclaim(self, custodians: Collection[str], dest: str | None) -> int:
        mine = [
            row
            for row in self._open()
            if row.custodian and dest in (None, row.dest) and (not custodians or row.custodian in custodians)
        ]
        for row in mine:
            self.sent[row.key] = replace(row, custodian="")
        return len(mine)

    def newest(self, dest: str, limit: int) -> Sequence[Progress]:
        rows = (row for row in reversed(self.sent.values()) if self._is_hopeful(row, dest))
        return list(islice(rows, limit))

    @staticmethod
    def _is_hopeful(row: Progress, dest: str) -> bool:
        hopeful = row.state in (State.DELIVERED, State.UNCONFIRMED)
        return hopeful and row.dest == dest and row.key.sender != PROBE

    def open_counts(self) -> Mapping[tuple[str, str], int]:
        return Counter((row.key.sender, row.dest) for row in self._open())

    # ------------------------------------------------------------ what local agents got

    def entries(self, key: Key) -> tuple[Entry, ...]:
        return self.ledger.get(key, ())

    def received(self, agent: str, message_id: str) -> tuple[Entry, ...]:
        return tuple(
            entry
            for key, entries in self.ledger.items()
            if (key.to, key.id) == (agent, message_id)
            for entry in entries
        )

    def add_entry(self, entry: Entry, payload: bytes | None, file: str = "") -> None:
        self.ledger[entry.key] = (*self.entries(entry.key), entry)
        if payload is not None:
            others = {known.route for known in self.entries(entry.key) if known is not entry} - {UNSIGNED}
            assert entry.key not in self.inbox or not others, f"{entry.key} is delivered a second time"
            self.inbox[entry.key] = payload
            if entry.key.to != PROBE and not file:
                self.unfiled[entry.key] = None

    def set_read(self, entry: Entry) -> None:
        self.ledger[entry.key] = tuple(
            entry if known.digest == entry.digest else known for known in self.entries(entry.key)
        )

    vouch = set_read

    def unread_counts(self) -> Mapping[str, int]:
        entries = (entry for entries in self.ledger.values() for entry in entries)
        return Counter(e.key.to for e in entries if e.outcome is State.DELIVERED and e.key.to != PROBE)

    def forgotten(self) -> int:
        return self.numbers["forgotten"]

    # ------------------------------------------------------------ custody and retention

    def holds(self, key: Key, digest: str) -> bool:
        return key in self.held and self.held[key].digest == digest

    def hold(self, record: Hold) -> Held:
        former = self.held.pop(record.envelope.key, None)
        seq = self._next("held")
        self.held[record.envelope.key] = Custody(seq, record.envelope, record.seal, record.digest)
        return Held(seq, len(record.envelope.payload) - (len(former.envelope.payload) if former else 0))

    def drop(self, key: Key, digest: str) -> int:
        if key not in self.held or self.held[key].digest != digest:
            return 0
        return len(self.held.pop(key).envelope.payload)

    def held_bytes(self) -> Mapping[str, int]:
        held: Counter[str] = Counter()
        for row in self.held.values():
            held[row.envelope.dest] += len(row.envelope.payload)
        return held

    def prune(self, before: int, limit: int) -> Pruned:
        ended = [entry for entries in self.ledger.values() for entry in entries if self._has_ended(entry, before)]
        ended = sorted(ended, key=lambda entry: entry.expires_at)[:limit]
        for entry in ended:
            kept = tuple(other for other in self.ledger[entry.key] if other is not entry)
            if kept:
                self.ledger[entry.key] = kept
            else:
                del self.ledger[entry.key]
            if entry.outcome is not State.REFUSED:
                self.inbox.pop(entry.key, None)
            self.numbers["forgotten"] = max(self.numbers["forgotten"], entry.expires_at)
        sent = [row for row in self.sent.values() if row.state is not State.STORED and row.expires_at < before][:limit]
        for row in sent:
            del self.sent[row.key], self.envelopes[row.key]
        for sender, message_id in {row.key[:2]: None for row in sent}:
            if not self.outgoing(sender, message_id):
                del self.messages[sender, message_id], self.payloads[sender, message_id]
        held = [row for row in self.held.values() if row.envelope.expires_at < before]
        held = sorted(held, key=lambda row: (row.envelope.expires_at, row.seq))[:limit]
        for custody in held:
            del self.held[custody.envelope.key]
        more = max(len(ended), len(sent), len(held)) >= limit
        return Pruned(more, tuple((row.envelope.dest, len(row.envelope.payload)) for row in held))

    def _has_ended(self, entry: Entry, before: int) -> bool:
        """Whether it may be forgotten; not before its file is written."""
        waits = entry.outcome is State.DELIVERED and entry.key.to != PROBE
        unfiled = entry.outcome is not State.REFUSED and entry.key in self.unfiled
        return entry.expires_at < before and not waits and not unfiled

    # ------------------------------------------------------------

    def _next(self, number: str) -> int:
        self.numbers[number] += 1
        return self.numbers[number]

    def _open(self) -> list[Progress]:
        return [row for row in self.sent.values() if row.state is State.STORED]
