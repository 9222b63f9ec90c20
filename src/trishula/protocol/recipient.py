"""The recipient's part: take what is for an agent here, once, and answer for it.

    links ─── Deliver ─► Commit(Accept, …) ─ committed ─► Transmit(Receipts, Defer, Ack), Arrived
    links ─── Query ───► Commit(Recall) ──── committed ─► Transmit(Receipts)
    agents ── done ────► Commit(Read) ────── committed ─► Transmit(Receipts), Answered, Handled

One `Deliver` frame may also hold mail for others, which is the relay's to judge; it is committed and acknowledged with
the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from trishula.protocol import frames
from trishula.protocol.clock import Instant
from trishula.protocol.custody import Custody
from trishula.protocol.delivery import Pending
from trishula.protocol.desk import Desk
from trishula.protocol.effects import Answered, Arrived, Disconnect, Effect, Handled, Transmit, Warn
from trishula.protocol.envelope import Envelope, Key, Receipt, State
from trishula.protocol.errors import SendError
from trishula.protocol.ledger import EXPIRED
from trishula.protocol.link import CLOSE_POLICY
from trishula.protocol.names import PROBE
from trishula.protocol.origin import SURVEYED, Origin
from trishula.protocol.records import (
    UNSIGNED,
    Accept,
    Adopt,
    Answer,
    Declined,
    Entry,
    Found,
    Held,
    Hold,
    Read,
    Recall,
    Result,
    Survey,
    Surveyed,
)
from trishula.protocol.relay import Relay
from trishula.protocol.routes import LOOPBACK, Line
from trishula.protocol.trust import DeferError

ARRIVING_MOST = 128 * 1024 * 1024
"""Bytes of a peer's mail that may wait for our disk: far beyond the window that it was told."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """A frame whose envelopes are being committed. `deferred` are those that can't be."""

    line: Line
    seq: int
    size: int
    deferred: tuple[frames.Deferred, ...]


class Recipient:
    """What this node owes to those who write to its agents."""

    def __init__(self, desk: Desk, origin: Origin, custody: Custody, relay: Relay) -> None:
        self._desk = desk
        self._origin = origin
        self._custody = custody
        self._relay = relay
        self._unread: Counter[str] = Counter()

    def begin(self, unread: Mapping[str, int]) -> None:
        self._unread = Counter(unread)

    def unread(self, agent: str) -> int:
        return self._unread[agent]

    # ------------------------------------------------------------ mail

    def deliver(self, now: Instant, line: Line, frame: frames.Deliver) -> list[Effect]:
        """A frame of mail, for agents here or to be held for another node."""
        size = sum(len(bytes(signed.payload)) for signed in frame.envelopes)
        line.arriving += size
        if line.arriving > ARRIVING_MOST:
            line.arriving -= size
            return [Disconnect(line.number, CLOSE_POLICY, "it sends more than the window allows")]
        effects: list[Effect] = []
        records: list[Accept | Hold] = []
        deferred: list[frames.Deferred] = []
        for signed in frame.envelopes:
            envelope = signed.open()
            if envelope.origin == self._desk.node:
                effects.append(Warn(f"dropped {envelope.key.id} from {line.node}: it is our own mail, reflected"))
                continue
            try:
                record = self._judge(now, line, signed, envelope)
                if record is not None:
                    records.append(record)
            except DeferError as reason:
                effects.append(Warn(f"deferred {envelope.key.id} from {line.node}: {reason}"))
                deferred.append(_deferral(envelope.key, str(reason)))
        taken = _Taken(line, frame.seq, size, tuple(deferred))
        if not records:
            return effects + self._reply(taken, [], [])
        return [*effects, self._commit(taken, records)]

    def loop(self, now: Instant, line: Line, seq: int, batch: Sequence[Pending]) -> list[Effect]:
        """Mail from an agent here to an agent here: the same way, but for the wire."""
        records = [self._accept(now, line, pending.envelope) for pending in batch]
        return [self._commit(_Taken(line, seq, 0, ()), records)]

    def _judge(
        self, now: Instant, line: Line, signed: frames.SignedEnvelope, envelope: Envelope
    ) -> Accept | Hold | None:
        """What to commit; None for what needs no answer. Raises `DeferError`."""
        if envelope.dest != self._desk.node:
            return self._relay.judge(now, line.node, signed, envelope)
        self._desk.trust.verify(signed, envelope)
        return self._accept(now, line, envelope)

    def _accept(self, now: Instant, line: Line, envelope: Envelope) -> Accept:
        digest, refusal = self._desk.trust.judge(envelope)
        route = line.way(envelope.origin)
        return Accept(envelope, digest, now.wall, route, refusal, self._unless(now, envelope))

    def _unless(self, now: Instant, envelope: Envelope) -> str:
        """Why this is not taken now unless it was before. What only a clock can say, a doubtful one does not."""
        desk = self._desk
        expired = envelope.expires_at <= now.wall
        if expired or desk.trust.lives_too_long(now, envelope):
            if not desk.clock.trusted(now):
                return "the clock of this node is not to be trusted yet"
            # The latter passes with time: its origin's clock may have jumped ahead when it was sent.
            return EXPIRED if expired else "it expires later than limits.max_ttl_s of this node allows"
        if desk.full:
            return desk.full
        agent = envelope.key.to
        if self._unread[agent] >= desk.limits.max_unread:
            return f"the inbox of {agent} is full: {self._unread[agent]} unread (limits.max_unread_per_agent)"
        return ""

    def _commit(self, taken: _Taken, records: Sequence[Accept | Hold]) -> Effect:
        return self._desk.commit(
            records, partial(self._committed, taken, records), partial(self._not_committed, taken, records)
        )

    def _committed(
        self, taken: _Taken, records: Sequence[Accept | Hold], now: Instant, results: Sequence[Result]
    ) -> list[Effect]:
        effects: list[Effect] = []
        entries: list[Entry] = []
        deferred: list[frames.Deferred] = []
        for record, result in zip(records, results, strict=True):
            match record, result:
                case Hold(), Held():
                    effects += self._relay.held(now, record, result)
                case Accept(), Answer(entry, fresh):
                    entries.append(entry)
                    if fresh:
                        effects.append(self._arrived(entry))
                case Accept(envelope) | Hold(envelope), Declined(reason) if reason != EXPIRED:
                    effects.append(Warn(f"deferred {envelope.key.id} from {taken.line.node}: {reason}"))
                    deferred.append(_deferral(envelope.key, reason))
                case _:
                    pass  # its own signed word ends it, silently (rule 8)
        if taken.line.number == LOOPBACK:
            return effects + self._reply_to_self(now, taken, entries, deferred)
        return effects + self._reply(taken, entries, deferred)

    def _not_committed(
        self, taken: _Taken, records: Sequence[Accept | Hold], now: Instant, error: SendError
    ) -> list[Effect]:
        items = [_deferral(record.envelope.key, error.message) for record in records]
        if taken.line.number == LOOPBACK:
            return self._reply_to_self(now, taken, [], items)
        return self._reply(taken, [], items)

    def _arrived(self, entry: Entry) -> Effect:
        if entry.outcome is not State.DELIVERED:
            return Warn(f"refused {entry.key.id} from {entry.origin}: {entry.reason}")
        if entry.key.to != PROBE:
            self._unread[entry.key.to] += 1
        return Arrived(entry)

    def _reply(self, taken: _Taken, entries: Sequence[Entry], deferred: Sequence[frames.Deferred]) -> list[Effect]:
        """Receipts first, so that an `Ack` finds unanswered only what has no answer."""
        line = taken.line
        line.arriving -= taken.size
        if self._desk.routes.find(line.number) is not line:
            return []
        effects: list[Effect] = []
        if entries:
            receipts = [self._desk.trust.sign(self._receipt(entry)) for entry in entries]
            effects.append(Transmit(line.number, frames.Receipts(receipts=receipts)))
        if deferred or taken.deferred:
            effects.append(Transmit(line.number, frames.Defer(items=[*taken.deferred, *deferred])))
        return [*effects, Transmit(line.number, frames.Ack(seq=taken.seq))]

    def _reply_to_self(
        self, now: Instant, taken: _Taken, entries: Sequence[Entry], deferred: Sequence[frames.Deferred]
    ) -> list[Effect]:
        effects = self._origin.settle(now, self._desk.routes.loopback, [self._receipt(entry) for entry in entries])
        window = self._desk.own[self._desk.node]
        random = self._desk.random()
        for item in deferred:
            window.deferred(Key(item.sender, item.id, item.to), now.mono, random, item.reason)
        offer = taken.line.offers.pop(taken.seq)
        taken.line.unacked -= offer.size
        return effects + self._custody.acked(now, taken.line, offer) + self._desk.pump_line(now, taken.line)

    def adopt(self, record: Adopt) -> Effect:
        """A message that lies in an inbox and came by no link: shown once, if it is new. It may be found again."""
        return self._desk.commit([record], self._adopted, lambda _now, _error: [])

    def _adopted(self, _now: Instant, results: Sequence[Result]) -> list[Effect]:
        (result,) = results
        assert isinstance(result, Answer)
        return [self._arrived(result.entry)] if result.fresh else []

    # ------------------------------------------------------------ answers

    def query(self, line: Line, frame: frames.Query) -> list[Effect]:
        """Its origin asks how far these have come."""
        known = {Key(item.sender, item.id, item.to): item.state for item in frame.items}
        asked = tuple((Key(item.sender, item.id, item.to), item.digest) for item in frame.items)
        return [self._desk.insist([Recall(asked)], partial(self._recalled, line, known), spare=True)]

    def catch_up(self, now: Instant) -> Effect:
        """What a former life did not tell its own agents of their mail to each other: no link comes up to ask there."""
        return self._desk.insist([Survey(self._desk.node, SURVEYED, now.wall)], self._surveyed)

    def _surveyed(self, _now: Instant, results: Sequence[Result]) -> list[Effect]:
        (result,) = results
        assert isinstance(result, Surveyed)
        asked = Recall(tuple((row.key, row.digest) for row in result.progress))
        return [self._desk.insist([asked], self._caught_up)] if asked.asked else []

    def _caught_up(self, now: Instant, results: Sequence[Result]) -> list[Effect]:
        (result,) = results
        assert isinstance(result, Found)
        return self._origin.settle(now, self._desk.routes.loopback, [self._receipt(entry) for entry in result.entries])

    def _recalled(
        self, line: Line, known: Mapping[Key, State], _now: Instant, results: Sequence[Result]
    ) -> list[Effect]:
        (result,) = results
        assert isinstance(result, Found)
        mine = [entry for entry in result.entries if entry.origin == line.node and entry.route != UNSIGNED]
        news = [entry for entry in mine if entry.outcome is not known[entry.key]]
        if not news or self._desk.routes.find(line.number) is not line:
            return []
        receipts = [self._desk.trust.sign(self._receipt(entry)) for entry in news]
        return [Transmit(line.number, frames.Receipts(receipts=receipts))]

    def done(self, now: Instant, ref: object, agent: str, message_id: str, sender: str | None) -> list[Effect]:
        """`agent` has handled a message. Ends in `Answered` under `ref`, with no entries where there is none."""
        record = Read(agent, message_id, sender, now.wall)
        return [self._desk.commit([record], partial(self._read, ref), partial(self._not_read, ref))]

    def _read(self, ref: object, now: Instant, results: Sequence[Result]) -> list[Effect]:
        (result,) = results
        assert isinstance(result, Found)
        effects: list[Effect] = [Answered(ref, result)] if ref is not None else []
        if not result.fresh:
            return effects
        effects.append(Handled(result.fresh))
        for entry in result.fresh:
            self._unread[entry.key.to] -= 1
        return effects + self._push(now, result.fresh)

    def _not_read(self, ref: object, _now: Instant, error: SendError) -> list[Effect]:
        return [Answered(ref, error)] if ref is not None else []

    def _push(self, now: Instant, entries: Iterable[Entry]) -> list[Effect]:
        """Say what has changed to whom it concerns, if there is a way; else they will ask (rule 7)."""
        effects: list[Effect] = []
        by_origin: dict[str, list[Receipt]] = {}
        for entry in entries:
            if entry.route != UNSIGNED:
                by_origin.setdefault(entry.origin, []).append(self._receipt(entry))
        for origin, receipts in by_origin.items():
            if origin == self._desk.node:
                effects += self._origin.settle(now, self._desk.routes.loopback, receipts)
                continue
            if lines := self._desk.routes.to_tell(origin):
                signed = [self._desk.trust.sign(receipt) for receipt in receipts]
                effects += [Transmit(line.number, frames.Receipts(receipts=signed)) for line in lines]
        return effects

    def _receipt(self, entry: Entry) -> Receipt:
        return Receipt(
            origin=entry.origin,
            dest=self._desk.node,
            key=entry.key,
            expires_at=entry.expires_at,
            digest=entry.digest,
            outcome=entry.outcome,
            reason=entry.reason,
            at=entry.read_at or entry.at,
        )


def _deferral(key: Key, reason: str) -> frames.Deferred:
    return frames.Deferred(sender=key.sender, to=key.to, id=key.id, reason=reason[:500])
