"""What an agent is told of the store's rows."""

from __future__ import annotations

from typing import Any

import msgspec

from trishula.node.methods import method_of
from trishula.node.queries import Letter
from trishula.protocol import agent_frames
from trishula.protocol.envelope import State
from trishula.protocol.records import Entry, Progress


def outcome(row: Progress, *, route_now: str = "") -> agent_frames.Outcome:
    """`route_now` is the way that it takes if it has not arrived yet."""
    route = row.route or (route_now if row.state is State.STORED else "")
    return agent_frames.Outcome(
        sender=row.key.sender,
        id=row.key.id,
        to=row.key.to,
        dest=row.dest,
        state=row.state,
        reason=row.reason,
        route=route,
        method=method_of(route),
        at=row.settled_at,
        latency_ms=None if row.latency_ms is None else round(row.latency_ms, 3),
    )


def arrival(letter: Letter) -> agent_frames.Arrival:
    return agent_frames.Arrival(letter.cursor, _arrival_meta(letter), msgspec.Raw(letter.payload[:-1]))


def meta(letter: Letter) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(_arrival_meta(letter))
    return plain


def _arrival_meta(letter: Letter) -> agent_frames.ArrivalMeta:
    return agent_frames.ArrivalMeta(letter.origin, letter.route, method_of(letter.route), letter.at, letter.digest)


_head = msgspec.json.Decoder(dict[str, msgspec.Raw])


def heading(payload: bytes) -> dict[str, Any]:
    """The fields of a message that are shown in a list."""
    fields = _head.decode(payload)
    return {key: msgspec.json.decode(fields[key]) if key in fields else "" for key in ("subject", "type", "priority")}


def summary(letter: Letter) -> dict[str, Any]:
    return {
        "cursor": letter.cursor,
        "id": letter.id,
        "from": letter.sender,
        **heading(letter.payload),
        "received_at": letter.at,
        "digest": letter.digest,
        "route": letter.route,
        "method": method_of(letter.route),
        "size": len(letter.payload),
    }


def done(entries: tuple[Entry, ...], fresh: tuple[Entry, ...]) -> dict[str, Any]:
    """What `done` has done: `fresh` is false for what was read before."""
    now_read = {entry.key for entry in fresh}
    return {
        "messages": [
            {"id": e.key.id, "from": e.key.sender, "read_at": e.read_at, "fresh": e.key in now_read} for e in entries
        ]
    }
