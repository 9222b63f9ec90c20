"""Who watches: every word of a node is held against its disk when it is said, and all of them when the dust settles."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from simulation.world import ViolationError, World
from trishula.protocol import delivery, effects, frames
from trishula.protocol.envelope import Envelope, Key, State
from trishula.protocol.ledger import ID_CONFLICT
from trishula.protocol.message import Message, digest_of
from trishula.protocol.records import Entry, Progress

if TYPE_CHECKING:
    from simulation.host import Host, NodeProcess, Wire

LARGEST = 5000
"""Bytes of the largest envelope that agents here write."""


@dataclass(eq=False)
class Submission:
    """One message that an agent wants stored, over all its tries. `lasting` if it lives longer than the world."""

    sender: str
    raw: bytes
    ttl: int | None = None
    done: bool = False
    """Whether the agent has heard of its fate."""

    @property
    def lasting(self) -> bool:
        return self.ttl is None


@dataclass
class Promise:
    """A message that was reported as stored."""

    message_id: str
    digest: str
    recipients: tuple[str, ...]
    lasting: bool


@dataclass
class Witness:
    """Knows every host's disk, as nobody else does."""

    world: World
    hosts: dict[str, Host] = field(default_factory=dict)
    promises: dict[tuple[str, str], Promise] = field(default_factory=dict)
    """By sender and id."""
    submitted: dict[str, Message] = field(default_factory=dict)
    """By digest: all that agents ever tried to send."""
    arrivals: Counter[tuple[str, Key]] = field(default_factory=Counter)
    news: Counter[tuple[Key, State]] = field(default_factory=Counter)
    disorder: bool = False
    """Whether something happened by which mail may arrive out of its order: a deferral, or an adversary's."""
    counts: Counter[str] = field(default_factory=Counter)

    def demand(self, truth: object, otherwise: str) -> None:
        if not truth:
            raise ViolationError(otherwise)

    # ------------------------------------------------------------ as it is said

    def submits(self, message: Message) -> None:
        self.submitted[message.digest] = message

    def stored(self, host: Host, news: effects.Stored) -> None:
        submission = news.ref
        assert isinstance(submission, Submission)
        submission.done = True
        name = (submission.sender, news.message_id)
        self.world.tell(host.name, f"stored {name} for {len(news.progress)}")
        self.counts["stored"] += 1
        on_disk = host.disk.messages.get(name)
        self.demand(on_disk == news.digest, f"{name} is said to be stored, but the disk has {on_disk}")
        for row in news.progress:
            durable = host.disk.sent.get(row.key)
            self.demand(durable is not None, f"{row.key} is said to be stored, but it is not on the disk")
        promise = Promise(news.message_id, news.digest, tuple(row.key.to for row in news.progress), submission.lasting)
        kept = self.promises.setdefault(name, promise)
        self.demand(kept.digest == promise.digest, f"two contents were stored under {name}")
        self.demand(kept.recipients == promise.recipients, f"a retry of {name} went to others than the first")

    def rejected(self, host: Host, news: effects.Rejected) -> None:
        submission = news.ref
        assert isinstance(submission, Submission)
        self.world.tell(host.name, f"rejected a message of {submission.sender}: {news.error}")
        self.counts[f"rejected: {news.error.code}"] += 1
        if news.error.code == "store_full":
            return
        submission.done = True
        self.demand(news.error.code == "id_conflict", f"rejected without reason: {news.error}")

    def transmitted(self, host: Host, wire: Wire, frame: frames.Frame) -> None:
        """Nothing goes out before its own commit (rule 1)."""
        self.counts[type(frame).__name__] += 1
        match frame:
            case frames.Deliver(envelopes=sealed):
                for envelope in (item.open() for item in sealed):
                    if envelope.origin == host.name:
                        on_disk = host.disk.envelopes.get(envelope.key)
                    else:
                        row = host.disk.held.get(envelope.key)
                        on_disk = None if row is None else row.envelope
                    self.demand(on_disk == envelope, f"{envelope.key} went out of {host.name} without its commit")
            case frames.Receipts(receipts=signed):
                for word in (item.open() for item in signed if item.dest == host.name):
                    entries = host.disk.ledger.get(word.key, ())
                    true = any((entry.digest, entry.outcome) == (word.digest, word.outcome) for entry in entries)
                    self.demand(true, f"{host.name} says {word.outcome} of {word.key}, but its disk doesn't")
            case frames.Defer(items=items):
                wire.deferred.update(Key(item.sender, item.id, item.to) for item in items)
            case frames.Ack(seq=seq):
                for item in wire.heard.pop(seq).envelopes:
                    envelope = item.open()
                    self.demand(
                        self._is_dealt_with(host, wire, envelope),
                        f"{host.name} acknowledged {envelope.key}, which is neither on its disk nor deferred",
                    )

    def _is_dealt_with(self, host: Host, wire: Wire, envelope: Envelope) -> bool:
        digest = digest_of(envelope.payload)
        return (
            any(entry.digest == digest for entry in host.disk.ledger.get(envelope.key, ()))
            or envelope.key in wire.deferred
            or envelope.expires_at <= host.wall()
            or envelope.origin == host.name
            or (envelope.key in host.disk.held and host.disk.held[envelope.key].envelope == envelope)
        )

    def progressed(self, host: Host, row: Progress) -> None:
        """What the origin is told is true at the recipient, now."""
        self.world.tell(host.name, f"{row.key} is {row.state} {row.reason}")
        self.counts[row.state] += 1
        self.news[row.key, row.state] += 1
        self.demand(self.news[row.key, row.state] == 1, f"{host.name} heard twice that {row.key} is {row.state}")
        durable = host.disk.sent.get(row.key)
        self.demand(
            durable is not None and durable.state is row.state, f"{row.key} is said to be {row.state} too early"
        )
        entries = self.hosts[row.dest].disk.ledger.get(row.key, ())
        true = any((entry.digest, entry.outcome) == (row.digest, row.state) for entry in entries)
        self.demand(true, f"{host.name} believes {row.key} to be {row.state}, and {row.dest} has {entries}")

    def arrived(self, host: Host, entry: Entry) -> None:
        self.world.tell(host.name, f"{entry.key} arrived")
        self.arrivals[host.name, entry.key] += 1
        self.demand(self.arrivals[host.name, entry.key] == 1, f"{entry.key} arrived twice at {host.name}")
        self.demand(entry in host.disk.ledger.get(entry.key, ()), f"{entry.key} arrived before its commit")

    def looks_at(self, process: NodeProcess) -> None:
        """What a node holds in memory is bounded."""
        limits = process.host.wiring.limits
        for window in process.engine._windows():
            self.demand(
                0 <= window.backlog <= delivery.WINDOW_COUNT,
                f"{window.backlog} envelopes for {window.dest} are in memory",
            )
        most = limits.window_bytes + delivery.BATCH_BYTES + LARGEST
        for line in process.engine._routes.lines.values():
            self.demand(0 <= line.unacked <= most, f"{line.unacked} bytes are under way")

    # ------------------------------------------------------------ when the dust settles

    def unkept(self) -> list[str]:
        """What is still owed. Empty when all is well."""
        owed = []
        for (sender, message_id), promise in self.promises.items():
            for to in promise.recipients:
                key = Key(sender, message_id, to)
                if promise.lasting and (lack := self._lack(key, promise)):
                    owed.append(lack)
        for host in self.hosts.values():
            process = host.process
            if process is None:
                owed.append(f"{host.name} is down")
            else:
                owed += [
                    f"{host.name} holds {window.backlog} envelopes for {window.dest} in memory"
                    for window in process.engine._windows()
                    if window.backlog or window._bytes or window._out or window._waiting
                ]
                owed += [
                    f"{host.name} has {line.unacked} bytes under way to {line.node}"
                    for line in process.engine._routes.lines.values()
                    if line.unacked or line.offers or line.arriving
                ]
                if not process.idle:
                    owed.append(f"{host.name} is still writing")
                if sorted(process.linked()) != sorted(host.wiring.peers):
                    owed.append(f"{host.name} has links to {process.linked()}")
        return owed

    def _lack(self, key: Key, promise: Promise) -> str:
        row = self._home(key.sender).disk.sent.get(key)
        inbox = self._home(key.to).disk.inbox
        if row is None:
            return f"{key} was stored and is lost at its origin"
        if key not in inbox:
            return f"{key} did not arrive"
        if digest_of(inbox[key]) != promise.digest:
            return f"{key} arrived with other bytes"
        return "" if row.state is State.DELIVERED else f"the sender of {key} believes it to be {row.state}"

    def verdict(self) -> None:
        """Every promise kept, nothing altered, nothing forged, nothing doubled."""
        owed = self.unkept()
        self.demand(not owed, "when the dust had settled: " + "; ".join(owed[:10]))
        for host in self.hosts.values():
            for key, (first, *later) in host.disk.ledger.items():
                self._judge(host, key, first)
                for entry in later:
                    refused = (entry.outcome, entry.reason) == (State.REFUSED, ID_CONFLICT)
                    self.demand(refused, f"{host.name} has taken two contents of {key}")
                digests = [first.digest, *(entry.digest for entry in later)]
                self.demand(len(set(digests)) == len(digests), f"{key} has two answers for one content")
            self._judge_order(host)
            for key, row in host.disk.sent.items():
                self.demand(row.state is not State.REFUSED, f"{key} was {row.state} without reason")

    def _judge_order(self, host: Host) -> None:
        """Rule 13. A re-offer after a lost link keeps the order too, because it offers all that has no answer."""
        last: dict[tuple[str, str, bool], int] = {}
        for key in () if self.disorder else host.disk.inbox:
            origin = self._home(key.sender).disk
            lane = (key.sender, key.to, origin.envelopes[key].urgent)
            seq = origin.sent[key].seq
            self.demand(seq > last.get(lane, 0), f"{key} arrived after one that was stored later")
            last[lane] = seq

    def _judge(self, host: Host, key: Key, entry: Entry) -> None:
        origin = self._home(key.sender)
        message = self.submitted.get(entry.digest)
        self.demand(message is not None, f"{host.name} took bytes for {key} that nobody wrote")
        assert message is not None
        self.demand(entry.outcome is State.DELIVERED, f"{host.name} refused {key}: {entry.reason}")
        self.demand((message.sender, message.id) == (key.sender, key.id), f"{key} has the bytes of {message.id}")
        self.demand(host.disk.inbox[key] == message.payload, f"the bytes of {key} were altered")
        self.demand(self._home(key.to) is host, f"{key} is at {host.name}")
        self.demand(entry.origin == origin.name, f"{key} is said to come from {entry.origin}")
        self.demand(key in origin.disk.sent, f"{key} arrived, but was never stored")
        self.demand(entry.at < entry.expires_at, f"{key} was taken after its expiry")

    def _home(self, agent: str) -> Host:
        return next(host for host in self.hosts.values() if host.wiring.directory.lives(agent, host.name))
