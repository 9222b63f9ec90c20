"""The listening side: TLS connections on the mesh port, plain ones on the agents' Unix sockets.

Connections are accepted here and not by `websockets.serve`, because asyncio keeps a failed TLS handshake to itself and
an operator needs the line in the journal: who came, and what was wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

from websockets.asyncio.server import Server, ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from trishula.node.accounts import group_id
from trishula.node.admission import Admission, Crowd
from trishula.node.credentials import Identity
from trishula.node.logs import Sparing
from trishula.node.wire import CLOSE_WITHIN, LARGEST_PEER_FRAME, SETTINGS, ServerWire
from trishula.protocol.errors import ConfigError

log = logging.getLogger(__name__)

Handler = Callable[[ServerWire, Identity], Awaitable[None]]
Admit = Callable[[ServerConnection, Request], Identity | Response]

_ACCEPT_PAUSE = 0.5
_AGENT_PING = 20.0
_BACKLOG = 512
_MAX_TOLD = 4
"""Connections of one place that are told at the same time of the limit that they are over; more are just closed."""


class _Serving:
    """What a `ServerConnection` wants of its server: here each connection is served by its own task."""

    def __init__(self, handler: Callable[[ServerConnection], Awaitable[None]], tasks: set[asyncio.Task[None]]) -> None:
        self.handler = handler
        self.handler_tasks = tasks

    def is_serving(self) -> bool:
        return True


class Doorman:
    """Accepts connections and gives those that may enter to `handler`, which must not raise."""

    def __init__(self, handler: Handler, crowd: Crowd, *, max_frame: int, handshake_timeout_s: float) -> None:
        self._handler = handler
        self._crowd = crowd
        self._told = Crowd(_MAX_TOLD)
        self._max_frame = max_frame
        self._timeout = handshake_timeout_s
        self._log = Sparing(log)
        self._open: set[ServerWire] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    async def serve_peers(
        self, sock: socket.socket, context: Callable[[], ssl.SSLContext], admission: Admission
    ) -> None:
        """Accept on the mesh port for ever. `context` gives the TLS context for the next connection."""

        async def enter(connection: socket.socket, address: str, crowd: Crowd) -> None:
            def admit(wire: ServerConnection, request: Request) -> Identity | Response:
                return admission.admit(wire, request, address)

            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._enter(connection, address, crowd, admit, context())

        await self._accept(sock, enter, lambda peer: str(peer[0]))

    async def serve_agent(self, sock: socket.socket, identity: Identity) -> None:
        """Accept an agent on a Unix socket for ever: who may open the socket is the agent."""
        path = Path(sock.getsockname())

        async def enter(connection: socket.socket, address: str, crowd: Crowd) -> None:
            await self._enter(connection, address, crowd, lambda _, __: identity, None)

        try:
            await self._accept(sock, enter, lambda _: path.name)
        finally:
            with contextlib.suppress(OSError):
                path.unlink()

    async def close(self) -> None:
        """Let nobody in any more, and send everybody home who is."""
        self._closing = True
        for task in [asyncio.create_task(wire.close(CloseCode.GOING_AWAY, "the node stops")) for wire in self._open]:
            await task
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_WITHIN)

    async def _accept(
        self,
        sock: socket.socket,
        enter: Callable[[socket.socket, str, Crowd], Coroutine[Any, Any, None]],
        address_of: Callable[[Any], str],
    ) -> None:
        loop = asyncio.get_running_loop()
        with sock:
            async with asyncio.TaskGroup() as entering:
                while True:
                    try:
                        connection, peer = await loop.sock_accept(sock)
                    except OSError as error:
                        # Out of file descriptors, or the peer has gone already: neither is a reason to stop.
                        self._log.warning("accept", f"could not accept a connection: {error}")
                        await asyncio.sleep(_ACCEPT_PAUSE)
                        continue
                    address = address_of(peer)
                    if self._closing:
                        connection.close()
                    elif self._crowd.enter(address):
                        entering.create_task(enter(connection, address, self._crowd))
                    elif self._told.enter(address):
                        entering.create_task(enter(connection, address, self._told))
                    else:
                        self._log.warning(f"{address} crowd", f"turned away {address}: {self._crowd.limit}")
                        connection.close()

    async def _enter(
        self, sock: socket.socket, address: str, crowd: Crowd, admit: Admit, context: ssl.SSLContext | None
    ) -> None:
        def tell(connection: ServerConnection, request: Request) -> Identity | Response:
            """Whose credential is good hears why it does not get in."""
            answer = admit(connection, request)
            if isinstance(answer, Response):
                return answer
            self._log.warning(f"{address} crowd", f"turned away {address}: {self._crowd.limit}")
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, f"{self._crowd.limit}\n")

        async def serve(connection: ServerConnection) -> None:
            try:
                await self._serve(cast(ServerWire, connection), admit if crowd is self._crowd else tell, address)
            finally:
                crowd.leave(address)

        tls: dict[str, Any] = {}
        if context is not None:
            tls = {"ssl": context, "ssl_handshake_timeout": self._timeout, "ssl_shutdown_timeout": CLOSE_WITHIN}
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._factory(serve), sock, **tls)
        except (OSError, TimeoutError) as error:
            crowd.leave(address)
            self._log.warning(f"{address} tls", f"turned away {address}: no TLS handshake ({_why(error)})")

    def _factory(self, serve: Callable[[ServerConnection], Awaitable[None]]) -> Callable[[], ServerWire]:
        serving = _Serving(serve, self._tasks)

        def make() -> ServerWire:
            protocol = ServerProtocol(max_size=LARGEST_PEER_FRAME)
            return ServerWire(protocol, cast(Server, serving), **cast(dict[str, Any], SETTINGS))

        return make

    async def _serve(self, connection: ServerWire, admit: Admit, address: str) -> None:
        """One connection from its upgrade request to its end. Never raises."""
        identity: Identity | None = None
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(self._tasks.discard)

        def decide(connection: ServerConnection, request: Request) -> Response | None:
            nonlocal identity
            answer = admit(connection, request)
            if isinstance(answer, Response):
                return answer
            identity = answer
            return None

        try:
            async with asyncio.timeout(self._timeout):
                await connection.handshake(decide, server_header=None)
        except TimeoutError:
            self._log.warning(f"{address} slow", f"turned away {address}: no request within {self._timeout:.0f} s")
            connection.transport.abort()
            return
        except Exception as error:  # noqa: BLE001 - no stranger's request may end the node, whatever the library says
            reason = "it talked on, or left" if isinstance(error, ConnectionClosed) else _why(error)
            self._log.warning(f"{address} http", f"turned away {address}: no WebSocket request ({reason})")
            connection.transport.abort()
            return
        if connection.state is not State.OPEN or identity is None:
            if connection.protocol.handshake_exc is not None:
                why = connection.protocol.handshake_exc
                self._log.warning(f"{address} http", f"turned away {address}: no WebSocket request ({why})")
            connection.transport.abort() if connection.request is None else connection.transport.close()
            return
        if identity.agent is not None:
            # Links have pings of their own; an agent that is frozen or gone must not keep its place.
            connection.protocol.max_message_size = self._max_frame
            connection.ping_interval = connection.ping_timeout = _AGENT_PING
            connection.start_keepalive()
        self._open.add(connection)
        try:
            async with connection:
                await self._handler(connection, identity)
        finally:
            self._open.discard(connection)


def listening_socket(address: str, port: int) -> socket.socket:
    """A TCP socket that listens. Raises `ConfigError`."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        sock = socket.create_server((address, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"can't listen on {address} port {port}: {error.strerror}",
            key="listen.port",
            value=port,
            fix=f"see what has it with `ss -ltnp sport = :{port}`, or choose another",
        ) from None
    sock.setblocking(False)
    return sock


def agent_socket(path: Path, group: str | None) -> socket.socket:
    """A Unix socket that only this node and `group` can open; it listens from here on. Raises `ConfigError`."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # A socket that is left from before is nobody's: the store's lock says that we are alone.
        path.unlink(missing_ok=True)
        sock.bind(str(path))
        path.chmod(0o660)
        if group is not None:
            os.chown(path, -1, group_id(group))
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"can't make the socket {path} for the group {group or 'of the node'}: {error.strerror}",
            key="agents.*.socket_group",
            value=group,
            fix="let the node's user own node.runtime_dir and be a member of the group",
        ) from None
    return sock


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return str(error) or type(error).__name__
