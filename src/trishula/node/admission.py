"""Who gets in, and as what: decided by the credential, before the upgrade (RFC 6455, section 4.2.2; RFC 6750)."""

from __future__ import annotations

import ipaddress
import logging
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from trishula.node.credentials import Credentials, Identity
from trishula.node.logs import Sparing

log = logging.getLogger(__name__)

_SCHEME = "bearer "
_MOST_IN_ALL = 4096


class Admission:
    """Answers upgrade requests on the mesh port. `ready` says why the node is not ready, or nothing."""

    def __init__(self, credentials: Credentials, ready: Callable[[], str]) -> None:
        self._credentials = credentials
        self._ready = ready
        self._log = Sparing(log)

    def admit(self, connection: ServerConnection, request: Request, address: str) -> Identity | Response:
        """Whose connection this is, or the answer that turns it away."""
        if request.path == "/healthz":
            return connection.respond(HTTPStatus.OK, "alive\n")
        if request.path == "/readyz":
            # Why not is for `trishula status`: here anybody may ask.
            if self._ready():
                return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "not ready\n")
            return connection.respond(HTTPStatus.OK, "ready\n")
        identity, why = self._identify(request)
        if identity is not None:
            return connection.respond(HTTPStatus.OK, f"{identity}\n") if request.path == "/whoami" else identity
        self._log.warning(f"{address} {why}", f"turned away {address}: {why}")
        response = connection.respond(HTTPStatus.UNAUTHORIZED, "A bearer token of this node is needed.\n")
        response.headers["WWW-Authenticate"] = 'Bearer realm="trishula"'
        return response

    def _identify(self, request: Request) -> tuple[Identity | None, str]:
        headers = request.headers.get_all("Authorization")
        if len(headers) != 1:
            return None, "more than one token" if headers else "no token"
        given = headers[0]
        if given[: len(_SCHEME)].lower() != _SCHEME:
            return None, "not a bearer token"
        identity = self._credentials.identify(given[len(_SCHEME) :].strip())
        return identity, "" if identity else "a token that is not good here"


class Crowd:
    """Counts connections by where they come from, so that one place can't take all there are."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count: Counter[str] = Counter()

    @property
    def limit(self) -> str:
        """For who is over it."""
        return (
            f"too many connections from there (limits.connections_per_address = {self._most}):"
            " end some, or raise it in node.toml"
        )

    def enter(self, address: str) -> bool:
        """Whether there is room for one more from an address or a Unix socket; call `leave` afterwards if so."""
        place = _place(address)
        if self._count[place] >= self._most or self._count.total() >= _MOST_IN_ALL:
            return False
        self._count[place] += 1
        return True

    def leave(self, address: str) -> None:
        place = _place(address)
        self._count[place] -= 1
        if not self._count[place]:
            del self._count[place]


def _place(address: str) -> str:
    """An IPv6 host has a whole /64 to come from, so that is what counts."""
    try:
        host = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(host, ipaddress.IPv4Address):
        return address
    if host.ipv4_mapped is not None:
        return str(host.ipv4_mapped)
    return str(ipaddress.ip_network((host, 64), strict=False))
