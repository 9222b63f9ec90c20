"""`trishula status`: one page on a node, its peers and agents."""

from __future__ import annotations

import argparse
import time
from typing import Any

import trishula
from trishula.cli.main import DONE
from trishula.cli.output import age, milliseconds, print_json, print_table, size, visible
from trishula.cli.reach import with_node


def status(arguments: argparse.Namespace) -> int:
    """Print it."""

    async def work(mesh: trishula.Client) -> int:
        found = await mesh.status()
        if arguments.json:
            print_json(found)
        else:
            print_status(found, now=time.time() * 1000)
        return DONE

    return with_node(arguments, work)


def print_status(found: dict[str, Any], *, now: float) -> None:
    """For people. `now` is in ms since 1970."""
    ready = "ready" if found["ready"] else f"NOT READY: {found.get('problem') or 'see its journal'}"
    print(visible(f"{found['node']}: {ready}, version {found['version']}, up {age(found['uptime_s'])}"))
    store = found["store"]
    facts = [f"store {size(store['used'])} of {size(store['limit'])}"]
    if store["held"]["bytes"]:
        facts.append(f"{size(store['held']['bytes'])} of {size(store['held']['limit'])} held for others")
    if found["backlog"]:
        facts.append(f"{found['backlog']} of its own on their way to agents here")
    facts.append("clock trusted" if found["clock"]["trusted"] else "CLOCK NOT TRUSTED: nothing is given up or pruned")
    certificate = found.get("certificate")  # a node that is older than this command says nothing of it
    if certificate:
        facts.append(_certificate(certificate["days_left"], soon=certificate["ends_soon"]))
    print("; ".join(facts))
    if certificate and certificate["refused"]:
        print(visible(f"the new certificate is refused, the old one serves on: {certificate['refused']}"))
    print()
    peers = sorted(found["peers"].items())
    print_table(
        ("PEER", "LINK", "FOR", "ROUND TRIP", "CLOCK", "ROUTE", "BACKLOG", "HELD FOR IT"),
        [
            (
                name,
                _link(peer),
                "-" if peer["since"] is None else age((now - peer["since"]) / 1000),
                milliseconds(peer["rtt_ms"]),
                milliseconds(peer["offset_ms"]),
                peer["route"] or "-",
                _backlog(peer),
                f"{peer['held']['count']} ({size(peer['held']['bytes'])})" if peer["held"]["count"] else "-",
            )
            for name, peer in peers
        ],
        right=(2, 3, 4),
    )
    print()
    agents = [(name, found["node"], agent) for name, agent in sorted(found["agents"].items())]
    agents += [(name, peer, agent) for peer, said in peers for name, agent in sorted(said["agents"].items())]
    print_table(
        ("AGENT", "NODE", "ATTACHED", "UNREAD", "OLDEST"),
        [
            (
                name,
                node,
                "yes" if agent["attached"] else "no",
                agent["unread"],
                "-" if agent["oldest"] is None else age((now - agent["oldest"]) / 1000),
            )
            for name, node, agent in agents
        ],
        right=(3, 4),
    )
    for name, agent in sorted(found["agents"].items()):
        if agent["outbox"]["waiting"]:
            print()
            print(visible(f"{agent['outbox']['waiting']} in the outbox of {name} wait: {agent['outbox']['problem']}"))
    for name, peer in peers:
        if peer["rsync"] and peer["rsync"]["problem"]:
            print()
            print(visible(f"rsync with {name} failed last: {peer['rsync']['problem']}"))
    silent = [name for name, peer in peers if not peer["agents"]]
    if silent:
        print(f"\nnothing is known of the agents of {', '.join(silent)} while there is no link")


def _certificate(days: int, *, soon: bool) -> str:
    if days < 0:
        return "CERTIFICATE OUT OF DATE: no peer takes it"
    return f"CERTIFICATE ENDS IN {days} d" if soon else f"certificate holds for {days} d"


def _link(peer: dict[str, Any]) -> str:
    if not peer["linked"]:
        return "DOWN"
    return "NOT STORING" if peer["storing"] is False else "linked"


def _backlog(peer: dict[str, Any]) -> str:
    held = [f"{count} with {node}" for node, count in sorted(peer["custody"].items())]
    return f"{peer['backlog']} ({', '.join(held)})" if held else str(peer["backlog"])
