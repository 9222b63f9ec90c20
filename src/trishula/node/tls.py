"""TLS contexts. 1.2 at least, peers always verified, no protocol older than what every Python 3.11 has."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trishula.node.config import Config
from trishula.protocol.errors import ConfigError

_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which the module `ssl` has no name for."""

_MOST_FLIGHTS = 4


@dataclass(frozen=True, slots=True)
class Certificate:
    """What peers are shown. `serial` is hexadecimal, as openssl prints it; times are ms since 1970."""

    serial: str
    not_before: int
    not_after: int


def server_context(config: Config) -> ssl.SSLContext:
    """For the listener. Raises `ConfigError` where certificate and key are not a pair."""
    return load_pair(config)[0]


def load_pair(config: Config) -> tuple[ssl.SSLContext, Certificate]:
    """A context for the listener, and what it shows. Raises `ConfigError` where certificate and key are not a pair."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.certificate, config.private_key)
        return context, _shown_by(context, config.certificate)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"{config.certificate} and {config.private_key} don't make a pair: {error}",
            key="tls.certificate",
            value=str(config.certificate),
            fix="run site.yml, or put a matching pair there",
        ) from None


def client_context(config: Config) -> ssl.SSLContext:
    """For the dialer: the peer must show a certificate for the name that was dialled. Raises `ConfigError`."""
    context = ssl.create_default_context() if config.public_roots else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(config.ca)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"{config.ca} is no CA file: {error}",
            key="tls.ca",
            value=str(config.ca),
            fix="put the mesh CA's certificate there, in PEM",
        ) from None
    return context


def distrust(server: ssl.SSLContext, config: Config) -> str:
    """Why peers would not trust what `server` shows, whenever it is valid; or nothing. Raises `ConfigError`.

    They trust what this node trusts: the mesh's CA, and public roots where any node of the mesh has a public one.
    """
    try:
        _handshake(server, client_context(config))
    except ssl.SSLError as error:
        return getattr(error, "verify_message", "") or str(error)
    return ""


def _shown_by(server: ssl.SSLContext, certificate: Path) -> Certificate:
    """`ssl` tells no other way what a file holds. Raises `ssl.SSLError`."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(certificate)
    # Whoever issued it: it is asked what it is, not whether it is good.
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    shown = _handshake(server, client)
    return Certificate(
        serial=str(shown["serialNumber"]),
        not_before=ssl.cert_time_to_seconds(str(shown["notBefore"])) * 1000,
        not_after=ssl.cert_time_to_seconds(str(shown["notAfter"])) * 1000,
    )


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> Mapping[str, Any]:
    """With ourselves, in memory, whatever the time and the names. Returns what was shown; raises `ssl.SSLError`."""
    client.check_hostname = False
    client.verify_flags |= _NO_CHECK_TIME
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    dialler = client.wrap_bio(to_client, to_server)
    ends = (dialler, server.wrap_bio(to_server, to_client, server_side=True))
    for _ in range(_MOST_FLIGHTS):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return dialler.getpeercert() or {}
