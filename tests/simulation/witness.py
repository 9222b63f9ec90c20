"""Who watches: every word of a node is held against all disks as it is said, and all of them when the dust settles."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from simulation.files import ARCHIVE, File
from simulation.world import ViolationError, World
from trishula.protocol import delivery, effects, frames
from trishula.protocol.envelope import Envelope, Key, State, advances
from trishula.protocol.ledger import ID_CONFLICT, REMOVED
from trishula.protocol.message import Message, digest_of, inspect
from trishula.protocol.names import PROBE
from trishula.protocol.records import (
    Accept,
    Adopt,
    Answer,
    Declined,
    Drop,
    Ended,
    Entry,
    Found,
    GiveUp,
    Held,
    Hold,
    Originate,
    Originated,
    Progress,
    Prune,
    Pruned,
    Read,
    Record,
    Result,
    Settle,
    Settled,
)
from trishula.protocol.signing import envelope_mac

if TYPE_CHECKING:
    from simulation.host import Host, NodeProcess
    from simulation.store import Disk

EPOCH = 1_770_000_000_000
"""ms since 1970 when the world begins."""
LARGEST = 5000
"""Bytes of the largest envelope that agents here write."""
LATER = ("store_full", "quota")
"""Errors of `send` after which an agent asks again."""
ARRIVED = (State.DELIVERED, State.READ)
ANSWERS = (*ARRIVED, State.REFUSED)
SLACK = 8000
"""ms that a node may take to look at its clock and act on it."""


@dataclass(eq=False)
class Submission:
    """One message that an agent wants stored, over all its tries; or a probe of `node`."""

    sender: str
    raw: bytes
    """As the agent wrote it."""
    message: Message
    """As its node took it at the last try."""
    ttl: int | None = None
    node: str | None = None
    began: float = 0.0
    brief: bool = False
    """Whether it may be forgotten at once, for its expiry was set by a wrong clock."""
    by_post: bool = False
    """Whether it is a probe that goes by post, whatever links there are."""
    done: bool = False
    """Whether the agent has heard of its fate."""

    def is_over(self, now: float) -> bool:
        """Whether its first try may have expired and been forgotten: the next one would be another message."""
        return self.brief or (self.ttl is not None and now > self.began + self.ttl / 1000)


@dataclass(eq=False)
class Exchange:
    """What one side says and hears on a connection, or by post."""

    peer: str
    number: int
    """The same at both ends of a connection, and at no two ends of posts."""
    by_post: bool = False
    heard: dict[int, list[tuple[float, frames.Deliver]]] = field(default_factory=lambda: defaultdict(list))
    """By their numbers, the `Deliver` frames that came and are not yet acknowledged, and when.

    By post, frames of two lives of the peer may have the same number.
    """
    deferred: set[Key] = field(default_factory=set)
    """What this side deferred on it."""


@dataclass
class Promise:
    """A message that was reported as stored, with its envelopes."""

    origin: str
    digest: str
    rows: tuple[Progress, ...]


@dataclass
class Witness:
    """Knows every host's disk, as nobody else does."""

    world: World
    hosts: dict[str, Host] = field(default_factory=dict)
    homes: dict[str, str] = field(default_factory=dict)
    """The node of each agent, also of those that are no longer in the mesh."""
    linkable: set[frozenset[str]] = field(default_factory=set)
    """The pairs that may be linked."""
    evil: str | None = None
    """The node whose keys an adversary has."""
    leaving: str | None = None
    """The node that is removed from the mesh, sooner or later."""
    hostile: bool = False
    """Whether there is, or was, somebody on the wire: then mail may come out of its order."""
    counts: Counter[str] = field(default_factory=Counter)

    promises: dict[tuple[str, str], Promise] = field(default_factory=dict)
    """By sender and id."""
    fates: dict[Key, State] = field(default_factory=dict)
    """How far each envelope has come, as its sender was told last."""
    known: dict[Key, State] = field(default_factory=dict)
    """As its origin has committed it last."""
    submitted: dict[str, Message] = field(default_factory=dict)
    """By digest: all that agents ever tried to send."""
    written: dict[str, bytes] = field(default_factory=dict)
    """By digest: the same as they wrote it."""
    originated: set[tuple[str, Key, str]] = field(default_factory=set)
    """(origin, key, digest) of all that was ever committed to be sent."""
    answers: set[tuple[str, Key, str, State]] = field(default_factory=set)
    entries: dict[tuple[str, Key, str], int] = field(default_factory=dict)
    """When what the ledgers took expires, by host, key and digest."""
    """(node, key, digest, outcome) of all that was ever committed to a ledger."""
    arrivals: set[tuple[str, Key]] = field(default_factory=set)
    taken: dict[tuple[str, Key, str], float] = field(default_factory=dict)
    """When a relay last committed to hold something."""
    deferred: set[Key] = field(default_factory=set)
    """What a recipient has once not taken."""

    # What a restored store has lost is excepted from the promise, and no more than that.
    unpromised: set[tuple[str, str]] = field(default_factory=set)
    """Messages whose origin has lost them."""
    lost: set[Key] = field(default_factory=set)
    """What its recipient has forgotten before it was in the inbox, or that it was refused."""

    _ways: dict[Key, set[int]] = field(default_factory=lambda: defaultdict(set))
    """The connections on which each envelope was offered."""
    _first_heard: dict[Key, int] = field(default_factory=dict)
    _last: dict[tuple[int, str, str, str, bool], int] = field(default_factory=dict)
    """By connection, node, sender, recipient and lane: the number of what arrived last."""
    _looked: int = 0
    _wasted: bool = False
    """Whether somebody offers for ever what nobody can take."""

    def demand(self, truth: object, otherwise: str) -> None:
        if not truth:
            raise ViolationError(otherwise)

    def now(self) -> int:
        """The time as it is, in ms since 1970."""
        return EPOCH + int(self.world.now * 1000)

    # ------------------------------------------------------------ what agents hear

    def submits(self, submission: Submission) -> None:
        self.submitted[submission.message.digest] = submission.message
        self.written[submission.message.digest] = submission.raw

    def stored(self, host: Host, news: effects.Stored) -> None:
        submission = news.ref
        assert isinstance(submission, Submission)
        submission.done = True
        name = (submission.message.sender, news.message_id)
        self.world.tell(host.name, f"stored {name} for {len(news.progress)}")
        self.counts["stored"] += 1
        on_disk = host.disk.messages.get(name)
        self.demand(on_disk == news.digest, f"{name} is said to be stored, but the disk has {on_disk}")
        for row in news.progress:
            self.demand(row.key in host.disk.sent, f"{row.key} is said to be stored, but it is not on the disk")
        self.demand(news.progress, f"{name} is stored for nobody")
        self.demand(self.written[news.digest] == submission.raw, f"{name} is said to be stored, and is another message")
        promise = Promise(host.name, news.digest, news.progress)
        if name in self.unpromised:
            self.unpromised.remove(name)
            self.promises.pop(name, None)
        kept = self.promises.setdefault(name, promise)
        self.demand(kept.digest == promise.digest, f"two contents were stored under {name}")
        to = [row.key.to for row in kept.rows]
        self.demand(to == [row.key.to for row in news.progress], f"a retry of {name} went to others than the first")

    def rejected(self, host: Host, news: effects.Rejected) -> None:
        submission = news.ref
        assert isinstance(submission, Submission)
        message, code = submission.message, news.error.code
        self.world.tell(host.name, f"rejected a message of {submission.sender}: {news.error}")
        self.counts[f"rejected: {code}"] += 1
        known = host.disk.messages.get((message.sender, message.id))
        match code:
            case "store_full":
                legitimate = True  # also where it could not be looked whether it is stored
            case "quota":
                legitimate = known is None
            case "id_conflict":
                legitimate = known is not None and self.written[known] != submission.raw
            case "unknown_recipient" | "unknown_node":
                legitimate = self.leaving is not None
            case _:
                legitimate = False
        self.demand(legitimate, f"{message.id} was rejected without reason: {news.error}")
        submission.done = code not in LATER

    def progressed(self, host: Host, row: Progress) -> None:
        """What the origin tells the sender is true at the recipient, and only moves forward."""
        key = row.key
        self.world.tell(host.name, f"{key} is {row.state} {row.reason}")
        self.counts[row.state] += 1
        former = self.fates.get(key, State.STORED)
        self.demand(advances(former, row.state), f"{key} was {former}, and {host.name} says that it is {row.state}")
        self.fates[key] = row.state
        durable = host.disk.sent.get(key)
        said_early = f"{key} is said to be {row.state} too early"
        self.demand(durable is None or durable.state is row.state or advances(row.state, durable.state), said_early)
        match row.state:
            case State.UNCONFIRMED:
                over = row.expires_at + host.wiring.limits.max_skew
                self.demand(self.now() > over, f"{host.name} gave up {key} before it expired")
            case State.REFUSED if row.reason == REMOVED:
                self.demand(row.dest == self.leaving, f"{host.name} says that {row.dest} was removed")
            case _ if row.dest != self.evil:
                true = (row.dest, key, row.digest, row.state) in self.answers
                self.demand(true, f"{host.name} believes {key} to be {row.state}, and {row.dest} never said so")

    def arrived(self, host: Host, entry: Entry) -> None:
        key = entry.key
        self.world.tell(host.name, f"{key} arrived")
        self.demand((host.name, key) not in self.arrivals, f"{key} arrived twice at {host.name}")
        self.arrivals.add((host.name, key))
        committed = (host.name, key, entry.digest, State.DELIVERED) in self.answers
        self.demand(committed, f"{key} arrived before its commit")

    def files(self, host: Host, key: Key, file: File) -> None:
        """A mailbox file is being written."""
        self.demand(file not in host.files.boxes, f"{key} was filed a second time at {host.name}")
        self.demand(digest_of(host.disk.inbox[key]) == file[1], f"the bytes of {key} were altered")

    # ------------------------------------------------------------ what disks have

    def committed(  # noqa: C901, PLR0912 - an arm for each record
        self, host: Host, records: Sequence[Record], results: Sequence[Result]
    ) -> None:
        for record, result in zip(records, results, strict=True):
            match record, result:
                case Originate(message), Originated(rows, True):
                    self.originated.update((host.name, row.key, message.digest) for row in rows)
                case Accept(), Answer(entry, True):
                    self.answers.add((host.name, entry.key, entry.digest, entry.outcome))
                    self.entries[host.name, entry.key, entry.digest] = entry.expires_at
                    self._judge(host, entry)
                    self._judge_order(host, record.envelope, entry)
                case Hold(envelope, digest=digest), Held():
                    self.taken[host.name, envelope.key, digest] = self.world.now
                case Accept(envelope) | Hold(envelope), Declined():
                    self.deferred.add(envelope.key)
                case Read(), Found():
                    self.answers.update((host.name, e.key, e.digest, e.outcome) for e in result.fresh)
                case Adopt(key, digest), _:
                    self.answers.add((host.name, key, digest, State.READ if record.read else State.DELIVERED))
                case Settle(), Settled(Progress() as row, True):
                    self.known[row.key] = row.state
                case GiveUp(), Ended(rows):
                    self.known.update((row.key, row.state) for row in rows)
                case Drop(answered), _ if not self.hostile:
                    for key, digest in answered:
                        home = host.name if key.to == PROBE else self.homes[key.to]
                        said = any((home, key, digest, state) in self.answers for state in ANSWERS)
                        self.demand(said or key.to == PROBE, f"{host.name} drops {key}, which nobody has answered")
                case Prune(), Pruned():
                    self._judge_pruning(host)
                case _:
                    pass

    def _judge_pruning(self, host: Host) -> None:
        """A ledger's row lives until its envelope has expired, by everybody's clock (rule 8)."""
        for name, key, digest in [row for row in self.entries if row[0] == host.name]:
            if all(entry.digest != digest for entry in host.disk.ledger.get(key, ())):
                expires_at = self.entries.pop((name, key, digest))
                self.demand(expires_at < self.now(), f"{name} forgot {key} before it expired")

    def not_committed(self, records: Sequence[Record]) -> None:
        self.deferred.update(record.envelope.key for record in records if isinstance(record, Accept))

    def restored(self, host: Host, old: Disk, new: Disk) -> None:
        """`new` takes the place of `old`: remember what is lost with it."""
        self.unpromised.update(name for name in old.messages if name not in new.messages)
        self.entries = {row: expires_at for row, expires_at in self.entries.items() if row[0] != host.name}
        for key in {**old.sent, **new.sent}:
            before, after = old.sent.get(key), new.sent.get(key)
            if before is None or after is None or before.state is not after.state:
                self.fates[key] = self.known[key] = State.STORED if after is None else after.state
        for key, entries in old.ledger.items():
            kept = [entry.digest for entry in new.ledger.get(key, ())]
            for entry in entries:
                if entry.digest not in kept and (key.to, entry.digest) not in host.files.boxes:
                    self.lost.add(key)
                    self.arrivals.discard((host.name, key))

    def _judge(self, host: Host, entry: Entry) -> None:
        """A new row of the ledger: genuine, and refused only for its reason."""
        key = entry.key
        home = self.homes.get(key.to)
        self.demand(key.to == PROBE or home == host.name, f"{key} is at {host.name}")
        if entry.origin != self.evil:
            self.demand(
                key.sender == PROBE or entry.origin == self.homes.get(key.sender),
                f"{key} is said to come from {entry.origin}",
            )
            genuine = (entry.origin, key, entry.digest) in self.originated
            self.demand(genuine, f"{host.name} took bytes for {key} that its sender never sent")
            message = self.submitted[entry.digest]
            same = (message.sender, message.id) == (key.sender, key.id)
            self.demand(same, f"{key} has the bytes of {message.id}")
            if entry.outcome is State.REFUSED:
                two = len({d for _, other, d in self.originated if other == key}) > 1
                self.demand(two and entry.reason == ID_CONFLICT, f"{host.name} refused {key}: {entry.reason}")
        self.demand(entry.at < entry.expires_at, f"{key} was taken after its expiry")
        first, *later = host.disk.ledger[key]
        for other in later:
            refused = (other.outcome, other.reason) == (State.REFUSED, ID_CONFLICT)
            self.demand(refused, f"{host.name} has taken two contents of {key}")
        digests = [first.digest, *(other.digest for other in later)]
        self.demand(len(set(digests)) == len(digests), f"{key} has two answers for one content")

    def _judge_order(self, host: Host, envelope: Envelope, entry: Entry) -> None:
        """Rule 13, for what came over one link, was never offered on another, and never deferred."""
        key = entry.key
        row = self.hosts[entry.origin].disk.sent.get(key)
        link = self._first_heard.get(key)
        if self.hostile or link is None or row is None or key in self.deferred or self._ways[key] != {link}:
            return
        lane = (link, host.name, key.sender, key.to, envelope.urgent)
        in_order = row.seq > self._last.get(lane, 0)
        self.demand(in_order, f"{key} arrived at {host.name} after one that was stored later")
        self._last[lane] = row.seq

    # ------------------------------------------------------------ what nodes say to each other

    def heard(self, host: Host, way: Exchange, frame: frames.Deliver) -> None:
        way.heard[frame.seq].append((self.world.now, frame))
        for item in frame.envelopes:
            if item.origin == way.peer and item.dest == host.name:
                self._first_heard.setdefault(Key(item.sender, item.id, item.to), way.number)

    def transmitted(self, process: NodeProcess, way: Exchange, frame: frames.Frame) -> None:
        """Nothing goes out before its own commit (rule 1), and nothing by a way that is not its own (rule 4)."""
        host = process.host
        self.counts[type(frame).__name__] += 1
        if way.by_post:
            self._posted(process, way.peer, frame)
        match frame:
            case frames.Deliver(envelopes=sealed):
                for item in sealed:
                    self._offers(host, way, item)
            case frames.Receipts(receipts=signed):
                for word in (item.open() for item in signed if item.dest == host.name):
                    true = (host.name, word.key, word.digest, word.outcome) in self.answers
                    self.demand(true, f"{host.name} says {word.outcome} of {word.key}, but its disk doesn't")
            case frames.Defer(items=items):
                keys = [Key(item.sender, item.id, item.to) for item in items]
                way.deferred.update(keys)
                self.deferred.update(keys)
            case frames.Ack(seq=seq):
                self._acknowledged(host, way, seq)

    def _acknowledged(self, host: Host, way: Exchange, seq: int) -> None:
        undealt: list[Key] = []
        for since, frame in way.heard[seq]:
            envelopes = [item.open() for item in frame.envelopes]
            left = [envelope.key for envelope in envelopes if not self._is_dealt_with(host, way, envelope, since)]
            if not left:
                way.heard[seq].remove((since, frame))
                return
            undealt += left
        self.demand(undealt, f"{host.name} acknowledged a frame that did not come")
        self.demand(False, f"{host.name} acknowledged {undealt[0]}, which is neither on its disk nor deferred")

    def _posted(self, process: NodeProcess, peer: str, frame: frames.Frame) -> None:
        """By post goes what is between these two nodes alone, and mail only where there is no other way."""
        name = process.host.name
        self.counts["posted"] += 1
        match frame:
            case frames.Deliver(envelopes=sealed):
                pairs = [(item.origin, item.dest) for item in sealed]
                probing = all(item.to == PROBE for item in sealed)
                self.counts["probed" if probing else "mail posted"] += 1
                self.demand(probing or not process.reaches(peer), f"{name} posts mail to {peer}, and there is a way")
            case frames.Receipts(receipts=signed):
                pairs = [(item.dest, item.origin) for item in signed]
            case _:
                return
        self.demand(set(pairs) == {(name, peer)}, f"{name} posts to {peer} what is others'")

    def _offers(self, host: Host, way: Exchange, item: frames.SignedEnvelope) -> None:
        envelope = item.open()
        key = envelope.key
        if envelope.origin == host.name:
            committed = host.disk.envelopes.get(key) in (envelope, None) and self._was_originated(envelope)
            self._ways[key].add(way.number)
        else:
            committed = (host.name, key, digest_of(envelope.payload)) in self.taken
            self.demand(envelope.dest == way.peer, f"{host.name} gives {key} to a second relay")
        self.demand(committed, f"{key} went out of {host.name} without its commit")

    def _was_originated(self, envelope: Envelope) -> bool:
        return (envelope.origin, envelope.key, digest_of(envelope.payload)) in self.originated

    def _is_dealt_with(self, host: Host, way: Exchange, envelope: Envelope, since: float) -> bool:
        """A relay acknowledges what it has put into custody since it heard it, from no memory (rule 2)."""
        digest = digest_of(envelope.payload)
        return (
            any(entry.digest == digest for entry in host.disk.ledger.get(envelope.key, ()))
            or envelope.key in way.deferred
            or envelope.expires_at <= self.now() + host.wiring.limits.max_skew
            or envelope.expires_at <= host.disk.forgotten()
            or envelope.origin == host.name
            or self.taken.get((host.name, envelope.key, digest), -1.0) >= since
        )

    # ------------------------------------------------------------ what a node has in memory

    def looks_at(self, process: NodeProcess) -> None:
        """It is bounded; asked at every fourth event."""
        self._looked += 1
        if self._looked % 4:
            return
        for window in process.engine._windows():
            if window._known:
                self.demand(
                    window.backlog <= delivery.WINDOW_COUNT,
                    f"{window.backlog} envelopes for {window.dest} are in memory",
                )
        overshoot = delivery.BATCH_BYTES + LARGEST
        routes = process.engine._routes
        for line in (*routes.lines.values(), *routes.posts.values()):
            self.demand(0 <= line.unacked <= line.window + overshoot, f"{line.unacked} bytes are under way")

    # ------------------------------------------------------------ when the dust settles

    def unkept(self) -> Iterator[str]:
        """What is still owed. Empty when all is well."""
        members = [host for host in self.hosts.values() if not host.removed]
        self._wasted = any(self._is_doomed(host, key) for host in members for key in (*host.disk.sent, *host.disk.held))
        for host in members:
            process = host.process
            if process is None:
                yield f"{host.name} is down"
                return
            yield from self._unrest(process)
        for host in members:
            yield from self._uncounted(host)
            yield from self._unforgotten(host)
            yield from self._unfiled(host)
        for (sender, message_id), promise in self.promises.items():
            if (sender, message_id) in self.unpromised or self.hosts[promise.origin].removed:
                continue
            for row in promise.rows:
                if lack := self._lack(promise, row):
                    yield lack

    def _unrest(self, process: NodeProcess) -> Iterator[str]:
        host = process.host
        for window in process.engine._windows():
            linked = process.engine._routes.line_to(window.dest) is not None
            doomed = [
                key
                for key, pending in window._known.items()
                if self._is_doomed(host, key) or (not linked and pending.envelope.expires_at < self.now())
            ]
            if len(doomed) != len(window._known):
                yield f"{host.name} holds {window.backlog} envelopes for {window.dest} in memory"
            elif not window._known and (window._bytes or window._out or window._waiting):
                yield f"the window of {host.name} for {window.dest} has {window._bytes} bytes and no envelopes"
        routes = process.engine._routes
        for line in (*routes.lines.values(), *routes.posts.values()):
            lively = [key for offer in line.offers.values() for key in offer.keys if not self._is_doomed(host, key)]
            if lively or (not line.offers and line.unacked) or (line.arriving and not self._wasted):
                yield f"{host.name} has {line.unacked} bytes under way to {line.node}"
        for line in routes.posts.values():
            if line.open or line.offers or line.unacked:
                yield f"the post of {host.name} to {line.node} is open, or holds {len(line.offers)} frames"
        if not process.idle and not self._wasted:
            yield f"{host.name} is still writing"
        linkable = [peer for peer in host.wiring.peers if frozenset((host.name, peer)) in self.linkable]
        if sorted(process.linked()) != sorted(linkable):
            yield f"{host.name} has links to {process.linked()}"

    def _is_doomed(self, host: Host, key: Key) -> bool:
        """Whether something in memory, or in custody, will stay there until it expires, because nobody can take it."""
        disk = host.disk
        row = disk.held.get(key)
        envelope = disk.envelopes.get(key) if row is None else row.envelope
        if envelope is None:
            return False
        if self._is_ahead(envelope.expires_at, host):
            return True
        if row is None:
            return False
        if self.hosts[envelope.origin].removed or self.hosts[envelope.dest].removed or envelope.origin == self.evil:
            return True
        if frozenset((host.name, envelope.dest)) not in self.linkable:
            return True
        pair_key = self.hosts[envelope.dest].wiring.keyring.find(envelope.origin, row.seal.kid)
        return pair_key is None or envelope_mac(pair_key, envelope) != row.seal.mac

    def _is_ahead(self, expires_at: int, host: Host) -> bool:
        """Whether it was sent by a clock that was far ahead: nobody takes what would live that long."""
        limits = host.wiring.limits
        return expires_at > self.now() + limits.max_ttl - limits.max_skew

    def _uncounted(self, host: Host) -> Iterator[str]:
        """What the limits count, against the disk."""
        assert host.process is not None
        engine, disk = host.process.engine, host.disk
        counted = {
            "open": (+engine._origin._open, Counter(disk.open_counts())),
            "unread": (+engine._recipient._unread, Counter(disk.unread_counts())),
            "held": (+engine._relay._bytes, +Counter(disk.held_bytes())),
        }
        for what, (in_memory, on_disk) in counted.items():
            if in_memory != on_disk:
                yield f"{host.name} counts {in_memory} {what}, and there are {on_disk}"

    def _unforgotten(self, host: Host) -> Iterator[str]:
        """The store is bounded: what has ended and expired goes."""
        over = self.now() - 2 * host.wiring.limits.max_skew - SLACK
        disk = host.disk
        for key, row in disk.sent.items():
            if row.expires_at < over:
                yield f"{host.name} still has {key}, which is {row.state}"
        for key, entries in disk.ledger.items():
            for entry in entries:
                if entry.expires_at < over and disk._has_ended(entry, over):
                    yield f"the ledger of {host.name} still has {key}"
        for key, held in disk.held.items():
            if held.envelope.expires_at < over or not self._is_doomed(host, key):
                yield f"{host.name} still has {key} in custody"

    def _unfiled(self, host: Host) -> Iterator[str]:
        """Inboxes and ledger tell the same."""
        if host.disk.unfiled:
            yield f"{host.name} has {len(host.disk.unfiled)} files to write"
        for key, entries in host.disk.ledger.items():
            for entry in entries:
                box = host.files.boxes.get((key.to, entry.digest))
                if key.to == PROBE:
                    continue
                if (entry.outcome in ARRIVED) != (box is not None) and entry.outcome is not State.REFUSED:
                    yield f"{key} is {entry.outcome} at {host.name}, and it has no file"
                if (entry.outcome is State.READ) != (box == ARCHIVE):
                    yield f"{key} is {entry.outcome} at {host.name}, and its file lies in {box}"

    def _lack(self, promise: Promise, row: Progress) -> str:  # noqa: PLR0911 - a reason each
        key, origin, dest = row.key, self.hosts[promise.origin], self.hosts[row.dest]
        kept = origin.disk.sent.get(key)
        state = self.known.get(key, State.STORED) if kept is None else kept.state
        if dest.removed:
            return f"{dest.name} was removed, and the sender of {key} was not told" if state is State.STORED else ""
        entry = next((entry for entry in dest.disk.entries(key) if entry.digest == row.digest), None)
        filed = (key.to, row.digest) in dest.files.boxes
        if key.to == PROBE:
            filed = any((dest.name, key, row.digest, answer) in self.answers for answer in ARRIVED)
        linked = frozenset((origin.name, dest.name)) in self.linkable or origin is dest
        match state:
            case State.REFUSED if filed and key not in self.lost and dest.name != self.evil:
                return f"{key} was refused, and is in the inbox"
            case State.DELIVERED | State.READ if not filed and key not in self.lost and dest.name != self.evil:
                return f"{key} is said to be {state}, and did not arrive"
            case State.DELIVERED | State.UNCONFIRMED if (
                linked and kept is not None and entry is not None and entry.outcome is not state and key.to != PROBE
            ):
                return f"{key} is {entry.outcome}, and its sender believes it to be {state}"
            case State.STORED if not self._is_ahead(row.expires_at, origin):
                if kept is None:
                    return f"{key} was stored and is lost at its origin"
                if filed:
                    return f"{key} arrived, and its sender was not told"
                return f"{key} did not arrive"
        return ""

    def verdict(self) -> None:
        """Every promise kept, nothing altered, nothing forged, nothing doubled."""
        owed = list(self.unkept())
        self.demand(not owed, "when the dust had settled: " + "; ".join(owed[:10]))
        for host in self.hosts.values():
            for agent, digest in host.files.boxes:
                message = self.submitted.get(digest)
                if message is None:
                    forged = self.evil is not None and self.homes.get(self._sender(host, digest)) == self.evil
                    self.demand(forged, f"{agent} has a file that nobody wrote")
                    continue
                origin = self.homes[message.sender]
                genuine = (origin, Key(message.sender, message.id, agent), digest) in self.originated
                self.demand(genuine, f"{agent} has {message.id} of {message.sender}, which was never sent to it")

    @staticmethod
    def _sender(host: Host, digest: str) -> str:
        return inspect(host.files.contents[digest], max_bytes=10**6).sender
