"""Agents who write to each other while their nodes suffer, and what must be true of their mail in the end.

async with Correspondence(mesh, seed) as mail:
    ...                                    # kill, cut, freeze
    await mail.ended()                     # nobody writes any more, all has been answered and filed
    assert await mail.mistakes() == []
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import trishula
from trishula.cli.sandbox import Sandbox, until
from trishula.protocol.envelope import State
from trishula.protocol.errors import SendError
from trishula.protocol.message import digest_of

MOST_EACH = 400
"""Messages of one agent."""
PATIENCE_S = 60.0
_WRITERS = 3
_PAUSE_S = 0.08
_AFTER_A_REFUSAL_S = 0.2

_ARRIVED = (State.DELIVERED, State.READ)


@dataclass(slots=True)
class Sent:
    """A message, and what its sender's node said of it: `receipt` that it is stored, `error` that it is not."""

    sender: str
    id: str
    to: frozenset[str]
    receipt: trishula.Receipt | None = None
    error: Exception | None = None


_Mailbox = dict[tuple[str, str], list[bytes]]
"""(from, id) to the files that hold this message, whatever they are called."""

_EXPECTED = {
    State.DELIVERED: (1, 1),
    State.READ: (1, 1),
    State.REFUSED: (0, 0),
    State.UNCONFIRMED: (0, 1),
    State.STORED: (1, 0),  # it has ended, so there is no right number
}
"""How many files, at least and at most, there are of an envelope that has come so far."""


class Correspondence:
    """All agents of a mesh write to each other, at a bounded rate, until `ended`."""

    def __init__(self, mesh: Sandbox, seed: int, *, most_each: int = MOST_EACH, pause_s: float = _PAUSE_S) -> None:
        self.sent: list[Sent] = []
        self.clients: dict[str, trishula.Client] = {}
        self._mesh = mesh
        self._seed = seed
        self._most = most_each // _WRITERS
        self._pause = pause_s
        self._agents = [agent for place in mesh.places.values() for agent in place.agents]
        self._writers: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            for agent in self._agents:
                self.clients[agent] = await stack.enter_async_context(self._mesh.client(agent))
            self._stack = stack.pop_all()
        self._writers = [
            asyncio.create_task(self._write(agent, number)) for agent in self._agents for number in range(_WRITERS)
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers:
            writer.cancel()
        await asyncio.gather(*self._writers, return_exceptions=True)
        await self._stack.__aexit__(kind, error, trace)

    # ------------------------------------------------------------ writing

    async def send(self, sender: str, to: list[str], message_id: str, **fields: Any) -> Sent:
        """One message more. An error of the node is noted, not raised."""
        sent = Sent(sender, message_id, frozenset(self._agents) - {sender} if to == ["all"] else frozenset(to))
        self.sent.append(sent)
        try:
            sent.receipt = await self.clients[sender].send(
                {"id": message_id, "from": sender, "to": to, **fields}, timeout=PATIENCE_S
            )
        except SendError as refusal:
            sent.error = refusal
        return sent

    async def _write(self, sender: str, number: int) -> None:
        chance = random.Random(f"{self._seed} {sender} {number}")
        others = [agent for agent in self._agents if agent != sender]
        for count in range(self._most):
            if self._stop.is_set():
                return
            to = ["all"] if chance.random() < 0.1 else chance.sample(others, 1 if chance.random() < 0.9 else 2)
            sent = await self.send(
                sender,
                to,
                f"{sender}-{number}-{count}",
                priority="urgent" if chance.random() < 0.1 else "normal",
                body="x" * int(10 ** chance.uniform(0, 4)),
            )
            await asyncio.sleep(_AFTER_A_REFUSAL_S if sent.error else chance.uniform(0, 2 * self._pause))

    # ------------------------------------------------------------ the end

    @property
    def stored(self) -> list[tuple[Sent, trishula.Receipt]]:
        return [(sent, sent.receipt) for sent in self.sent if sent.receipt is not None]

    @property
    def refused_to_store(self) -> list[tuple[Sent, Exception]]:
        return [(sent, sent.error) for sent in self.sent if sent.error is not None]

    @property
    def outcomes(self) -> Counter[State]:
        """How the stored envelopes have ended, by the word of their senders' nodes."""
        return Counter(outcome.state for _, receipt in self.stored for outcome in receipt.outcomes)

    async def ended(self) -> None:
        """Nobody writes any more; every envelope has its outcome, and its file where that says so."""
        self._stop.set()
        await asyncio.gather(*self._writers)
        await until(lambda: not self.outcomes[State.STORED], "all that is stored is answered", seconds=PATIENCE_S)
        await until(self._no_backlog, "no node holds mail for another", seconds=PATIENCE_S)
        await until(lambda: not list(self._unfiled()), "all that is delivered has its file", seconds=PATIENCE_S)

    def _unfiled(self) -> Iterator[str]:
        boxes = {agent: _messages(self._mesh, agent, "inbox", "archive") for agent in self._agents}
        for sent, receipt in self.stored:
            for outcome in receipt.outcomes:
                if outcome.state in _ARRIVED and (sent.sender, sent.id) not in boxes[outcome.to]:
                    yield f"{sent.id} to {outcome.to}"

    async def _no_backlog(self) -> bool:
        for name in self._mesh.places:
            peers = (await self._mesh.status(name))["peers"]
            if any(peer["backlog"] for peer in peers.values()):
                return False
        return True

    async def mistakes(self) -> list[str]:
        """What breaks the promise: by what lies in the mailboxes, and by what the nodes say to who asks now."""
        outboxes = {agent: _messages(self._mesh, agent, "outbox") for agent in self._agents}
        inboxes = {agent: _messages(self._mesh, agent, "inbox", "archive") for agent in self._agents}
        return [
            *self._of_origins(outboxes),
            *self._of_recipients(outboxes, inboxes),
            *self._out_of_nowhere(inboxes),
            *await self._of_words(),
        ]

    def _of_origins(self, outboxes: dict[str, _Mailbox]) -> Iterator[str]:
        for sent, receipt in self.stored:
            payloads = outboxes[sent.sender].get((sent.sender, sent.id), [])
            if [digest_of(payload) for payload in payloads] != [receipt.digest]:
                yield f"{sent.id}: {len(payloads)} outbox files, or not what was stored"
            if {outcome.to for outcome in receipt.outcomes} != sent.to:
                yield f"{sent.id}: stored for {[outcome.to for outcome in receipt.outcomes]}, not for {sent.to}"

    def _of_recipients(self, outboxes: dict[str, _Mailbox], inboxes: dict[str, _Mailbox]) -> Iterator[str]:
        for sent, receipt in self.stored:
            written = outboxes[sent.sender].get((sent.sender, sent.id), [])
            for outcome in receipt.outcomes:
                payloads = inboxes[outcome.to].get((sent.sender, sent.id), [])
                name = f"{sent.id} to {outcome.to}, {outcome.state.value} {outcome.reason}".rstrip()
                least, most = _EXPECTED[outcome.state]
                if not least <= len(payloads) <= most:
                    yield f"{name}: {len(payloads)} files"
                if any([payload] != written for payload in payloads):
                    yield f"{name}: its file is not what its sender's outbox holds"
                if outcome.state in _ARRIVED and not outcome.route.startswith(("direct", "relay:", "rsync")):
                    yield f"{name}: by the route {outcome.route!r}"

    def _out_of_nowhere(self, inboxes: dict[str, _Mailbox]) -> Iterator[str]:
        """Nothing is there that was not sent, or that its sender was told is not stored."""
        sent_to = {(sent.sender, sent.id, to): sent for sent in self.sent for to in sent.to}
        for agent, messages in inboxes.items():
            for (sender, message_id), payloads in messages.items():
                sent = sent_to.get((sender, message_id, agent))
                if sent is None:
                    yield f"{message_id} from {sender} to {agent}: nobody sent it"
                elif sent.receipt is None and len(payloads) > 1:
                    yield f"{message_id} to {agent}: {len(payloads)} files"
                elif sent.error is not None:
                    yield f"{message_id} to {agent}: there, though its sender was told {sent.error}"

    async def _of_words(self) -> list[str]:
        """The durable word against what was told as it happened."""
        mistakes = []
        for agent in self._agents:
            async with self._mesh.client(agent) as client:
                for sent, receipt in self.stored:
                    if sent.sender == agent:
                        told = {outcome.to: outcome.state.value for outcome in receipt.outcomes}
                        known = {
                            outcome["to"]: outcome["state"] for outcome in (await client.show(sent.id))["outcomes"]
                        }
                        if told != known:
                            mistakes.append(f"{sent.id}: its sender was told {told}, its node knows {known}")
        return mistakes


def _messages(mesh: Sandbox, agent: str, *boxes: str) -> _Mailbox:
    found: _Mailbox = {}
    for box in boxes:
        for path in (mesh.home(agent).mailbox(agent) / box).glob("*.json"):
            payload = path.read_bytes()
            fields = json.loads(payload)
            found.setdefault((fields["from"], fields["id"]), []).append(payload)
    return found
