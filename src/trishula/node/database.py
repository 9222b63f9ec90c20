"""The SQLite file: opening it, its version, and the rows that the ledger's rules see."""

from __future__ import annotations

import sqlite3
import sys
import uuid
from importlib import resources
from pathlib import Path
from typing import Any

from trishula.protocol.envelope import Envelope, Key, State
from trishula.protocol.errors import TrishulaError
from trishula.protocol.message import Message
from trishula.protocol.names import PROBE
from trishula.protocol.records import Entry, Progress

SCHEMA_VERSION = 1

_PROGRESS = (
    "seq, sender, id, recipient, dest, digest, expires_at, stored_at, state, reason, route, settled_at, latency_ms"
)
_ENTRY = "sender, id, recipient, digest, origin, expires_at, outcome, reason, at, route"


class StoreError(TrishulaError):
    """The store can't be used as it is."""

    code = "store"


def connect(path: Path) -> sqlite3.Connection:
    """A connection on which every commit is on the disk when it returns. Makes or migrates nothing."""
    # Transactions are begun by hand; each connection stays with the one thread that uses it after this one.
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA busy_timeout = 5000")
    if sys.platform == "darwin":
        # fsync on macOS stops at the drive's cache
        db.execute("PRAGMA fullfsync = ON")
    return db


def prepare(path: Path, node: str) -> str:
    """Make the store of `node` if there is none. Returns its incarnation. Raises `StoreError` for another's store."""
    db = connect(path)
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            schema = resources.files("trishula.node").joinpath("schema.sql").read_text("utf-8")
            # One transaction, so that a crash leaves a whole store or none.
            db.executescript(f"BEGIN IMMEDIATE; {schema}")
            db.executemany("INSERT INTO meta VALUES (?, ?)", [("node", node), ("incarnation", str(uuid.uuid4()))])
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            db.execute("COMMIT")
        elif version != SCHEMA_VERSION:
            raise StoreError(
                f"{path} has the format {version}, this release knows {SCHEMA_VERSION}",
                fix="install the release that wrote it, or a newer one",
            )
        meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
        if meta["node"] != node:
            raise StoreError(f"{path} is the store of {meta['node']!r}, not of {node!r}", fix="check node.state_dir")
        return str(meta["incarnation"])
    finally:
        db.close()


class SqlRows:
    """`records.Rows` over the open transaction of a connection."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def message_digest(self, sender: str, message_id: str) -> str | None:
        row = self._db.execute("SELECT digest FROM messages WHERE sender = ? AND id = ?", (sender, message_id))
        found = row.fetchone()
        return found[0] if found else None

    def add_message(self, message: Message, at: int) -> None:
        self._db.execute(
            "INSERT INTO messages (sender, id, digest, payload, stored_at, projected) VALUES (?, ?, ?, ?, ?, ?)",
            (message.sender, message.id, message.digest, message.payload, at, message.sender == PROBE),
        )

    def add_outgoing(self, envelope: Envelope, digest: str, at: int) -> Progress:
        key = envelope.key
        cursor = self._db.execute(
            "INSERT INTO outgoing (sender, id, recipient, dest, digest, urgent, expires_at, stored_at, state, reason,"
            " route) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'stored', '', '')",
            (*key, envelope.dest, digest, envelope.urgent, envelope.expires_at, at),
        )
        assert cursor.lastrowid is not None
        return Progress(cursor.lastrowid, key, envelope.dest, digest, envelope.expires_at, at)

    def outgoing(self, sender: str, message_id: str) -> tuple[Progress, ...]:
        rows = self._db.execute(
            f"SELECT {_PROGRESS} FROM outgoing WHERE sender = ? AND id = ? ORDER BY seq", (sender, message_id)
        )
        return tuple(_progress(row) for row in rows)

    def progress(self, key: Key) -> Progress | None:
        row = self._db.execute(
            f"SELECT {_PROGRESS} FROM outgoing WHERE sender = ? AND id = ? AND recipient = ?", key
        ).fetchone()
        return _progress(row) if row else None

    def set_progress(self, progress: Progress) -> None:
        self._db.execute(
            "UPDATE outgoing SET state = ?, reason = ?, route = ?, settled_at = ?, latency_ms = ? WHERE seq = ?",
            (
                progress.state.value,
                progress.reason,
                progress.route,
                progress.settled_at,
                progress.latency_ms,
                progress.seq,
            ),
        )

    def entries(self, key: Key) -> tuple[Entry, ...]:
        rows = self._db.execute(
            f"SELECT {_ENTRY} FROM ledger WHERE sender = ? AND id = ? AND recipient = ? ORDER BY cursor", key
        )
        return tuple(
            Entry(Key(*row[:3]), row[3], row[4], row[5], State(row[6]), row[7], row[8], row[9])
            for row in rows.fetchall()
        )

    def add_entry(self, entry: Entry, envelope: Envelope) -> None:
        taken = entry.outcome is State.DELIVERED
        self._db.execute(
            f"INSERT INTO ledger ({_ENTRY}, payload, projected) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *entry.key,
                entry.digest,
                entry.origin,
                entry.expires_at,
                entry.outcome.value,
                entry.reason,
                entry.at,
                entry.route,
                envelope.payload if taken else None,
                not taken or entry.key.to == PROBE,
            ),
        )


def _progress(row: tuple[Any, ...]) -> Progress:
    seq, sender, message_id, to, dest, digest, expires_at, stored_at, state, reason, route, settled_at, latency = row
    return Progress(
        seq,
        Key(sender, message_id, to),
        dest,
        digest,
        expires_at,
        stored_at,
        State(state),
        reason,
        route,
        settled_at,
        latency,
    )
