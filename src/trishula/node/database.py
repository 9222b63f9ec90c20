"""The SQLite file: opening it, its version, and the rows that the ledger's rules see."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import uuid
from collections.abc import Collection, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from trishula.protocol.envelope import Envelope, Key, State
from trishula.protocol.errors import TrishulaError
from trishula.protocol.message import Message
from trishula.protocol.names import PROBE
from trishula.protocol.records import Entry, Held, Hold, Progress, Pruned

SCHEMA_VERSION = 3
"""The number of the last step in `schema/`."""

PROGRESS = (
    "seq, sender, id, recipient, dest, digest, expires_at, stored_at, state, reason, route, settled_at, latency_ms,"
    " custodian"
)
_ENTRY = "sender, id, recipient, digest, origin, expires_at, outcome, reason, at, route, read_at"
_ENDED = "(outcome <> 'delivered' OR recipient = '.ping')"


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
    """Make the store of `node` if there is none, bring an older one up to date. Returns its incarnation.

    Raises `StoreError` for another's store, and for one of a newer release.
    """
    db = connect(path)
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{path} has the format {version}, this release knows {SCHEMA_VERSION}",
                fix="install the release that wrote it, or a newer one",
            )
        if version < SCHEMA_VERSION:
            if version > 0:
                _keep_former(db, path, version)
            steps = (f"schema/{step}.sql" for step in range(version + 1, SCHEMA_VERSION + 1))
            schema = "\n".join(resources.files("trishula.node").joinpath(step).read_text("utf-8") for step in steps)
            # One transaction for all steps, so that a crash leaves the one format or the other.
            db.executescript(f"BEGIN IMMEDIATE; {schema}")
            if version == 0:
                db.executemany("INSERT INTO meta VALUES (?, ?)", [("node", node), *_new_incarnation()])
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            db.execute("COMMIT")
        meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
        if not {"node", "incarnation"} <= meta.keys():
            raise StoreError(f"{path} does not say whose store it is", fix="put a backup in its place")
        if meta["node"] != node:
            raise StoreError(f"{path} is the store of {meta['node']!r}, not of {node!r}", fix="check node.state_dir")
        return str(meta["incarnation"])
    finally:
        db.close()


def _keep_former(db: sqlite3.Connection, path: Path, version: int) -> None:
    """Copy the store to `former.db` beside it, before its format changes: the release before can't read the new one.

    `roles/trishula_node/library/trishula_former_store.py` puts it back. One that is there is of an earlier change that
    has not proved itself, and is what the way back leads to. Raises `StoreError` where it can't be made.
    """
    former = path.with_name("former.db")
    if former.exists():
        return
    unfinished = path.with_name("former.db.new")
    try:
        unfinished.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(unfinished)) as copy:
            db.backup(copy)
            # No second file beside it: what is put back is one file.
            copy.execute("PRAGMA journal_mode = DELETE")
        unfinished.replace(former)
    except (sqlite3.Error, OSError) as error:
        raise StoreError(
            f"{path} stays in the format {version}, for no copy of it can be kept: {error}",
            fix="make room on its disk for a second one",
        ) from None


def recognize(path: Path, mark: Path, incarnation: str) -> str:
    """The incarnation of the store at `path`: a new one where it is not what was here last (rule 14).

    Each life of the store leaves its name in it and in `mark`, which is kept elsewhere; a copy of yesterday has another
    one. Raises `StoreError`.
    """
    db = connect(path)
    try:
        found = db.execute("SELECT value FROM meta WHERE key = 'life'").fetchone()
        restored = found is not None and found[0] != _read(mark)
        life = str(uuid.uuid4())
        news = _new_incarnation() if restored else []
        try:
            db.execute("BEGIN IMMEDIATE")
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", [*news, ("life", life)])
            db.execute("COMMIT")
            mark.write_text(life)
        except (sqlite3.OperationalError, OSError) as error:
            if restored:
                raise StoreError(f"{path} was put back and can't be written: {error}", fix="make room there") from None
            # The disk is full: what is stored is safe, and this life goes on under its old name.
        return dict(news).get("incarnation", incarnation)
    finally:
        db.close()


def renew(path: Path) -> str:
    """Give the store at `path` a new incarnation, which it returns; the next start takes stock of the mailboxes."""
    db = connect(path)
    try:
        news = _new_incarnation()
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", news)
        db.execute("COMMIT")
        return dict(news)["incarnation"]
    finally:
        db.close()


def _read(mark: Path) -> str:
    try:
        return mark.read_text("utf-8", "replace")
    except OSError:
        return ""


def touch(db: sqlite3.Connection) -> None:
    """Write something that changes nothing."""
    db.execute("UPDATE meta SET value = value")


def used_bytes(db: sqlite3.Connection) -> int:
    """Bytes of the file's pages that hold something."""
    pages, free, size = (
        int(db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def _new_incarnation() -> list[tuple[str, str]]:
    """Of a new or restored store: it does not know yet what the mailboxes hold (rule 14)."""
    return [("incarnation", str(uuid.uuid4())), ("adopted", "0")]


class SqlRows:
    """`records.Rows` over the open transaction of a connection."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def message_digest(self, sender: str, message_id: str) -> str | None:
        row = self._db.execute("SELECT digest FROM messages WHERE sender = ? AND id = ?", (sender, message_id))
        found = row.fetchone()
        return found[0] if found else None

    def message_payload(self, sender: str, message_id: str) -> bytes:
        row = self._db.execute("SELECT payload FROM messages WHERE sender = ? AND id = ?", (sender, message_id))
        return bytes(row.fetchone()[0])

    def add_message(self, message: Message, at: int) -> None:
        self._db.execute(
            "INSERT INTO messages (sender, id, digest, payload, stored_at, projected) VALUES (?, ?, ?, ?, ?, ?)",
            (message.sender, message.id, message.digest, message.payload, at, message.sender == PROBE),
        )

    def add_outgoing(self, envelope: Envelope, digest: str, at: int) -> Progress:
        key = envelope.key
        cursor = self._db.execute(
            "INSERT INTO outgoing (sender, id, recipient, dest, digest, urgent, expires_at, stored_at, state, reason,"
            " route, receipt) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'stored', '', '',"
            " ?1 IN (SELECT agent FROM receipts_for))",
            (*key, envelope.dest, digest, envelope.urgent, envelope.expires_at, at),
        )
        assert cursor.lastrowid is not None
        return Progress(cursor.lastrowid, key, envelope.dest, digest, envelope.expires_at, at)

    def outgoing(self, sender: str, message_id: str) -> tuple[Progress, ...]:
        rows = self._db.execute(
            f"SELECT {PROGRESS} FROM outgoing WHERE sender = ? AND id = ? ORDER BY seq", (sender, message_id)
        )
        return tuple(progress_of(row) for row in rows)

    def progress(self, key: Key) -> Progress | None:
        row = self._db.execute(
            f"SELECT {PROGRESS} FROM outgoing WHERE sender = ? AND id = ? AND recipient = ?", key
        ).fetchone()
        return progress_of(row) if row else None

    def set_progress(self, progress: Progress) -> None:
        # A bounce is said in a file, and so is that it was none after all.
        bounced = progress.state in (State.REFUSED, State.UNCONFIRMED)
        self._db.execute(
            "UPDATE outgoing SET notice = notice OR (sender <> '.ping' AND (? OR state = 'unconfirmed')),"
            " state = ?, reason = ?, route = ?, settled_at = ?, latency_ms = ?, custodian = '',"
            " receipt = sender IN (SELECT agent FROM receipts_for) WHERE seq = ?",
            (
                bounced,
                progress.state.value,
                progress.reason,
                progress.route,
                progress.settled_at,
                progress.latency_ms,
                progress.seq,
            ),
        )

    def overdue(self, before: int, limit: int, dest: str | None = None) -> Sequence[Progress]:
        return self._progresses(
            "state = 'stored' AND expires_at < ?1 AND (?2 IS NULL OR dest = ?2) ORDER BY expires_at, seq LIMIT ?3",
            before,
            dest,
            limit,
        )

    def orphaned(self, nodes: Collection[str], limit: int) -> Sequence[Progress]:
        return self._progresses(
            "state = 'stored' AND dest NOT IN (SELECT value FROM json_each(?)) ORDER BY seq LIMIT ?",
            json.dumps([*nodes]),
            limit,
        )

    def next_expiry(self) -> int | None:
        row = self._db.execute("SELECT min(expires_at) FROM outgoing WHERE state = 'stored'").fetchone()
        return None if row[0] is None else int(row[0])

    def entrust(self, key: Key, custodian: str) -> None:
        self._db.execute(
            "UPDATE outgoing SET custodian = ? WHERE sender = ? AND id = ? AND recipient = ? AND state = 'stored'",
            (custodian, *key),
        )

    def reclaim(self, custodians: Collection[str], dest: str | None) -> int:
        return self._db.execute(
            "UPDATE outgoing SET custodian = '' WHERE state = 'stored' AND custodian <> ''"
            " AND (?1 IS NULL OR dest = ?1) AND (?2 = '[]' OR custodian IN (SELECT value FROM json_each(?2)))",
            (dest, json.dumps([*custodians])),
        ).rowcount

    def newest(self, dest: str, limit: int) -> Sequence[Progress]:
        return self._progresses(
            "dest = ? AND state IN ('delivered', 'unconfirmed') AND sender <> '.ping' ORDER BY seq DESC LIMIT ?",
            dest,
            limit,
        )

    def open_counts(self) -> Mapping[tuple[str, str], int]:
        rows = self._db.execute(
            "SELECT sender, dest, count(*) FROM outgoing WHERE state = 'stored' GROUP BY sender, dest"
        )
        return {(sender, dest): count for sender, dest, count in rows}

    def entries(self, key: Key) -> tuple[Entry, ...]:
        rows = self._db.execute(
            f"SELECT {_ENTRY} FROM ledger WHERE sender = ? AND id = ? AND recipient = ? ORDER BY cursor", key
        )
        return tuple(map(_entry, rows.fetchall()))

    def received(self, agent: str, message_id: str) -> tuple[Entry, ...]:
        rows = self._db.execute(
            f"SELECT {_ENTRY} FROM ledger WHERE recipient = ? AND id = ? COLLATE NOCASE AND id = ? ORDER BY cursor",
            (agent, message_id, message_id),
        )
        return tuple(map(_entry, rows.fetchall()))

    def add_entry(self, entry: Entry, payload: bytes | None, file: str = "") -> None:
        self._db.execute(
            f"INSERT INTO ledger ({_ENTRY}, payload, projected, file) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                *entry.key,
                entry.digest,
                entry.origin,
                entry.expires_at,
                entry.outcome.value,
                entry.reason,
                entry.at,
                entry.route,
                entry.read_at,
                payload,
                _projected(entry, payload, file),
                file,
            ),
        )

    def set_read(self, entry: Entry) -> None:
        self._db.execute(
            "UPDATE ledger SET outcome = 'read', read_at = ? WHERE sender = ? AND id = ? AND recipient = ?"
            " AND digest = ?",
            (entry.read_at, *entry.key, entry.digest),
        )

    def vouch(self, entry: Entry) -> None:
        self._db.execute(
            "UPDATE ledger SET origin = ?, expires_at = ?, route = ? WHERE sender = ? AND id = ? AND recipient = ?"
            " AND digest = ?",
            (entry.origin, entry.expires_at, entry.route, *entry.key, entry.digest),
        )

    def unread_counts(self) -> Mapping[str, int]:
        return dict(
            self._db.execute(
                "SELECT recipient, count(*) FROM ledger WHERE outcome = 'delivered' AND recipient <> '.ping'"
                " GROUP BY recipient"
            ).fetchall()
        )

    def forgotten(self) -> int:
        row = self._db.execute("SELECT value FROM meta WHERE key = 'forgotten'").fetchone()
        return int(row[0]) if row else 0

    def holds(self, key: Key, digest: str) -> bool:
        row = self._db.execute(
            "SELECT 1 FROM held WHERE sender = ? AND id = ? AND recipient = ? AND digest = ?", (*key, digest)
        )
        return row.fetchone() is not None

    def hold(self, record: Hold) -> Held:
        envelope, seal = record.envelope, record.seal
        former = self._db.execute(
            "SELECT length(payload) FROM held WHERE sender = ? AND id = ? AND recipient = ?", envelope.key
        ).fetchone()
        cursor = self._db.execute(
            "INSERT OR REPLACE INTO held (origin, dest, sender, id, recipient, digest, urgent, expires_at, kid, mac,"
            " payload, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                envelope.origin,
                envelope.dest,
                *envelope.key,
                record.digest,
                envelope.urgent,
                envelope.expires_at,
                seal.kid,
                seal.mac,
                envelope.payload,
                record.at,
            ),
        )
        assert cursor.lastrowid is not None
        return Held(cursor.lastrowid, len(envelope.payload) - (former[0] if former else 0))

    def drop(self, key: Key, digest: str) -> int:
        found = self._db.execute(
            "DELETE FROM held WHERE sender = ? AND id = ? AND recipient = ? AND digest = ? RETURNING length(payload)",
            (*key, digest),
        ).fetchall()
        return sum(size for (size,) in found)

    def held_bytes(self) -> Mapping[str, int]:
        return dict(self._db.execute("SELECT dest, sum(length(payload)) FROM held GROUP BY dest").fetchall())

    def prune(self, before: int, limit: int) -> Pruned:
        db = self._db
        entries = db.execute(
            f"SELECT cursor, expires_at FROM ledger WHERE {_ENDED} AND projected <> 0 AND expires_at < ?"
            " ORDER BY expires_at, cursor LIMIT ?",
            (before, limit),
        ).fetchall()
        if entries:
            db.executemany("DELETE FROM ledger WHERE cursor = ?", [(cursor,) for cursor, _ in entries])
            forgotten = max(self.forgotten(), entries[-1][1])
            db.execute("INSERT OR REPLACE INTO meta VALUES ('forgotten', ?)", (str(forgotten),))
        sent = db.execute(
            "SELECT seq, sender, id FROM outgoing"
            " WHERE state <> 'stored' AND notice = 0 AND receipt = 0 AND expires_at < ?"
            " ORDER BY expires_at LIMIT ?",
            (before, limit),
        ).fetchall()
        db.executemany("DELETE FROM outgoing WHERE seq = ?", [(row[0],) for row in sent])
        # A file in the outbox that no row knows would be sent again: it is moved first, `queries.ended_due` (rule 11).
        names = {(sender, message_id) for _, sender, message_id in sent}
        db.executemany(
            "UPDATE messages SET ended = 1 WHERE sender = ?1 AND id = ?2"
            " AND NOT EXISTS (SELECT 1 FROM outgoing WHERE sender = ?1 AND id = ?2)",
            names,
        )
        db.executemany(
            "DELETE FROM messages WHERE sender = ? AND id = ? AND ended = 1",
            [name for name in names if name[0] == PROBE],
        )
        held = db.execute(
            "SELECT seq, dest, length(payload) FROM held WHERE expires_at < ? ORDER BY expires_at, seq LIMIT ?",
            (before, limit),
        ).fetchall()
        db.executemany("DELETE FROM held WHERE seq = ?", [(seq,) for seq, _, _ in held])
        more = max(len(entries), len(sent), len(held)) >= limit
        return Pruned(more, tuple((dest, size) for _, dest, size in held))

    def _progresses(self, where: str, *values: object) -> Sequence[Progress]:
        return [progress_of(row) for row in self._db.execute(f"SELECT {PROGRESS} FROM outgoing WHERE {where}", values)]


def _projected(entry: Entry, payload: bytes | None, file: str) -> int:
    """Whether a file is to be written for it (0), is in the inbox (1), or is none of the inbox's (2)."""
    if payload is None or entry.key.to == PROBE or entry.outcome is State.READ:
        return 2
    return 1 if file else 0


def _entry(row: tuple[Any, ...]) -> Entry:
    return Entry(Key(*row[:3]), row[3], row[4], row[5], State(row[6]), row[7], row[8], row[9], row[10])


def progress_of(row: tuple[Any, ...]) -> Progress:
    seq, sender, message_id, to, dest, digest, expires_at, stored_at, state, *rest = row
    return Progress(seq, Key(sender, message_id, to), dest, digest, expires_at, stored_at, State(state), *rest)
