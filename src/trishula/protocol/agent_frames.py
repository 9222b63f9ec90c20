"""What an agent says to its node, and what it hears.

`ref` is the agent's own number for a request; the answer repeats it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from trishula.protocol.envelope import State
from trishula.protocol.frames import AgentName, Count, Frame, MessageId, Millis, NodeName, Note, decode

VERSION = 1
"""Of what agents and nodes say to each other. A node may know more requests; what an older client relies on stays."""


class Send(Frame, frozen=True):
    """Store this message; the node answers `Stored`, or `Failed`. The same id and bytes again are the same message."""

    ref: Count
    message: msgspec.Raw
    ttl_s: Count | None = None


class Outcomes(Frame, frozen=True):
    """Ask how far a message of this agent has come, and hear of its further outcomes. Answered by `Stored`.

    `delivered` is the last of them for who does not ask for `read`.
    """

    ref: Count
    id: MessageId
    read: bool = False


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


class Done(Frame, frozen=True, rename={"sender": "from"}):
    """This agent has handled the message with this id, that of `from` if several have it. Answered by `Data`.

    From then on it is `read`: no session gets it again, and its sender is told.
    """

    ref: Count
    id: MessageId
    sender: AgentName | None = None


class Trace(Frame, frozen=True):
    """The way of a message as this node knows it. Answered by `Data`."""

    ref: Count
    id: MessageId


class Find(Frame, frozen=True):
    """This agent's messages whose ids begin so, in whatever case. Answered by `Data`.

    `everywhere`: whatever this node knows, for the operator.
    """

    ref: Count
    beginning: MessageId
    everywhere: bool = False


class Status(Frame, frozen=True):
    """How the node is. Answered by `Data`."""

    ref: Count


class Probe(Frame, frozen=True):
    """Send a signed, stored probe to a node. Answered by `Stored`, then by its `Outcome`."""

    ref: Count
    node: NodeName
    ttl_s: Annotated[int, Meta(ge=1, le=3600)] = 60
    route: Literal["", "rsync"] = ""
    """`rsync`: that way, whatever links there are."""


AgentRequest = Send | Outcomes | Attach | Inbox | Show | Done | Trace | Find | Status | Probe


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

_request: msgspec.json.Decoder[AgentRequest] = msgspec.json.Decoder(AgentRequest)
_reply: msgspec.json.Decoder[AgentReply] = msgspec.json.Decoder(AgentReply)


def decode_request(data: bytes) -> AgentRequest:
    """What an agent said. Raises `FrameError`, and nothing else."""
    return decode(_request, data)


def decode_reply(data: bytes) -> AgentReply:
    """What a node said to its agent. Raises `FrameError`, and nothing else."""
    return decode(_reply, data)
