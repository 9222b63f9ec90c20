"""Frames: JSON objects, one per WebSocket message, told apart by their "frame" key.

The credential of a connection decides its role before the first frame, and each role has its table: what a peer may
say (`PeerFrame`), what an agent may say (`AgentRequest`), what an agent hears (`AgentReply`). Anything else is a
`FrameError`. Unknown keys are ignored, so that a newer peer may say more.

A payload travels as the JSON object that it is, unescaped and verbatim, without the newline that ends its file.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from trishula.protocol.envelope import Envelope, Key, Receipt, State
from trishula.protocol.errors import FrameError
from trishula.protocol.names import AGENT_PATTERN, ID_PATTERN, KID_PATTERN, PROBE

VERSIONS = (1, 1)
"""The first and the last version of the protocol that this release speaks."""

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
Millis = Annotated[int, Meta(ge=0, le=2**53)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Note = Annotated[str, Meta(max_length=500)]


class Frame(Struct, frozen=True, tag_field="frame", tag=str.lower):
    """Base of all frames; the tag is the class's name in lower case."""


# ---------------------------------------------------------------- between nodes


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


PeerFrame = Hello | Welcome | Deliver | Ack | Receipts | Defer | Ping | Pong | Bye


# ---------------------------------------------------------------- from an agent to its node
# `ref` is the agent's own number for the request; the answer repeats it.


class Send(Frame, frozen=True):
    """Store this message; the node answers `Stored`, or `Failed`. The same id and bytes again are the same message."""

    ref: Count
    message: msgspec.Raw
    ttl_s: Count | None = None


class Outcomes(Frame, frozen=True):
    """Ask how far a message of this agent has come, and hear of its further outcomes. Answered by `Stored`."""

    ref: Count
    id: MessageId


class Attach(Frame, frozen=True):
    """Send me this agent's messages as `Arrival`: the unread ones with a cursor above `after`, then each new one."""

    ref: Count
    after: Count = 0


class Inbox(Frame, frozen=True):
    """List this agent's unread messages, oldest first, with a cursor above `after`. Answered by `Data`."""

    ref: Count
    after: Count = 0
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class Show(Frame, frozen=True):
    """One message that this agent got or sent, whole. Answered by `Data`."""

    ref: Count
    id: MessageId


class Status(Frame, frozen=True):
    """How the node is. Answered by `Data`."""

    ref: Count


class Probe(Frame, frozen=True):
    """Send a signed, stored probe to a node. Answered by `Stored`, then by its `Outcome`."""

    ref: Count
    node: NodeName
    ttl_s: Annotated[int, Meta(ge=1, le=3600)] = 60


AgentRequest = Send | Outcomes | Attach | Inbox | Show | Status | Probe


# ---------------------------------------------------------------- from a node to its agent


class Greeting(Frame, frozen=True):
    """The node's first frame to an agent: who is talking to whom."""

    version: Count
    node: NodeName
    agent: AgentName
    software: Note
    max_message_bytes: Count
    incarnation: Note = ""
    """Changes with every new or restored store; a cursor of another one means nothing."""


class Outcome(Frame, frozen=True, rename={"sender": "from"}):
    """How far one envelope has come. `latency_ms` is from the origin's commit to the receipt, by the origin's clock."""

    sender: str
    id: str
    to: str
    dest: str
    state: State
    reason: str = ""
    route: str = ""
    method: str = ""
    at: Millis | None = None
    latency_ms: float | None = None


class Stored(Frame, frozen=True):
    """The message is durable at its origin; one outcome for each recipient, as of now."""

    ref: Count
    id: str
    digest: str
    outcomes: list[Outcome]


class ArrivalMeta(Struct, frozen=True, rename={"from_node": "node"}):
    """What the node knows of an arrived message beside its payload. `received_at` is in ms since 1970."""

    from_node: str
    route: str
    method: str
    received_at: Millis
    digest: str


class Arrival(Frame, frozen=True):
    """A message for this agent. Cursors rise in the order of arrival."""

    cursor: Count
    meta: ArrivalMeta
    message: msgspec.Raw


class Data(Frame, frozen=True):
    """The answer to a question."""

    ref: Count
    data: Any


class Failed(Frame, frozen=True):
    """The request could not be met: `code` for programs, the rest for people."""

    ref: Count
    code: str
    message: str
    key: str | None = None
    value: str | None = None
    fix: str | None = None


AgentReply = Greeting | Stored | Outcome | Arrival | Data | Failed

_encoder = msgspec.json.Encoder()
_peer: msgspec.json.Decoder[PeerFrame] = msgspec.json.Decoder(PeerFrame)
_request: msgspec.json.Decoder[AgentRequest] = msgspec.json.Decoder(AgentRequest)
_reply: msgspec.json.Decoder[AgentReply] = msgspec.json.Decoder(AgentReply)

_F = TypeVar("_F")


def encode(frame: Frame) -> bytes:
    """The frame as UTF-8 JSON."""
    return _encoder.encode(frame)


def decode_peer(data: bytes) -> PeerFrame:
    """What another node said. Raises `FrameError`, and nothing else, for anything that isn't in its table."""
    return _decode(_peer, data)


def decode_request(data: bytes) -> AgentRequest:
    """What an agent said. Raises `FrameError`, and nothing else."""
    return _decode(_request, data)


def decode_reply(data: bytes) -> AgentReply:
    """What a node said to its agent. Raises `FrameError`, and nothing else."""
    return _decode(_reply, data)


def _decode(decoder: msgspec.json.Decoder[_F], data: bytes) -> _F:
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise FrameError(f"not a frame of this role: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FrameError(f"not a frame: {error}", close_code=1007) from None
