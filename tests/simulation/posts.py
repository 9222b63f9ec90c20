"""Rooms between hosts, and the rsync that carries what lies in them: late, again, or never, whatever links there are.

room.transmit ──► way.out ═══ carried ═══► way.there ──► room.look ──► heard      (a `Way` for each direction)
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from simulation.witness import Exchange
from simulation.world import World
from trishula.protocol import frames

CARRIED = (frames.Deliver, frames.Ack, frames.Receipts, frames.Defer)
READ_AGAIN = 20.0
"""Seconds that a file lies after it was read: who starts anew within them reads it again."""
LOOK_WITHIN = 0.25
FAILS_FOR = 2.0
"""Seconds at most until rsync is tried again."""


class Machine(Protocol):
    """A host, as rsync knows it: it need not run a node, unless that is who runs rsync."""

    full: bool
    removed: bool

    @property
    def awake(self) -> bool: ...

    @property
    def running(self) -> bool: ...


class Process(Protocol):
    """Who reads and writes."""

    dead: bool

    def later(self, delay: float, action: Callable[[], None]) -> None: ...

    def posted(self, room: Room, frame: frames.MeshFrame) -> None:
        """This lay in a file that was not seen before."""


@dataclass(order=True)
class File:
    """One frame. Names sort by the life of who wrote it, which is a random number, and then in order."""

    name: tuple[int, int]
    seq: int | None = field(compare=False)
    """Of the mail in it; None for an answer."""
    data: bytes = field(compare=False)


class Rsync:
    """All that is carried. `machines` are the hosts, `runs` who runs rsync for a pair: it pushes and pulls."""

    def __init__(self, world: World, machines: Mapping[str, Machine], runs: Mapping[frozenset[str], str]) -> None:
        self.world = world
        self.machines = machines
        self.slowest = 0.5
        """Seconds that a file lies at most before it is carried, if all is well."""
        self.loses = 0.0
        """The share of files that can't be written."""
        self.broken: dict[frozenset[str], int] = {}
        """How many troubles keep rsync from carrying anything between two hosts."""
        self.spoilt: dict[frozenset[str], int] = {}
        """How many keep them from writing to their rooms."""
        self.carried = 0
        self._runs = runs
        self._ways = {(pair, source): Way(self, pair, source) for pair in runs for source in sorted(pair)}
        self._made = 0

    def pairs(self) -> list[frozenset[str]]:
        return list(self._runs)

    def runs(self, pair: frozenset[str]) -> str:
        return self._runs[pair]

    def peers(self, node: str) -> list[str]:
        """Those with whom a node has rooms."""
        return [peer for pair in self._runs if node in pair for peer in pair - {node}]

    def way(self, source: str, target: str) -> Way:
        return self._ways[frozenset((source, target)), source]

    def works(self, pair: frozenset[str]) -> bool:
        runner = self.machines[self.runs(pair)]
        return runner.running and not self.broken.get(pair) and all(self.machines[name].awake for name in pair)

    def writes(self, source: str, pair: frozenset[str]) -> bool:
        fits = not self.spoilt.get(pair) and not self.machines[source].full
        return fits and not self.world.chance(self.loses)

    def heal(self) -> None:
        self.loses = 0.0
        self.broken.clear()
        self.spoilt.clear()

    def number(self) -> int:
        """Of a post, unlike that of any connection."""
        self._made -= 1
        return self._made


class Way:
    """From one host to another: what lies here for it, and what lies there. It outlives the nodes at both ends."""

    def __init__(self, rsync: Rsync, pair: frozenset[str], source: str) -> None:
        self.reader: Room | None = None
        self.there: list[File] = []
        """By their names."""
        self._rsync = rsync
        self._pair = pair
        self._source = source
        self._out: list[File] = []
        self._under_way = False

    def put(self, file: File) -> None:
        """Where a file can't be written, its frame is lost."""
        if self._rsync.writes(self._source, self._pair):
            self._out.append(file)
            self._hurry(self._rsync.slowest)

    def remove(self, wanted: Callable[[File], bool]) -> None:
        """Unless it has been carried."""
        self._out = [file for file in self._out if not wanted(file)]

    def _hurry(self, within: float) -> None:
        if not self._under_way:
            self._under_way = True
            self._rsync.world.after(self._rsync.world.random.uniform(0.01, within), self._carry)

    def _carry(self) -> None:
        """In the order of their names. What was interrupted goes on where it was."""
        self._under_way = False
        rsync = self._rsync
        if not self._out or any(rsync.machines[name].removed for name in self._pair):
            return
        if not rsync.works(self._pair):
            self._hurry(FAILS_FOR)
            return
        whole = not rsync.world.chance(0.1)
        some = self._out if whole else self._out[: rsync.world.random.randrange(len(self._out))]
        self._out = self._out[len(some) :]
        rsync.carried += len(some)
        for file in some:
            insort(self.there, file)
        if self._out:
            self._hurry(FAILS_FOR)
        if self.reader is not None:
            self.reader.hurry()


class Room:
    """A node's room for a peer, in one of its lives: what a former one wanted carried, and was not, it takes away."""

    def __init__(self, process: Process, rsync: Rsync, node: str, peer: str) -> None:
        self.peer = peer
        self.exchange = Exchange(peer, rsync.number(), by_post=True)
        self._process = process
        self._rsync = rsync
        self._out = rsync.way(node, peer)
        self._in = rsync.way(peer, node)
        self._life = rsync.world.random.getrandbits(32)
        self._count = 0
        self._seen: dict[tuple[int, int], float] = {}
        self._out.remove(lambda _: True)
        self._in.reader = self
        self.hurry()

    def transmit(self, frame: frames.Frame) -> None:
        self._count += 1
        seq = frame.seq if isinstance(frame, frames.Deliver) else None
        self._out.put(File((self._life, self._count), seq, frames.encode(frame)))

    def close(self) -> None:
        """Its mail goes another way; answers are still carried."""
        self._out.remove(lambda file: file.seq is not None)

    def withdraw(self, seqs: tuple[int, ...]) -> None:
        self._out.remove(lambda file: file.seq in seqs)

    def hurry(self) -> None:
        """There may be something to read."""
        self._process.later(self._rsync.world.random.uniform(0.0, LOOK_WITHIN), self._look)

    def _look(self) -> None:
        now = self._rsync.world.now
        old = {name for name, since in self._seen.items() if now - since > READ_AGAIN}
        self._in.there = [file for file in self._in.there if file.name not in old]
        for file in list(self._in.there):
            if self._process.dead:
                return
            if file.name not in self._seen:
                self._seen[file.name] = now
                frame = frames.decode_peer(file.data)
                assert isinstance(frame, CARRIED)
                self._process.posted(self, frame)
                if isinstance(frame, frames.Ack):
                    self.withdraw((frame.seq,))
