"""The whole of a node's protocol: events in, effects and the next deadline out.

    agents ── submit ─────► Commit(Originate) ── committed ──► Stored, and into the window of each destination
    window ───────────────► Transmit(Deliver)                                        (origin's node)
    links ─── Deliver ────► Commit(Accept) ───── committed ──► Transmit(Receipts, Ack), Arrived
                                                                                     (recipient's node)
    links ─── Receipts ───► Commit(Settle) ───── committed ──► Progressed            (origin's node)

Nothing is said of a thing before its own commit (rule 1). Mail for an agent of this node takes the same way, over a
link to itself that never leaves the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from trishula.protocol import frames
from trishula.protocol.clock import Instant
from trishula.protocol.delivery import Delivery, Pending
from trishula.protocol.directory import Directory
from trishula.protocol.effects import (
    Arrived,
    Commit,
    Disconnect,
    Effect,
    Load,
    Progressed,
    Rejected,
    Stored,
    Transmit,
    Warn,
)
from trishula.protocol.envelope import Envelope, Key, Receipt, State
from trishula.protocol.errors import SendError
from trishula.protocol.frames import Introduction
from trishula.protocol.limits import Limits
from trishula.protocol.link import CLOSE_REPLACED
from trishula.protocol.message import Message
from trishula.protocol.names import PROBE
from trishula.protocol.records import (
    Accept,
    Answer,
    Conflict,
    Entry,
    Originate,
    Originated,
    Record,
    Result,
    Settle,
    Settled,
)
from trishula.protocol.signing import Keyring
from trishula.protocol.trust import DeferError, Trust

LOOPBACK = 0
"""The number of the link from the node to itself."""

DIRECT = "direct"


@dataclass(slots=True)
class _Peer:
    """A link that is up."""

    node: str
    window: int
    next_seq: int = 1


@dataclass(frozen=True, slots=True)
class _Submitted:
    ref: object
    message: Message
    envelopes: tuple[Envelope, ...]


@dataclass(frozen=True, slots=True)
class _Delivered:
    """A `Deliver` frame whose envelopes are being committed; `deferred` are those that can't be."""

    link: int
    seq: int
    envelopes: tuple[Envelope, ...]
    deferred: tuple[frames.Deferred, ...]


@dataclass(frozen=True, slots=True)
class _Settling:
    pending: tuple[Pending | None, ...]


class Engine:
    """One node. `random` is uniform in [0, 1) and only spreads retries in time."""

    def __init__(
        self,
        node: str,
        directory: Directory,
        keyring: Keyring,
        limits: Limits,
        peers: Iterable[str],
        random: Callable[[], float],
    ) -> None:
        self.node = node
        self._directory = directory
        self._trust = Trust(node, directory, keyring, limits)
        self._limits = limits
        self._random = random
        self._links: dict[int, _Peer] = {LOOPBACK: _Peer(node, limits.window_bytes)}
        self._deliveries = {dest: Delivery(dest) for dest in (node, *peers)}
        self._batches: dict[int, _Submitted | _Delivered | _Settling] = {}
        self._last_batch = 0

    # ------------------------------------------------------------ events

    def start(self) -> list[Effect]:
        """Begin with what the store holds."""
        return [effect for delivery in self._deliveries.values() for effect in self._load(delivery)]

    def submit(self, now: Instant, ref: object, message: Message, ttl: int | None = None) -> list[Effect]:
        """A local agent's message, to live for `ttl` ms. Ends in `Stored` or `Rejected` under `ref`."""
        try:
            agents = self._directory.expand(message.to, sender=message.sender)
            return self._originate(now, ref, message, [(agent, self._home(agent)) for agent in agents], ttl)
        except SendError as error:
            return [Rejected(ref, error)]

    def probe(self, now: Instant, ref: object, message: Message, node: str, ttl: int) -> list[Effect]:
        """As `submit`, for a message to the node itself."""
        if node not in self._deliveries:
            known = ", ".join(sorted(self._deliveries))
            error = SendError(
                f"there is no node {node!r}", code="unknown_node", key="node", value=node, fix=f"known are {known}"
            )
            return [Rejected(ref, error)]
        return self._originate(now, ref, message, [(PROBE, node)], ttl)

    def link_up(self, now: Instant, link: int, peer: Introduction) -> list[Effect]:
        """A link has been greeted and carries mail. Of two links to one node, the lower-named node closes the older.

        What is under way on the older one goes over the newer too, in order: the older may be dead and not know it yet.
        """
        effects: list[Effect] = []
        older = self._links_to(peer.node)
        for number in older:
            self._deliveries[peer.node].link_lost(number)
        if self.node < peer.node:
            effects += [Disconnect(number, CLOSE_REPLACED, "replaced by a newer link") for number in older]
        self._links[link] = _Peer(peer.node, min(peer.window_bytes, self._limits.window_bytes))
        return effects + self._pump(now, peer.node)

    def link_down(self, now: Instant, link: int) -> list[Effect]:
        """A link is gone; what was offered on it is offered again."""
        peer = self._links.pop(link, None)
        if peer is None:
            return []
        self._deliveries[peer.node].link_lost(link)
        return self._pump(now, peer.node)

    def receive(
        self, now: Instant, link: int, frame: frames.Deliver | frames.Ack | frames.Receipts | frames.Defer
    ) -> list[Effect]:
        """A frame about mail from the node at the other end of `link`."""
        peer = self._links.get(link)
        if peer is None:
            return []
        delivery = self._deliveries[peer.node]
        match frame:
            case frames.Deliver():
                return self._deliver(now, link, peer, frame)
            case frames.Receipts():
                return self._receipts(now, peer, frame)
            case frames.Ack():
                delivery.acked(link, frame.seq, now.mono, self._random())
            case frames.Defer():
                random = self._random()  # one for all, so that they come back in their order
                for item in frame.items:
                    delivery.deferred(Key(item.sender, item.id, item.to), now.mono, random)
                first = frame.items[0]
                return [
                    Warn(f"{peer.node} deferred {len(frame.items)} envelopes, the first {first.id}: {first.reason}"),
                    *self._pump(now, peer.node),
                ]
        return self._pump(now, peer.node)

    def committed(self, now: Instant, done: Iterable[tuple[int, Sequence[Result]]]) -> list[Effect]:
        """These batches are durable, each with the results of its records."""
        effects: list[Effect] = []
        touched: dict[str, None] = {}
        for batch, results in done:
            match self._batches.pop(batch):
                case _Submitted() as submitted:
                    effects.append(self._stored(now, submitted, results[0]))
                    touched.update(dict.fromkeys(envelope.dest for envelope in submitted.envelopes))
                case _Delivered() as delivered:
                    effects += self._answer(now, delivered, results)
                    if delivered.link == LOOPBACK:
                        touched[self.node] = None
                case _Settling() as settling:
                    effects += self._settled(now, settling, results)
                    touched.update(dict.fromkeys(p.envelope.dest for p in settling.pending if p is not None))
        for dest in touched:
            effects += self._pump(now, dest)
        return effects

    def failed(self, now: Instant, batches: Iterable[int], error: SendError) -> list[Effect]:
        """These batches could not be committed: nothing of them happened."""
        effects: list[Effect] = []
        for batch in batches:
            match self._batches.pop(batch):
                case _Submitted() as submitted:
                    effects.append(Rejected(submitted.ref, error))
                case _Delivered() as delivered:
                    items = [self._deferral(envelope, error.message) for envelope in delivered.envelopes]
                    effects += self._reply(now, delivered.link, delivered.seq, [], [*items, *delivered.deferred])
                case _Settling() as settling:
                    for pending in filter(None, settling.pending):
                        self._deliveries[pending.envelope.dest].unsettled(pending, now.mono, self._random())
        return effects

    def loaded(
        self, now: Instant, dest: str, rows: Sequence[tuple[int, Envelope]], *, urgent: bool, complete: bool
    ) -> list[Effect]:
        """The answer to a `Load`; `complete` where the store held no more than these."""
        self._deliveries[dest].loaded(rows, urgent=urgent, complete=complete)
        return self._pump(now, dest)

    def tick(self, now: Instant) -> list[Effect]:
        """Call at `deadline()` or later."""
        effects: list[Effect] = []
        for dest, delivery in self._deliveries.items():
            due = delivery.deadline()
            if due is not None and due <= now.mono:
                delivery.tick(now.mono)
                effects += self._pump(now, dest)
        return effects

    def deadline(self) -> float | None:
        """When to call `tick` next, on the monotonic clock."""
        deadlines = (delivery.deadline() for delivery in self._deliveries.values())
        return min((due for due in deadlines if due is not None), default=None)

    def backlog(self, dest: str) -> int:
        """Unanswered envelopes for a node, of those in memory."""
        return self._deliveries[dest].backlog

    def linked(self, node: str) -> bool:
        return bool(self._links_to(node))

    # ------------------------------------------------------------ origin

    def _home(self, agent: str) -> str:
        home = self._directory.home(agent)
        if home is None or home not in self._deliveries:
            raise SendError(
                f"the node of {agent!r} is not in the mesh", code="unknown_recipient", key="to", value=agent
            )
        return home

    def _originate(
        self, now: Instant, ref: object, message: Message, recipients: Sequence[tuple[str, str]], ttl: int | None
    ) -> list[Effect]:
        life = self._limits.default_ttl if ttl is None else ttl
        if not 0 < life <= self._limits.max_ttl:
            longest = self._limits.max_ttl // 1000
            error = SendError(
                f"a message can't live for {life // 1000} s",
                code="bad_ttl",
                key="ttl_s",
                value=life // 1000,
                fix=f"use 1 to {longest} s (limits.max_ttl_s)",
            )
            return [Rejected(ref, error)]
        envelopes = tuple(
            Envelope(
                origin=self.node,
                dest=home,
                key=Key(message.sender, message.id, agent),
                expires_at=now.wall + life,
                payload=message.payload,
                urgent=message.urgent,
            )
            for agent, home in recipients
        )
        record = Originate(message, envelopes, now.wall)
        return [self._commit(_Submitted(ref, message, envelopes), [record])]

    def _stored(self, now: Instant, submitted: _Submitted, result: Result) -> Effect:
        message = submitted.message
        if isinstance(result, Conflict):
            error = SendError(
                f"{message.sender} has already sent another message with the id {message.id}",
                code="id_conflict",
                key="id",
                value=message.id,
                fix="give the new one an id of its own, or none",
            )
            return Rejected(submitted.ref, error)
        assert isinstance(result, Originated)
        if result.fresh:
            for row, envelope in zip(result.progress, submitted.envelopes, strict=True):
                self._deliveries[row.dest].push(Pending(row.seq, envelope, stored=now.mono))
        return Stored(submitted.ref, message.id, message.digest, result.progress, result.fresh)

    def _pump(self, now: Instant, dest: str) -> list[Effect]:
        """Offer what the window and the link to `dest` allow, and fetch what there is room for."""
        delivery = self._deliveries[dest]
        effects: list[Effect] = []
        link = max(self._links_to(dest), default=None)
        if link is not None:
            peer = self._links[link]
            while delivery.unacked_bytes < peer.window and (batch := delivery.take(now.wall)):
                effects.append(self._offer(now, link, peer, delivery, batch))
        return effects + self._load(delivery)

    def _offer(self, now: Instant, link: int, peer: _Peer, delivery: Delivery, batch: list[Pending]) -> Effect:
        seq, peer.next_seq = peer.next_seq, peer.next_seq + 1
        delivery.offered(link, seq, batch)
        envelopes = [pending.envelope for pending in batch]
        if link == LOOPBACK:
            records = [self._accept(now, envelope) for envelope in envelopes]
            return self._commit(_Delivered(link, seq, tuple(envelopes), ()), records)
        return Transmit(link, frames.Deliver(seq=seq, envelopes=self._trust.seal(delivery.dest, envelopes)))

    def _load(self, delivery: Delivery) -> list[Effect]:
        effects: list[Effect] = []
        while (wanted := delivery.wants()) is not None:
            urgent, after, limit, size = wanted
            effects.append(Load(delivery.dest, urgent, after, limit, size))
        return effects

    def _receipts(self, now: Instant, peer: _Peer, frame: frames.Receipts) -> list[Effect]:
        effects: list[Effect] = []
        receipts = []
        for signed in frame.receipts:
            receipt = signed.open()
            wrong = self._trust.doubt(signed, receipt, peer.node)
            if wrong:
                effects.append(Warn(f"ignored a receipt for {receipt.key.id} from {peer.node}: {wrong}"))
            else:
                receipts.append(receipt)
        return effects + self._settle(now, receipts)

    def _settle(self, now: Instant, receipts: Iterable[Receipt]) -> list[Effect]:
        records, pendings = [], []
        for receipt in receipts:
            pending = self._deliveries[receipt.dest].answered(receipt.key)
            latency = None if pending is None or pending.stored is None else (now.mono - pending.stored) * 1000
            records.append(Settle(receipt, DIRECT, now.wall, latency))
            pendings.append(pending)
        return [self._commit(_Settling(tuple(pendings)), records)] if records else []

    def _settled(self, now: Instant, settling: _Settling, results: Sequence[Result]) -> list[Effect]:
        effects: list[Effect] = []
        for pending, result in zip(settling.pending, results, strict=True):
            assert isinstance(result, Settled)
            if result.progress is None:
                what = "what was never sent" if pending is None else f"other bytes than {pending.envelope.key.id}'s"
                effects.append(Warn(f"ignored a receipt for {what}"))
                if pending is not None:
                    self._deliveries[pending.envelope.dest].unsettled(pending, now.mono, self._random())
                continue
            if pending is not None:
                self._deliveries[pending.envelope.dest].release(pending)
            if result.fresh:
                effects.append(Progressed(result.progress))
        return effects

    # ------------------------------------------------------------ recipient

    def _deliver(self, now: Instant, link: int, peer: _Peer, frame: frames.Deliver) -> list[Effect]:
        effects: list[Effect] = []
        envelopes, records, deferred = [], [], []
        for signed in frame.envelopes:
            envelope = signed.open()
            try:
                if not self._trust.authentic(signed, envelope, peer.node):
                    effects.append(Warn(f"dropped {envelope.key.id} from {peer.node}: it is our own mail, reflected"))
                    continue
                if envelope.expires_at <= now.wall:
                    continue  # its own signed word ends it, silently (rule 8)
                records.append(self._accept(now, envelope))
                envelopes.append(envelope)
            except DeferError as reason:
                effects.append(Warn(f"deferred {envelope.key.id} from {peer.node}: {reason}"))
                deferred.append(self._deferral(envelope, str(reason)))
        if not records:
            return effects + self._reply(now, link, frame.seq, [], deferred)
        batch = _Delivered(link, frame.seq, tuple(envelopes), tuple(deferred))
        return [*effects, self._commit(batch, records)]

    def _accept(self, now: Instant, envelope: Envelope) -> Accept:
        digest, refusal = self._trust.judge(now, envelope)
        return Accept(envelope, digest, now.wall, DIRECT, refusal)

    def _answer(self, now: Instant, delivered: _Delivered, results: Sequence[Result]) -> list[Effect]:
        effects: list[Effect] = []
        entries = []
        for result in results:
            assert isinstance(result, Answer)
            entries.append(result.entry)
            if result.fresh and result.entry.outcome is State.DELIVERED:
                effects.append(Arrived(result.entry))
            elif result.fresh:
                effects.append(Warn(f"refused {result.entry.key.id} from {result.entry.origin}: {result.entry.reason}"))
        return effects + self._reply(now, delivered.link, delivered.seq, entries, delivered.deferred)

    def _reply(
        self, now: Instant, link: int, seq: int, entries: Sequence[Entry], deferred: Sequence[frames.Deferred]
    ) -> list[Effect]:
        """Receipts first, so that an `Ack` finds unanswered only what has no answer."""
        receipts = [self._receipt(entry) for entry in entries]
        if link == LOOPBACK:
            effects = self._settle(now, receipts)
            self._deliveries[self.node].acked(link, seq, now.mono, self._random())
            return effects
        effects = []
        if link in self._links:
            if receipts:
                sealed = self._trust.seal_receipts(self._links[link].node, receipts)
                effects.append(Transmit(link, frames.Receipts(receipts=sealed)))
            if deferred:
                effects.append(Transmit(link, frames.Defer(items=list(deferred))))
            effects.append(Transmit(link, frames.Ack(seq=seq)))
        return effects

    def _receipt(self, entry: Entry) -> Receipt:
        return Receipt(
            origin=entry.origin,
            dest=self.node,
            key=entry.key,
            expires_at=entry.expires_at,
            digest=entry.digest,
            outcome=entry.outcome,
            reason=entry.reason,
            at=entry.at,
        )

    @staticmethod
    def _deferral(envelope: Envelope, reason: str) -> frames.Deferred:
        key = envelope.key
        return frames.Deferred(sender=key.sender, to=key.to, id=key.id, reason=reason[:500])

    # ------------------------------------------------------------

    def _links_to(self, node: str) -> list[int]:
        return [number for number, peer in self._links.items() if peer.node == node]

    def _commit(self, context: _Submitted | _Delivered | _Settling, records: Sequence[Record]) -> Commit:
        self._last_batch += 1
        self._batches[self._last_batch] = context
        return Commit(self._last_batch, tuple(records))
