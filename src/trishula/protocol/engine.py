"""The whole of a node's protocol: events in, effects and the next deadline out.

                        ┌─► origin      what our agents send
                        ├─► custody     what others hold of it
                        ├─► post        what goes by rsync
    events ──► engine ──┼─► recipient   what our agents get        ──► effects
                        ├─► relay       what we hold for others
                        └─► retention   what may be forgotten

Nothing is said of a thing before its own commit (rule 1). Mail for an agent of this node takes the same way, over a
link to itself that never leaves the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from trishula.protocol import frames
from trishula.protocol.clock import Instant
from trishula.protocol.custody import Custody
from trishula.protocol.delivery import Delivery, Row
from trishula.protocol.desk import Desk
from trishula.protocol.directory import Directory
from trishula.protocol.effects import Disconnect, Effect, Load, Redial, Rejected, Transmit, Warn
from trishula.protocol.envelope import Key
from trishula.protocol.errors import SendError
from trishula.protocol.frames import Introduction
from trishula.protocol.limits import Limits
from trishula.protocol.link import CLOSE_REPLACED
from trishula.protocol.message import Message
from trishula.protocol.origin import Origin
from trishula.protocol.post import Post
from trishula.protocol.recipient import Recipient
from trishula.protocol.records import Adopt, Begin, Begun, Result
from trishula.protocol.relay import Relay
from trishula.protocol.retention import Retention
from trishula.protocol.routes import Line
from trishula.protocol.signing import Keyring


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where an unanswered envelope is: `queued`, `out` (offered), `waiting` (deferred), or `stored` beyond the window.

    `route` is the way that it would go now, empty for none. `next_try_s` is for what waits.
    """

    place: str
    route: str
    attempts: int = 0
    waits_for: str = ""
    next_try_s: float | None = None


class Engine:
    """One node. `peers` are the other nodes, and whether each is always on."""

    def __init__(
        self,
        node: str,
        directory: Directory,
        keyring: Keyring,
        limits: Limits,
        peers: Mapping[str, bool],
        random: Callable[[], float],
        *,
        always_on: bool = True,
    ) -> None:
        self.node = node
        self._desk = Desk(node, directory, keyring, limits, peers, random, always_on=always_on)
        self._routes = self._desk.routes
        self._clock = self._desk.clock
        self._origin = Origin(self._desk)
        self._custody = Custody(self._desk)
        self._relay = Relay(self._desk)
        self._recipient = Recipient(self._desk, self._origin, self._custody, self._relay)
        self._desk.loop = self._recipient.loop
        self._post = Post(self._desk, self._custody.review)
        self._retention = Retention(self._desk, self._relay.forgot)
        self._incarnations: dict[str, str] = {}
        self._said = frames.Topology(links=[])

    # ------------------------------------------------------------ life

    def start(self, now: Instant) -> list[Effect]:
        """Begin with what the store holds."""
        self._look(now)
        return [self._desk.insist([Begin()], self._begun)]

    def _begun(self, now: Instant, results: Sequence[Result]) -> list[Effect]:
        (result,) = results
        assert isinstance(result, Begun)
        self._desk.begun = True
        self._recipient.begin(result.unread)
        self._relay.begin(result.held_bytes)
        self._retention.begin(now)
        effects = [*self._origin.begin(now, result.open), self._recipient.catch_up(now)]
        return effects + self._desk.pump_all(now)

    # ------------------------------------------------------------ agents

    def submit(self, now: Instant, ref: object, message: Message, ttl: int | None = None) -> list[Effect]:
        """A local agent's message, to live for `ttl` ms. Ends in `Stored` or `Rejected` under `ref`."""
        effects = self._look(now)
        try:
            return effects + self._origin.submit(now, ref, message, ttl)
        except SendError as error:
            return [*effects, Rejected(ref, error)]

    def probe(
        self, now: Instant, ref: object, message: Message, node: str, ttl: int, *, by_post: bool = False
    ) -> list[Effect]:
        """As `submit`, for a message to the node itself; on request by rsync, whatever links there are."""
        effects = self._look(now)
        try:
            return effects + self._origin.probe(now, ref, message, node, ttl, by_post=by_post)
        except SendError as error:
            return [*effects, Rejected(ref, error)]

    def done(self, now: Instant, ref: object, agent: str, message_id: str, sender: str | None = None) -> list[Effect]:
        """A local agent has handled a message. Ends in `Answered` under `ref`, unless that is None."""
        return self._look(now) + self._recipient.done(now, ref, agent, message_id, sender)

    def adopt(self, now: Instant, record: Adopt) -> list[Effect]:
        """A message was found in an inbox that nobody has sent here. Ends in `Arrived` if it is new."""
        return [*self._look(now), self._recipient.adopt(record)]

    # ------------------------------------------------------------ links

    def link_up(self, now: Instant, link: int, peer: Introduction) -> list[Effect]:
        """A link has been greeted and carries mail. Of two links to one node, the lower-named node closes the older.

        What is under way on the older one goes over the newer too, in order: the older may be dead and not know it yet.
        """
        effects = self._look(now)
        node = peer.node
        older = self._routes.lines_to(node)
        for line in older:
            self._desk.lose(line)
        if self.node < node:
            effects += [Disconnect(line.number, CLOSE_REPLACED, "replaced by a newer link") for line in older]
        line = Line(link, node, min(peer.window_bytes, self._desk.limits.window_bytes))
        self._routes.lines[link] = line
        if self._incarnations.get(node, peer.incarnation) != peer.incarnation:
            effects += self._custody.forgot(node)
        self._incarnations[node] = peer.incarnation
        self._desk.held[node].hurry()
        effects += self._desk.again()  # a receipt that waits for room comes before the question what we missed
        effects += self._custody.direct(node)
        effects += self._origin.ask(now, node, line)
        effects += self._announce() or [Transmit(link, self._said)]
        return effects + self._rerouted(now)

    def link_down(self, now: Instant, link: int) -> list[Effect]:
        """A link is gone; what was offered on it is offered again."""
        effects = self._look(now)
        line = self._routes.lines.pop(link, None)
        if line is None:
            return effects
        self._desk.lose(line)
        if not self._routes.lines_to(line.node):
            self._routes.neighbours.pop(line.node, None)
            self._custody.unlinked(line.node)
            self._clock.unlinked(line.node)
        return effects + self._announce() + self._rerouted(now)

    def suspected(self, now: Instant, link: int, *, suspect: bool) -> list[Effect]:
        """The peer has gone silent, or speaks again: new mail takes another way meanwhile."""
        effects = self._look(now)
        line = self._routes.find(link)
        if line is None:
            return effects
        line.suspect = suspect
        return effects + self._announce() + self._rerouted(now)

    def measured(self, now: Instant, link: int, offset_ms: float, rtt_ms: float) -> list[Effect]:
        """How far the peer's clock is from ours."""
        effects = self._look(now)
        line = self._routes.find(link)
        if line is None:
            return effects
        before = self._clock.disagreeing
        self._clock.measured(line.node, offset_ms, rtt_ms)
        if self._clock.disagreeing != before and line.node in self._clock.disagreeing:
            effects.append(
                Warn(f"the clock of {line.node} differs from ours by {offset_ms / 1000:.0f} s: set one of them")
            )
        return effects

    def receive(self, now: Instant, link: int, frame: frames.MeshFrame) -> list[Effect]:
        """A frame from the node at the other end of `link`."""
        effects = self._look(now)
        line = self._routes.find(link)
        return effects if line is None else effects + self._take(now, line, frame)

    def _take(self, now: Instant, line: Line, frame: frames.MeshFrame) -> list[Effect]:
        match frame:
            case frames.Deliver():
                return self._recipient.deliver(now, line, frame)
            case frames.Receipts(receipts):
                ours = [item for item in receipts if item.origin == self.node]
                others = [item for item in receipts if item.origin != self.node]
                return self._origin.receipts(now, line, ours) + self._relay.receipts(now, line, others)
            case frames.Ack(seq):
                return self._acked(now, line, seq)
            case frames.Defer(items):
                return self._deferred(now, line, items)
            case frames.Query():
                return self._recipient.query(line, frame)
            case frames.Topology():
                self._routes.neighbours[line.node] = frame
                return self._custody.reaches(line.node) + self._rerouted(now)

    def _acked(self, now: Instant, line: Line, seq: int) -> list[Effect]:
        offer = line.offers.pop(seq, None)
        if offer is None:
            return []
        line.late = 0
        line.unacked -= offer.size
        role = self._relay if offer.delivery.held else self._custody
        return role.acked(now, line, offer) + self._desk.pump_line(now, line)

    def _deferred(self, now: Instant, line: Line, items: Sequence[frames.Deferred]) -> list[Effect]:
        random = self._desk.random()  # one for all, so that they come back in their order
        offered = dict.fromkeys(offer.delivery for offer in line.offers.values())
        for item in items:
            key = Key(item.sender, item.id, item.to)
            for delivery in offered:
                delivery.deferred(key, now.mono, random, f"{line.node} deferred it: {item.reason}")
        first = items[0]
        text = f"{line.node} deferred {len(items)} envelopes, the first {first.id}: {first.reason}"
        return [Warn(text), *self._desk.pump_line(now, line)]

    def _rerouted(self, now: Instant) -> list[Effect]:
        """Who is linked to whom has changed."""
        effects = self._post.review(now)
        for dest in self._desk.own:
            effects += self._custody.review(dest)
        return effects + self._desk.pump_all(now)

    def post(self, now: Instant, number: int, node: str) -> None:
        """Frames to and from `node` can travel as files, on the post of this negative number."""
        self._post.add(now, number, node)

    # ------------------------------------------------------------ presence

    def present(self, now: Instant, agents: Mapping[str, frames.Presence], *, storing: bool, full: str) -> list[Effect]:
        """How the agents here are, whether the disk takes anything, and why the store takes nothing new (or nothing).

        Told to the neighbours where it is news.
        """
        self._desk.full = full
        said = frames.Topology(links=self._said.links, storing=storing and not full, agents=dict(agents))
        if said == self._said:
            return self._look(now)
        self._said = said
        return self._look(now) + self._tell_all()

    def _announce(self) -> list[Effect]:
        links = self._routes.linked()
        if links == self._said.links:
            return []
        self._said = frames.Topology(links=links, storing=self._said.storing, agents=self._said.agents)
        return self._tell_all()

    def _tell_all(self) -> list[Effect]:
        effects: list[Effect] = []
        for node in self._routes.linked():
            line = self._routes.line_to(node)
            if line is not None:
                effects.append(Transmit(line.number, self._said))
        return effects

    # ------------------------------------------------------------ store

    def committed(self, now: Instant, done: Iterable[tuple[int, Sequence[Result]]]) -> list[Effect]:
        """These batches are durable, each with the results of its records."""
        effects = self._look(now)
        for batch, results in done:
            effects += self._desk.committed(now, batch, results)
        return effects

    def failed(self, now: Instant, batches: Iterable[int], error: SendError) -> list[Effect]:
        """These batches could not be committed: nothing of them happened."""
        effects = self._look(now)
        for batch in batches:
            effects += self._desk.failed(now, batch, error)
        return effects

    def loaded(self, now: Instant, load: Load, rows: Sequence[Row], *, complete: bool) -> list[Effect]:
        """The answer to a `Load`; `complete` where the store held no more than these."""
        delivery = (self._desk.held if load.held else self._desk.own)[load.dest]
        delivery.loaded(rows, urgent=load.urgent, complete=complete)
        if load.held:
            line = self._routes.line_to(load.dest)
            return self._look(now) + ([] if line is None else self._desk.pump_line(now, line))
        return self._look(now) + self._desk.pump(now, load.dest)

    # ------------------------------------------------------------ time

    def _look(self, now: Instant) -> list[Effect]:
        return [Redial(), Warn("the clock jumped: dialling anew")] if self._clock.look(now) else []

    def tick(self, now: Instant) -> list[Effect]:
        """Call at `deadline()` or later."""
        effects = self._look(now)
        overdue = [d for d in self._windows() if (due := d.deadline()) is not None and due <= now.mono]
        for delivery in overdue:
            delivery.tick(now.mono)
        if overdue:
            effects += self._desk.pump_all(now)
        for part in (self._desk, self._origin, self._custody, self._post, self._retention):
            effects += part.tick(now)
        return effects

    def deadline(self) -> float | None:
        """When to call `tick` next, on the monotonic clock."""
        dues = [self._desk.deadline(), self._origin.deadline(), self._custody.deadline()]
        dues += [self._post.deadline(), self._retention.deadline()]
        dues += [delivery.deadline() for delivery in self._windows()]
        return min((due for due in dues if due is not None), default=None)

    def _windows(self) -> list[Delivery]:
        return [*self._desk.own.values(), *self._desk.held.values()]

    # ------------------------------------------------------------ for people

    def linked(self, node: str) -> bool:
        return bool(self._routes.lines_to(node))

    def neighbour(self, node: str) -> frames.Topology | None:
        """What a linked node last said of itself."""
        return self._routes.neighbours.get(node)

    def route(self, dest: str) -> str:
        """The way that mail for a node goes now, or nothing."""
        route = self._routes.route(dest)
        return "" if route is None else route.name

    def unread(self, agent: str) -> int:
        """How many messages of a local agent are unread."""
        return self._recipient.unread(agent)

    def clock_state(self, now: Instant) -> str:
        """Whether the clock is trusted, or why not: as `Clock.state` says."""
        return self._clock.state(now)

    def whereabouts(self, now: Instant, key: Key, dest: str, *, held: bool = False) -> Whereabouts:
        """Where an unanswered envelope is, one of ours or one in custody here."""
        windows = self._desk.held if held else self._desk.own
        found = windows[dest].find(key) if dest in windows else None
        if found is None:
            return Whereabouts("stored", self.route(dest))
        pending, place = found
        next_try = max(0.0, pending.due - now.mono) if place == "waiting" else None
        return Whereabouts(place, self.route(dest), pending.attempts, pending.waits_for, next_try)
