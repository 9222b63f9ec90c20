"""The way of one message, as this node knows it: as its origin, as its recipient's node, as a relay."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from functools import partial
from typing import Any

from trishula.node import replies
from trishula.node.database import SqlRows
from trishula.node.hub import Hub
from trishula.node.methods import method_of
from trishula.node.queries import ARCHIVED, IN_INBOX
from trishula.node.questions import not_found
from trishula.node.store import Store
from trishula.node.wire import now
from trishula.protocol.envelope import Key, State
from trishula.protocol.records import Progress

_MAX_FOUND = 20
_PLACES = {IN_INBOX: "inbox", ARCHIVED: "archive"}


async def trace(
    store: Store, hub: Hub, message_id: str, agents: Iterable[str], relayed: Iterable[str]
) -> dict[str, Any]:
    """Of messages that `agents` sent or got, and of those in custody that are from `relayed`.

    Raises `TrishulaError` where there is none.
    """
    sent, received, held = await store.read(
        partial(_rows, message_id=message_id, agents=tuple(agents), relayed=tuple(relayed))
    )
    if not (sent or received or held):
        raise not_found(message_id, f"nothing is known here of a message {message_id}")
    return {
        "id": message_id,
        "node": hub.introduction.node,
        "now": now().wall,
        "sent": [_sent(hub, subject, row) for subject, row in sent],
        "received": received,
        "held": [
            {**row, **_waiting(hub, Key(row["from"], message_id, row["to"]), row["dest"], held=True)} for row in held
        ],
    }


async def find(store: Store, beginning: str, agents: Iterable[str], relayed: Iterable[str]) -> dict[str, Any]:
    """The messages whose ids begin so, in whatever case: a few of each agent and box."""
    found = await store.read(partial(_beginning, text=beginning, agents=tuple(agents), relayed=tuple(relayed)))
    return {"messages": found}


_FIND = (
    ("outbox", "SELECT DISTINCT id, sender FROM messages WHERE sender"),
    ("inbox", "SELECT DISTINCT id, sender FROM ledger WHERE payload IS NOT NULL AND recipient"),
    ("held", "SELECT DISTINCT id, sender FROM held WHERE sender"),
)


def _beginning(
    db: sqlite3.Connection, text: str, agents: tuple[str, ...], relayed: tuple[str, ...]
) -> list[dict[str, Any]]:
    # `{` comes after every character that an id may have.
    return [
        {"id": message_id, "from": sender, "box": box}
        for box, query in _FIND
        for agent in (relayed if box == "held" else agents)
        for message_id, sender in db.execute(
            f"{query} = ? AND id COLLATE NOCASE BETWEEN ? AND ? ORDER BY id LIMIT ?",
            (agent, text, text + "{", _MAX_FOUND),
        )
    ]


Rows = tuple[list[tuple[str, Progress]], list[dict[str, Any]], list[dict[str, Any]]]


def _rows(db: sqlite3.Connection, message_id: str, agents: tuple[str, ...], relayed: tuple[str, ...]) -> Rows:
    sent = [
        (_subject(db, agent, message_id), row) for agent in agents for row in SqlRows(db).outgoing(agent, message_id)
    ]
    received = [row for agent in agents for row in _received(db, agent, message_id)]
    held = [
        {"from": sender, "to": to, "origin": origin, "dest": dest, "since": at, "expires_at": expires, "bytes": size}
        for sender in relayed
        for to, origin, dest, at, expires, size in db.execute(
            "SELECT recipient, origin, dest, at, expires_at, length(payload) FROM held WHERE sender = ? AND id = ?",
            (sender, message_id),
        )
    ]
    return sent, received, held


def _subject(db: sqlite3.Connection, agent: str, message_id: str) -> str:
    row = db.execute("SELECT payload FROM messages WHERE sender = ? AND id = ?", (agent, message_id)).fetchone()
    return "" if row is None else str(replies.heading(row[0])["subject"])


def _received(db: sqlite3.Connection, agent: str, message_id: str) -> list[dict[str, Any]]:
    rows = db.execute(
        "SELECT sender, origin, outcome, reason, at, route, read_at, expires_at, digest, projected, file FROM ledger"
        " WHERE recipient = ? AND id = ? COLLATE NOCASE AND id = ? ORDER BY cursor",
        (agent, message_id, message_id),
    )
    return [
        {
            "from": sender,
            "to": agent,
            "origin": origin,
            "state": outcome,
            "reason": reason,
            "received_at": at,
            "route": route,
            "read_at": read_at,
            "expires_at": expires_at,
            "digest": digest,
            "file": f"{_PLACES[projected]}/{file}" if file and projected in _PLACES else None,
        }
        for sender, origin, outcome, reason, at, route, read_at, expires_at, digest, projected, file in rows
    ]


def _sent(hub: Hub, subject: str, row: Progress) -> dict[str, Any]:
    answered = row.state in (State.DELIVERED, State.READ)
    known: dict[str, Any] = {
        "from": row.key.sender,
        "to": row.key.to,
        "dest": row.dest,
        "subject": subject,
        "state": row.state.value,
        "reason": row.reason,
        "stored_at": row.stored_at,
        "delivered_at": round(row.stored_at + row.latency_ms) if answered and row.latency_ms is not None else None,
        "latency_ms": None if row.latency_ms is None else round(row.latency_ms, 3),
        "settled_at": row.settled_at,
        "expires_at": row.expires_at,
        "route": row.route,
        "method": method_of(row.route),
    }
    if row.state is not State.STORED:
        return known
    return {**known, "custodian": row.custodian or None, **_waiting(hub, row.key, row.dest, held=False)}


def _waiting(hub: Hub, key: Key, dest: str, *, held: bool) -> dict[str, Any]:
    """What an envelope without an answer waits for."""
    found = hub.engine.whereabouts(now(), key, dest, held=held)
    return {
        "place": found.place,
        "route_now": found.route or None,
        "attempts": found.attempts,
        "waits_for": found.waits_for,
        "next_try_s": None if found.next_try_s is None else round(found.next_try_s, 1),
    }
