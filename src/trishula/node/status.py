"""What `trishula status` shows: this node, and what its neighbours say of themselves."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol

import msgspec

import trishula
from trishula.node import queries
from trishula.node.certificate import Tls
from trishula.node.config import Config
from trishula.node.hub import Hub
from trishula.node.outboxes import Outboxes
from trishula.node.store import Store
from trishula.node.wire import now


class Reporting(Protocol):
    """What there is to report on."""

    hub: Hub
    store: Store
    config: Config
    tls: Tls
    listening: list[str]
    started: float
    outboxes: Outboxes

    def problem(self) -> str: ...


async def status(node: Reporting) -> dict[str, Any]:
    """All of it, as plain values."""
    hub, store, config = node.hub, node.store, node.config
    counts = await store.read(lambda db: queries.counts(db, config.agents))
    bounced = await asyncio.to_thread(lambda: {agent: box.summary() for agent, box in node.outboxes.bounced.items()})
    problem = node.problem()
    return {
        "node": config.node,
        "version": trishula.__version__,
        "ready": not problem,
        "problem": problem,
        "incarnation": store.incarnation,
        "uptime_s": round(time.monotonic() - node.started, 1),
        "listening": node.listening,
        "certificate": node.tls.status(),
        "clock": {"trusted": hub.engine.clock_trusted(now())},
        "store": {
            "ok": not store.problem,
            "bytes": store.path.stat().st_size,
            "used": store.size,
            "limit": config.limits.max_store_bytes,
            "held": {
                "bytes": sum(held["bytes"] for held in counts.held.values()),
                "limit": config.limits.max_held_bytes,
            },
        },
        "backlog": counts.backlogs.get(config.node, 0),
        "peers": {peer: {**_link(hub, peer), **_mail(hub, counts, peer)} for peer in config.peers},
        "agents": {
            agent: {
                "unread": counts.unread.get(agent, 0),
                "oldest": counts.oldest.get(agent),
                "attached": hub.attached(agent),
                "outbox": node.outboxes.waiting(agent),
                "bounced": bounced[agent],
            }
            for agent in config.agents
        },
    }


def _link(hub: Hub, peer: str) -> dict[str, Any]:
    wire = hub.link_to(peer)
    said = hub.engine.neighbour(peer)
    return {
        "linked": wire is not None,
        "rsync": next((room.status() for room in hub.rooms.values() if room.peer == peer), None),
        "since": hub.since.get(peer),
        "rtt_ms": None if wire is None or wire.link.rtt_ms is None else round(wire.link.rtt_ms, 3),
        "offset_ms": None if wire is None or wire.link.offset_ms is None else round(wire.link.offset_ms, 3),
        "storing": None if said is None else said.storing,
        "links": None if said is None else said.links,
        "agents": {} if said is None else msgspec.to_builtins(said.agents),
    }


def _mail(hub: Hub, counts: queries.Counts, peer: str) -> dict[str, Any]:
    """What waits here for a peer: ours (`custody` of it is with other nodes), and `held` for others."""
    return {
        "route": hub.engine.route(peer) or None,
        "backlog": counts.backlogs.get(peer, 0),
        "custody": counts.custody.get(peer, {}),
        "held": counts.held.get(peer, {"count": 0, "bytes": 0}),
    }
