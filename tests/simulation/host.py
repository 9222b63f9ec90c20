"""A machine with a disk that stays and a process that comes and goes: the shell around the engine, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulation.files import ARCHIVE, INBOX, File, Mailboxes
from simulation.network import End, Network
from simulation.posts import CARRIED, Room, Rsync
from simulation.store import Disk
from simulation.witness import Exchange, Submission, Witness
from simulation.world import World
from trishula.protocol import effects, frames, link
from trishula.protocol.backoff import full_jitter
from trishula.protocol.clock import Instant
from trishula.protocol.delivery import Row
from trishula.protocol.directory import Directory
from trishula.protocol.engine import Engine
from trishula.protocol.envelope import Key, State
from trishula.protocol.errors import SendError
from trishula.protocol.frames import Introduction
from trishula.protocol.limits import Limits
from trishula.protocol.link import Link, Side
from trishula.protocol.message import Message, inspect
from trishula.protocol.records import Adopt
from trishula.protocol.signing import Keyring

if TYPE_CHECKING:
    from simulation.agents import Agent

TICK = 1e-6
"""Added to each deadline, so that a rounded float is never a little early for ever."""
LOAD_TAKES = 0.003
"""Seconds at most until a read begins, and until the event loop has its rows."""
FILES_TAKE = 0.004
"""Seconds at most for each step on the way to a mailbox file: written, synced, marked."""
LOOKS_AGAIN_AFTER = 1.0
"""Seconds after which files that could not be written, or marked as read, are tried again."""


@dataclass(frozen=True)
class Wiring:
    """What `node.toml` and the credentials say."""

    node: str
    dials: tuple[str, ...]
    peers: Mapping[str, bool]
    """The other nodes, and whether each is always on."""
    always_on: bool
    agents: tuple[str, ...]
    directory: Directory
    keyring: Keyring
    limits: Limits


class Host:
    """What is left when the process dies: the disk, the files, the clock, and the troubles of the machine."""

    def __init__(self, world: World, network: Network, rsync: Rsync, witness: Witness, wiring: Wiring) -> None:
        self.world = world
        self.network = network
        self.rsync = rsync
        self.witness = witness
        self.wiring = wiring
        self.name = wiring.node
        self.disk = Disk()
        self.files = Mailboxes()
        self.agents: dict[str, Agent] = {}
        self.process: NodeProcess | None = None
        self.removed = False
        self.full = False
        """The disk takes nothing."""
        self.sync_takes = 0.002
        """Seconds that a commit takes at most."""
        self.news_takes = 0.001
        """Seconds at most until the event loop hears of a commit."""
        self.fuse: tuple[str, int] | None = None
        """(point, n): the process dies when it passes that point for the n-th time."""
        self.skew = 0
        """ms that its clock is ahead, as any clock is by a little."""
        self.error = 0
        """ms that its clock is ahead because somebody set it wrong."""
        self._slept = 0.0
        self._asleep_since: float | None = None
        self._incarnation = 1
        self._is_new = False
        """Whether the store does not know yet what the mailboxes hold."""

    @property
    def slept(self) -> float:
        """Seconds in which its monotonic clock stood still."""
        return self._slept + (0.0 if self._asleep_since is None else self.world.now - self._asleep_since)

    @property
    def awake(self) -> bool:
        return self._asleep_since is None

    @property
    def running(self) -> bool:
        """Whether a node lives here, and moves."""
        return self.process is not None and not self.process.frozen

    def wall(self) -> int:
        return self.witness.now() + self.skew + self.error

    @property
    def incarnation(self) -> str:
        return f"{self.name}-{self._incarnation}"

    def boot(self) -> None:
        if self.process is None and not self.removed:
            self.world.tell(self.name, "boots")
            if self._is_new:
                self._adopt()
            self.process = NodeProcess(self)
            self.network.listeners[self.name] = self.process
            self.process.call(self.process.start)
            for agent in self.agents.values():
                agent.attach()

    def crash(self, *, power: bool) -> None:
        """The process is gone, with all that it had in memory; with the power, nobody says goodbye to its peers."""
        self.wake()  # which may be its end, if it has a fuse
        if self.process is not None:
            self.world.tell(self.name, "loses power" if power else "is killed")
            process, self.process = self.process, None
            del self.network.listeners[self.name]
            process.die(power=power)
            if power:
                self.files.power_cut(self.world.random)

    def fall_asleep(self) -> None:
        """The lid is closed: nothing runs, and the monotonic clock stands."""
        if self.process is not None and self._asleep_since is None:
            self.process.freeze()
            self._asleep_since = self.world.now

    def wake(self) -> None:
        if self._asleep_since is not None:
            self._slept, self._asleep_since = self.slept, None
            if self.process is not None:
                self.process.thaw()

    def restart(self, wiring: Wiring) -> None:
        """With another configuration. Where it is down, it finds that when it boots."""
        self.wiring = wiring
        if self.process is not None:
            self.crash(power=False)
            self.boot()

    def restore(self, backup: Disk) -> None:
        """The store is replaced by another one, older or empty; the mailboxes are as they are."""
        self.crash(power=False)
        self.world.tell(self.name, "is restored from a backup")
        self.witness.restored(self, self.disk, backup)
        self.disk = backup
        self._incarnation += 1
        self._is_new = True

    def _adopt(self) -> None:
        """All that lies in the mailboxes has arrived once (rule 14)."""
        limits = self.wiring.limits
        for (agent, digest), box in self.files.boxes.items():
            payload = self.files.contents[digest]
            message = inspect(payload, max_bytes=limits.max_message_bytes)
            read = box == ARCHIVE
            record = Adopt(
                key=Key(message.sender, message.id, agent),
                digest=digest,
                origin=self.wiring.directory.home(message.sender) or "",
                expires_at=max(self.wall(), self.witness.now()) + limits.max_ttl + 2 * limits.max_skew,
                at=self.wall(),
                read=read,
                payload=None if read else payload,
                file="" if read else f"{message.id}.json",
            )
            self.witness.committed(self, [record], self.disk.commit(record))
        self._is_new = False

    def spark(self, point: str) -> None:
        """The process passes a point at which it may be meant to die."""
        if self.fuse is not None and self.fuse[0] == point:
            self.fuse = (point, self.fuse[1] - 1)
            if self.fuse[1] <= 0:
                self.fuse = None
                self.crash(power=self.world.chance(0.5))
                self.world.after(self.world.random.uniform(0.01, 3.0), self.boot)


@dataclass(eq=False)
class Wire:
    """A connection with a `Link` on it."""

    end: End
    link: Link
    exchange: Exchange
    number: int | None = None
    suspect: bool = False


class NodeProcess:
    """One life of a node."""

    def __init__(self, host: Host) -> None:
        wiring = host.wiring
        self.host = host
        self.world = host.world
        self.witness = host.witness
        self.engine = Engine(
            host.name,
            wiring.directory,
            wiring.keyring,
            wiring.limits,
            wiring.peers,
            self.world.random.random,
            always_on=wiring.always_on,
        )
        self.sockets: list[End] = []
        self.dead = False
        self.idle = True
        """Whether the writer has nothing to do."""
        self._me = Introduction(
            node=host.name,
            incarnation=host.incarnation,
            software="simulation",
            max_message_bytes=wiring.limits.max_message_bytes,
            window_bytes=wiring.limits.window_bytes,
        )
        self._mono_zero = self.world.random.randrange(1, 10**6) + host.slept
        self._wires: dict[End, Wire] = {}
        self._links: dict[int, Wire] = {}
        self._said: dict[str, list[str]] = {}
        """Whom each linked node last said that it is linked to."""
        self._rooms: dict[int, Room] = {}
        """By the negative numbers of their posts."""
        self._last_link = 0
        self._attempts = dict.fromkeys(wiring.dials, 0)
        self._to_commit: list[effects.Commit] = []
        self._news_at = 0.0
        self._alarm = float("inf")
        self._stirred = True
        """Whether something may be due earlier than it was."""
        self._frozen: list[Callable[[], None]] | None = None
        self._freezes = 0
        self._filing = False
        self._first_files = True
        """Whether a former life may have written what is not marked as written."""

    # ------------------------------------------------------------ life

    def call(self, action: Callable[[], None]) -> None:
        """Run this on the event loop: at once, when the process thaws, or never."""
        if self._frozen is not None:
            self._frozen.append(action)
        elif not self.dead:
            action()
            if self._stirred and not self.dead:
                self._stirred = False
                self.witness.looks_at(self)
                self._set_alarm()

    def later(self, delay: float, action: Callable[[], None]) -> None:
        self.world.after(delay, lambda: self.call(action))

    def freeze(self) -> None:
        self._freezes += 1
        if self._frozen is None:
            self.world.tell(self.host.name, "freezes")
            self._frozen = []

    def thaw(self) -> None:
        """Once for each `freeze`."""
        self._freezes -= 1
        if self._frozen is not None and self._freezes <= 0:
            self.world.tell(self.host.name, "thaws")
            missed, self._frozen = self._frozen, None
            for action in missed:
                self.call(action)

    def thaw_for_good(self) -> None:
        while self._frozen is not None:
            self.thaw()

    def die(self, *, power: bool) -> None:
        self.dead = True
        self._frozen = None
        for end in list(self.sockets):
            if power:
                end.cut(tell=False)
            end.shutdown()
            end.lose()

    def start(self) -> None:
        for number, peer in enumerate(filter(self.knows, self.host.rsync.peers(self.host.name)), 1):
            self._rooms[-number] = Room(self, self.host.rsync, self.host.name, peer)
            self.engine.post(self._now(), -number, peer)
        self._carry_out(self.engine.start(self._now()))
        for peer in self.host.wiring.dials:
            self.dial(peer)
        self.wake_filer()
        self._look_for_read()

    def linked(self) -> list[str]:
        return [wire.link.peer for wire in self._links.values()]

    def reaches(self, node: str) -> bool:
        """Whether there is a way over links to a node, direct or over one relay, as far as can be known here."""
        linked = {wire.link.peer for wire in self._links.values() if not wire.suspect}
        return node in linked or any(node in self._said.get(relay, ()) for relay in linked)

    @property
    def frozen(self) -> bool:
        return self._frozen is not None

    def _now(self) -> Instant:
        return Instant(self.world.now - self.host.slept + self._mono_zero, self.host.wall())

    def _set_alarm(self) -> None:
        dues = [self.engine.deadline(), *(wire.link.deadline() for wire in self._wires.values())]
        due = min([due for due in dues if due is not None], default=float("inf"))
        due += self.host.slept - self._mono_zero + TICK
        if due < self._alarm:
            self._alarm = due
            self.world.at(max(due, self.world.now), self._ring)

    def _ring(self) -> None:
        self.call(self._tick)

    def _tick(self) -> None:
        self._alarm = float("inf")
        self._stirred = True
        now = self._now()
        self._carry_out(self.engine.tick(now))
        for wire in list(self._wires.values()):
            if not self.dead:
                self._follow(wire, wire.link.tick(now))

    # ------------------------------------------------------------ agents

    def submit(self, submission: Submission, message: Message, ttl: int | None) -> None:
        self.call(lambda: self._carry_out(self.engine.submit(self._now(), submission, message, ttl)))

    def probe(self, submission: Submission, message: Message, node: str, ttl: int) -> None:
        by_post = submission.by_post
        self.call(
            lambda: self._carry_out(self.engine.probe(self._now(), submission, message, node, ttl, by_post=by_post))
        )

    def done(self, agent: Agent | NodeProcess, name: str, key: Key) -> None:
        self.call(lambda: self._carry_out(self.engine.done(self._now(), agent, name, key.id, key.sender)))

    def present(self, full: str) -> None:
        self.call(lambda: self._carry_out(self.engine.present(self._now(), {}, storing=not full, full=full)))

    # ------------------------------------------------------------ links

    def knows(self, peer: str) -> bool:
        return peer in self.host.wiring.peers

    def dial(self, peer: str) -> None:
        self.host.network.dial(self, self.host.name, peer, lambda end: self._dialled(peer, end))

    def _dialled(self, peer: str, end: End | None) -> None:
        if end is None:
            self._redial(peer)
        else:
            wire = self._hold(end, Side.DIALLER, peer)
            self._follow(wire, wire.link.start())

    def accept(self, end: End, peer: str) -> None:
        self._hold(end, Side.LISTENER, peer)

    def _hold(self, end: End, side: Side, peer: str) -> Wire:
        self._stirred = True
        wire = self._wires[end] = Wire(end, Link(side, self._me, peer, self._now()), Exchange(peer, end.number))
        return wire

    def _redial(self, peer: str) -> None:
        if peer in self._attempts and not any(wire.link.peer == peer for wire in self._wires.values()):
            pause = full_jitter(self._attempts[peer], base=0.1, cap=2.0, random=self.world.random.random())
            self._attempts[peer] += 1
            self.later(pause, lambda: self.dial(peer))

    def heard(self, end: End, data: bytes) -> None:
        if (wire := self._wires.get(end)) is not None:
            now = self._now()
            self._follow(wire, wire.link.bytes_arrived(now))
            self._follow(wire, wire.link.receive(now, data))

    def lost(self, end: End) -> None:
        wire = self._wires.pop(end, None)
        if wire is None:
            return
        if wire.number is not None:
            self.world.tell(self.host.name, f"link {wire.number} to {wire.link.peer} is down")
            del self._links[wire.number]
            if wire.link.peer not in self.linked():
                self._said.pop(wire.link.peer, None)
            self._carry_out(self.engine.link_down(self._now(), wire.number))
        self._redial(wire.link.peer)

    def _follow(self, wire: Wire, events: list[link.LinkEvent]) -> None:  # noqa: C901 - an arm for each event
        """Carry out what a link wants."""
        for event in events:
            if self.dead:
                return
            match event:
                case link.Transmit(frame):
                    wire.end.send(frames.encode(frame))
                case link.Opened(peer):
                    self._last_link += 1
                    wire.number = self._last_link
                    self._links[wire.number] = wire
                    if peer.node in self._attempts:
                        self._attempts[peer.node] = 0
                    self.world.tell(self.host.name, f"link {wire.number} to {peer.node} is up")
                    self._carry_out(self.engine.link_up(self._now(), wire.number, peer))
                case link.Heard(frame):
                    if isinstance(frame, frames.Deliver):
                        self.witness.heard(self.host, wire.exchange, frame)
                    if isinstance(frame, frames.Topology):
                        self._said[wire.link.peer] = frame.links
                    assert wire.number is not None
                    self._carry_out(self.engine.receive(self._now(), wire.number, frame))
                case link.Suspected(suspect) if wire.number is not None:
                    wire.suspect = suspect
                    self._carry_out(self.engine.suspected(self._now(), wire.number, suspect=suspect))
                case link.Measured(offset, rtt) if wire.number is not None:
                    self._carry_out(self.engine.measured(self._now(), wire.number, offset, rtt), stirs=False)
                case link.Hangup(code, reason):
                    self.world.tell(self.host.name, f"hangs up on {wire.link.peer}: {code} {reason}")
                    wire.end.shutdown()
                    if code == link.CLOSE_SILENT:
                        wire.end.lose()  # nobody would answer a closing handshake

    # ------------------------------------------------------------ posts

    def posted(self, room: Room, frame: frames.MeshFrame) -> None:
        if isinstance(frame, frames.Deliver):
            self.witness.heard(self.host, room.exchange, frame)
        (number,) = (number for number, other in self._rooms.items() if other is room)
        self._carry_out(self.engine.receive(self._now(), number, frame))

    # ------------------------------------------------------------ store

    def _write(self) -> None:
        """Group commit: all that waits goes into the next transaction."""
        if self._to_commit and self.idle:
            self.idle = False
            group, self._to_commit = self._to_commit, []
            self.later(self.world.random.uniform(0.0001, self.host.sync_takes), lambda: self._synced(group))

    def _synced(self, group: list[effects.Commit]) -> None:
        """The disk has it, or has none of it. The event loop hears of that a little later."""
        if self.host.full:
            error = SendError("the disk is full", code="store_full")
            numbers = [batch.batch for batch in group]
            for batch in group:
                self.witness.not_committed(batch.records)
            self._news(lambda: self.engine.failed(self._now(), numbers, error))
        else:
            done = []
            for batch in group:
                results = self.host.disk.commit(*batch.records)
                self.witness.committed(self.host, batch.records, results)
                done.append((batch.batch, results))
            self._news(lambda: self.engine.committed(self._now(), done))
        self.idle = True
        self.host.spark("durable")
        if not self.dead:
            self._write()

    def _news(self, event: Callable[[], list[effects.Effect]]) -> None:
        self._news_at = max(self._news_at, self.world.now + self.world.random.uniform(0.0, self.host.news_takes))
        self.world.at(self._news_at, lambda: self.call(lambda: self._carry_out(event())))

    def _load(self, load: effects.Load) -> None:
        def read() -> None:
            rows, complete = self.host.disk.pending(load)
            self.later(self.world.random.uniform(0.0, LOAD_TAKES), lambda: hand_over(rows, complete=complete))

        def hand_over(rows: list[Row], *, complete: bool) -> None:
            self._carry_out(self.engine.loaded(self._now(), load, rows, complete=complete))

        self.later(self.world.random.uniform(0.0, LOAD_TAKES), read)

    # ------------------------------------------------------------ mailbox files

    def wake_filer(self) -> None:
        """There may be files to write."""
        if not self._filing and self.host.disk.unfiled:
            self._filing = True
            self._a_little_later(self._write_files)

    def _a_little_later(self, step: Callable[[], None]) -> None:
        self.later(self.world.random.uniform(0.0001, FILES_TAKE), step)

    def _write_files(self) -> None:
        host = self.host
        if host.full:
            self.later(LOOKS_AGAIN_AFTER, self._write_files)
            return
        due = list(host.disk.unfiled)
        for key in due:
            (entry,) = (entry for entry in host.disk.entries(key) if entry.outcome is not State.REFUSED)
            file = (key.to, entry.digest)
            if not self._has_written(file):
                self.witness.files(host, key, file)
                host.files.write(file, host.disk.inbox[key], ARCHIVE if entry.outcome is State.READ else INBOX)
                host.agents[key.to].arrived()
        host.spark("filed")
        self._a_little_later(lambda: self._sync_files(due))

    def _has_written(self, file: File) -> bool:
        """What a crash left unmarked is looked for in both boxes before it is written (rule 12)."""
        return self._first_files and file in self.host.files.boxes

    def _sync_files(self, due: list[Key]) -> None:
        self.host.files.sync()
        self.host.spark("filesync")
        self._a_little_later(lambda: self._mark_files(due))

    def _mark_files(self, due: list[Key]) -> None:
        if self.host.full:
            self.later(LOOKS_AGAIN_AFTER, lambda: self._mark_files(due))
            return
        for key in due:
            self.host.disk.unfiled.pop(key, None)
        self._first_files = False
        self._filing = False
        self.host.spark("marked")
        if not self.dead:
            self._look_for_read()
            self.wake_filer()

    def _look_for_read(self) -> None:
        """A file that has left the inbox has been handled; what was handled leaves the inbox."""
        disk, files = self.host.disk, self.host.files
        for key, entries in list(disk.ledger.items()):
            for entry in entries:
                file = (key.to, entry.digest)
                if key in disk.unfiled or file not in files.boxes:
                    continue
                if entry.outcome is State.READ:
                    files.archive(file)
                elif entry.outcome is State.DELIVERED and files.boxes[file] == ARCHIVE:
                    self.done(self, key.to, key)

    def arrived(self) -> None:
        """Something is still to be said to be read."""
        self.later(LOOKS_AGAIN_AFTER, self._look_for_read)

    def noticed(self) -> None:
        """A watcher saw that files were moved."""
        self._a_little_later(self._look_for_read)

    # ------------------------------------------------------------ effects

    def _carry_out(self, todo: list[effects.Effect], *, stirs: bool = True) -> None:  # noqa: C901, PLR0912
        self._stirred = self._stirred or stirs
        for effect in todo:
            if self.host.fuse is not None:
                self.host.spark(type(effect).__name__)
            if self.dead:
                return
            match effect:
                case effects.Commit():
                    self._to_commit.append(effect)
                    self._write()
                case effects.Load():
                    self._load(effect)
                case effects.Transmit(number, frame):
                    if (wire := self._links.get(number)) is not None:
                        self.witness.transmitted(self, wire.exchange, frame)
                        wire.end.send(frames.encode(frame))
                    elif (room := self._rooms.get(number)) is not None and isinstance(frame, CARRIED):
                        self.witness.transmitted(self, room.exchange, frame)
                        room.transmit(frame)
                case effects.Posting(number, is_open):
                    self.world.tell(
                        self.host.name, f"{'opens' if is_open else 'closes'} the post to {self._rooms[number].peer}"
                    )
                    if not is_open:
                        self._rooms[number].close()
                case effects.Withdraw(number, seqs):
                    self._rooms[number].withdraw(seqs)
                case effects.Disconnect(number, code, reason):
                    if (wire := self._links.get(number)) is not None:
                        self.world.tell(self.host.name, f"closes link {number}: {code} {reason}")
                        wire.end.shutdown()
                case effects.Stored():
                    self.witness.stored(self.host, effect)
                case effects.Rejected():
                    self.witness.rejected(self.host, effect)
                case effects.Progressed(progress):
                    self.witness.progressed(self.host, progress)
                case effects.Arrived(entry):
                    self.witness.arrived(self.host, entry)
                    self.wake_filer()
                    if entry.key.to in self.host.agents:
                        self.host.agents[entry.key.to].arrived()
                case effects.Handled(entries):
                    for entry in entries:
                        if (entry.key.to, entry.digest) in self.host.files.boxes:
                            self.host.files.archive((entry.key.to, entry.digest))
                case effects.Answered(reader, found):
                    if isinstance(found, SendError):
                        reader.arrived()  # it will say so again
                case effects.Redial():
                    for wire in [wire for wire in self._wires.values() if wire.link.side is Side.DIALLER]:
                        wire.end.shutdown()
                        wire.end.lose()
                case effects.Warn(text):
                    self.world.tell(self.host.name, f"warns: {text}")
