"""The engine in its node: events go in, and each effect goes to whom it concerns."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

from trishula.node import queries, systemd
from trishula.node.config import Config
from trishula.node.dialer import Dialer
from trishula.node.jikoku import Jikoku, Submitter
from trishula.node.links import LinkWire
from trishula.node.logs import Bounded
from trishula.node.rooms import Room
from trishula.node.steps import Steps
from trishula.node.store import Store
from trishula.node.wire import now
from trishula.protocol import effects, frames
from trishula.protocol.engine import Engine
from trishula.protocol.envelope import State
from trishula.protocol.errors import SendError
from trishula.protocol.frames import Introduction
from trishula.protocol.message import Message
from trishula.protocol.records import Adopt, Entry, Found, Progress, Result
from trishula.protocol.routes import LOOPBACK

_EXCUSED_S = 180.0
"""Seconds that a peer has to come back after an orderly stop, or to come at all: an installation goes host by host."""

log = logging.getLogger(__name__)


class Listener(Protocol):
    """A connection of an agent."""

    @property
    def receiving(self) -> bool:
        """Whether it gets the agent's messages as they arrive."""

    def progressed(self, progress: Progress) -> None: ...

    def arrived(self, entry: Entry) -> None: ...

    def handled(self, entry: Entry) -> None:
        """It is read: not to be handed out any more."""


class Asker(Protocol):
    """Who said that a message is done: hears what came of it."""

    def answered(self, found: Found | SendError) -> None: ...


class Filer(Protocol):
    """Who writes the mailbox files."""

    def wake(self) -> None:
        """There are files to be written."""

    def bounced(self) -> None:
        """A sender is to be told in a file."""

    def progressed(self) -> None:
        """A sender may want a receipt in a file."""

    def handled(self, entries: Sequence[Entry]) -> None:
        """These are read: their files leave the inbox."""


class Hub:
    """Carries out effects. Everything here runs on the event loop."""

    def __init__(self, config: Config, store: Store, filer: Filer, software: str) -> None:
        self.introduction = Introduction(
            node=config.node,
            incarnation=store.incarnation,
            software=software,
            max_message_bytes=config.limits.max_message_bytes,
            window_bytes=config.limits.window_bytes,
        )
        self.engine = Engine(
            config.node,
            config.directory(),
            config.credentials.keyring,
            config.limits,
            {peer.name: peer.always_on for peer in config.peers.values()},
            random.SystemRandom().random,
            always_on=config.always_on,
        )
        self.dialers: dict[str, Dialer] = {}
        """By peer that this side dials."""
        self.address_of: dict[str, str] = {}
        """Where each peer that dials us came from when it was linked last."""
        self.links: dict[int, LinkWire] = {}
        self.rooms: dict[int, Room] = {}
        """The posts, by their negative numbers."""
        self.jikoku = None if config.jikoku_log is None else Jikoku(config.jikoku_log)
        journal = systemd.journal()
        self._steps = None if journal is None else Steps(journal)
        self.since: dict[str, int] = {}
        """When the link to each node last came up or went down, in ms since 1970."""
        self._excused = dict.fromkeys(config.peers, time.monotonic() + _EXCUSED_S)
        """Until when each peer may be unlinked without a word: it has said that it stops, or was not linked yet."""
        self._config = config
        self._receipts_for = {agent.name for agent in config.agents.values() if agent.receipts}
        self._store = store
        self._filer = filer
        self._listeners: dict[str, set[Listener]] = defaultdict(set)
        self._last_link = LOOPBACK
        self._warnings = Bounded(log)
        self._timer: asyncio.TimerHandle | None = None
        self._loads: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin with what the store holds."""
        if self.jikoku is not None:
            self.jikoku.start()
        self._store.start(self._committed, self._failed)
        for number, room in self.rooms.items():
            self.engine.post(now(), number, room.peer)
        self._carry_out(self.engine.start(now()))

    def stop(self) -> None:
        """Put on paper what is still to be written."""
        if self.jikoku is not None:
            self.jikoku.stop()

    # ------------------------------------------------------------ agents

    def attach(self, agent: str, listener: Listener) -> None:
        self._listeners[agent].add(listener)

    def detach(self, agent: str, listener: Listener) -> None:
        self._listeners[agent].discard(listener)

    def attached(self, agent: str) -> int:
        """How many connections get this agent's messages as they arrive."""
        return sum(listener.receiving for listener in self._listeners[agent])

    def submit(self, submitter: Submitter, message: Message, ttl_ms: int | None, *, begun: float | None = None) -> None:
        """`begun` is when the sender called, on the monotonic clock; now, if it is not given."""
        if self.jikoku is not None:
            begun = now().mono if begun is None else begun
            submitter = self.jikoku.timed(submitter, message, begun, self.engine.route)
        self._carry_out(self.engine.submit(now(), submitter, message, ttl_ms))

    def probe(self, submitter: Submitter, message: Message, node: str, ttl_ms: int, *, by_post: bool = False) -> None:
        self._carry_out(self.engine.probe(now(), submitter, message, node, ttl_ms, by_post=by_post))

    def done(self, asker: Asker | None, agent: str, message_id: str, sender: str | None = None) -> None:
        self._carry_out(self.engine.done(now(), asker, agent, message_id, sender))

    def adopt(self, record: Adopt) -> None:
        """A message was found in an inbox that nobody has sent here."""
        self._carry_out(self.engine.adopt(now(), record))

    # ------------------------------------------------------------ links

    def link_up(self, wire: LinkWire, peer: Introduction) -> int:
        self._last_link += 1
        self.links[self._last_link] = wire
        moment = now()
        self.since[peer.node] = moment.wall
        self._excused.pop(peer.node, None)
        log.info("link to %s up (%s, %s)", peer.node, wire.link.side.value, peer.software)
        self._carry_out(self.engine.link_up(moment, self._last_link, peer))
        return self._last_link

    def link_down(self, number: int) -> None:
        wire = self.links.pop(number)
        moment = now()
        if wire.orderly:
            self._excused[wire.link.peer] = moment.mono + _EXCUSED_S
        self._carry_out(self.engine.link_down(moment, number))
        if not self.engine.linked(wire.link.peer):
            self.since[wire.link.peer] = moment.wall

    def excused(self, peer: str, moment: float) -> bool:
        """Whether a peer may be unlinked at that moment, by the monotonic clock, and nothing is wrong."""
        return moment < self._excused.get(peer, moment)

    def heard(self, number: int, frame: frames.MeshFrame) -> None:
        self._carry_out(self.engine.receive(now(), number, frame))

    def posted(self, number: int) -> None:
        peer = self.links[number].link.peer
        for room in self.rooms.values():
            if room.peer == peer:
                room.fetch()

    def suspected(self, number: int, *, suspect: bool) -> None:
        log.info("link to %s %s", self.links[number].link.peer, "is silent" if suspect else "speaks again")
        self._carry_out(self.engine.suspected(now(), number, suspect=suspect))

    def measured(self, number: int, offset_ms: float, rtt_ms: float) -> None:
        self._carry_out(self.engine.measured(now(), number, offset_ms, rtt_ms))

    def present(self, agents: Mapping[str, frames.Presence], *, storing: bool, full: str) -> None:
        self._carry_out(self.engine.present(now(), agents, storing=storing, full=full))

    def tell(self, node: str, frame: frames.Frame) -> None:
        if (wire := self.link_to(node)) is not None:
            wire.transmit(frame)

    def link_to(self, node: str) -> LinkWire | None:
        """The newest link to a node, if it is up."""
        return next((wire for wire in reversed(self.links.values()) if wire.link.peer == node), None)

    # ------------------------------------------------------------ store

    def _committed(self, done: list[tuple[int, Sequence[Result]]]) -> None:
        if self._steps is not None:
            self._steps.committed(done)
        self._carry_out(self.engine.committed(now(), done))

    def _failed(self, batches: list[int], error: SendError) -> None:
        if self._steps is not None:
            self._steps.failed(batches)
        self._carry_out(self.engine.failed(now(), batches, error))

    def _load(self, effect: effects.Load) -> None:
        task = asyncio.create_task(self._load_and_hand_over(effect), name=f"load for {effect.dest}")
        self._loads.add(task)
        task.add_done_callback(self._loads.discard)
        task.add_done_callback(_raise_if_failed)

    async def _load_and_hand_over(self, effect: effects.Load) -> None:
        pending = partial(queries.pending, node=self._config.node, load=effect)
        rows, complete = await self._store.read_at_last(pending, f"mail for {effect.dest}")
        self._carry_out(self.engine.loaded(now(), effect, rows, complete=complete))

    # ------------------------------------------------------------ effects

    def _carry_out(self, todo: Iterable[effects.Effect]) -> None:  # noqa: C901, PLR0912 - an arm for each effect
        for effect in todo:
            match effect:
                case effects.Commit(batch, records):
                    if self._steps is not None:
                        self._steps.begun(batch, records)
                    self._store.submit(batch, records)
                case effects.Transmit(link, frame):
                    if (way := self.links.get(link) or self.rooms.get(link)) is not None:
                        way.transmit(frame)
                case effects.Posting(link, is_open):
                    self.rooms[link].post(is_open=is_open)
                case effects.Withdraw(link, seqs):
                    self.rooms[link].withdraw(seqs)
                case effects.Arrived(entry):
                    self._filer.wake()
                    for listener in self._listeners[entry.key.to]:
                        listener.arrived(entry)
                case effects.Progressed(progress, was):
                    if State.UNCONFIRMED in (was, progress.state) or progress.state is State.REFUSED:
                        self._filer.bounced()
                    if self.jikoku is not None and was is not State.DELIVERED:
                        self.jikoku.settled(progress)
                    if progress.key.sender in self._receipts_for:
                        self._filer.progressed()
                    for listener in self._listeners[progress.key.sender]:
                        listener.progressed(progress)
                case effects.Stored(ref, _, _, rows):
                    self._filer.wake()
                    if any(row.key.sender in self._receipts_for for row in rows):
                        self._filer.progressed()
                    ref.stored(effect)  # type: ignore[attr-defined]  # what submit and probe take
                case effects.Rejected(ref):
                    ref.rejected(effect)  # type: ignore[attr-defined]  # likewise
                case effects.Handled(entries):
                    self._filer.handled(entries)
                    for entry in entries:
                        for listener in self._listeners[entry.key.to]:
                            listener.handled(entry)
                case effects.Answered(ref, found):
                    ref.answered(found)  # type: ignore[attr-defined]  # what `done` takes
                case effects.Load():
                    self._load(effect)
                case effects.Redial():
                    for dialer in self.dialers.values():
                        dialer.redial()
                case effects.Disconnect(link, code, reason):
                    if link in self.links:
                        self.links[link].hang_up(code, reason)
                case effects.Warn(text):
                    self._warnings.warning(text)
        self._set_timer()

    def _set_timer(self) -> None:
        due = self.engine.deadline()
        if self._timer is not None:
            if due is not None and self._timer.when() <= due:
                return  # early is fine: tick looks at the clock itself
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = asyncio.get_running_loop().call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._carry_out(self.engine.tick(now()))


def _raise_if_failed(task: asyncio.Task[None]) -> None:
    """Into the loop's exception handler, which ends the node: nothing may fail unheard."""
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error
