"""Peers that this side dials: for ever, with full jitter."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
import time
from collections.abc import Callable
from typing import Any, cast

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI

from trishula.node.links import LinkOwner, LinkWire
from trishula.node.logs import Sparing
from trishula.node.wire import SETTINGS, ClientWire
from trishula.protocol.backoff import full_jitter
from trishula.protocol.link import CLOSE_SILENT, Side

log = logging.getLogger(__name__)

# A peer that is back is linked in under 5 s: the wait and one attempt together stay below that.
_BASE = 0.1
_CAP = 2.0
_ATTEMPT_WITHIN = 2.5
_STEADY = 5.0

_random = random.SystemRandom().random


class Dialer:
    """Keeps a link to one peer."""

    def __init__(
        self,
        peer: str,
        url: str,
        token: str,
        context: Callable[[], ssl.SSLContext],
        owner: LinkOwner,
        *,
        max_frame: int,
    ) -> None:
        self._peer = peer
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}
        self._context = context
        self._owner = owner
        self._max_frame = max_frame
        self._log = Sparing(log, every=60.0)
        self._again = asyncio.Event()
        self._link: LinkWire | None = None

    async def run(self) -> None:
        """For ever: dial, serve the link, wait a little."""
        attempt = 0
        while True:
            self._again.clear()
            dialled = time.monotonic()
            # A link that ends as soon as it is greeted is no success: whatever ended it will again.
            if await self._dial() and time.monotonic() - dialled > _STEADY:
                attempt = 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(full_jitter(attempt, base=_BASE, cap=_CAP, random=_random())):
                    await self._again.wait()
                    attempt = -1
            attempt += 1

    def redial(self) -> None:
        """Now, and anew if there is a link: it was made before the clock jumped, and may be as dead as it is quiet."""
        self._again.set()
        if self._link is not None:
            self._link.hang_up(CLOSE_SILENT, "the clock jumped")

    async def _dial(self) -> bool:
        """One link, or none. True if it was greeted."""
        try:
            wire = await connect(
                self._url,
                ssl=self._context(),
                additional_headers=self._headers,
                user_agent_header=None,
                compression=None,
                proxy=None,
                open_timeout=_ATTEMPT_WITHIN,
                max_size=self._max_frame,
                create_connection=ClientWire,
                **cast(dict[str, Any], SETTINGS),
            )
        except (OSError, TimeoutError, InvalidHandshake, InvalidURI, EOFError, ValueError) as error:
            # ValueError: a name that can't be one, such as a..b, comes out of the resolver as UnicodeError.
            why = _why(error)
            self._log.warning(why, f"can't link to {self._peer} ({self._url}): {why}")
            return False
        self._link = link = LinkWire(cast(ClientWire, wire), Side.DIALLER, self._peer, self._owner)
        reason = await link.run()
        self._link = None
        log.warning("link to %s down: %s", self._peer, reason)
        return link.up


def _why(error: Exception) -> str:
    match error:
        case InvalidStatus():
            status = error.response.status_code
            return "it does not accept our token (401)" if status == 401 else f"it answered {status}"  # noqa: PLR2004
        case ssl.SSLCertVerificationError():
            return f"its certificate is not good: {error.verify_message}"
        case TimeoutError():
            return "no answer in time"
        case _:
            return str(error) or type(error).__name__
