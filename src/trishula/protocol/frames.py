"""What nodes say to each other, and the form that all frames have: JSON objects told apart by their "frame" key.

The credential of a connection decides its role before the first frame, and each role has its table: what a peer may
say (`PeerFrame`), what an agent may say and hear (`agent_frames`). Anything else is a `FrameError`. Unknown keys are
ignored, so that a newer peer may say more.

A payload travels as the JSON object that it is, unescaped and verbatim, without the newline that ends its file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from trishula.protocol.envelope import Envelope, Key, Receipt, State
from trishula.protocol.errors import FrameError
from trishula.protocol.names import AGENT_PATTERN, ID_PATTERN, KID_PATTERN, PROBE

VERSIONS = (1, 2)
"""The first and the last version of the protocol between nodes that this release speaks."""

BATCH_BYTES = 256 * 1024
"""A frame is filled up to here; one larger message has a frame to itself."""
BATCH_COUNT = 256
FRAME_OVERHEAD = 64 * 1024
"""What a frame may add to the messages in it."""

# \A and \Z: a pattern is searched for, and $ would let a newline pass.
NodeName = Annotated[str, Meta(pattern=rf"\A{AGENT_PATTERN}\Z")]
AgentName = Annotated[str, Meta(pattern=rf"\A(?:{AGENT_PATTERN}|{PROBE.replace('.', '[.]')})\Z")]
MessageId = Annotated[str, Meta(pattern=rf"\A{ID_PATTERN}\Z")]
KeyId = Annotated[str, Meta(pattern=rf"\A{KID_PATTERN}\Z")]
Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Millis = Annotated[int, Meta(ge=0, le=253_402_300_799_999)]
"""To the end of the year 9999, where the calendar of most libraries ends."""
Count = Annotated[int, Meta(ge=0, le=2**53)]
Note = Annotated[str, Meta(max_length=500)]


class Frame(Struct, frozen=True, tag_field="frame", tag=str.lower):
    """Base of all frames; the tag is the class's name in lower case."""


class Introduction(Struct, frozen=True):
    """What a node says of itself when a link comes up."""

    node: NodeName
    incarnation: Note
    """Changes with every new or restored store."""
    software: Note
    max_message_bytes: Count
    window_bytes: Count


class Hello(Frame, frozen=True):
    """The dialler's first frame: the first and the last version that it speaks, and who it is."""

    versions: tuple[Count, Count]
    me: Introduction


class Welcome(Frame, frozen=True):
    """The answer to `Hello`, with the version that both speak from here on."""

    version: Count
    me: Introduction


class SignedEnvelope(Struct, frozen=True, rename={"sender": "from"}):
    """An envelope in transit. The MAC is made for this transmission, with the origin's current key for `dest`."""

    origin: NodeName
    dest: NodeName
    sender: AgentName
    to: AgentName
    id: MessageId
    expires_at: Millis
    kid: KeyId
    mac: bytes
    payload: msgspec.Raw
    urgent: bool = False

    @classmethod
    def seal(cls, envelope: Envelope, kid: str, mac: bytes) -> SignedEnvelope:
        key = envelope.key
        return cls(
            origin=envelope.origin,
            dest=envelope.dest,
            sender=key.sender,
            to=key.to,
            id=key.id,
            expires_at=envelope.expires_at,
            kid=kid,
            mac=mac,
            payload=msgspec.Raw(envelope.payload[:-1]),
            urgent=envelope.urgent,
        )

    def open(self) -> Envelope:
        """The envelope, with its MAC not yet looked at."""
        return Envelope(
            origin=self.origin,
            dest=self.dest,
            key=Key(self.sender, self.id, self.to),
            expires_at=self.expires_at,
            payload=bytes(self.payload) + b"\n",
            urgent=self.urgent,
        )


class Deliver(Frame, frozen=True):
    """Envelopes, numbered from 1 on each link."""

    seq: Count
    envelopes: Annotated[list[SignedEnvelope], Meta(min_length=1, max_length=BATCH_COUNT)]


class Ack(Frame, frozen=True):
    """`Deliver` number `seq` is dealt with: each of its envelopes is answered by a receipt or deferred."""

    seq: Count


class SignedReceipt(Struct, frozen=True, rename={"sender": "from"}):
    """A receipt in transit."""

    origin: NodeName
    dest: NodeName
    sender: AgentName
    to: AgentName
    id: MessageId
    expires_at: Millis
    digest: Digest
    outcome: State
    reason: Note
    at: Millis
    kid: KeyId
    mac: bytes

    @classmethod
    def seal(cls, receipt: Receipt, kid: str, mac: bytes) -> SignedReceipt:
        key = receipt.key
        return cls(
            origin=receipt.origin,
            dest=receipt.dest,
            sender=key.sender,
            to=key.to,
            id=key.id,
            expires_at=receipt.expires_at,
            digest=receipt.digest,
            outcome=receipt.outcome,
            reason=receipt.reason,
            at=receipt.at,
            kid=kid,
            mac=mac,
        )

    def open(self) -> Receipt:
        """The receipt, with its MAC not yet looked at."""
        return Receipt(
            origin=self.origin,
            dest=self.dest,
            key=Key(self.sender, self.id, self.to),
            expires_at=self.expires_at,
            digest=self.digest,
            outcome=self.outcome,
            reason=self.reason,
            at=self.at,
        )


class Receipts(Frame, frozen=True):
    """What the recipient's node has accepted or refused."""

    receipts: Annotated[list[SignedReceipt], Meta(min_length=1, max_length=BATCH_COUNT)]


class Deferred(Struct, frozen=True, rename={"sender": "from"}):
    """An envelope that can't be taken now, and why."""

    sender: AgentName
    to: AgentName
    id: MessageId
    reason: Note


class Defer(Frame, frozen=True):
    """Not in custody, not answered: offer these again later."""

    items: Annotated[list[Deferred], Meta(min_length=1, max_length=BATCH_COUNT)]


class Asked(Struct, frozen=True, rename={"sender": "from"}):
    """One of the asking node's own envelopes, and how far that node knows it to have come."""

    sender: AgentName
    to: AgentName
    id: MessageId
    digest: Digest
    state: State


class Query(Frame, frozen=True):
    """Has the recipient's node more to say of these? It answers with `Receipts` of what is news (rule 7)."""

    items: Annotated[list[Asked], Meta(min_length=1, max_length=BATCH_COUNT)]


class Presence(Struct, frozen=True):
    """An agent, as its node sees it. `oldest` is when its oldest unread message came, in ms since 1970."""

    attached: bool
    unread: Count
    oldest: Millis | None = None


class Topology(Frame, frozen=True):
    """Whom the speaker is linked to, and how it is; said when a link comes up and when something changes.

    `storing`: its disk takes new messages.
    """

    links: Annotated[list[NodeName], Meta(max_length=256)]
    storing: bool = True
    agents: dict[NodeName, Presence] = {}


class Posted(Frame, frozen=True):
    """Files lie here for the peer, who fetches them: a peer behind NAT that has a link looks but once a minute."""


class Ping(Frame, frozen=True):
    """Every second, from both sides, unasked. `sent` is the sender's wall clock."""

    sent: Millis


class Pong(Frame, frozen=True):
    """The answer to the `Ping` of that time, with the time at which it was read."""

    sent: Millis
    read: Millis


class Bye(Frame, frozen=True):
    """This side is about to close, and why."""

    reason: Note


MeshFrame = Deliver | Ack | Receipts | Defer | Query | Topology
"""What concerns the engine."""
PeerFrame = Hello | Welcome | Deliver | Ack | Receipts | Defer | Query | Topology | Posted | Ping | Pong | Bye
LATER: Mapping[type, int] = {Query: 2, Topology: 2, Posted: 2}
"""Frames that version 1 does not have, and the version that brought them. Who does not know a frame closes the link."""

_encoder = msgspec.json.Encoder()
_F = TypeVar("_F")


_decoder: msgspec.json.Decoder[PeerFrame] = msgspec.json.Decoder(PeerFrame)


def encode(frame: Frame) -> bytes:
    """The frame as UTF-8 JSON."""
    return _encoder.encode(frame)


def decode(decoder: msgspec.json.Decoder[_F], data: bytes) -> _F:
    """One frame of the decoder's table. Raises `FrameError`, and nothing else."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise FrameError(f"not a frame of this role: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError(f"not a frame: {error}", close_code=1007) from None


def decode_peer(data: bytes) -> PeerFrame:
    """What another node said. Raises `FrameError`, and nothing else, for anything that isn't in its table."""
    return decode(_decoder, data)
