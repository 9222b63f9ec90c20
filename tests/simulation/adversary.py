"""Who sits on the wire, or on one node: changes, repeats, reflects and forges frames. Has one pair's key at most."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from simulation.network import End, Network
from simulation.witness import Witness
from trishula.protocol import frames
from trishula.protocol.envelope import Receipt, State
from trishula.protocol.errors import FrameError
from trishula.protocol.message import digest_of
from trishula.protocol.signing import Keyring, envelope_mac, receipt_mac

REMEMBERED = 200
FIRST_SEQ = 10**6
"""Of its own frames, so that they are not taken for the node's."""

Mail = frames.Deliver | frames.Receipts
Sent = list[tuple[End, bytes]]


class Adversary:
    """A `Meddler`: does something to one of `every` frames about mail."""

    def __init__(
        self, witness: Witness, network: Network, every: int, keyrings: dict[str, Keyring], agents: dict[str, str]
    ) -> None:
        self._witness = witness
        self._network = network
        self._world = witness.world
        self._every = every
        self._keyrings = keyrings
        self._agents = agents
        self._seen: deque[Mail] = deque(maxlen=REMEMBERED)
        self._tricks: list[Callable[[End, Mail], Sent]] = [
            self._tamper,
            self._tamper,
            self._replay,
            self._reflect,
            self._impersonate,
            self._equivocate,
            self._usurp,
            self._forge_words,
            self._rubbish,
        ]

    def __call__(self, end: End, data: bytes) -> Sent:
        try:
            frame = frames.decode_peer(data)
        except FrameError:
            return [(end, data)]
        if not isinstance(frame, Mail):
            return [(end, data)]
        random = self._world.random
        self._seen.append(frame)
        if random.randrange(self._every):
            return [(end, data)]
        trick = random.choice(self._tricks)
        self._world.tell("adversary", f"{trick.__name__} on {end.host} to {end.other.host}: {type(frame).__name__}")
        return trick(end, frame)

    # ------------------------------------------------------------ tricks

    def _tamper(self, end: End, frame: Mail) -> Sent:
        """One field of one item is changed under its signature."""
        random = self._world.random
        changes: dict[str, Any] = {
            "sender": random.choice(list(self._agents)),
            "to": random.choice(list(self._agents)),
            "id": f"{random.choice(list(self._agents))}-{random.randint(1, 9)}",
            "mac": random.randbytes(32),
            "kid": "9",
        }
        if isinstance(frame, frames.Deliver):
            items: list[Any] = frame.envelopes
            changes["payload"] = msgspec.Raw(bytes(items[0].payload).replace(b"x", b"y", 1))
            changes["expires_at"] = 2**50 + random.randrange(1000)
            changes["origin"] = changes["dest"] = random.choice(list(self._keyrings))
        else:
            items = frame.receipts
            changes["outcome"] = random.choice([State.REFUSED, State.READ])
            changes["digest"] = "ab" * 32
        place = random.randrange(len(items))
        field = random.choice(list(changes))
        if getattr(items[place], field) == changes[field]:
            return [(end, frames.encode(frame))]
        forged = [*items[:place], msgspec.structs.replace(items[place], **{field: changes[field]}), *items[place + 1 :]]
        return [(end, frames.encode(self._with(frame, forged)))]

    def _replay(self, end: End, frame: Mail) -> Sent:
        """What was said once, to whomever, is said again."""
        old = self._world.random.choice(self._seen)
        return [(end, frames.encode(frame)), (end, frames.encode(self._anew(old)))]

    def _reflect(self, end: End, frame: Mail) -> Sent:
        """What a node said comes back to it."""
        return [(end, frames.encode(frame)), (end.other, frames.encode(self._anew(frame)))]

    def _impersonate(self, end: End, frame: Mail) -> Sent:
        """A node signs another node's agent's mail with the key that it has."""
        genuine = (end, frames.encode(frame))
        if not isinstance(frame, frames.Deliver):
            return [genuine]
        envelope = frame.envelopes[0].open()
        others = [agent for agent, home in self._agents.items() if home != end.host]
        sender = self._world.random.choice(others)
        payload = envelope.payload.replace(envelope.key.sender.encode(), sender.encode())
        key = self._keyrings[end.host].signing(end.other.host)
        forged = msgspec.structs.replace(frame.envelopes[0], sender=sender, payload=msgspec.Raw(payload[:-1]))
        forged = msgspec.structs.replace(forged, mac=envelope_mac(key, forged.open()))
        return [genuine, (end, frames.encode(self._anew(self._with(frame, [forged]))))]

    def _equivocate(self, end: End, frame: Mail) -> Sent:
        """A node that was broken into sends another content under an id that has arrived; a true receipt is held back.

        So that the refusal of the other content is the first word on that id that its origin hears.
        """
        genuine = [(end, frames.encode(frame))]
        if isinstance(frame, frames.Receipts):
            end, genuine = end.other, []
        inbox = self._witness.hosts[end.other.host].disk.inbox
        seen = [envelope for old in self._seen if isinstance(old, frames.Deliver) for envelope in old.envelopes]
        arrived = [item for item in seen if item.origin == end.host and item.open().key in inbox]
        if not arrived:
            return genuine
        item = arrived[-1]
        other = msgspec.structs.replace(item, payload=msgspec.Raw(bytes(item.payload).replace(b"x", b"z")))
        mac = envelope_mac(self._keyrings[end.host].signing(end.other.host), other.open())
        forged = self._anew(frames.Deliver(seq=0, envelopes=[msgspec.structs.replace(other, mac=mac)]))
        return [*genuine, (end, frames.encode(forged))]

    def _usurp(self, end: End, frame: Mail) -> Sent:
        """A third node says, with its own key, that the recipient has what is still on its way there."""
        genuine = (end, frames.encode(frame))
        thirds = [
            one
            for dialler in self._network.connections()
            for one in (dialler, dialler.other)
            if one.other.host == end.host and one.host != end.other.host
        ]
        if not thirds or not isinstance(frame, frames.Deliver):
            return [genuine]
        third = self._world.random.choice(thirds)
        item = frame.envelopes[0].open()
        outcome = self._world.random.choice([State.DELIVERED, State.REFUSED])
        word = Receipt(
            item.origin, item.dest, item.key, item.expires_at, digest_of(item.payload), outcome, "", item.expires_at
        )
        key = self._keyrings[third.host].signing(end.host)
        signed = frames.SignedReceipt.seal(word, key.kid, receipt_mac(key, word))
        return [(third, frames.encode(frames.Receipts(receipts=[signed]))), genuine]

    def _forge_words(self, end: End, frame: Mail) -> Sent:
        """`Ack` and `Defer` are not signed: whoever holds the link may say them. It costs an offer, no message."""
        seq = frames.Ack(seq=self._world.random.randint(1, 20))
        item = frames.Deferred(sender="a0", to="b0", id="a0-1", reason="forged")
        words = [frames.encode(seq), frames.encode(frames.Defer(items=[item]))]
        return [(end, frames.encode(frame)), *((end, word) for word in words)]

    def _rubbish(self, end: End, frame: Mail) -> Sent:
        """A frame cut off, or noise: the link ends."""
        data = frames.encode(frame)
        return [(end, self._world.random.choice([data[: len(data) // 2], b"\x00\xff", b"[" * 5000]))]

    # ------------------------------------------------------------

    def _anew(self, frame: Mail) -> Mail:
        if isinstance(frame, frames.Receipts):
            return frame
        return msgspec.structs.replace(frame, seq=FIRST_SEQ + self._world.random.randrange(10**12))

    @staticmethod
    def _with(frame: Mail, items: list[Any]) -> Mail:
        if isinstance(frame, frames.Deliver):
            return frames.Deliver(seq=frame.seq, envelopes=items)
        return frames.Receipts(receipts=items)
