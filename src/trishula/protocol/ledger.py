"""The rules by which a node keeps its word: what one committed record does to the rows.

Numbers are those of the promise (docs/architecture.md).
"""

from __future__ import annotations

from dataclasses import replace

from trishula.protocol.envelope import State, advances
from trishula.protocol.records import (
    Accept,
    Answer,
    Conflict,
    Entry,
    Originate,
    Originated,
    Record,
    Result,
    Rows,
    Settle,
    Settled,
)

ID_CONFLICT = "id_conflict"


def apply(rows: Rows, record: Record) -> Result:
    """Carry out one record in the open transaction and say what came of it."""
    match record:
        case Originate():
            return _originate(rows, record)
        case Accept():
            return _accept(rows, record)
        case Settle():
            return _settle(rows, record)


def _originate(rows: Rows, record: Originate) -> Originated | Conflict:
    """All envelopes of a message or none; the same id and content again is the same message (rules 6 and 10)."""
    message = record.message
    known = rows.message_digest(message.sender, message.id)
    if known is None:
        rows.add_message(message, record.at)
        added = tuple(rows.add_outgoing(envelope, message.digest, record.at) for envelope in record.envelopes)
        return Originated(added, fresh=True)
    if known != message.digest:
        return Conflict(known)
    return Originated(rows.outgoing(message.sender, message.id), fresh=False)


def _accept(rows: Rows, record: Accept) -> Answer:
    """The first content under a key is answered for ever as it was then; any other is refused (rules 5 and 6)."""
    envelope = record.envelope
    entries = rows.entries(envelope.key)
    for entry in entries:
        if entry.digest == record.digest:
            return Answer(entry, fresh=False)
    refusal = ID_CONFLICT if entries else record.refusal
    entry = Entry(
        key=envelope.key,
        digest=record.digest,
        origin=envelope.origin,
        expires_at=envelope.expires_at,
        outcome=State.REFUSED if refusal else State.DELIVERED,
        reason=refusal,
        at=record.at,
        route=record.route,
    )
    rows.add_entry(entry, envelope)
    return Answer(entry, fresh=True)


def _settle(rows: Rows, record: Settle) -> Settled:
    """States only move forward, and only on a receipt for what we sent (rule 3)."""
    receipt = record.receipt
    progress = rows.progress(receipt.key)
    if progress is None or progress.digest != receipt.digest or progress.dest != receipt.dest:
        return Settled(None, fresh=False)
    if not advances(progress.state, receipt.outcome):
        return Settled(progress, fresh=False)
    settled = replace(
        progress,
        state=receipt.outcome,
        reason=receipt.reason,
        route=record.route,
        settled_at=record.at,
        latency_ms=progress.latency_ms or record.latency_ms or float(record.at - progress.stored_at),
    )
    rows.set_progress(settled)
    return Settled(settled, fresh=True)
