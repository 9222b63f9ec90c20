"""The rules by which a node keeps its word: what one committed record does to the rows.

Numbers are those of the promise (docs/architecture.md).
"""

from __future__ import annotations

from dataclasses import replace

from trishula.protocol.envelope import State, advances
from trishula.protocol.records import (
    UNSIGNED,
    Accept,
    Adopt,
    Answer,
    Begin,
    Begun,
    Conflict,
    Declined,
    Done,
    Drop,
    Dropped,
    Ended,
    Entrust,
    Entry,
    Found,
    GiveUp,
    Hold,
    Originate,
    Originated,
    Progress,
    Prune,
    Read,
    Recall,
    Reclaim,
    Record,
    Result,
    Rows,
    Settle,
    Settled,
    Survey,
    Surveyed,
)

ID_CONFLICT = "id_conflict"
REMOVED = "removed"
EXPIRED = "expired"


def apply(rows: Rows, record: Record) -> Result:  # noqa: C901, PLR0911, PLR0912 - an arm for each record
    """Carry out one record in the open transaction and say what came of it."""
    match record:
        case Originate():
            return _originate(rows, record)
        case Accept():
            return _accept(rows, record)
        case Settle():
            return _settle(rows, record)
        case Hold(envelope, unless=unless):
            declined = unless and not rows.holds(envelope.key, record.digest)
            return Declined(unless) if declined else rows.hold(record)
        case Drop(answered):
            return Dropped(sum(rows.drop(key, digest) for key, digest in answered))
        case Entrust(keys, custodian):
            for key in keys:
                rows.entrust(key, custodian)
            return Done(len(keys))
        case Reclaim(custodians, dest):
            return Done(rows.reclaim(custodians, dest))
        case Read():
            return _read(rows, record)
        case Recall(asked):
            entries = (entry for key, digest in asked for entry in rows.entries(key) if entry.digest == digest)
            return Found(tuple(entries))
        case Survey(dest, limit, before):
            return Surveyed((*rows.overdue(before, limit, dest), *rows.newest(dest, limit)))
        case GiveUp():
            return _give_up(rows, record)
        case Prune(before, limit):
            return rows.prune(before, limit)
        case Adopt():
            return _adopt(rows, record)
        case Begin():
            rows.reclaim((), None)
            return Begun(rows.open_counts(), rows.unread_counts(), rows.held_bytes())


def _originate(rows: Rows, record: Originate) -> Originated | Conflict | Declined:
    """All envelopes of a message or none; the same id and content again is the same message (rules 6 and 10).

    The content is what its agent wrote: a retry without a timestamp is not another message for being dated later.
    """
    message = record.message
    known = rows.message_digest(message.sender, message.id)
    if known is None:
        if record.unless:
            return Declined(record.unless)
        rows.add_message(message, record.at)
        added = tuple(rows.add_outgoing(envelope, message.digest, record.at) for envelope in record.envelopes)
        return Originated(added, fresh=True)
    progress = rows.outgoing(message.sender, message.id)
    if known == message.digest:
        return Originated(progress, fresh=False)
    if message.is_again(rows.message_payload(message.sender, message.id)):
        return Originated(progress, fresh=False, dated=known)
    return Conflict(known)


def _accept(rows: Rows, record: Accept) -> Answer | Declined:
    """The first content under a key is answered for ever as it was then; any other is refused (rules 5 and 6)."""
    envelope = record.envelope
    entries = rows.entries(envelope.key)
    for entry in entries:
        if entry.digest == record.digest:
            if entry.route == UNSIGNED:
                entry = replace(entry, origin=envelope.origin, expires_at=envelope.expires_at, route=record.route)  # noqa: PLW2901
                rows.vouch(entry)
            return Answer(entry, fresh=False)
    if envelope.expires_at <= rows.forgotten():
        return Declined(EXPIRED)  # whatever the clock says: it may be what was pruned
    if record.unless:
        return Declined(record.unless)
    # What nobody vouches for stands in the way of nothing.
    refusal = ID_CONFLICT if any(entry.route != UNSIGNED for entry in entries) else record.refusal
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
    rows.add_entry(entry, None if refusal else envelope.payload)
    return Answer(entry, fresh=True)


def _settle(rows: Rows, record: Settle) -> Settled:
    """States only move forward, and only on a receipt for what we sent (rule 3)."""
    receipt = record.receipt
    progress = rows.progress(receipt.key)
    if progress is None or progress.digest != receipt.digest or progress.dest != receipt.dest:
        return Settled(None, fresh=False)
    if not advances(progress.state, receipt.outcome):
        return Settled(progress, fresh=False, was=progress.state)
    settled = replace(
        progress,
        state=receipt.outcome,
        reason=receipt.reason,
        route=record.route if progress.state in (State.STORED, State.UNCONFIRMED) else progress.route,
        settled_at=record.at,
        latency_ms=progress.latency_ms or record.latency_ms or float(record.at - progress.stored_at),
    )
    rows.set_progress(settled)
    return Settled(settled, fresh=True, was=progress.state)


def _give_up(rows: Rows, record: GiveUp) -> Ended:
    orphans = rows.orphaned(record.nodes, record.limit) if record.nodes else ()
    ended = [_end(rows, row, State.REFUSED, REMOVED, record.at) for row in orphans]
    overdue = rows.overdue(record.before, record.limit)
    ended += [_end(rows, row, State.UNCONFIRMED, EXPIRED, record.at) for row in overdue]
    more = max(len(orphans), len(overdue)) >= record.limit
    return Ended(tuple(ended), rows.next_expiry(), more)


def _end(rows: Rows, progress: Progress, state: State, reason: str, at: int) -> Progress:
    ended = replace(progress, state=state, reason=reason, settled_at=at)
    rows.set_progress(ended)
    return ended


def _read(rows: Rows, record: Read) -> Found:
    """`done` is said as often as one likes."""
    entries: list[Entry] = []
    fresh: list[Entry] = []
    for entry in rows.received(record.agent, record.id):
        if record.sender not in (None, entry.key.sender) or entry.outcome is State.REFUSED:
            continue
        if entry.outcome is State.DELIVERED:
            entry = replace(entry, outcome=State.READ, read_at=record.at)  # noqa: PLW2901 - it is the same row
            rows.set_read(entry)
            fresh.append(entry)
        entries.append(entry)
    return Found(tuple(entries), tuple(fresh))


def _adopt(rows: Rows, record: Adopt) -> Answer:
    for entry in rows.entries(record.key):
        if entry.digest == record.digest or record.route == UNSIGNED:
            return Answer(entry, fresh=False)
    entry = Entry(
        key=record.key,
        digest=record.digest,
        origin=record.origin,
        expires_at=record.expires_at,
        outcome=State.READ if record.read else State.DELIVERED,
        reason="",
        at=record.at,
        route=record.route,
        read_at=record.at if record.read else None,
    )
    rows.add_entry(entry, record.payload, record.file)
    return Answer(entry, fresh=True)
