"""What an agent sees of the mesh."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from trishula.client import endpoint
from trishula.client.arrivals import Arrivals
from trishula.client.errors import NodeUnreachable, NotOpen, RequestError, TimedOut
from trishula.client.mailbox import FILE_FALLBACK, Mailbox
from trishula.client.message import Message, Meta, compose, fix
from trishula.client.receipt import Receipt
from trishula.client.session import Ask, Session, closed, not_entered
from trishula.protocol.agent_frames import Done, Find, Inbox, Outcome, Probe, Send, Show, Status, Trace
from trishula.protocol.names import is_agent, is_message_id

MOST_LISTED = 1000
WEBSOCKET = "websocket"
FALLBACK_AFTER_S = 2.0
RESTART_S = 3.0
"""For a node that is just being restarted."""

OnMessage = Callable[[Message, Meta], Awaitable[object] | object]


class Client:
    """An agent's connection to its node.

        async with trishula.Client() as mesh:
            receipt = await mesh.send("agni", subject="Build", body="Please build the release.")
            await receipt.delivered(timeout=5)
            async for message in mesh:
                print(message["from"], message["subject"], message.meta.route)
                await mesh.done(message)

    The node is found by `socket`, else by the environment's TRISHULA_SOCKET, else at /run/trishula/node.sock; over the
    network by `url` (wss://), with `ca` (the mesh's CA certificate; default: the system's) and the agent's `token`, or
    a `token_file`. Where this login may not open the default socket, and that of one agent only, it speaks for that.
    Entering raises `NodeUnreachable` if the node can't be reached within `patience` seconds, which are there for one
    that is being restarted; at once where waiting does not help. From then on lost connections are made again by
    themselves; a request that finds no node for `timeout` seconds fails. Outside of its `async with` block, all that a
    client is asked raises `NotOpen`; so does, at its end, whatever still waits. `mailbox` is the agent's folder, for
    `send_with_fallback` alone; else what TRISHULA_MAILBOX says, else ~/trishula.

    `on_message(message, meta)`, plain or async, is called for each message instead of iterating. What it raises ends
    the `async with` block and comes out of it.
    """

    def __init__(
        self,
        socket: str | os.PathLike[str] | None = None,
        *,
        url: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        on_message: OnMessage | None = None,
        timeout: float = 30.0,
        patience: float = RESTART_S,
        mailbox: str | os.PathLike[str] | None = None,
    ) -> None:
        self.endpoint = endpoint.endpoint(socket, url=url, ca=ca, token=token, token_file=token_file)
        self._on_message = on_message
        self._timeout = timeout
        self._patience = patience
        self._mailbox = Mailbox(mailbox)
        self._entered = False
        self._live: Session | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeError("a client is entered once; make a new one")
        self._entered = True
        self._arrivals = Arrivals(self.endpoint)
        session = Session(self.endpoint, lost=self._arrivals.kick)
        await session.open(patience=self._patience, timeout=self._timeout)
        self._group = asyncio.TaskGroup()
        await self._group.__aenter__()
        self._live = session
        self._tasks.append(self._group.create_task(session.run(), name="trishula: session"))
        if self._on_message is not None:
            self._tasks.append(self._group.create_task(self._call(self._on_message), name="trishula: on_message"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        try:
            await self._group.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            # One reason, as it nearly always is, comes out as itself.
            if len(group.exceptions) > 1:
                raise
            if group.exceptions[0] is not error:
                raise group.exceptions[0] from None
        finally:
            # Here and not in their tasks, which may never have begun.
            session, self._live = self._session, None
            await self._arrivals.close()
            await session.close()

    @property
    def _session(self) -> Session:
        """The one that is open. Raises `NotOpen`."""
        if self._live is None:
            raise self._not_open()
        return self._live

    def _not_open(self) -> NotOpen:
        return closed() if self._entered else not_entered("Client")

    # ------------------------------------------------------------ who

    @property
    def agent(self) -> str:
        """Who we are to the node."""
        return self._session.greeting.agent

    @property
    def node(self) -> str:
        """The node that we talk to."""
        return self._session.greeting.node

    @property
    def connected(self) -> bool:
        """Whether the node is there just now."""
        return self._live is not None and self._live.connected

    # ------------------------------------------------------------ sending

    async def send(
        self,
        to: str | Sequence[str] | Mapping[str, Any] | bytes,
        /,
        *,
        ttl_s: int | None = None,
        timeout: float | None = None,
        **fields: Any,
    ) -> Receipt:
        """Store a message at the node, which delivers it: to an agent, several, `@group` or `all`.

        The fields are `subject, body, type, priority, reply_to` and any other. Instead of all that, `to` may be a whole
        message: a mapping, or bytes, whose values then stay as they are spelt. A missing `id` is chosen here, so that a
        retry after a lost connection is the same message. After `ttl_s` seconds it is no longer delivered.

        Raises `MessageError` or `SendError` for what can't be sent, `NodeUnreachable` or `TimedOut` where the node does
        not say that it is stored.
        """
        if ttl_s is not None and ttl_s < 1:
            raise ValueError(f"ttl_s={ttl_s}: a message lives for a second at least")
        message: Mapping[str, Any] | bytes
        if isinstance(to, Mapping | bytes):
            if fields:
                raise TypeError(f"a whole message has its own fields; put {', '.join(fields)} into it")
            message = to
        else:
            message = compose(to if isinstance(to, str) else list(to), fields, sender=self.agent)
        fixed = fix(message, sender=self.agent, max_bytes=self._session.greeting.max_message_bytes)
        raw = msgspec.Raw(fixed.payload[:-1])
        return await self._stored(lambda ref: Send(ref=ref, message=raw, ttl_s=ttl_s), timeout)

    async def send_with_fallback(
        self, to: str | list[str], message: Mapping[str, Any], *, timeout: float = FALLBACK_AFTER_S
    ) -> str:
        """Send, and say how: `websocket`, or `file_fallback` where there is no way but files just now.

        A node that does not answer within `timeout` seconds finds the message in `outbox/` later: under the same id, so
        it is sent once. Raises `MessageError` or `SendError` for what can't be sent.
        """
        fixed = fix({**message, "to": to}, sender=self.agent, max_bytes=self._session.greeting.max_message_bytes)
        raw = msgspec.Raw(fixed.payload[:-1])
        if self.connected or self.endpoint.may_answer():
            try:
                receipt = await self._stored(lambda ref: Send(ref=ref, message=raw), timeout)
            except (NodeUnreachable, TimedOut):
                pass
            else:
                methods = {outcome.method or FILE_FALLBACK for outcome in receipt.outcomes}
                return FILE_FALLBACK if FILE_FALLBACK in methods else WEBSOCKET
        await asyncio.to_thread(self._mailbox.drop, fixed)
        return FILE_FALLBACK

    async def ping(self, node: str, *, route: Literal["", "rsync"] = "", timeout: float | None = None) -> Outcome:
        """Send a signed probe to a node's disk and back, on request by rsync, whatever links there are.

        The outcome has `route` and `latency_ms`. Raises `TimedOut` where it does not come back in time.
        """
        if not is_agent(node):
            raise RequestError(f"{node!r} is no node's name", code="unknown_node", key="node", value=node)
        limit = self._timeout if timeout is None else timeout
        ttl_s = min(3600, max(1, round(limit)))
        receipt = await self._stored(lambda ref: Probe(ref=ref, node=node, ttl_s=ttl_s, route=route), limit)
        try:
            return (await receipt.delivered(timeout=limit))[0]
        except TimedOut as error:
            raise TimedOut(
                f"no answer from {node} within {limit:g} s", value=node, fix="`trishula status` says who is linked"
            ) from error

    # ------------------------------------------------------------ receiving

    def __aiter__(self) -> Arrivals:
        """Unread messages, then new ones as they arrive, for ever; going on where the last iteration left off."""
        if self._on_message is not None:
            raise RuntimeError("messages go to on_message; iterate over a client that has none")
        if self._live is None:
            raise self._not_open()
        return self._arrivals

    async def receive(self, *, timeout: float | None = None) -> Message:
        """The next message. Raises `TimedOut` where none comes in `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                return await anext(aiter(self))
        except TimeoutError as error:
            raise TimedOut(f"no message within {timeout:g} s") from error

    async def done(self, message: Message | str, sender: str | None = None) -> dict[str, Any]:
        """This agent has handled a message, or the one with this id, that of `sender` if several have it.

        From then on it is read: no session of the agent gets it again, its sender is told, its file goes to `archive/`.
        Returns what is read now, as `messages`; those that were read before are not `fresh`.
        """
        message_id = message if isinstance(message, str) else message.id
        if isinstance(message, Message) and sender is None:
            sender = message.sender
        if not is_message_id(message_id) or not (sender is None or is_agent(sender)):
            raise RequestError(f"{message_id!r} is no message id", code="not_found", key="id", value=message_id)
        return await self._data(lambda ref: Done(ref=ref, id=message_id, sender=sender))

    async def _call(self, on_message: OnMessage) -> None:
        async for message in self._arrivals:
            result = on_message(message, message.meta)
            if inspect.isawaitable(result):
                await result

    # ------------------------------------------------------------ asking

    async def inbox(self, *, after: int = 0, limit: int = 100) -> dict[str, Any]:
        """Unread messages, oldest first: `messages` (each with a `cursor`), and whether there are `more` after them."""
        if after < 0 or not 1 <= limit <= MOST_LISTED:
            raise ValueError(f"after={after}, limit={limit}: a page begins at 0 or later and has 1 to {MOST_LISTED}")
        return await self._data(lambda ref: Inbox(ref=ref, after=after, limit=limit))

    async def show(self, message_id: str) -> dict[str, Any]:
        """A message that this agent got or sent: its `box`, `digest`, `payload` (exact), `outcomes` or `meta`."""
        if not is_message_id(message_id):
            raise RequestError(f"{message_id!r} is no message id", code="not_found", key="id", value=message_id)
        return await self._data(lambda ref: Show(ref=ref, id=message_id))

    async def trace(self, message_id: str) -> dict[str, Any]:
        """The way of a message as this node knows it: where it was `sent`, `received`, is `held` for another node."""
        if not is_message_id(message_id):
            raise RequestError(f"{message_id!r} is no message id", code="not_found", key="id", value=message_id)
        return await self._data(lambda ref: Trace(ref=ref, id=message_id))

    async def find(self, beginning: str, *, everywhere: bool = False) -> dict[str, Any]:
        """The messages of this agent whose ids begin so, in whatever case: `messages`, each with `id`, `from`, `box`.

        At most 20 of each box. `everywhere`: whatever this node knows, for an operator on `node.sock`.
        """
        if not is_message_id(beginning):
            return {"messages": []}
        return await self._data(lambda ref: Find(ref=ref, beginning=beginning, everywhere=everywhere))

    async def status(self) -> dict[str, Any]:
        """How the node is: `ready`, its `peers`, `agents` and `store`."""
        return await self._data(lambda ref: Status(ref=ref))

    # ------------------------------------------------------------

    async def _stored(self, ask: Ask, timeout: float | None) -> Receipt:
        receipt = await self._session.request(ask, timeout=self._timeout if timeout is None else timeout)
        assert isinstance(receipt, Receipt)
        return receipt

    async def _data(self, ask: Ask) -> dict[str, Any]:
        data = await self._session.request(ask, timeout=self._timeout)
        assert isinstance(data, dict)
        return data
