"""One engine on a bench: its disk, its clock, and what it wanted done."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TypeVar

from simulation.store import Disk
from trishula.protocol import frames
from trishula.protocol.clock import Instant
from trishula.protocol.directory import Directory
from trishula.protocol.effects import Commit, Effect, Load, Transmit, Warn
from trishula.protocol.engine import Engine
from trishula.protocol.envelope import Envelope, Receipt
from trishula.protocol.errors import SendError
from trishula.protocol.frames import Introduction
from trishula.protocol.limits import Limits
from trishula.protocol.message import Message
from trishula.protocol.signing import Keyring, PairKey, envelope_mac, receipt_mac
from unit.letters import WALL

NODES = ("agni", "mac", "rushabdev")
DIRECTORY = Directory({"agni": "agni", "mac": "mac", "dhyana": "mac", "rushabdev": "rushabdev"}, {})
LIMITS = Limits()

_E = TypeVar("_E")


def pair_key(one: str, other: str, kid: str = "1") -> PairKey:
    return PairKey(kid, f"{min(one, other)}-{max(one, other)}-{kid}".encode())


def keyring(node: str) -> Keyring:
    return Keyring({peer: [pair_key(node, peer)] for peer in NODES if peer != node})


def introduction(node: str, window: int = LIMITS.window_bytes) -> Introduction:
    return Introduction(
        node=node, incarnation="1", software="test", max_message_bytes=LIMITS.max_message_bytes, window_bytes=window
    )


def sealed(envelope: Envelope, key: PairKey | None = None) -> frames.SignedEnvelope:
    """Signed as its origin would, or with `key`."""
    key = key or pair_key(envelope.origin, envelope.dest)
    return frames.SignedEnvelope.seal(envelope, key.kid, envelope_mac(key, envelope))


def signed(receipt: Receipt, key: PairKey | None = None) -> frames.SignedReceipt:
    key = key or pair_key(receipt.origin, receipt.dest)
    return frames.SignedReceipt.seal(receipt, key.kid, receipt_mac(key, receipt))


class Bench:
    """The engine of `node`. Loads are answered at once; commits happen when a test says so."""

    def __init__(
        self,
        node: str,
        *,
        disk: Disk | None = None,
        limits: Limits = LIMITS,
        random: Iterable[float] = itertools.repeat(0.5),
        nodes: Iterable[str] = NODES,
    ) -> None:
        self.disk = disk or Disk()
        self.mono, self.wall = 500.0, WALL
        self.effects: list[Effect] = []
        """All that was wanted, in order."""
        self.commits: list[Commit] = []
        """Not yet committed."""
        peers = {peer: peer != "mac" for peer in nodes if peer != node}
        random = iter(random).__next__
        self.engine = Engine(node, DIRECTORY, keyring(node), limits, peers, random, always_on=node != "mac")
        self.take(self.engine.start(self.now))
        self.commit_all()

    @property
    def now(self) -> Instant:
        return Instant(self.mono, self.wall)

    def take(self, effects: Iterable[Effect]) -> list[Effect]:
        """Carry out what a bench can; returns all effects, those that followed from it included."""
        seen: list[Effect] = []
        for effect in effects:
            seen.append(effect)
            self.effects.append(effect)
            if isinstance(effect, Commit):
                self.commits.append(effect)
            elif isinstance(effect, Load):
                rows, complete = self.disk.pending(effect)
                seen += self.take(self.engine.loaded(self.now, effect, rows, complete=complete))
        return seen

    # ------------------------------------------------------------ events

    def submit(self, message: Message, ref: object = "ref", ttl: int | None = None) -> list[Effect]:
        return self.take(self.engine.submit(self.now, ref, message, ttl))

    def link_up(self, link: int, peer: str, window: int = LIMITS.window_bytes) -> list[Effect]:
        """The link comes up, and the clocks agree; what that asks of the store is committed, if nothing else waits."""
        idle = not self.commits
        effects = self.take(self.engine.link_up(self.now, link, introduction(peer, window)))
        effects += self.take(self.engine.measured(self.now, link, 0.0, 1.0))
        return effects + (self.commit_all() if idle else [])

    def link_down(self, link: int) -> list[Effect]:
        return self.take(self.engine.link_down(self.now, link))

    def hear(self, link: int, frame: frames.MeshFrame) -> list[Effect]:
        return self.take(self.engine.receive(self.now, link, frame))

    def deliver(self, link: int, *envelopes: frames.SignedEnvelope, seq: int = 1) -> list[Effect]:
        return self.hear(link, frames.Deliver(seq=seq, envelopes=list(envelopes)))

    def commit(self) -> list[Effect]:
        """All that waits reaches the disk, in one transaction, and the engine hears of it."""
        waiting, self.commits = self.commits, []
        done = [(batch.batch, self.disk.commit(*batch.records)) for batch in waiting]
        return self.take(self.engine.committed(self.now, done))

    def commit_all(self) -> list[Effect]:
        """As `commit`, until nothing more waits."""
        effects: list[Effect] = []
        while self.commits:
            effects += self.commit()
        return effects

    def fail(self) -> list[Effect]:
        """The disk is full: nothing of what waits happens."""
        waiting, self.commits = self.commits, []
        error = SendError("the disk is full", code="store_full")
        return self.take(self.engine.failed(self.now, [batch.batch for batch in waiting], error))

    def sleep(self, seconds: float) -> list[Effect]:
        self.mono += seconds
        self.wall += round(seconds * 1000)
        return self.take(self.engine.tick(self.now))


def of(effects: Iterable[Effect], kind: type[_E]) -> list[_E]:
    return [effect for effect in effects if isinstance(effect, kind)]


def said(effects: Iterable[Effect], kind: type[_E], link: int | None = None) -> list[_E]:
    """The frames of a kind that were sent."""
    sent = (effect for effect in of(effects, Transmit) if link in (None, effect.link))
    return [effect.frame for effect in sent if isinstance(effect.frame, kind)]


def offered(effects: Iterable[Effect], link: int | None = None) -> list[str]:
    """The ids of the envelopes that were offered, in order."""
    return [envelope.id for frame in said(effects, frames.Deliver, link) for envelope in frame.envelopes]


def warnings(effects: Iterable[Effect]) -> str:
    return "\n".join(warning.text for warning in of(effects, Warn))


def converse(one: Bench, other: Bench, link: int = 1) -> None:
    """Bring up a link between two benches and carry its frames, encoded, until both have said all."""
    queues = {one: other.link_up(link, one.engine.node), other: one.link_up(link, other.engine.node)}
    while any(queues.values()) or one.commits or other.commits:
        for hearer, speaker in ((one, other), (other, one)):
            heard, queues[hearer] = queues[hearer], []
            for effect in of(heard, Transmit):
                frame = frames.decode_peer(frames.encode(effect.frame))
                assert isinstance(frame, frames.MeshFrame)
                queues[speaker] += hearer.hear(effect.link, frame)
            queues[speaker] += hearer.commit_all()
