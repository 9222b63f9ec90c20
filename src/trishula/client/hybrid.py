"""Both ways to one's messages: what comes by the socket, and the files that are there without it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from trishula.client.client import FALLBACK_AFTER_S, Client
from trishula.client.errors import NodeUnreachable, NotOpen, RequestError, TimedOut
from trishula.client.mailbox import FILE_FALLBACK, Mailbox
from trishula.client.message import Message, fix
from trishula.client.session import closed, not_entered
from trishula.protocol.names import is_agent

_AGAIN_S = 1.0
_LEAVES_WITHIN_S = 60.0
_LARGEST = 64 * 1024 * 1024

log = logging.getLogger("trishula.client")

Key = tuple[str, str]


class Hybrid:
    """The messages of an agent, whether its node runs or not.

        async with trishula.Hybrid(mailbox="~/trishula") as mesh:
            for message in await mesh.get_messages():
                ...
                await mesh.done(message)
            await mesh.send_with_fallback("agni", {"subject": "Build", "body": "Done."})

    `mailbox` is the agent's folder, else what TRISHULA_MAILBOX says, else ~/trishula; `socket` and the other options
    are those of `Client`. `agent` is needed where the folder (or what it is a link to) is not called like the agent.
    Entering never fails for want of a node: it is looked for as long as it takes. Outside of its `async with` block,
    all that it is asked raises `NotOpen`.
    """

    def __init__(
        self,
        mailbox: str | os.PathLike[str] | None = None,
        socket: str | os.PathLike[str] | None = None,
        *,
        agent: str | None = None,
        **options: Any,
    ) -> None:
        self._mailbox = Mailbox(mailbox)
        self._agent = agent or self._mailbox.path.resolve().name
        if not is_agent(self._agent):
            raise ValueError(f"{self._mailbox.path} does not say whose it is: give agent=")
        self._options = {"socket": socket, **options, "mailbox": self._mailbox.path, "patience": float("inf")}
        self._endpoint = Client(**self._options).endpoint  # what is wrong with the options is said here
        self._task: asyncio.Task[None] | None = None
        self._client: Client | None = None
        self._online = asyncio.Event()
        """Whether there is a client, which may have lost its node just now."""
        self._pending: dict[Key, Message] = {}
        self._files: dict[Key, str] = {}
        """Under which name the file of a message was last seen."""
        self._handled: dict[Key, float] = {}
        """What is done, and since when (monotonic): its file leaves the inbox a moment later."""

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise RuntimeError("a client is entered once; make a new one")
        self._task = asyncio.create_task(self._listen(), name="trishula: hybrid")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def _require_open(self) -> None:
        if self._task is None:
            raise not_entered("Hybrid")
        if self._task.done():
            raise closed()

    @property
    def agent(self) -> str:
        return self._agent

    @property
    def connected(self) -> bool:
        """Whether the node is there just now."""
        return self._client is not None and self._client.connected

    # ------------------------------------------------------------ receiving

    def get_pending(self) -> list[Message]:
        """What came by the socket and is unread, in the order of arrival."""
        self._require_open()
        inbox = self._mailbox.path / "inbox"
        handled = [key for key in self._pending if key in self._files and not (inbox / self._files[key]).exists()]
        for key in handled:  # its file was moved or removed
            del self._pending[key]
        return [*self._pending.values()]

    async def get_messages(self) -> list[Message]:
        """All that is unread: what came by the socket, then what only lies in `inbox/`. Each message once."""
        self._require_open()
        files = await asyncio.to_thread(self._mailbox.messages)
        by_key: dict[Key, Message] = {}
        for name, message in files.items():
            key = _key(message)
            if by_key.setdefault(key, message) is message:
                self._files[key] = name
        pending = {_key(message): message for message in self.get_pending()}
        self._files = {key: name for key, name in self._files.items() if key in by_key or key in pending}
        before = time.monotonic() - _LEAVES_WITHIN_S
        self._handled = {key: at for key, at in self._handled.items() if key in by_key or at > before}
        known = pending.keys() | self._handled.keys()
        return [*pending.values(), *(message for key, message in by_key.items() if key not in known)]

    async def done(self, message: Message) -> None:
        """This agent has handled the message: its file goes to `archive/`, its sender is told.

        Without a node the file is moved, and the node finds that out. Raises `NodeUnreachable` where there is neither.
        """
        self._require_open()
        key = _key(message)
        if self._client is not None and self._client.connected:
            try:
                await self._client.done(message)
            except (NodeUnreachable, TimedOut, NotOpen) as error:
                log.debug("%s", error)
            except RequestError as error:
                if error.code != "not_found":
                    raise
            else:
                self._pending.pop(key, None)
                self._handled[key] = time.monotonic()
                return
        name = self._files.get(key)
        if name is None or not await asyncio.to_thread(self._mailbox.archive, name):
            raise NodeUnreachable(f"neither a node nor a file of {message.id}", fix="try again when the node is there")
        self._pending.pop(key, None)

    # ------------------------------------------------------------ sending

    async def send_with_fallback(self, to: str | list[str], message: Mapping[str, Any]) -> str:
        """As `Client.send_with_fallback`: `websocket`, or `file_fallback`.

        A node whose socket is there, and that has not answered yet, gets 2 seconds to do so.
        """
        self._require_open()
        deadline = time.monotonic() + FALLBACK_AFTER_S
        if self._endpoint.may_answer():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._online.wait(), FALLBACK_AFTER_S)
        if self._client is not None:
            left = max(0.0, deadline - time.monotonic())
            with contextlib.suppress(NotOpen):  # it has just lost its node for good; another is made
                return await self._client.send_with_fallback(to, message, timeout=left)
        fixed = fix({**message, "to": to}, sender=self._agent, max_bytes=_LARGEST)
        await asyncio.to_thread(self._mailbox.drop, fixed)
        return FILE_FALLBACK

    # ------------------------------------------------------------

    async def _listen(self) -> None:
        said = ""
        while True:
            try:
                async with Client(**self._options) as client:
                    said, self._client = "", client
                    self._agent = client.agent
                    self._online.set()
                    async for message in client:
                        self._pending.setdefault(_key(message), message)
            except (NodeUnreachable, RequestError) as error:
                if str(error) != said:
                    log.warning("%s", said := str(error))
            finally:
                self._client = None
                self._online.clear()
            await asyncio.sleep(_AGAIN_S)


def _key(message: Message) -> Key:
    return message.sender, message.id
