"""The agent's messages as they arrive, on a connection of their own.

Nothing is read ahead of the reader beyond a few frames: an agent that thinks for an hour holds up its own messages and
nothing else; not the node, and not the answers to what it sends in the meantime.
"""

from __future__ import annotations

import asyncio
import itertools
import logging

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from trishula.client.endpoint import Endpoint, dial, pause, read
from trishula.client.errors import NodeUnreachable, RequestError
from trishula.client.message import Message, arrived
from trishula.client.session import HANDSHAKE_S, closed
from trishula.protocol.agent_frames import Arrival, Attach, Failed
from trishula.protocol.errors import FrameError
from trishula.protocol.frames import encode

log = logging.getLogger("trishula.client")


class Arrivals:
    """An endless iterator over unread and new messages, each once, in the order of their arrival."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._connection: ClientConnection | None = None
        self._cursor = 0
        self._incarnation = ""
        self._turn = asyncio.Lock()
        self._closed = False

    def __aiter__(self) -> Arrivals:
        return self

    async def __anext__(self) -> Message:
        """The next message. May be cancelled without losing one."""
        async with self._turn:
            while True:
                if self._closed:
                    raise closed()
                connection = self._connection or await self._attach()
                try:
                    frame = await read(connection)
                except ConnectionClosed:
                    self._connection = None
                    continue
                except FrameError as error:
                    log.warning("the node at %s breaks the protocol: %s", self._endpoint, error)
                    self._connection = None
                    connection.transport.abort()
                    continue
                match frame:
                    case Arrival():
                        self._cursor = frame.cursor
                        return arrived(frame)
                    case Failed():
                        raise RequestError(frame.message, code=frame.code, fix=frame.fix)

    def kick(self) -> None:
        """The node may be gone: see whether this connection still lives by making a new one."""
        if self._connection is not None:
            self._connection.transport.abort()

    async def close(self) -> None:
        """End it: who waits for a message hears so now."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _attach(self) -> ClientConnection:
        """A connection on which the messages after the last one that we had are under way."""
        for attempt in itertools.count():
            try:
                connection, greeting = await dial(self._endpoint, timeout=HANDSHAKE_S)
            except NodeUnreachable as error:
                log.debug("%s", error)
            else:
                if greeting.incarnation != self._incarnation:
                    self._incarnation, self._cursor = greeting.incarnation, 0
                try:
                    await connection.send(encode(Attach(ref=0, after=self._cursor)), text=True)
                except ConnectionClosed:
                    pass
                except BaseException:
                    connection.transport.abort()
                    raise
                else:
                    self._connection = connection
                    return connection
            await asyncio.sleep(pause(self._endpoint, attempt))
        raise AssertionError("endless")
