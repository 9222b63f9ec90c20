"""Where the node is, and how an agent gets through its door."""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from trishula.client.errors import NodeUnreachable
from trishula.places import HERE
from trishula.protocol.agent_frames import VERSION, AgentReply, Greeting, decode_reply
from trishula.protocol.backoff import full_jitter
from trishula.protocol.errors import FrameError

SOCKET_VARIABLE = "TRISHULA_SOCKET"
DEFAULT_SOCKET = str(HERE.socket)

_RETRY_BASE = 0.1
_UNAUTHORIZED = 401


class Endpoint(Protocol):
    """A way to the node."""

    @property
    def longest_pause(self) -> float:
        """Seconds, at most, between two attempts to reach it."""

    async def open(self) -> ClientConnection:
        """A new WebSocket. Raises `NodeUnreachable`, saying what to do about it."""


async def dial(endpoint: Endpoint, *, timeout: float) -> tuple[ClientConnection, Greeting]:
    """A connection on which the node has greeted us."""
    connection = None
    try:
        async with asyncio.timeout(timeout):
            connection = await endpoint.open()
            greeting = await read(connection)
            if isinstance(greeting, Greeting) and greeting.version == VERSION:
                answered, connection = connection, None
                return answered, greeting
            raise NodeUnreachable(
                f"the node at {endpoint} speaks another version of the protocol",
                value=str(endpoint),
                fix="install the same release of trishula on both sides",
            )
    except (TimeoutError, ConnectionClosed, FrameError) as error:
        why = f"did not answer within {timeout:g} s" if isinstance(error, TimeoutError) else f"hung up ({error})"
        raise NodeUnreachable(
            f"the node at {endpoint} {why}", value=str(endpoint), fix=f"see `{HERE.log}` on its host"
        ) from error
    finally:
        if connection is not None:
            connection.transport.abort()


async def read(connection: ClientConnection) -> AgentReply:
    """The next frame. May be cancelled without losing one."""
    return decode_reply(await connection.recv(decode=False))


def endpoint(
    socket: str | os.PathLike[str] | None = None,
    *,
    url: str | None = None,
    ca: str | os.PathLike[str] | None = None,
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = None,
) -> Endpoint:
    """The endpoint that these arguments name: a Unix socket, or a URL with a token."""
    if url is None:
        if ca is not None or token is not None or token_file is not None:
            raise TypeError("ca, token and token_file go with url; a socket needs none of them")
        return Socket(os.fspath(socket or os.environ.get(SOCKET_VARIABLE) or DEFAULT_SOCKET))
    if socket is not None:
        raise TypeError("name the node by socket or by url, not by both")
    if not url.startswith("wss://"):
        raise ValueError(f"{url!r} is no wss:// URL: over the network a node speaks TLS only")
    if (token is None) == (token_file is None):
        raise TypeError("a url goes with the agent's token: give token or token_file, and not both")
    return Remote(url, None if ca is None else Path(ca), token, None if token_file is None else Path(token_file))


@dataclass(frozen=True, slots=True)
class Socket:
    """A Unix socket. Which agent we are is decided by which socket we may open."""

    path: str
    longest_pause: float = 0.5

    def __str__(self) -> str:
        return self.path

    async def open(self) -> ClientConnection:
        try:
            # No keepalive: the kernel tells at once when the other side is gone.
            return await unix_connect(
                self.path, compression=None, max_size=None, ping_interval=None, close_timeout=1, open_timeout=None
            )
        except (OSError, WebSocketException) as error:
            raise NodeUnreachable(
                f"no node answers at {self.path} ({_reason(error)})", value=self.path, fix=self._fix(error)
            ) from error

    @staticmethod
    def _fix(error: Exception) -> str:
        if isinstance(error, PermissionError):
            return "this user may not open it; use your own agent's socket, or join the group that owns this one"
        return f"start the node ({HERE.start}), or name its socket with --socket or {SOCKET_VARIABLE}"


@dataclass(frozen=True, slots=True)
class Remote:
    """A node's TLS listener. Which agent we are is decided by the token."""

    url: str
    ca: Path | None
    token: str | None = field(repr=False)
    token_file: Path | None
    longest_pause: float = 2.0

    def __str__(self) -> str:
        return self.url

    async def open(self) -> ClientConnection:
        try:
            return await connect(
                self.url,
                ssl=ssl.create_default_context(cafile=self.ca),
                additional_headers={"Authorization": f"Bearer {self._token()}"},
                proxy=None,
                compression=None,
                max_size=None,
                ping_interval=5,
                ping_timeout=10,
                close_timeout=1,
                open_timeout=None,
            )
        except InvalidStatus as error:
            status = error.response.status_code
            raise NodeUnreachable(
                f"the node at {self.url} does not let us in (HTTP {status})",
                code="unauthorized" if status == _UNAUTHORIZED else None,
                value=self.url,
                fix="check the agent's token; each is good at one node only" if status == _UNAUTHORIZED else None,
            ) from error
        except ssl.SSLCertVerificationError as error:
            raise NodeUnreachable(
                f"the certificate of {self.url} is not to be trusted ({error.verify_message})",
                value=self.url,
                fix="give ca= the mesh's own CA certificate, and use the name that is in the node's certificate",
            ) from error
        except (OSError, ValueError, WebSocketException) as error:  # ValueError: no port, no text, a name that is none
            raise NodeUnreachable(
                f"no node answers at {self.url} ({_reason(error)})",
                value=self.url,
                fix="check the address, the firewall and the node; and the files that ca and token_file name",
            ) from error

    def _token(self) -> str:
        """Read at each connection, so that a rotated token is taken up."""
        return self.token if self.token_file is None else self.token_file.read_text().strip()  # type: ignore[return-value]


def pause(endpoint: Endpoint, attempt: int) -> float:
    """Seconds to wait before trying again, after attempt number `attempt` (from 0) has failed."""
    return full_jitter(attempt, base=_RETRY_BASE, cap=endpoint.longest_pause, random=random.random())  # noqa: S311 - no secret


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        named = f" {error.filename}" if error.filename else ""
        return f"{error.strerror}{named}"
    return str(error) or type(error).__name__
