"""The certificate while the node runs: a new one is taken without dropping a link, and its end is seen coming.

A context that is in use is never loaded into: a key that is not the certificate's would raise, and break every later
handshake. So new contexts are built and checked beside the old ones, and take their place only when they are whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from datetime import UTC, datetime
from typing import Any

from trishula.node.config import Config
from trishula.node.tls import Certificate, client_context, distrust, load_pair
from trishula.protocol.errors import ConfigError

log = logging.getLogger(__name__)

WARN_DAYS = 14
"""Days before its end from which on a certificate is warned of, once a day."""

_DAY_MS = 24 * 3600 * 1000
_LOOK_EVERY_S = 3600.0


class Tls:
    """The contexts for new connections, by what the files held when they were last good."""

    def __init__(self, config: Config) -> None:
        """Load them. Raises `ConfigError`; one that is out of date, or that no peer trusts, is served all the same."""
        self._config = config
        self._server, self.certificate = load_pair(config)
        self._client = client_context(config)
        self.distrusted = distrust(self._server, config)
        """Why no peer trusts what is served, or nothing."""
        self.refused = ""
        """Why the files as they are now are not served, or nothing."""
        self._again = asyncio.Event()
        self._warned_of: int | None = None

    def server(self) -> ssl.SSLContext:
        """For the next connection that is accepted."""
        return self._server

    def client(self) -> ssl.SSLContext:
        """For the next one that is dialled."""
        return self._client

    def read_again(self) -> None:
        """Take what is in the files now, as soon as `run` gets to it: for SIGHUP."""
        self._again.set()

    async def run(self) -> None:
        """For ever: warn of the end once a day, and take new files when told to."""
        while True:
            self.warn(_now())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._again.wait()
            if self._again.is_set():
                self._again.clear()
                await asyncio.to_thread(self.reload, _now())

    def reload(self, now: int) -> None:
        """Take what is in the files, for the next connections, or say in the journal why not. `now`: ms since 1970."""
        try:
            server, certificate = load_pair(self._config)
            client = client_context(self._config)
            _in_date(certificate, self._config, now)
            _trusted(distrust(server, self._config), self._config)
        except ConfigError as error:
            self.refused = str(error)
        else:
            self.refused = ""
        if self.refused:
            old = _said(self.certificate)
            log.error("the new certificate is refused, the old one (%s) serves on: %s", old, self.refused)
            return
        self._server, self.certificate, self._client = server, certificate, client
        self._warned_of, self.distrusted = None, ""
        log.info("new connections are shown the certificate with %s", _said(certificate))

    def warn(self, now: int) -> None:
        """A line in the journal on each of the last days, and on each day after. `now`: ms since 1970."""
        if self.distrusted:
            log.warning("peers don't trust the certificate %s: %s", self._config.certificate, self.distrusted)
        days = days_left(self.certificate, now)
        if days < WARN_DAYS and days != self._warned_of:
            self._warned_of = days
            ends = f"ends in {days} d" if days >= 0 else "IS OUT OF DATE, and no peer takes it"
            log.warning(
                "the certificate %s (%s) %s: run site.yml, or see why it was not renewed "
                "(journalctl -u trishula-renew)",
                self._config.certificate,
                _said(self.certificate),
                ends,
            )

    def status(self) -> dict[str, Any]:
        """As `trishula status` shows it."""
        shown = self.certificate
        days = days_left(shown, _now())
        return {
            "serial": shown.serial,
            "not_before": shown.not_before,
            "not_after": shown.not_after,
            "days_left": days,
            "ends_soon": days < WARN_DAYS,
            "refused": self.refused,
            "distrusted": self.distrusted,
        }


def days_left(certificate: Certificate, now: int) -> int:
    """Whole days until its end; below 0 when it is over. `now`: ms since 1970."""
    return (certificate.not_after - now) // _DAY_MS


def _in_date(certificate: Certificate, config: Config, now: int) -> None:
    """Raises `ConfigError` for a certificate whose time has not come, or is over."""
    if certificate.not_before <= now < certificate.not_after:
        return
    raise ConfigError(
        f"{config.certificate} holds from {_date(certificate.not_before)} until {_date(certificate.not_after)}, "
        f"and it is {_date(now)}",
        key="tls.certificate",
        value=str(config.certificate),
        fix="put one there that holds now, or mend the clock",
    )


def _trusted(why_not: str, config: Config) -> None:
    """Raises `ConfigError`."""
    if why_not:
        roots = "the mesh's CA or a public root" if config.public_roots else "the mesh's CA"
        raise ConfigError(
            f"{config.certificate} is not signed by {roots}, so no peer would trust it: {why_not}",
            key="tls.certificate",
            value=str(config.certificate),
            fix="put one there that is, with its chain, or run site.yml",
        )


def _said(certificate: Certificate) -> str:
    return f"serial {certificate.serial}, until {_date(certificate.not_after)}"


def _date(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(" ", "minutes")


def _now() -> int:
    return int(time.time() * 1000)
