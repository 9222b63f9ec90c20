"""Who sits on the wires and on one node: changes, repeats, reflects, holds back and forges frames.

It has the keys of that one node and no others: it may lie about that node's own mail, and about nobody else's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec

from simulation.mesh import Mesh
from simulation.network import End
from trishula.protocol import frames
from trishula.protocol.envelope import Receipt, State
from trishula.protocol.errors import FrameError
from trishula.protocol.message import digest_of
from trishula.protocol.signing import envelope_mac, receipt_mac

REMEMBERED = 200
FIRST_SEQ = 10**6
"""Of its own frames, so that they are not taken for the node's."""

Mail = frames.Deliver | frames.Receipts
Words = frames.Ack | frames.Defer | frames.Query | frames.Topology
Sent = list[tuple[End, bytes]]


class Adversary:
    """A `Meddler`: does something to one of `every` frames. `evil` is the node that it has broken into."""

    def __init__(self, mesh: Mesh, evil: str, random: Random, every: int) -> None:
        self._mesh = mesh
        self._evil = evil
        self._random = random
        self._every = every
        self._seen: deque[Mail] = deque(maxlen=REMEMBERED)
        self._silenced: list[End] = []
        """Connections on which something is missing, or something false was believed."""
        self._tricks: list[Callable[[End, Mail], Sent]] = [
            self._tamper,
            self._tamper,
            self._replay,
            self._reflect,
            self._forge_words,
            self._rubbish,
        ]
        self._evil_tricks: list[Callable[[End, Mail], Sent]] = [
            self._impersonate,
            self._equivocate,
            self._equivocate,
            self._usurp,
            self._usurp,
            self._replay,
            self._tamper,
            self._withhold,
        ]

    def __call__(self, end: End, data: bytes) -> Sent:
        try:
            frame = frames.decode_peer(data)
        except FrameError:
            return [(end, data)]
        if isinstance(frame, Words) and end.host == self._evil and not self._random.randrange(3 * self._every):
            self._silenced.append(end)
            return []
        if not isinstance(frame, Mail):
            return [(end, data)]
        self._seen.append(frame)
        if self._random.randrange(self._every):
            return [(end, data)]
        tricks = self._evil_tricks if end.host == self._evil else self._tricks
        if end.other.host == self._evil and isinstance(frame, frames.Receipts):
            tricks = [*tricks, self._contradict_itself]
        trick = self._random.choice(tricks)
        self._mesh.world.tell(
            "adversary", f"{trick.__name__} on {end.host} to {end.other.host}: {type(frame).__name__}"
        )
        return trick(end, frame)

    def leave(self) -> None:
        """Nobody is left who could mend what a connection has lost or believes: it ends."""
        for end in self._silenced:
            end.cut(tell=True)

    # ------------------------------------------------------------ tricks of the wire

    def _tamper(self, end: End, frame: Mail) -> Sent:
        """One field of one item is changed under its signature."""
        random, agents = self._random, list(self._mesh.homes)
        changes: dict[str, Any] = {
            "sender": random.choice(agents),
            "to": random.choice(agents),
            "id": f"{random.choice(agents)}-{random.randint(1, 9)}",
            "mac": random.randbytes(32),
            "kid": "9",
        }
        if isinstance(frame, frames.Deliver):
            items: list[Any] = frame.envelopes
            changes["payload"] = msgspec.Raw(bytes(items[0].payload).replace(b"x", b"y", 1))
            changes["expires_at"] = 2**47 + random.randrange(1000)
            changes["origin"] = changes["dest"] = random.choice(list(self._mesh.names))
        else:
            items = frame.receipts
            changes["outcome"] = random.choice([State.REFUSED, State.READ])
            changes["digest"] = "ab" * 32
        place = random.randrange(len(items))
        field = random.choice(list(changes))
        if getattr(items[place], field) == changes[field]:
            return [(end, frames.encode(frame))]
        self._silenced.append(end)
        forged = [*items[:place], msgspec.structs.replace(items[place], **{field: changes[field]}), *items[place + 1 :]]
        return [(end, frames.encode(self._with(frame, forged)))]

    def _replay(self, end: End, frame: Mail) -> Sent:
        """What was said once, to whomever, is said again, to whomever."""
        old = frames.encode(self._anew(self._random.choice(self._seen)))
        dialler = self._random.choice(self._mesh.network.connections() or [end])
        to = self._random.choice([end, dialler, dialler.other])
        return [(end, frames.encode(frame)), (to, old)]

    def _reflect(self, end: End, frame: Mail) -> Sent:
        """What a node said comes back to it."""
        return [(end, frames.encode(frame)), (end.other, frames.encode(self._anew(frame)))]

    def _forge_words(self, end: End, frame: Mail) -> Sent:
        """`Ack`, `Defer`, `Query` and `Topology` are not signed: whoever holds the link may say them.

        It costs an offer, no message.
        """
        random, names = self._random, list(self._mesh.names)
        words: list[frames.Frame] = [
            frames.Ack(seq=random.randint(1, 20)),
            frames.Defer(items=[frames.Deferred(sender="a0", to="b0", id="a0-1", reason="forged")]),
            frames.Topology(links=random.sample(names, random.randint(1, len(names)))),
        ]
        self._silenced.append(end)  # the true topology is said when it changes, and it may never
        return [(end, frames.encode(frame)), *((end, frames.encode(word)) for word in words)]

    def _rubbish(self, end: End, frame: Mail) -> Sent:
        """A frame cut off, or noise: the link ends."""
        data = frames.encode(frame)
        return [(end, self._random.choice([data[: len(data) // 2], b"\x00\xff", b"[" * 5000]))]

    # ------------------------------------------------------------ tricks of a node that was broken into

    def _withhold(self, end: End, frame: Mail) -> Sent:
        """It says nothing, and keeps the link."""
        del frame
        self._silenced.append(end)
        return []

    def _impersonate(self, end: End, frame: Mail) -> Sent:
        """It signs another node's mail with the key that it has, as that node's or as its own."""
        genuine = (end, frames.encode(frame))
        if not isinstance(frame, frames.Deliver):
            return [genuine]
        item = frame.envelopes[0]
        others = [agent for agent, home in self._mesh.homes.items() if home != end.host]
        sender = self._random.choice(others)
        payload = bytes(item.payload).replace(item.sender.encode(), sender.encode())
        origin = self._random.choice([item.origin, self._evil, self._mesh.homes[sender]])
        forged = msgspec.structs.replace(item, sender=sender, origin=origin, payload=msgspec.Raw(payload))
        return [genuine, (end, frames.encode(self._anew(self._with(frame, [self._sealed(end, forged)]))))]

    def _equivocate(self, end: End, frame: Mail) -> Sent:
        """It sends another content under an id that it has sent, or carried."""
        genuine = [(end, frames.encode(frame))]
        seen = [envelope for old in self._seen if isinstance(old, frames.Deliver) for envelope in old.envelopes]
        there = [item for item in seen if item.dest == end.other.host]
        if not there:
            return genuine
        item = self._random.choice(there)
        other = msgspec.structs.replace(item, payload=msgspec.Raw(bytes(item.payload).replace(b"x", b"z")))
        forged = self._anew(frames.Deliver(seq=0, envelopes=[self._sealed(end, other)]))
        return [*genuine, (end, frames.encode(forged))]

    def _contradict_itself(self, end: End, frame: Mail) -> Sent:
        """A true receipt for its mail is held back, and another content sent to its recipient under the same id.

        So that the refusal of the other content is the first word on that id that its engine hears.
        """
        assert isinstance(frame, frames.Receipts)
        self._silenced.append(end)
        ours = [word.id for word in frame.receipts if word.origin == self._evil]
        seen = [envelope for old in self._seen if isinstance(old, frames.Deliver) for envelope in old.envelopes]
        sent = [item for item in seen if item.id in ours and item.dest == end.host and item.origin == self._evil]
        if not sent:
            return []
        other = msgspec.structs.replace(sent[0], payload=msgspec.Raw(bytes(sent[0].payload).replace(b"x", b"z")))
        forged = self._anew(frames.Deliver(seq=0, envelopes=[self._sealed(end.other, other)]))
        return [(end.other, frames.encode(forged))]

    def _usurp(self, end: End, frame: Mail) -> Sent:
        """It says, with its own key, that a third node has, or refuses, what is still on its way there."""
        genuine = [(end, frames.encode(frame))]
        seen = [envelope for old in self._seen if isinstance(old, frames.Deliver) for envelope in old.envelopes]
        theirs = [item for item in seen if item.origin == end.other.host and item.dest != self._evil]
        if not theirs:
            return genuine
        item = self._random.choice(theirs).open()
        outcome = self._random.choice([State.DELIVERED, State.REFUSED, State.READ])
        word = Receipt(
            item.origin, item.dest, item.key, item.expires_at, digest_of(item.payload), outcome, "", item.expires_at
        )
        key = self._mesh.hosts[self._evil].wiring.keyring.signing(end.other.host)
        signed = frames.SignedReceipt.seal(word, key.kid, receipt_mac(key, word))
        return [(end, frames.encode(frames.Receipts(receipts=[signed]))), *genuine]

    # ------------------------------------------------------------

    def _sealed(self, end: End, item: frames.SignedEnvelope) -> frames.SignedEnvelope:
        key = self._mesh.hosts[self._evil].wiring.keyring.signing(end.other.host)
        return msgspec.structs.replace(item, kid=key.kid, mac=envelope_mac(key, item.open()))

    def _anew(self, frame: Mail) -> Mail:
        if isinstance(frame, frames.Receipts):
            return frame
        return msgspec.structs.replace(frame, seq=FIRST_SEQ + self._random.randrange(10**12))

    @staticmethod
    def _with(frame: Mail, items: list[Any]) -> Mail:
        if isinstance(frame, frames.Deliver):
            return frames.Deliver(seq=frame.seq, envelopes=items)
        return frames.Receipts(receipts=items)
