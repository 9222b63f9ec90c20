"""What status.yml, trace.yml and verify.yml show of the answers of all hosts.

Those of the first two are ``{host: {why_not, said, complained, …}}``.

``why_not`` is empty, or why a host can't be reached; ``said`` is what the command printed there, ``complained`` what it
said was wrong.
"""

# ruff: noqa: INP001 - Ansible looks into this folder; it is no package
from __future__ import annotations

import datetime as dt
import itertools
import json
from collections.abc import Mapping
from typing import Any

BAD = ("failed", "warning")

Answers = dict[str, dict[str, Any]]


def status(answers: Answers, now: float) -> str:
    """Tables of all hosts, links and agents. ``now`` is in seconds since 1970."""
    nodes = _nodes(answers)
    hosts = [("HOST", "NODE", "VERSION", "UP", "CERTIFICATE", "STORE", "FREE", "CLOCK", "UNREAD")]
    links = [("FROM", "TO", "LINK", "FOR", "ROUND TRIP", "ROUTE", "BACKLOG", "HELD FOR IT")]
    agents = [("AGENT", "NODE", "ATTACHED", "UNREAD", "OLDEST")]
    bounced = []
    for host, answer in answers.items():
        node = nodes.get(host)
        if node is None or answer.get("revoked"):
            hosts.append((host, _why_none(answer), *["-"] * 7))
            continue
        ready = "ready" if node["ready"] else "NOT READY"
        unread = sum(agent["unread"] for agent in node["agents"].values())
        hosts.append(
            (
                host,
                ready,
                node["version"],
                _age(node["uptime_s"]),
                _certificate(answer, now),
                _size(node["store"]["used"]),
                _free(node.get("disks", {})),
                _trust(node["clock"]),
                str(unread),
            )
        )
        for name, peer in sorted(node["peers"].items()):
            since = "-" if peer["since"] is None else _age(now - peer["since"] / 1000)
            rtt = "-" if peer["rtt_ms"] is None else f"{peer['rtt_ms']:.1f} ms"
            link = "linked" if peer["linked"] else "DOWN"
            held = str(peer["held"]["count"])
            links.append((host, name, link, since, rtt, peer["route"] or "-", _backlog(peer), held))
        for name, agent in sorted(node["agents"].items()):
            oldest = "-" if agent["oldest"] is None else _age(now - agent["oldest"] / 1000)
            agents.append((name, host, "yes" if agent["attached"] else "no", str(agent["unread"]), oldest))
            bounced += _bounced(name, host, agent.get("bounced", {}), now)
    tables = [_table(rows) for rows in (hosts, links, agents) if len(rows) > 1]
    revoked = [_revoked(host) for host, answer in answers.items() if answer.get("revoked")]
    return "\n\n".join([*tables, *(["\n".join(bounced)] if bounced else []), *revoked])


def status_problems(answers: Answers) -> list[str]:
    """A line for everything that is not as it should be, the hosts that can't be reached first.

    The nodes judge themselves; here is only put together what two of them say of one link.
    """
    # Nobody talks to a revoked node, so how it is says nothing of the mesh.
    answers = {host: answer for host, answer in answers.items() if not answer.get("revoked")}
    nodes = _nodes(answers)
    down: dict[tuple[str, str], list[str]] = {}
    found = [f"{host} cannot be reached: {answer['why_not']}" for host, answer in answers.items() if answer["why_not"]]
    for host, answer in answers.items():
        if answer["why_not"]:
            continue
        node = nodes.get(host)
        if node is None:
            found.append(f"the node on {host} does not answer: {answer['complained'].strip() or 'it says nothing'}")
            continue
        if "findings" not in node and not node["ready"]:  # of a release before this one
            found.append(f"the node on {host} is not ready: {node['problem']}")
        for finding in node.get("findings", ()):
            if finding["state"] not in BAD:
                continue
            peer = finding["about"]
            if finding["check"] != "link":
                fix = f". Fix: {finding['fix']}" if finding["fix"] else ""
                found.append(f"{host}: {finding['text']}{fix}")
            elif peer in nodes or peer not in answers:  # who does not answer has been named, and is linked to nobody
                why = f"{host}: {finding['text'].partition(': ')[2]}"
                first = bool(node["peers"].get(peer, {}).get("dials"))
                said = down.setdefault((min(host, peer), max(host, peer)), [])
                said.insert(0 if first else len(said), why)
    return found + [f"{one} and {other} are not linked: {'; '.join(why)}" for (one, other), why in sorted(down.items())]


def trace(answers: Answers, message_id: str) -> str:
    """The steps of one message on all hosts in the order of time, then what each node knows of it now."""
    steps = sorted(
        (int(entry["__REALTIME_TIMESTAMP"]), host, _text(entry, message_id))
        for host, answer in answers.items()
        for entry in map(json.loads, answer["journal"])
    )
    width = max(map(len, answers))
    lines = [f"{_clock(at)}  {host:{width}}  {text}" for at, host, text in steps]
    lines = lines or ["No journal has a step of it: it is older than they are, not from here, or came in a flood."]
    for host, answer in answers.items():
        known = answer["said"] or answer["complained"]
        if answer["why_not"]:
            known = f"cannot be reached: {answer['why_not']}"
        lines += ["", f"{host}:", *(f"  {line}" for line in known.strip().splitlines())]
    return "\n".join(lines)


def probes(pings: Mapping[str, list[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Every probe that verify.yml sent: ``from, to, route, delivered, latency_ms, reason``.

    ``pings`` are the results of ``trishula ping NODE... --json`` by host, skipped ones among them.
    """
    found = []
    for host, results in pings.items():
        for result in results:
            if "cmd" not in result:
                continue
            command = list(result["cmd"])
            said = {answer["to"]: answer for answer in map(json.loads, filter(None, result["stdout"].splitlines()))}
            route = "rsync" if "rsync" in command else None
            reason = result["stderr"].strip()
            for name in itertools.takewhile(lambda word: not word.startswith("--"), command[2:]):
                unsaid = {"from": host, "to": name, "delivered": False, "latency_ms": None, "reason": reason}
                answer = unsaid | said.get(name, {})
                found.append(answer | {"route": answer.get("route") or route})
    return found


def probes_missing(found: list[dict[str, Any]], hosts: list[str]) -> list[dict[str, Any]]:
    """Of those probes, what has not arrived at one of these hosts."""
    return [probe for probe in found if not probe["delivered"] and probe["to"] in hosts]


def probes_table(found: list[dict[str, Any]]) -> str:
    """One line a probe."""
    rows = [("FROM", "TO", "ROUTE", "DELIVERED", "LATENCY")]
    for probe in found:
        latency = f"{probe['latency_ms']:.1f} ms" if probe["delivered"] else "-"
        delivered = "yes" if probe["delivered"] else "NO"
        rows.append((probe["from"], probe["to"], probe["route"] or "-", delivered, latency))
    return _table(rows)


def _text(entry: dict[str, Any], message_id: str) -> str:
    return str(entry["MESSAGE"]).removeprefix(message_id).strip()


def _clock(microseconds: int) -> str:
    moment = dt.datetime.fromtimestamp(microseconds / 1_000_000, dt.UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{microseconds // 1000 % 1000:03}Z"


def _nodes(answers: Answers) -> dict[str, dict[str, Any]]:
    return {host: json.loads(answer["said"]) for host, answer in answers.items() if answer["said"].startswith("{")}


def _why_none(answer: dict[str, Any]) -> str:
    if answer.get("revoked"):
        return "REVOKED"
    return "UNREACHABLE" if answer["why_not"] else "NO ANSWER"


def _trust(clock: dict[str, Any]) -> str:
    return "not compared" if clock.get("state") == "not compared" else "trusted" if clock["trusted"] else "NOT TRUSTED"


def _free(disks: dict[str, Any]) -> str:
    """Of the file systems of store and mailboxes, which may be one."""
    free = {disks[name]["device"]: _size(disks[name]["free"]) for name in ("store", "mailboxes") if name in disks}
    return ", ".join(free.values()) or "-"


def _revoked(host: str) -> str:
    return (
        f"{host} is revoked: nobody talks to it. Take it out of the inventory and run site.yml; to take it back, put "
        "it in again then, and run site.yml once more."
    )


def _backlog(peer: dict[str, Any]) -> str:
    held = [f"{count} with {node}" for node, count in sorted(peer["custody"].items())]
    return f"{peer['backlog']} ({', '.join(held)})" if held else str(peer["backlog"])


def _bounced(agent: str, host: str, bounced: dict[str, Any], now: float) -> list[str]:
    count = bounced.get("count", 0)
    if not count:
        return []
    files = "1 file" if count == 1 else f"{count} files"
    since = _age(now - bounced["oldest"] / 1000)
    fix = f"'trishula bounced --agent {agent}' on {host}"
    return [f"{agent} has {files} in bounced/, the oldest for {since}: {bounced['reason']}: {fix}"]


def _certificate(answer: dict[str, Any], now: float) -> str:
    days = _days(answer, now)
    return "-" if days is None else f"{days} d left"


def _days(answer: dict[str, Any], now: float) -> int | None:
    """Of ``notAfter=2027-11-26 08:31:00Z``; None where nobody knows."""
    _, is_there, text = answer["certificate"].partition("=")
    if not is_there:
        return None
    end = dt.datetime.strptime(text.strip(), "%Y-%m-%d %H:%M:%SZ").replace(tzinfo=dt.UTC)
    return int((end.timestamp() - now) // 86400)


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


class FilterModule:
    """``answers | trishula_status(now)`` and its likes."""

    def filters(self) -> dict:
        """As Ansible asks for them."""
        return {
            "trishula_status": status,
            "trishula_status_problems": status_problems,
            "trishula_trace": trace,
            "trishula_probes": probes,
            "trishula_probes_missing": probes_missing,
            "trishula_probes_table": probes_table,
        }
