"""WebSocket connections that tell when bytes arrive, and how they are set up on both sides."""

from __future__ import annotations

import time
from collections.abc import Callable

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.server import ServerConnection

from trishula.protocol.clock import Instant
from trishula.protocol.frames import BATCH_BYTES, FRAME_OVERHEAD
from trishula.protocol.limits import Limits

CLOSE_WITHIN = 1.0
"""Seconds for a closing handshake; then the connection is cut."""
_REASON_BYTES = 123  # RFC 6455, section 5.5: a control frame has 125, two of them for the code


def now() -> Instant:
    return Instant(time.monotonic(), time.time_ns() // 1_000_000)


LARGEST_PEER_FRAME = 64 * 1024 * 1024 + FRAME_OVERHEAD
"""Bytes of the largest frame of another node. It may have a higher limit than we, and wants to be told so."""


def largest_frame(limits: Limits) -> int:
    """Bytes of the largest frame of an agent that is no mistake."""
    return max(limits.max_message_bytes, BATCH_BYTES) + FRAME_OVERHEAD


def short_reason(reason: str) -> str:
    return reason.encode()[:_REASON_BYTES].decode("utf-8", "ignore")


def _unheard() -> None: ...


class ServerWire(ServerConnection):
    """A connection that was accepted. `heard` is called whenever bytes arrive."""

    heard: Callable[[], None] = staticmethod(_unheard)

    def data_received(self, data: bytes) -> None:
        self.heard()
        super().data_received(data)


class ClientWire(ClientConnection):
    """A connection that was dialled. `heard` is called whenever bytes arrive."""

    heard: Callable[[], None] = staticmethod(_unheard)

    def data_received(self, data: bytes) -> None:
        self.heard()
        super().data_received(data)


Wire = ServerWire | ClientWire

SETTINGS = {
    # Our own pings carry times, and life is bytes: the library's keepalive would only double them.
    "ping_interval": None,
    "close_timeout": CLOSE_WITHIN,
    # Frames are dealt with as they come; the engine's window bounds what is under way.
    "max_queue": 64,
}
