"""`trishula trace`: where a message has been, where it is, and what it waits for."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import trishula
from trishula.cli.ids import with_whole_id
from trishula.cli.main import DONE
from trishula.cli.output import clock, milliseconds, print_json, size, visible
from trishula.cli.reach import with_node


def trace(arguments: argparse.Namespace) -> int:
    """Print it."""

    async def work(mesh: trishula.Client) -> int:
        found = await with_whole_id(mesh, arguments.id, mesh.trace, boxes=("inbox", "outbox", "held"), everywhere=True)
        if arguments.json:
            print_json(found)
        else:
            for line in told(found):
                print(visible(line))
        return DONE

    return with_node(arguments, work)


def told(found: dict[str, Any]) -> Iterator[str]:
    """Line by line, for people."""
    yield f"{found['id']}, as {found['node']} knows it"
    for row in found["sent"]:
        subject = f", {row['subject']!r}" if row["subject"] else ""
        yield f"from {row['from']} to {row['to']} on {row['dest']}{subject}: {row['state']}"
        yield f"  stored     {clock(row['stored_at'])}"
        yield from _answer(row)
        yield f"  expires    {clock(row['expires_at'])}"
    for row in found["received"]:
        yield f"from {row['from']} on {row['origin']} to {row['to']} here: {row['state']}"
        route = f" by {row['route']}" if row["route"] else ", found in the mailbox"
        yield f"  received   {clock(row['received_at'])}{route}"
        if row["state"] == "refused":
            yield f"  refused    {row['reason']}"
        if row["file"]:
            yield f"  file       {row['file']}"
        if row["read_at"]:
            yield f"  read       {clock(row['read_at'])}"
    for row in found["held"]:
        yield f"from {row['from']} on {row['origin']} to {row['to']} on {row['dest']}: held here, {size(row['bytes'])}"
        yield f"  since      {clock(row['since'])}"
        yield from _waiting(row)
        yield f"  expires    {clock(row['expires_at'])}"


def _answer(row: dict[str, Any]) -> Iterator[str]:
    """What the recipient's node has said, or what its silence is about."""
    if row["delivered_at"] is not None:
        yield f"  delivered  {clock(row['delivered_at'])} by {row['route']}, after {milliseconds(row['latency_ms'])}"
    if row["state"] == "read":
        yield f"  read       {clock(row['settled_at'])}"
    elif row["state"] == "refused":
        yield f"  refused    {clock(row['settled_at'])}: {row['reason']}"
    elif row["state"] == "unconfirmed":
        yield f"  given up   {clock(row['settled_at'])}: no word by its expiry; it may have arrived"
    elif row["state"] == "stored":
        yield from _waiting(row)


def _waiting(row: dict[str, Any]) -> Iterator[str]:
    route = row["route_now"]
    if row.get("custodian"):
        yield f"  waits      in custody of {row['custodian']}, which hands it on to {row['dest']}"
    elif row["place"] == "waiting":
        yield f"  waits      {row['waits_for'] or 'after an offer that led to nothing'}"
    elif route is None:
        yield f"  waits      there is no way to {row['dest']}"
    elif row["place"] == "out":
        yield "  offered    the answer is awaited"
    else:
        yield "  queued     behind what was sent before it"
    if row["next_try_s"] is not None and route is not None:
        yield f"  next try   in {row['next_try_s']:.1f} s, after {row['attempts']} so far, by {route}"
    elif route is not None and not row.get("custodian"):
        yield f"  route      {route}"
