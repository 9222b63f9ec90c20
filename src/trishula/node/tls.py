"""TLS contexts. 1.2 at least, peers always verified, no protocol older than what every Python 3.11 has."""

from __future__ import annotations

import ssl

from trishula.node.config import Config
from trishula.protocol.errors import ConfigError


def server_context(config: Config) -> ssl.SSLContext:
    """For the listener. Raises `ConfigError` where certificate and key are not a pair."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.certificate, config.private_key)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"{config.certificate} and {config.private_key} don't make a pair: {error}",
            key="tls.certificate",
            value=str(config.certificate),
            fix="run site.yml, or put a matching pair there",
        ) from None
    return context


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
