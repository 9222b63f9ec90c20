"""What `trishula status` shows: this node, what it found out about itself, and what its neighbours say of theirs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import msgspec

from trishula.node import checks, queries
from trishula.node.database import StoreError
from trishula.node.health import Health, Running
from trishula.node.hub import Hub
from trishula.node.wire import now

_NOTHING = queries.Counts({}, {}, {}, {}, {})


async def status(node: Running, health: Health) -> dict[str, Any]:
    """All of it, as plain values."""
    await health.look()
    found = health.facts()
    findings = checks.health(found, now().wall)
    problem = "; ".join(finding.text for finding in checks.unready(findings))
    try:
        counts = await node.store.read(lambda db: queries.counts(db, node.config.agents))
    except StoreError:  # the findings say so
        counts = _NOTHING
    return {
        **found,
        "ready": not problem,
        "problem": problem,
        "findings": [asdict(finding) for finding in findings],
        "store": {
            **found["store"],
            "bytes": node.store.bytes,
            "held": {
                "bytes": sum(held["bytes"] for held in counts.held.values()),
                "limit": node.config.limits.max_held_bytes,
            },
        },
        "backlog": counts.backlogs.get(node.config.node, 0),
        "peers": {peer: {**said, **_mail(node.hub, counts, peer)} for peer, said in found["peers"].items()},
        "agents": {
            agent: {"unread": counts.unread.get(agent, 0), "oldest": counts.oldest.get(agent), **said}
            for agent, said in found["agents"].items()
        },
    }


def _mail(hub: Hub, counts: queries.Counts, peer: str) -> dict[str, Any]:
    """What a peer says of itself, and what waits here for it: ours (`custody` is with other nodes), and `held`."""
    said = hub.engine.neighbour(peer)
    return {
        "storing": None if said is None else said.storing,
        "links": None if said is None else said.links,
        "agents": {} if said is None else msgspec.to_builtins(said.agents),
        "route": hub.engine.route(peer) or None,
        "backlog": counts.backlogs.get(peer, 0),
        "custody": counts.custody.get(peer, {}),
        "held": counts.held.get(peer, {"count": 0, "bytes": 0}),
    }
