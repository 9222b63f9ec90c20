"""The node from start to stop: one TaskGroup, each task with a name."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from functools import partial
from typing import Any

import trishula
from trishula.node import logs, queries, systemd
from trishula.node.admission import Admission, Crowd, Rejections
from trishula.node.adoption import take_stock
from trishula.node.agent_sockets import AgentSockets
from trishula.node.certificate import Tls
from trishula.node.config import Config
from trishula.node.courier import courier_to
from trishula.node.credentials import Identity
from trishula.node.database import StoreError
from trishula.node.dialer import Dialer
from trishula.node.files import make_mailboxes
from trishula.node.health import Health
from trishula.node.hub import Hub
from trishula.node.inboxes import Inboxes
from trishula.node.links import LinkWire
from trishula.node.listener import Doorman, listening_socket
from trishula.node.mailbox import Projector
from trishula.node.outboxes import Outboxes
from trishula.node.rooms import Room
from trishula.node.sessions import Session
from trishula.node.status import status
from trishula.node.store import Store
from trishula.node.trace import find, trace
from trishula.node.unsigned import Unsigned
from trishula.node.wire import LARGEST_PEER_FRAME, ServerWire, largest_frame
from trishula.protocol import frames
from trishula.protocol.errors import TrishulaError
from trishula.protocol.link import Side

log = logging.getLogger(__name__)

_PRESENCE_EVERY_S = 1.0

SOFTWARE = f"trishula/{trishula.__version__}"


def run(config: Config) -> int:
    """Run the node until SIGTERM or SIGINT. Returns the exit code; a reason for failure is in the log."""
    logs.set_up()
    os.umask(0o007)
    code = 0
    try:
        asyncio.run(_main(config))
    except* TrishulaError as errors:
        for error in errors.exceptions:
            log.critical("%s", error)
        code = 1
    return code


async def _main(config: Config) -> None:
    tls = Tls(config)
    unknown = make_mailboxes(config.mailbox_dir, config.agents)
    config.runtime_dir.mkdir(parents=True, exist_ok=True)
    sockets = [] if config.transport == "files" else _listening(config)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, tls.read_again)
    async with Store(config.store_dir, config.node) as store, asyncio.TaskGroup() as tasks:
        begun = await asyncio.to_thread(take_stock, store.path, config, unknown)
        node = Node(config, store, tls, sockets, outboxes=begun)
        await node.start(tasks)
        where = f"listens on {', '.join(node.listening)}" if node.listening else "works by files alone"
        log.info("node %s (%s) %s", config.node, SOFTWARE, where)
        systemd.notify(f"READY=1\nSTATUS={where}")
        await stop.wait()
        systemd.notify("STOPPING=1")
        log.info("node %s stops", config.node)
        await node.stop()


def _listening(config: Config) -> list[socket.socket]:
    return systemd.inherited_sockets() or [listening_socket(config.listen_address, config.listen_port)]


class Node:
    """The parts of a running node, and what they share."""

    def __init__(
        self, config: Config, store: Store, tls: Tls, sockets: list[socket.socket], outboxes: list[str]
    ) -> None:
        self.node = config.node
        self.limits = config.limits
        self.software = SOFTWARE
        self.store = store
        self.listening = [_name(sock) for sock in sockets]
        self.filer = Projector(config.mailbox_dir, config.agents, store)
        self.hub = Hub(config, store, self.filer, SOFTWARE)
        self.config = config
        self.tls = tls
        self.sockets = AgentSockets(config.runtime_dir, _agent_sockets(config))
        self.rejections = Rejections()
        self._sockets = sockets
        self._doorman = Doorman(
            self._welcome,
            Crowd(config.connections_per_address),
            self.rejections,
            max_frame=largest_frame(config.limits),
            handshake_timeout_s=config.handshake_timeout_s,
        )
        self._make_rooms()
        self._inboxes = Inboxes(
            config.mailbox_dir,
            config.agents,
            store,
            self.filer,
            self.hub,
            Unsigned(config) if config.unsigned_inbox else None,
        )
        self.outboxes = Outboxes(config, outboxes, store, self.hub, self.filer)
        self.bounced = self.outboxes.bounced
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.started = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []
        self.health = Health(self)

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Start all tasks in `tasks`; any that fails stops the node."""
        config = self.config
        doorman = self._doorman
        admission = Admission(config.credentials, self.health.problem, self.rejections)

        def start(coroutine: Any, name: str) -> asyncio.Task[None]:
            task = tasks.create_task(coroutine, name=name)
            self._tasks.append(task)
            return task

        asyncio.get_running_loop().set_exception_handler(self._break)
        self.hub.start()
        start(_raise_from(self._broken), "callbacks")
        start(_raise_from(self.store.broken), "store")
        start(self.filer.run(), "mailboxes")
        start(self._inboxes.run(), "inboxes")
        start(self.outboxes.run(), "outboxes")
        start(_feed_watchdog(), "watchdog")
        start(self._tell_presence(), "presence")
        # All sockets before any task, and so before READY: what is said to run can be reached.
        await self.sockets.open(doorman, start)
        await self.health.look()
        start(self.health.run(), "health")
        for room in self.hub.rooms.values():
            start(room.run(), f"room of {room.peer}")
        if config.transport == "files":
            return
        start(self.tls.run(), "certificate")
        for sock in self._sockets:
            start(doorman.serve_peers(sock, self.tls.server, admission), f"listener on {_name(sock)}")
        for peer in config.peers.values():
            if peer.dial:
                token = config.credentials.dial[peer.name]
                dialer = Dialer(peer.name, peer.url, token, self.tls.client, self.hub, max_frame=LARGEST_PEER_FRAME)
                self.hub.dialers[peer.name] = dialer
                start(dialer.run(), f"dialer to {peer.name}")

    def _make_rooms(self) -> None:
        """A post to each peer, where the host has the fallback. With `files`, a timer runs rsync."""
        fallback = self.config.fallback
        if fallback is None:
            return
        for number, peer in enumerate(self.config.peers.values(), 1):
            if peer.sync == "never":
                continue
            folder = fallback.dir / peer.name
            courier = courier_to(self.config, peer) if self.config.transport == "websocket" else None
            self.hub.rooms[-number] = Room(peer.name, folder, -number, courier, self.hub)

    async def stop(self) -> None:
        """Say goodbye to the peers, then end all tasks."""
        for dialer in self.hub.dialers.values():
            dialer.leave("the node stops")
        for link in list(self.hub.links.values()):
            link.leave("the node stops")
        await self._doorman.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self.hub.stop)

    async def status(self) -> dict[str, Any]:
        """What `trishula status` shows."""
        return await status(self, self.health)

    async def find(self, beginning: str, agent: str | None) -> dict[str, Any]:
        """Messages of this agent, or, without one, of any on this node, whose ids begin so."""
        config = self.config
        agents = [*config.agents] if agent is None else [agent]
        others = [other for peer in config.peers.values() for other in peer.agents] if agent is None else []
        return await find(self.store, beginning, agents, others)

    async def trace(self, message_id: str, agent: str | None) -> dict[str, Any]:
        """The way of a message of this agent, or, without one, of any on this node."""
        config = self.config
        if agent is not None:
            return await trace(self.store, self.hub, message_id, [agent], [])
        others = [other for peer in config.peers.values() for other in peer.agents]
        return await trace(self.store, self.hub, message_id, config.agents, others)

    async def _tell_presence(self) -> None:
        """Each second: how the agents here are, and whether the store has room."""
        oldest: dict[str, int] = {}
        while True:
            with contextlib.suppress(StoreError):
                oldest = await self.store.read(partial(queries.oldest_unread, agents=self.config.agents))
            agents = {
                agent: frames.Presence(self.hub.attached(agent) > 0, self.hub.engine.unread(agent), oldest.get(agent))
                for agent in self.config.agents
            }
            self.hub.present(agents, storing=not (self.store.problem or self.store.gone), full=self._full())
            await asyncio.sleep(_PRESENCE_EVERY_S)

    def _full(self) -> str:
        """Why the store takes nothing new, or nothing."""
        limit = self.limits.max_store_bytes
        used = self.store.size
        return f"it has {used} bytes, the limit is {limit} (limits.max_store_bytes)" if used >= limit else ""

    async def _welcome(self, wire: ServerWire, identity: Identity) -> None:
        """Serve a connection that was let in."""
        if identity.agent is not None:
            await Session(wire, identity.agent, self, operator=identity.operator).run()
        elif identity.node is not None:
            address = self.hub.address_of[identity.node] = str(wire.remote_address[0])
            link = LinkWire(wire, Side.LISTENER, identity.node, self.hub)
            reason = await link.run()
            link.say_end("from", reason)
            if not link.up:
                self.rejections.remember(address, reason)

    def _break(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback raised. A transport's last words are nothing; anything else means that we don't know our state."""
        error = context.get("exception")
        if error is None or isinstance(error, OSError):
            log.warning("%s%s", context["message"], f": {error}" if error else "")
        elif not self._broken.done():
            self._broken.set_exception(error)


def _agent_sockets(config: Config) -> list[tuple[str, Identity, str | None]]:
    default = config.agents[config.default_agent]
    return [
        ("node", Identity(agent=default.name, operator=True), default.socket_group),
        *((agent.name, Identity(agent=agent.name), agent.socket_group) for agent in config.agents.values()),
    ]


async def _raise_from(broken: asyncio.Future[None]) -> None:
    await broken


async def _feed_watchdog() -> None:
    interval = systemd.watchdog_interval()
    while interval is not None:
        systemd.notify("WATCHDOG=1")
        await asyncio.sleep(interval)


def _name(sock: socket.socket) -> str:
    address = sock.getsockname()
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
