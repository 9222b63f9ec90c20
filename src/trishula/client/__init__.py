"""The library for agents: send and receive over the node on this machine, or over a node's TLS listener.

client     `Client`, what an agent sees
session    requests and answers, over one connection after the other
arrivals   messages as they come
receipt    what became of a message
message    a message as a dictionary
endpoint   where the node is, and the way in
errors     what can go wrong
"""

from trishula.client.client import Client
from trishula.client.errors import NodeUnreachable, Refused, RequestError, TimedOut, Unconfirmed
from trishula.client.message import Message, Meta
from trishula.client.receipt import Receipt

__all__ = [
    "Client",
    "Message",
    "Meta",
    "NodeUnreachable",
    "Receipt",
    "Refused",
    "RequestError",
    "TimedOut",
    "Unconfirmed",
]
