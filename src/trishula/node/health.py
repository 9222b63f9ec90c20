"""How the node is: looked at each second, judged by `checks.health`, and said in the journal once when it changes.

    store, disks, mailboxes, sockets, links, rsync, certificate, clock ──► facts ──► checks.health ──► findings

`trishula status` carries facts and findings; `/readyz`, `trishula doctor` and `playbooks/status.yml` show them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import trishula
from trishula.node import checks
from trishula.node.accounts import group_id
from trishula.node.admission import Rejections
from trishula.node.agent_sockets import AgentSockets
from trishula.node.certificate import Tls
from trishula.node.checks import Finding
from trishula.node.config import Config
from trishula.node.files import BOXES
from trishula.node.hub import Hub
from trishula.node.mailbox import Projector
from trishula.node.outboxes import Outboxes
from trishula.node.store import ROOM_BYTES, Store
from trishula.node.wire import now
from trishula.protocol.errors import ConfigError

_EVERY_S = 1.0
_LINK_PATIENCE_S = 10.0
"""A peer that restarts is back by then."""
_SAY_AGAIN_S = 60.0
"""What comes and goes is said no more often."""
_SAID_ELSEWHERE = frozenset({"clock", "tls"})
"""These have lines of their own, at the moment when something happens to them."""

log = logging.getLogger(__name__)


class Running(Protocol):
    """The parts of the node that are looked at."""

    config: Config
    hub: Hub
    store: Store
    filer: Projector
    tls: Tls
    sockets: AgentSockets
    outboxes: Outboxes
    rejections: Rejections
    listening: list[str]
    started: float


class Health:
    """Looks at a node, and knows what it found last."""

    def __init__(self, node: Running) -> None:
        self._node = node
        self._journal = Journal(node.hub.excused)
        self._looking = asyncio.Lock()
        self._disks: dict[str, Any] = {}
        self._mailboxes: dict[str, str] = {}
        self._store = ""

    async def run(self) -> None:
        """For ever: look, find out whether what failed works again, and say what has changed."""
        while True:
            if self._node.store.problem:
                # Perhaps nobody has anything to store, and so nobody would find the room that was made.
                await self._node.store.recover()
            await self.look()
            self._journal.note(self.findings(), time.monotonic())
            await asyncio.sleep(_EVERY_S)

    async def look(self) -> None:
        """At what nobody tells of: folders, disks, sockets. Raises `StoreError` where another node has the store."""
        async with self._looking:  # what is gone is made again once, however many ask
            await asyncio.to_thread(self._look)
            await self._node.sockets.look()

    def findings(self) -> list[Finding]:
        return checks.health(self.facts(), now().wall)

    def problem(self) -> str:
        """Why the node is not ready, or nothing."""
        return "; ".join(finding.text for finding in checks.unready(self.findings()))

    def facts(self) -> dict[str, Any]:
        """What there is to judge, as plain values."""
        node, config = self._node, self._node.config
        store = node.store
        return {
            "node": config.node,
            "version": trishula.__version__,
            "incarnation": store.incarnation,
            "uptime_s": round(time.monotonic() - node.started, 1),
            "listening": node.listening,
            "transport": config.transport,
            "certificate": node.tls.status(),
            "clock": {
                "trusted": (state := node.hub.engine.clock_state(now())) == "trusted",
                "state": state,
                "max_skew_ms": config.limits.max_skew,
            },
            "store": {
                "ok": not (store.problem or store.gone or self._store),
                "problem": store.problem or self._store,
                "gone": store.gone,
                "used": store.size,
                "limit": config.limits.max_store_bytes,
                "least_free": config.limits.max_message_bytes + ROOM_BYTES,
            },
            "disks": self._disks,
            "sockets": node.sockets.problems,
            "peers": {peer: self._link(peer) for peer in config.peers},
            "agents": {
                agent: {
                    "mailbox": self._mailboxes.get(agent) or node.filer.problems.get(agent, ""),
                    "attached": node.hub.attached(agent),
                    "outbox": node.outboxes.waiting(agent),
                }
                for agent in config.agents
            },
        }

    def _look(self) -> None:
        """In a thread."""
        config = self._node.config
        self._store = self._node.store.look()
        for name, folder in (("mailboxes", config.mailbox_dir), ("store", config.store_dir)):
            with suppress(OSError):  # that it is gone is said by others
                self._disks[name] = checks.room(folder)
        for agent in config.agents.values():
            group = None
            with suppress(ConfigError):  # that it is missing is said of the socket
                group = agent.socket_group and group_id(agent.socket_group)
            try:
                self._mailboxes[agent.name] = checks.mailbox(config.mailbox_dir / agent.name, BOXES, group or None)
            except OSError as error:
                self._mailboxes[agent.name] = f"{config.mailbox_dir}: {error.strerror}"

    def _link(self, peer: str) -> dict[str, Any]:
        hub, config = self._node.hub, self._node.config.peers[peer]
        wire = hub.link_to(peer)
        dialer = hub.dialers.get(peer)
        files = self._node.config.transport == "files"
        return {
            "linked": wire is not None,
            "always_on": config.always_on,
            "dials": None if files else config.dial,
            "tried": None if dialer is None else dialer.tried,
            "fix": f"see `trishula doctor` on {peer}" if dialer is None else dialer.fix,
            "rejected": None if config.dial or files else self._node.rejections.of(hub.address_of.get(peer)),
            "rsync": next((room.status() for room in hub.rooms.values() if room.peer == peer), None),
            "since": hub.since.get(peer),
            "rtt_ms": None if wire is None or wire.link.rtt_ms is None else round(wire.link.rtt_ms, 3),
            "offset_ms": None if wire is None or wire.link.offset_ms is None else round(wire.link.offset_ms, 3),
        }


@dataclass(slots=True)
class _Bad:
    since: float
    said: str = ""
    """The state in which it was said."""


class Journal:
    """Says once what is not as it should be, and once that it is well again."""

    def __init__(self, excused: Callable[[str, float], bool]) -> None:
        """`excused` says of a peer whether it may be down without a word, at a moment on the monotonic clock."""
        self._excused = excused
        self._bad: dict[tuple[str, str], _Bad] = {}
        self._last: dict[tuple[str, str], float] = {}

    def note(self, found: Sequence[Finding], moment: float) -> None:
        for finding in found:
            if finding.check in _SAID_ELSEWHERE:
                continue
            key = (finding.check, finding.about)
            if finding.bad:
                self._complain(key, finding, moment)
            elif (bad := self._bad.pop(key, None)) is not None and bad.said and finding.check != "link":
                log.info("again: %s", finding.text)  # a link says itself that it is up

    def _complain(self, key: tuple[str, str], finding: Finding, moment: float) -> None:
        bad = self._bad.setdefault(key, _Bad(moment))
        if bad.said == finding.state or not self._is_due(bad, finding, moment):
            return
        if not bad.said and moment - self._last.get(key, -_SAY_AGAIN_S) < _SAY_AGAIN_S:
            return
        bad.said, self._last[key] = finding.state, moment
        level = logging.ERROR if finding.check in checks.LOCAL and finding.state == checks.FAILED else logging.WARNING
        if finding.check == "link" and finding.state != checks.FAILED:
            level = logging.INFO  # a laptop sleeps at night
        log.log(level, "%s%s", finding.text, f". Fix: {finding.fix}" if finding.fix else "")

    def _is_due(self, bad: _Bad, finding: Finding, moment: float) -> bool:
        if finding.check != "link":
            return True
        return moment - bad.since >= _LINK_PATIENCE_S and not self._excused(finding.about, moment)
