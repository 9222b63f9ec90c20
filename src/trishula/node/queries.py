"""What the node reads from its store, and the few marks that it sets there itself. Each takes the connection."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from trishula.node.bounces import Bounce, ReceiptFile
from trishula.node.database import PROGRESS, SqlRows, progress_of
from trishula.node.drops import Known
from trishula.protocol.delivery import Row
from trishula.protocol.effects import Load
from trishula.protocol.envelope import Envelope, Key, State
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

    `taken`: an earlier message of this mailbox has the same id, or one that differs in case only. What was read before
    its file was written goes to the archive at once.
    """

    table: str
    row: int
    agent: str
    box: str
    sender: str
    id: str
    payload: bytes
    taken: bool


@dataclass(frozen=True, slots=True)
class Placed:
    """A file that is on the disk, where it is and how it is called."""

    file: FileDue
    box: str
    name: str


@dataclass(frozen=True, slots=True)
class HandledFile:
    """A message that was read and whose file is not known to have left the inbox."""

    cursor: int
    agent: str
    id: str
    file: str
    digest: str
    payload: bytes


class EndedFile(NamedTuple):
    """A message of which nothing is left to be said: its file leaves the outbox, then it is forgotten."""

    number: int
    agent: str
    id: str
    digest: str
    stored_at: int
    payload: bytes


class InboxFile(NamedTuple):
    """An unread message whose file was written; `archived` where it was found in the archive."""

    sender: str
    id: str
    file: str
    archived: bool


_T = TypeVar("_T")

MOST_BYTES = 4 * 1024 * 1024

IN_INBOX, ARCHIVED = 1, 2
"""Values of `ledger.projected`; 0 is what is to be written."""

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


@dataclass(frozen=True, slots=True)
class Counts:
    """What waits, by agent or by node; those with nothing are left out. `custody` is a part of `backlogs`."""

    unread: dict[str, int]
    oldest: dict[str, int]
    backlogs: dict[str, int]
    custody: dict[str, dict[str, int]]
    held: dict[str, dict[str, int]]


def counts(db: sqlite3.Connection, agents: Iterable[str]) -> Counts:
    custody: dict[str, dict[str, int]] = {}
    for dest, custodian, count in db.execute(
        "SELECT dest, custodian, count(*) FROM outgoing WHERE state = 'stored' AND custodian <> ''"
        " GROUP BY custodian, dest"
    ):
        custody.setdefault(dest, {})[custodian] = count
    held = db.execute("SELECT dest, count(*), sum(length(payload)) FROM held GROUP BY dest").fetchall()
    return Counts(
        unread=unread(db),
        oldest=oldest_unread(db, agents),
        backlogs=backlogs(db),
        custody=custody,
        held={dest: {"count": count, "bytes": size} for dest, count, size in held},
    )


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
        "SELECT l.cursor, l.recipient, iif(l.outcome = 'read', 'archive', 'inbox'), l.sender, l.id, l.payload,"
        " EXISTS (SELECT 1 FROM ledger o WHERE"
        " o.recipient = l.recipient AND o.id = l.id COLLATE NOCASE AND o.cursor < l.cursor AND o.payload IS NOT NULL)"
        " FROM ledger l WHERE l.projected = 0 AND l.recipient NOT IN (SELECT value FROM json_each(?))"
        " ORDER BY l.cursor LIMIT ?",
        (left_out, limit),
    )
    arrived = (FileDue("ledger", *row) for row in inbox)
    outbox = db.execute(
        "SELECT m.number, m.sender, m.id, m.payload, EXISTS (SELECT 1 FROM messages o WHERE"
        " o.sender = m.sender AND o.id = m.id COLLATE NOCASE AND o.number < m.number)"
        " FROM messages m WHERE m.projected = 0 AND m.sender NOT IN (SELECT value FROM json_each(?))"
        " ORDER BY m.number LIMIT ?",
        (left_out, limit),
    )
    outgoing = (FileDue("messages", row[0], row[1], "outbox", *row[1:]) for row in outbox)
    return [file for box in (arrived, outgoing) for file in _fill(box, lambda file: file.payload, MOST_BYTES)[0]]


def mark_projected(db: sqlite3.Connection, done: Sequence[Placed]) -> None:
    """These files are on the disk."""
    db.executemany(
        "UPDATE ledger SET projected = ?, file = ? WHERE cursor = ?",
        [
            (ARCHIVED if placed.box == "archive" else IN_INBOX, placed.name, placed.file.row)
            for placed in done
            if placed.file.table == "ledger"
        ],
    )
    sent = [(placed.file.row,) for placed in done if placed.file.table == "messages"]
    db.executemany("UPDATE messages SET projected = 1 WHERE number = ?", sent)


def bounces_due(db: sqlite3.Connection, *, limit: int, without: Collection[str] = ()) -> list[Bounce]:
    """What senders are to be told in files, but for some of them."""
    rows = db.execute(
        "SELECT o.seq, o.sender, o.id, o.recipient, o.dest, o.state, o.reason, o.settled_at, m.payload"
        " FROM outgoing o JOIN messages m ON m.sender = o.sender AND m.id = o.id"
        " WHERE o.notice = 1 AND o.sender NOT IN (SELECT value FROM json_each(?)) ORDER BY o.seq LIMIT ?",
        (json.dumps(list(without)), limit),
    )
    due = (
        Bounce(seq, sender, message_id, to, dest, State(state), *rest)
        for seq, sender, message_id, to, dest, state, *rest in rows
    )
    return _fill(due, lambda bounce: bounce.payload, MOST_BYTES)[0]


def mark_told(db: sqlite3.Connection, done: Sequence[Bounce]) -> None:
    """These files are on the disk; what has changed since is to be told anew."""
    db.executemany(
        "UPDATE outgoing SET notice = 0 WHERE seq = ? AND state = ?",
        [(bounce.seq, bounce.state.value) for bounce in done],
    )


def receipts_due(db: sqlite3.Connection, *, limit: int, without: Collection[str] = ()) -> list[ReceiptFile]:
    """What has come further, of senders who want that as a file; but for some of them."""
    rows = db.execute(
        f"SELECT {PROGRESS} FROM outgoing WHERE receipt = 1"
        " AND sender NOT IN (SELECT value FROM json_each(?)) ORDER BY seq LIMIT ?",
        (json.dumps(list(without)), limit),
    )
    return [ReceiptFile(progress_of(row)) for row in rows]


def mark_receipts(db: sqlite3.Connection, done: Sequence[ReceiptFile]) -> None:
    """These files are on the disk; what has changed since is to be written anew."""
    db.executemany(
        "UPDATE outgoing SET receipt = 0 WHERE seq = ? AND state = ?",
        [(file.progress.seq, file.progress.state.value) for file in done],
    )


def want_receipts(db: sqlite3.Connection, agents: Iterable[str]) -> None:
    """These agents want receipts as files from here on, and no others."""
    wanted = {*agents}
    if wanted == {agent for (agent,) in db.execute("SELECT agent FROM receipts_for")}:
        return  # a node starts on a full disk, too
    db.execute("DELETE FROM receipts_for")
    db.executemany("INSERT INTO receipts_for VALUES (?)", [(agent,) for agent in wanted])
    db.execute("UPDATE outgoing SET receipt = 0 WHERE receipt = 1 AND sender NOT IN (SELECT agent FROM receipts_for)")


def ended_due(db: sqlite3.Connection, *, limit: int, without: Collection[str] = ()) -> list[EndedFile]:
    """Messages that may be forgotten once their files have left the outbox; but for some agents."""
    rows = db.execute(
        "SELECT number, sender, id, digest, stored_at, payload FROM messages WHERE ended = 1 AND projected = 1"
        " AND sender NOT IN (SELECT value FROM json_each(?)) ORDER BY number LIMIT ?",
        (json.dumps(list(without)), limit),
    )
    return _fill((EndedFile(*row) for row in rows), lambda file: file.payload, MOST_BYTES)[0]


def forget_ended(db: sqlite3.Connection, done: Sequence[EndedFile]) -> None:
    """Their files are in another folder."""
    db.executemany("DELETE FROM messages WHERE number = ?", [(file.number,) for file in done])


def known(db: sqlite3.Connection, agent: str, ids: Collection[str]) -> dict[str, Known]:
    """What `agent` has sent under these ids."""
    rows = db.execute(
        "SELECT id, digest, length(payload) FROM messages WHERE sender = ? AND id IN (SELECT value FROM json_each(?))",
        (agent, json.dumps(list(ids))),
    )
    return {message_id: Known(digest, size) for message_id, digest, size in rows}


def write_outbox_again(db: sqlite3.Connection, agent: str, ids: Collection[str]) -> list[str]:
    """The files of these messages are not in the outbox any more, and are to be.

    Returns those whose file may just have been written and is not marked yet: if it is not there later, ask again.
    """
    again = "UPDATE messages SET projected = 0 WHERE sender = ? AND id = ? AND projected = 1"
    return [message_id for message_id in ids if db.execute(again, (agent, message_id)).rowcount == 0]


def handled_due(db: sqlite3.Connection, *, limit: int, without: Collection[str] = ()) -> list[HandledFile]:
    """What was read and may still be in the inbox, but for some agents."""
    rows = db.execute(
        f"SELECT cursor, recipient, id, file, digest, payload FROM ledger WHERE outcome = 'read'"
        f" AND projected = {IN_INBOX} AND recipient NOT IN (SELECT value FROM json_each(?)) ORDER BY cursor LIMIT ?",
        (json.dumps(list(without)), limit),
    )
    return _fill((HandledFile(*row) for row in rows), lambda file: file.payload, MOST_BYTES)[0]


def mark_archived(db: sqlite3.Connection, done: Sequence[tuple[HandledFile, str]]) -> None:
    """These files have left the inbox, for the archive under this name or for where the agent wanted them."""
    db.executemany(
        f"UPDATE ledger SET projected = {ARCHIVED}, file = ? WHERE cursor = ?",
        [(name, file.cursor) for file, name in done],
    )


def inbox_files(db: sqlite3.Connection, agent: str) -> list[InboxFile]:
    """The files of the unread messages of `agent`, as far as their names are known."""
    rows = db.execute(
        f"SELECT sender, id, file, projected = {ARCHIVED} FROM ledger"
        " WHERE recipient = ? AND outcome = 'delivered' AND projected > 0 AND file <> ''",
        (agent,),
    )
    return [InboxFile(*row) for row in rows]


def write_again(db: sqlite3.Connection, agents: Collection[str]) -> None:
    """These agents have lost their inbox: what is unread is to be written again."""
    db.execute(
        "UPDATE ledger SET projected = 0, file = '' WHERE outcome = 'delivered' AND projected = 1"
        " AND recipient IN (SELECT value FROM json_each(?))",
        (json.dumps(list(agents)),),
    )


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
