"""A durable, signed, real-time message mesh for the agents of a few machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trishula.client import (
        Client,
        Hybrid,
        HybridTRISHULA,
        Message,
        Meta,
        NodeUnreachable,
        NotOpen,
        Receipt,
        Refused,
        RequestError,
        TimedOut,
        Unconfirmed,
    )
    from trishula.protocol.errors import MessageError, SendError, TrishulaError

__version__ = "2.0.0"

__all__ = [
    "Client",
    "Hybrid",
    "HybridTRISHULA",
    "Message",
    "MessageError",
    "Meta",
    "NodeUnreachable",
    "NotOpen",
    "Receipt",
    "Refused",
    "RequestError",
    "SendError",
    "TimedOut",
    "TrishulaError",
    "Unconfirmed",
]


def __getattr__(name: str) -> Any:
    """Load the library when it is asked for: a node, and `trishula --help`, go without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import trishula.client as library  # noqa: PLC0415 - the point of it
    from trishula.protocol import errors  # noqa: PLC0415

    return getattr(library if hasattr(library, name) else errors, name)
