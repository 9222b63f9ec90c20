"""The origin's part: take a message from an agent, see it to its end, and say what became of it.

agents ── submit ──► Commit(Originate) ─ committed ─► Stored, and into the window of each destination
links ─── Receipts ► Commit(Settle) ──── committed ─► Progressed
links ─── Ack ─────► offered again later, or in custody (`custody`)
time ──── tick ────► Commit(GiveUp) ──── committed ─► Progressed (unconfirmed)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from trishula.protocol import frames
from trishula.protocol.clock import Instant
from trishula.protocol.delivery import Pending
from trishula.protocol.desk import Desk
from trishula.protocol.effects import Effect, Progressed, Rejected, Stored, Transmit, Warn
from trishula.protocol.envelope import Envelope, Key, Receipt, State
from trishula.protocol.errors import SendError
from trishula.protocol.message import Message
from trishula.protocol.names import PROBE
from trishula.protocol.records import (
    Conflict,
    Declined,
    Ended,
    GiveUp,
    Originate,
    Originated,
    Progress,
    Result,
    Settle,
    Settled,
    Survey,
    Surveyed,
)
from trishula.protocol.routes import Line

SURVEYED = 4096
"""Envelopes that are asked about when a link comes up: the newest that may have come further."""
_GIVEN_UP_AT_ONCE = 256
_RETRY_S = 1.0
_LOOK_EVERY_S = 60.0


class Origin:
    """What this node owes to the agents that live here."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._open: Counter[tuple[str, str]] = Counter()
        """Envelopes without an answer by sender and destination, as committed; what is being stored is `_coming`."""
        self._coming: Counter[tuple[str, str]] = Counter()
        self._next_expiry: int | None = None
        """When the next envelope expires, in ms since 1970."""
        self._give_up_at: float | None = None
        """When to give up on what has expired, on the monotonic clock; None while that is being done."""
        self._nodes = tuple(desk.own)
        """Until what is for none of these has ended: nobody is in the mesh any more to take it."""

    def begin(self, now: Instant, open_counts: Mapping[tuple[str, str], int]) -> list[Effect]:
        self._open = Counter(open_counts)
        return self._give_up(now)

    # ------------------------------------------------------------ a message comes in

    def submit(self, now: Instant, ref: object, message: Message, ttl: int | None) -> list[Effect]:
        agents = self._desk.directory.expand(message.to, sender=message.sender)
        return self._originate(now, ref, message, [(agent, self._home(agent)) for agent in agents], ttl)

    def probe(self, now: Instant, ref: object, message: Message, node: str, ttl: int, *, by_post: bool) -> list[Effect]:
        if node not in self._desk.own:
            known = ", ".join(sorted(self._desk.own))
            raise SendError(
                f"there is no node {node!r}", code="unknown_node", key="node", value=node, fix=f"known are {known}"
            )
        if not by_post:
            return self._originate(now, ref, message, [(PROBE, node)], ttl)
        post = self._desk.routes.posts.get(node)
        if post is None:
            raise SendError(
                f"there is no rsync fallback to {node}",
                code="no_fallback",
                key="route",
                value="rsync",
                fix="the role trishula_fallback makes one: run site.yml",
            )
        return self._originate(now, ref, message, [(PROBE, node)], ttl, post)

    def _home(self, agent: str) -> str:
        home = self._desk.directory.home(agent)
        if home is None or home not in self._desk.own:
            raise SendError(
                f"the node of {agent!r} is not in the mesh", code="unknown_recipient", key="to", value=agent
            )
        return home

    def _originate(
        self,
        now: Instant,
        ref: object,
        message: Message,
        recipients: Sequence[tuple[str, str]],
        ttl: int | None,
        post: Line | None = None,
    ) -> list[Effect]:
        life = self._life(ttl)
        envelopes = tuple(
            Envelope(
                origin=self._desk.node,
                dest=home,
                key=Key(message.sender, message.id, agent),
                expires_at=now.wall + life,
                payload=message.payload,
                urgent=message.urgent,
            )
            for agent, home in recipients
        )
        wanted = _counts(envelopes)
        unless = self._unless(wanted)
        self._coming += wanted
        record = Originate(message, envelopes, now.wall, "" if unless is None else unless.code)
        done = partial(self._stored, ref, record, unless, post)
        return [self._desk.commit([record], done, partial(self._not_stored, ref, record))]

    def _life(self, ttl: int | None) -> int:
        limits = self._desk.limits
        life = limits.default_ttl if ttl is None else ttl
        if not 0 < life <= limits.max_ttl:
            raise SendError(
                f"a message can't live for {life // 1000} s",
                code="bad_ttl",
                key="ttl_s",
                value=life // 1000,
                fix=f"use 1 to {limits.max_ttl // 1000} s (limits.max_ttl_s)",
            )
        return life

    def _unless(self, wanted: Mapping[tuple[str, str], int]) -> SendError | None:
        """The origin's own limits are errors of `send` (rule 5), but for a retry of what is stored already."""
        limits = self._desk.limits
        if self._desk.full:
            return SendError(
                f"the store of this node takes nothing new: {self._desk.full}",
                code="store_full",
                key="limits.max_store_bytes",
                value=limits.max_store_bytes,
                fix="make room or raise the limit; what is stored is safe",
            )
        for (sender, dest), count in wanted.items():
            under_way = self._open[sender, dest] + self._coming[sender, dest]
            if under_way + count > limits.max_open:
                return SendError(
                    f"{sender} has {under_way} messages to {dest} under way, the limit is {limits.max_open}",
                    code="quota",
                    key="limits.max_open_per_agent",
                    value=limits.max_open,
                    fix=f"wait until {dest} has taken some: `trishula status` says how it is",
                )
        return None

    def _stored(
        self,
        ref: object,
        record: Originate,
        unless: SendError | None,
        post: Line | None,
        now: Instant,
        results: Sequence[Result],
    ) -> list[Effect]:
        (result,) = results
        message, envelopes = record.message, record.envelopes
        self._came(record)
        if isinstance(result, Declined):
            assert unless is not None
            return [Rejected(ref, unless)]
        if isinstance(result, Conflict):
            error = SendError(
                f"{message.sender} has already sent another message with the id {message.id}",
                code="id_conflict",
                key="id",
                value=message.id,
                fix="give the new one an id of its own, or none",
            )
            return [Rejected(ref, error)]
        assert isinstance(result, Originated)
        stored = Stored(ref, message.id, result.dated or message.digest, result.progress, result.fresh)
        if not result.fresh:
            return [stored]
        self._open += _counts(envelopes)
        effects: list[Effect] = [stored]
        pendings = [
            Pending(row.seq, envelope, stored=now.mono)
            for row, envelope in zip(result.progress, envelopes, strict=True)
        ]
        self._expects(now, envelopes[0].expires_at)
        if post is not None:
            for pending in pendings:
                self._desk.own[post.node].taken(pending)
            return effects + self._desk.offer(now, post, self._desk.own[post.node], pendings)
        for pending in pendings:
            self._desk.own[pending.envelope.dest].push(pending)
        for dest in dict.fromkeys(row.dest for row in result.progress):
            effects += self._desk.pump(now, dest)
        return effects

    def _not_stored(self, ref: object, record: Originate, _now: Instant, error: SendError) -> list[Effect]:
        self._came(record)
        return [Rejected(ref, error)]

    def _came(self, record: Originate) -> None:
        self._coming -= _counts(record.envelopes)

    # ------------------------------------------------------------ the recipient's word

    def receipts(self, now: Instant, line: Line, signed: Iterable[frames.SignedReceipt]) -> list[Effect]:
        """Receipts for our mail, from its recipient's node or over a relay."""
        effects: list[Effect] = []
        receipts = []
        for item in signed:
            receipt = item.open()
            wrong = self._desk.trust.doubt(item, receipt)
            if wrong:
                effects.append(
                    Warn(f"ignored a receipt of {receipt.dest} for {receipt.key.id} from {line.node}: {wrong}")
                )
            else:
                receipts.append(receipt)
        return effects + self.settle(now, line, receipts)

    def settle(self, now: Instant, line: Line, receipts: Iterable[Receipt]) -> list[Effect]:
        records: list[Settle] = []
        answered: list[tuple[Key, Pending | None]] = []
        for receipt in receipts:
            window = self._desk.own.get(receipt.dest)
            pending = None if window is None else window.answered(receipt.key)
            latency = None if pending is None or pending.stored is None else (now.mono - pending.stored) * 1000
            records.append(Settle(receipt, line.way(receipt.dest), now.wall, latency))
            answered.append((receipt.key, pending))
        if not records:
            return []
        spare = all(pending is None for _, pending in answered)  # else it would be neither offered again nor settled
        return [self._desk.insist(records, partial(self._settled, line, answered), spare=spare)]

    def _settled(
        self, line: Line, answered: Sequence[tuple[Key, Pending | None]], now: Instant, results: Sequence[Result]
    ) -> list[Effect]:
        effects: list[Effect] = []
        delivered: list[Progress] = []
        for (key, pending), result in zip(answered, results, strict=True):
            assert isinstance(result, Settled)
            if result.progress is None and pending is None and key.sender == PROBE:
                continue  # a probe is forgotten when nobody waits for it any more
            if result.progress is None:
                what = "what was never sent" if pending is None else f"other bytes than {pending.envelope.key.id}'s"
                effects.append(Warn(f"ignored a receipt for {what}"))
                if pending is not None:
                    self._desk.own[pending.envelope.dest].unsettled(pending, now.mono, self._desk.random())
                continue
            if pending is not None:
                self._desk.own[pending.envelope.dest].release(pending)
            if result.fresh:
                effects.append(Progressed(result.progress, result.was or State.STORED))
                if result.progress.state is State.DELIVERED:
                    delivered.append(result.progress)
                if result.was is State.STORED:
                    self._closed(result.progress)
        for dest in dict.fromkeys(pending.envelope.dest for _, pending in answered if pending is not None):
            effects += self._desk.pump(now, dest)
        return effects + self._ask_further(line, delivered)

    def _ask_further(self, line: Line, delivered: Iterable[Progress]) -> list[Effect]:
        """Word came by another way than the link that there is now.

        It may be older than the link, and what was read meanwhile was said to nobody.
        """
        by_dest: dict[str, list[Progress]] = {}
        for row in delivered:
            by_dest.setdefault(row.dest, []).append(row)
        effects: list[Effect] = []
        for dest, rows in by_dest.items():
            link = self._desk.routes.line_to(dest)
            if link is not None and link is not line:
                effects += self._query(link, rows)
        return effects

    def _closed(self, progress: Progress) -> None:
        self._open -= Counter([(progress.key.sender, progress.dest)])

    def ask(self, now: Instant, dest: str, line: Line) -> list[Effect]:
        """A link to `dest` has come up: ask about what may have come further (rule 7)."""
        record = Survey(dest, SURVEYED, now.wall)
        return [self._desk.insist([record], partial(self._surveyed, line), spare=True)]

    def _surveyed(self, line: Line, _now: Instant, results: Sequence[Result]) -> list[Effect]:
        (result,) = results
        assert isinstance(result, Surveyed)
        if self._desk.routes.find(line.number) is not line:
            return []
        return self._query(line, result.progress)

    @staticmethod
    def _query(line: Line, rows: Iterable[Progress]) -> list[Effect]:
        items = [
            frames.Asked(sender=row.key.sender, to=row.key.to, id=row.key.id, digest=row.digest, state=row.state)
            for row in rows
        ]
        pages = [items[start : start + frames.BATCH_COUNT] for start in range(0, len(items), frames.BATCH_COUNT)]
        return [Transmit(line.number, frames.Query(items=page)) for page in pages]

    # ------------------------------------------------------------ time

    def deadline(self) -> float | None:
        return self._give_up_at

    def tick(self, now: Instant) -> list[Effect]:
        return [] if self._give_up_at is None or self._give_up_at > now.mono else self._give_up(now)

    def _give_up(self, now: Instant) -> list[Effect]:
        """End what has expired, and at first also what is for a node that has left (rules 8, 9 and 14)."""
        self._give_up_at = None
        before = now.wall - 2 * self._desk.limits.max_skew if self._desk.clock.trusted(now) else 0
        if not self._nodes and (self._next_expiry is None or self._next_expiry >= before):
            self._expects(now, self._next_expiry)
            return []
        record = GiveUp(before, self._nodes, now.wall, _GIVEN_UP_AT_ONCE)
        return [self._desk.commit([record], self._given_up, self._not_given_up)]

    def _given_up(self, now: Instant, results: Sequence[Result]) -> list[Effect]:
        (result,) = results
        assert isinstance(result, Ended)
        effects: list[Effect] = []
        for progress in result.progress:
            if progress.dest in self._desk.own:
                self._desk.own[progress.dest].ended(progress.key)
            self._closed(progress)
            effects.append(Progressed(progress))
        if result.more:
            return effects + self._give_up(now)
        self._nodes = ()
        self._next_expiry = None
        self._expects(now, result.next_expiry)
        return effects

    def _not_given_up(self, now: Instant, _error: SendError) -> list[Effect]:
        self._give_up_at = now.mono + _RETRY_S
        return []

    def _expects(self, now: Instant, expires_at: int | None) -> None:
        """Something expires then: come back when it is over for certain, or when the clock may be believed."""
        if expires_at is None:
            return
        self._next_expiry = expires_at if self._next_expiry is None else min(expires_at, self._next_expiry)
        over = now.mono + max(0.0, (self._next_expiry + 2 * self._desk.limits.max_skew + 1 - now.wall) / 1000)
        if not self._desk.clock.trusted(now):
            over = max(over, self._desk.clock.trusted_at(now))
        over = min(over, now.mono + _LOOK_EVERY_S)  # the wall clock may be set in the meantime
        self._give_up_at = over if self._give_up_at is None else min(over, self._give_up_at)


def _counts(envelopes: Iterable[Envelope]) -> Counter[tuple[str, str]]:
    return Counter((envelope.key.sender, envelope.dest) for envelope in envelopes)
