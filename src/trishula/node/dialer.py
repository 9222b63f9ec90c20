"""Peers that this side dials: for ever, with full jitter."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import random
import re
import socket
import ssl
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI
from websockets.frames import CloseCode

from trishula.node.links import LinkOwner, LinkWire
from trishula.node.logs import Sparing
from trishula.node.wire import SETTINGS, ClientWire, now
from trishula.protocol.backoff import full_jitter
from trishula.protocol.link import CLOSE_SILENT, Side

log = logging.getLogger(__name__)

# A peer that is back is linked in under 5 s: the wait and one attempt together stay below that.
_BASE = 0.1
_CAP = 2.0
_ATTEMPT_WITHIN = 2.5
_STEADY = 5.0

_CODES = re.compile(r"\[Errno (\d+)\]")

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
        self.tried: dict[str, Any] | None = None
        """The last try, as `trishula status` shows it: why it failed, when it was, and when the next one is."""
        self.fix = ""
        """What to do about it."""
        self._log = Sparing(log, every=60.0, level=logging.INFO)
        self._again = asyncio.Event()
        self._link: LinkWire | None = None
        self._leaving = False

    async def run(self) -> None:
        """Until this node leaves: dial, serve the link, wait a little."""
        attempt = 0
        while not self._leaving:
            self._again.clear()
            dialled = time.monotonic()
            # A link that ends as soon as it is greeted is no success: whatever ended it will again.
            if await self._dial() and time.monotonic() - dialled > _STEADY:
                attempt = 0
            pause = full_jitter(attempt, base=_BASE, cap=_CAP, random=_random())
            if self.tried is not None:
                self.tried["next"] = now().wall + round(pause * 1000)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._again.wait()
                    attempt = -1
            attempt += 1

    def leave(self, reason: str) -> None:
        """Say goodbye to the peer, and make no new link."""
        self._leaving = True
        self._again.set()
        if self._link is not None:
            self._link.leave(reason)

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
            why, self.fix = _why(error)
            self._failed(why)
            self._log.say(why, f"can't link to {self._peer} ({self._url}): {why}")
            return False
        if self._leaving:
            await wire.close(CloseCode.GOING_AWAY)
            return False
        self._link = link = LinkWire(cast(ClientWire, wire), Side.DIALLER, self._peer, self._owner)
        reason = await link.run()
        self._link = None
        self._failed(f"the link ended: {reason}")
        self.fix = f"see the journals of both, and `trishula doctor` on {self._peer}"
        link.say_end("to", reason)
        return link.up

    def _failed(self, why: str) -> None:
        moment = now().wall
        self.tried = {"why": why, "at": moment, "next": moment}


def _why(error: Exception) -> tuple[str, str]:  # noqa: PLR0911 - one for each cause
    """What went wrong, and what to do."""
    match error:
        case InvalidStatus():
            status = error.response.status_code
            if status == HTTPStatus.UNAUTHORIZED:
                return "it does not accept our token (401)", "run site.yml over both hosts, unless it was revoked"
            return f"it answered {status}", "is that its node? see its journal"
        case ssl.SSLCertVerificationError():
            why = f"its certificate is not good: {error.verify_message}"
            return why, "run site.yml over both hosts, or put a certificate there that is trusted here"
        case TimeoutError():
            return "no answer in time", "is its host up, and does its firewall let us in? `trishula doctor` there"
        case UnicodeError() | socket.gaierror():
            why = getattr(error, "strerror", None) or str(error)
            return f"its name is not known here: {why}", "mend the name server, or set trishula_address"
        case ConnectionRefusedError():
            return "connection refused", "is its node running? `systemctl status trishula-node` there"
        case OSError() if codes := [int(code) for code in _CODES.findall(str(error))]:  # of each of its addresses
            if {*codes} == {errno.ECONNREFUSED}:
                return _why(ConnectionRefusedError())
            return ", ".join(dict.fromkeys(os.strerror(code).lower() for code in codes)), "`trishula doctor` there"
        case _:
            return str(error) or type(error).__name__, "see the journals of both"
