"""The library for agents: send and receive over the node on this machine, or over a node's TLS listener.

client     `Client`, what an agent sees
hybrid     `Hybrid`, the same messages with or without a node
mailbox    the files of an agent
session    requests and answers, over one connection after the other
arrivals   messages as they come
receipt    what became of a message
message    a message as a dictionary
endpoint   where the node is, and the way in
errors     what can go wrong
"""

from trishula.client.client import Client
from trishula.client.errors import NodeUnreachable, NotOpen, Refused, RequestError, TimedOut, Unconfirmed
from trishula.client.hybrid import Hybrid
from trishula.client.message import Message, Meta
from trishula.client.receipt import Receipt

HybridTRISHULA = Hybrid
"""The name that the interface before this one had for it."""

__all__ = [
    "Client",
    "Hybrid",
    "HybridTRISHULA",
    "Message",
    "Meta",
    "NodeUnreachable",
    "NotOpen",
    "Receipt",
    "Refused",
    "RequestError",
    "TimedOut",
    "Unconfirmed",
]
