"""What the node reads from its store, and the few marks that it sets there itself. Each takes the connection."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from trishula.node.database import SqlRows
from trishula.protocol.delivery import Row
from trishula.protocol.effects import Load
from trishula.protocol.envelope import Envelope, Key
from trishula.protocol.records import Progress, Seal


@dataclass(frozen=True, slots=True)
class Letter:
    """A message in a local agent's inbox."""

    cursor: int
    sender: str
    id: str
    recipient: str
    origin: str
    digest: str
    route: str
    at: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class FileDue:
    """A payload whose mailbox file is not yet known to be on the disk. `row` is its number in `table`.

    `taken`: an earlier message of this mailbox has the same id, or one that differs in case only.
    """

    table: str
    row: int
    agent: str
    box: str
    sender: str
    id: str
    payload: bytes
    taken: bool


_T = TypeVar("_T")

MOST_BYTES = 4 * 1024 * 1024

_LETTER = "cursor, sender, id, recipient, origin, digest, route, at, payload"


def pending(db: sqlite3.Connection, node: str, load: Load) -> tuple[list[Row], bool]:
    """The unanswered envelopes that `load` asks for, and whether there are no more than these."""
    asked = (load.dest, load.urgent, load.after, load.limit)
    rows: Iterator[Row]
    if load.held:
        found = db.execute(
            "SELECT seq, origin, sender, id, recipient, expires_at, payload, kid, mac FROM held"
            " WHERE dest = ? AND urgent = ? AND seq > ? ORDER BY seq LIMIT ?",
            asked,
        )
        rows = (
            (row[0], Envelope(row[1], load.dest, Key(*row[2:5]), row[5], row[6], load.urgent), Seal(row[7], row[8]))
            for row in found
        )
    else:
        found = db.execute(
            "SELECT o.seq, o.sender, o.id, o.recipient, o.expires_at, m.payload"
            " FROM outgoing o JOIN messages m ON m.sender = o.sender AND m.id = o.id"
            " WHERE o.dest = ? AND o.urgent = ? AND o.seq > ? AND o.state = 'stored' AND o.custodian = ''"
            " ORDER BY o.seq LIMIT ?",
            asked,
        )
        rows = ((row[0], Envelope(node, load.dest, Key(*row[1:4]), row[4], row[5], load.urgent), None) for row in found)
    envelopes, full = _fill(rows, lambda row: row[1].payload, load.size)
    return envelopes, not full and len(envelopes) < load.limit


def letters(db: sqlite3.Connection, agent: str, *, after: int, limit: int) -> tuple[list[Letter], bool]:
    """Unread messages of `agent` above the cursor `after`, in the order of arrival, and whether there may be more.

    No more than `limit`, nor than fills `MOST_BYTES`: what is read is in memory at once.
    """
    rows = db.execute(
        f"SELECT {_LETTER} FROM ledger WHERE recipient = ? AND outcome = 'delivered' AND cursor > ?"
        " ORDER BY cursor LIMIT ?",
        (agent, after, limit),
    )
    found, full = _fill((Letter(*row) for row in rows), lambda letter: letter.payload, MOST_BYTES)
    return found, full or len(found) == limit


def letter(db: sqlite3.Connection, agent: str, message_id: str) -> Letter | None:
    """The newest message with this id that `agent` got."""
    row = db.execute(
        f"SELECT {_LETTER} FROM ledger WHERE recipient = ? AND id = ? AND payload IS NOT NULL"
        " ORDER BY cursor DESC LIMIT 1",
        (agent, message_id),
    ).fetchone()
    return Letter(*row) if row else None


def unread(db: sqlite3.Connection) -> dict[str, int]:
    """How many unread messages each local agent has; agents with none are left out."""
    return dict(
        db.execute("SELECT recipient, count(*) FROM ledger WHERE outcome = 'delivered' GROUP BY recipient").fetchall()
    )


def oldest_unread(db: sqlite3.Connection, agents: Iterable[str]) -> dict[str, int]:
    """When the oldest unread message of each agent came, in ms since 1970; agents with none are left out."""
    first = "SELECT at FROM ledger WHERE outcome = 'delivered' AND recipient = ? ORDER BY cursor LIMIT 1"
    found = {agent: db.execute(first, (agent,)).fetchone() for agent in agents}
    return {agent: row[0] for agent, row in found.items() if row is not None}


def backlogs(db: sqlite3.Connection) -> dict[str, int]:
    """How many envelopes wait for an answer, by node; nodes without any are left out."""
    return dict(db.execute("SELECT dest, count(*) FROM outgoing WHERE state = 'stored' GROUP BY dest").fetchall())


def sent(db: sqlite3.Connection, agent: str, message_id: str) -> tuple[str, bytes, tuple[Progress, ...]] | None:
    """(digest, payload, outcomes) of a message that `agent` sent."""
    row = db.execute("SELECT digest, payload FROM messages WHERE sender = ? AND id = ?", (agent, message_id)).fetchone()
    return (row[0], row[1], SqlRows(db).outgoing(agent, message_id)) if row else None


def files_due(db: sqlite3.Connection, *, limit: int, without: Collection[str] = ()) -> list[FileDue]:
    """Payloads of both boxes whose files are to be written, oldest first within each box; not those of some agents."""
    left_out = json.dumps(list(without))
    inbox = db.execute(
        "SELECT l.cursor, l.recipient, l.sender, l.id, l.payload, EXISTS (SELECT 1 FROM ledger o WHERE"
        " o.recipient = l.recipient AND o.id = l.id COLLATE NOCASE AND o.cursor < l.cursor AND o.payload IS NOT NULL)"
        " FROM ledger l WHERE l.projected = 0 AND l.recipient NOT IN (SELECT value FROM json_each(?))"
        " ORDER BY l.cursor LIMIT ?",
        (left_out, limit),
    )
    arrived = (FileDue("ledger", row[0], row[1], "inbox", *row[2:]) for row in inbox)
    outbox = db.execute(
        "SELECT m.number, m.sender, m.id, m.payload, EXISTS (SELECT 1 FROM messages o WHERE"
        " o.sender = m.sender AND o.id = m.id COLLATE NOCASE AND o.number < m.number)"
        " FROM messages m WHERE m.projected = 0 AND m.sender NOT IN (SELECT value FROM json_each(?))"
        " ORDER BY m.number LIMIT ?",
        (left_out, limit),
    )
    outgoing = (FileDue("messages", row[0], row[1], "outbox", *row[1:]) for row in outbox)
    return [file for box in (arrived, outgoing) for file in _fill(box, lambda file: file.payload, MOST_BYTES)[0]]


def _fill(rows: Iterable[_T], payload_of: Callable[[_T], bytes], most: int) -> tuple[list[_T], bool]:
    """As many rows as fill `most` bytes of payload, at least one, and whether they did."""
    found: list[_T] = []
    size = 0
    for row in rows:
        found.append(row)
        size += len(payload_of(row))
        if size >= most:
            return found, True
    return found, False


def mark_projected(db: sqlite3.Connection, due: Sequence[FileDue]) -> None:
    """These files are on the disk."""
    for table, column in (("ledger", "cursor"), ("messages", "number")):
        numbers: Iterable[tuple[int]] = [(file.row,) for file in due if file.table == table]
        db.executemany(f"UPDATE {table} SET projected = 1 WHERE {column} = ?", numbers)
