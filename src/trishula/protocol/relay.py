"""The relay's part: hold a neighbour's mail for a third node until that has it, and carry its word back.

    links ─── Deliver ─► Commit(Hold) ─ committed ─► Ack; and into the window of its destination
    links ─── Receipts ► Commit(Drop), Transmit(Receipts) to their origin

A relay acknowledges only what it holds at that moment (rule 2), takes mail from its origin and gives it to its
recipient's node (rule 4), and never ends a message (rule 5). It can read what it carries; it can't change it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from trishula.protocol import frames
from trishula.protocol.clock import Instant
from trishula.protocol.delivery import Pending
from trishula.protocol.desk import Desk
from trishula.protocol.effects import Effect, Transmit
from trishula.protocol.envelope import Envelope
from trishula.protocol.errors import SendError
from trishula.protocol.message import digest_of
from trishula.protocol.records import Drop, Dropped, Held, Hold, Result, Seal
from trishula.protocol.routes import Line, Offer
from trishula.protocol.trust import DeferError


class Relay:
    """What this node holds for others."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._bytes: Counter[str] = Counter()
        """By destination: one that is stuck takes no room from the others."""

    def begin(self, held_bytes: Mapping[str, int]) -> None:
        self._bytes = Counter(held_bytes)

    def forgot(self, held: Iterable[tuple[str, int]]) -> None:
        """These have expired here: destination and size."""
        for dest, size in held:
            self._bytes[dest] -= size

    # ------------------------------------------------------------ custody

    def judge(self, now: Instant, neighbour: str, signed: frames.SignedEnvelope, envelope: Envelope) -> Hold | None:
        """What to commit for an envelope for another node; None for what has expired. Raises `DeferError`."""
        desk = self._desk
        if envelope.dest not in desk.held:
            raise DeferError(f"there is no node {envelope.dest} in this mesh")
        desk.trust.carries(envelope, neighbour)
        if desk.clock.trusted(now):
            if envelope.expires_at <= now.wall:
                return None
            if desk.trust.lives_too_long(now, envelope):
                raise DeferError("it expires later than limits.max_ttl_s of this node allows")
        seal, digest = Seal(signed.kid, signed.mac), digest_of(envelope.payload)
        return Hold(envelope, seal, digest, now.wall, self._unless(envelope))

    def _unless(self, envelope: Envelope) -> str:
        """Why this is not taken now unless it is in custody already."""
        desk = self._desk
        if desk.full:
            return desk.full
        held = self._bytes[envelope.dest]
        if held + len(envelope.payload) > desk.limits.max_held_bytes:
            return f"{held} bytes for {envelope.dest} are in custody here already (limits.max_held_bytes)"
        if not desk.always_on and desk.routes.line_to(envelope.dest) is None:
            return f"this node has no link to {envelope.dest}"
        return ""

    def held(self, now: Instant, record: Hold, result: Held) -> list[Effect]:
        """It is in custody, durably."""
        envelope = record.envelope
        self._bytes[envelope.dest] += result.added
        self._desk.held[envelope.dest].push(Pending(result.seq, envelope, record.seal))
        line = self._desk.routes.line_to(envelope.dest)
        return [] if line is None else self._desk.pump_line(now, line)

    # ------------------------------------------------------------ the recipient's word

    def receipts(self, now: Instant, line: Line, signed: Iterable[frames.SignedReceipt]) -> list[Effect]:
        """Receipts for the mail of others: from its recipient's node, else they are none of our business."""
        effects: list[Effect] = []
        answered: list[Pending] = []
        onward: dict[str, list[frames.SignedReceipt]] = {}
        for item in signed:
            receipt = item.open()
            if receipt.dest != line.node:
                continue
            onward.setdefault(receipt.origin, []).append(item)
            window = self._desk.held[line.node]
            pending = window.answered(receipt.key)
            if pending is not None and digest_of(pending.envelope.payload) == receipt.digest:
                answered.append(pending)
            elif pending is not None:
                window.unsettled(pending, now.mono, self._desk.random())
        if answered:
            record = Drop(tuple((item.envelope.key, digest_of(item.envelope.payload)) for item in answered))
            done, failed = partial(self._dropped, line.node, answered), partial(self._not_dropped, answered)
            effects.append(self._desk.commit([record], done, failed))
        for origin, receipts in onward.items():
            way = self._desk.routes.line_to(origin)
            if way is not None and origin != line.node:
                effects.append(Transmit(way.number, frames.Receipts(receipts=receipts)))
        return effects

    def acked(self, now: Instant, line: Line, offer: Offer) -> list[Effect]:
        """A frame is dealt with; what of it has no answer is offered again later."""
        random = self._desk.random()
        for pending in offer.delivery.unanswered(offer.keys):
            reason = f"{line.node} took it and has not answered"
            offer.delivery.deferred(pending.envelope.key, now.mono, random, reason)
        return []

    def _dropped(self, dest: str, pendings: Sequence[Pending], now: Instant, results: Sequence[Result]) -> list[Effect]:
        (result,) = results
        assert isinstance(result, Dropped)
        self._bytes[dest] -= result.held_bytes
        for pending in pendings:
            self._desk.held[dest].release(pending)
        line = self._desk.routes.line_to(dest)
        return [] if line is None else self._desk.pump_line(now, line)

    def _not_dropped(self, pendings: Sequence[Pending], now: Instant, _error: SendError) -> list[Effect]:
        for pending in pendings:
            self._desk.held[pending.envelope.dest].unsettled(pending, now.mono, self._desk.random())
        return []
