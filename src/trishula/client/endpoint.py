"""Where the node is, and how an agent gets through its door."""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

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
_UNAVAILABLE = 503
_OPENS = os.R_OK | os.W_OK


class Endpoint(Protocol):
    """A way to the node."""

    longest_pause: ClassVar[float]
    """Seconds, at most, between two attempts to reach it."""

    def may_answer(self) -> bool:
        """False where no node can be there, as far as that is seen from here."""

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
                lasting=True,
                value=str(endpoint),
                fix="install the same release of trishula on both sides",
            )
    except (TimeoutError, ConnectionClosed, FrameError) as error:
        why = f"did not answer within {timeout:.2g} s" if isinstance(error, TimeoutError) else f"hung up ({error})"
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
        named = socket or os.environ.get(SOCKET_VARIABLE)
        return Socket(os.fspath(named or DEFAULT_SOCKET), named=bool(named))
    if socket is not None:
        raise TypeError("name the node by socket or by url, not by both")
    if not url.startswith("wss://"):
        raise ValueError(f"{url!r} is no wss:// URL: over the network a node speaks TLS only")
    if (token is None) == (token_file is None):
        raise TypeError("a url goes with the agent's token: give token or token_file, and not both")
    return Remote(url, None if ca is None else Path(ca), token, None if token_file is None else Path(token_file))


def agents_of(folder: Path, *, mine: bool = False) -> list[str]:
    """The agents that have sockets in a folder, or those of them for which this login may speak.

    `node.sock` is the default agent's, and not listed.
    """
    try:
        sockets = sorted(path for path in folder.iterdir() if path.suffix == ".sock" and path.stem != "node")
    except OSError:
        return []
    return [path.stem for path in sockets if not mine or os.access(path, _OPENS)]


@dataclass(frozen=True, slots=True)
class Socket:
    """A Unix socket. Which agent we are is decided by which socket we may open.

    One that nobody named is the default agent's, or else that of the only agent for which this login may speak.
    """

    path: str
    named: bool = field(default=True, compare=False)
    longest_pause: ClassVar[float] = 0.5

    def __str__(self) -> str:
        return self.path

    def may_answer(self) -> bool:
        return os.path.exists(self.path)  # noqa: PTH110 - a text, as connect() takes it

    async def open(self) -> ClientConnection:
        path = self.path if self.named or os.access(self.path, _OPENS) else self._mine()
        try:
            # No keepalive: the kernel tells at once when the other side is gone.
            return await unix_connect(
                path, compression=None, max_size=None, ping_interval=None, close_timeout=1, open_timeout=None
            )
        except InvalidStatus as error:
            raise _turned_away(path, error) from error
        except (OSError, WebSocketException) as error:
            forbidden = isinstance(error, PermissionError)
            raise NodeUnreachable(
                f"no node answers at {path} ({_reason(error)})",
                lasting=forbidden or not _has_folder(path),
                value=path,
                fix="this user may not open it; use your own agent's socket, or join the group that owns this one"
                if forbidden
                else f"start the node ({HERE.start}), or name its socket with --socket or {SOCKET_VARIABLE}",
            ) from error

    def _mine(self) -> str:
        """The socket that stands in for a default one which is another login's. Raises `NodeUnreachable`."""
        folder = Path(self.path).parent
        mine = agents_of(folder, mine=True)
        if len(mine) > 1 and self.may_answer():
            raise NodeUnreachable(
                f"this user may not open {self.path}, and may speak for {', '.join(mine)}",
                lasting=True,
                value=self.path,
                fix=f"say for which: --agent {mine[0]}, or {SOCKET_VARIABLE}={folder / mine[0]}.sock",
            )
        return str(folder / f"{mine[0]}.sock") if len(mine) == 1 and self.may_answer() else self.path


@dataclass(frozen=True, slots=True)
class Remote:
    """A node's TLS listener. Which agent we are is decided by the token."""

    url: str
    ca: Path | None
    token: str | None = field(repr=False)
    token_file: Path | None
    longest_pause: ClassVar[float] = 2.0

    def __str__(self) -> str:
        return self.url

    def may_answer(self) -> bool:
        return True

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
            raise _turned_away(self.url, error) from error
        except ssl.SSLCertVerificationError as error:
            raise NodeUnreachable(
                f"the certificate of {self.url} is not to be trusted ({error.verify_message})",
                lasting=True,
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


def _has_folder(path: str) -> bool:
    """Whether a node may come (back) to this socket: one that is restarted leaves the folder for its next life."""
    return Path(path).parent.is_dir()


def _turned_away(place: str, error: InvalidStatus) -> NodeUnreachable:
    """What the answer to our upgrade request means."""
    status, said = error.response.status_code, error.response.body or b""
    if status == _UNAUTHORIZED:
        return NodeUnreachable(
            f"the node at {place} does not let us in (HTTP {status})",
            lasting=True,
            code="unauthorized",
            value=place,
            fix="check the agent's token; each is good at one node only",
        )
    if status == _UNAVAILABLE:
        # The node's own words, which name the limit.
        return NodeUnreachable(
            f"the node at {place} turns us away", value=place, fix=said.decode("utf-8", "replace").strip()
        )
    return NodeUnreachable(f"the node at {place} does not let us in (HTTP {status})", value=place)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        named = f" {error.filename}" if error.filename else ""
        return f"{error.strerror}{named}"
    return str(error) or type(error).__name__
