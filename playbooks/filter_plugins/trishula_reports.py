"""What status.yml and trace.yml show of the answers of all hosts, each ``{host: {why_not, said, complained, …}}``.

``why_not`` is empty, or why a host can't be reached; ``said`` is what the command printed there, ``complained`` what it
said was wrong.
"""

# ruff: noqa: INP001 - Ansible looks into this folder; it is no package
from __future__ import annotations

import datetime as dt
import json
from typing import Any

CERTIFICATE_WARN_DAYS = 14
LOOK = "'journalctl -u trishula-node -p info' on both"

Answers = dict[str, dict[str, Any]]


def status(answers: Answers, now: float) -> str:
    """Tables of all hosts, links and agents. ``now`` is in seconds since 1970."""
    nodes = _nodes(answers)
    hosts = [("HOST", "NODE", "VERSION", "UP", "CERTIFICATE", "STORE", "CLOCK", "UNREAD")]
    links = [("FROM", "TO", "LINK", "FOR", "ROUND TRIP", "ROUTE", "BACKLOG", "HELD FOR IT")]
    agents = [("AGENT", "NODE", "ATTACHED", "UNREAD", "OLDEST")]
    for host, answer in answers.items():
        node = nodes.get(host)
        if node is None or answer.get("revoked"):
            hosts.append((host, _why_none(answer), *["-"] * 6))
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
                "trusted" if node["clock"]["trusted"] else "NOT TRUSTED",
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
    tables = [_table(rows) for rows in (hosts, links, agents) if len(rows) > 1]
    return "\n\n".join(tables + [_revoked(host) for host, answer in answers.items() if answer.get("revoked")])


def status_problems(answers: Answers, now: float, links: bool = True) -> list[str]:  # noqa: FBT001, FBT002 - a filter
    """A line for everything that is not as it should be, the hosts that can't be reached first.

    ``links``: whether there are to be any; with files alone there are none.
    """
    # Nobody talks to a revoked node, so how it is says nothing of the mesh.
    answers = {host: answer for host, answer in answers.items() if not answer.get("revoked")}
    nodes = _nodes(answers)
    down: set[tuple[str, ...]] = set()
    found = [f"{host} cannot be reached: {answer['why_not']}" for host, answer in answers.items() if answer["why_not"]]
    for host, answer in answers.items():
        if answer["why_not"]:
            continue
        node = nodes.get(host)
        if node is None:
            found.append(f"the node on {host} does not answer: {answer['complained'].strip() or 'it says nothing'}")
            continue
        if not node["ready"]:
            found.append(f"the node on {host} is not ready: {node['problem']}")
        if not node["clock"]["trusted"]:
            found.append(f"the clock of {host} is not trusted: 'timedatectl' there")
        served = node.get("certificate", {})
        if served.get("refused"):
            found.append(f"{host} refuses the certificate that was put there: {served['refused']}")
        days = served.get("days_left", _days(answer, now))
        if days is not None and days < CERTIFICATE_WARN_DAYS:
            found.append(f"the certificate of {host} ends in {days} days: run site.yml")
        if not links:
            continue
        # Who does not answer has been named, and is linked to nobody.
        others = [name for name, peer in node["peers"].items() if name in nodes or name not in answers]
        down |= {tuple(sorted((host, name))) for name in others if not node["peers"][name]["linked"]}
    return found + [f"{one} and {other} are not linked: {LOOK}" for one, other in sorted(down)]


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


def _revoked(host: str) -> str:
    return (
        f"{host} is revoked: nobody talks to it. Take it out of the inventory and run site.yml; to take it back, put "
        "it in again then, and run site.yml once more."
    )


def _backlog(peer: dict[str, Any]) -> str:
    held = [f"{count} with {node}" for node, count in sorted(peer["custody"].items())]
    return f"{peer['backlog']} ({', '.join(held)})" if held else str(peer["backlog"])


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
    return f"{count / 1024 / 1024:.1f} MiB"


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


class FilterModule:
    """``answers | trishula_status(now)`` and its likes."""

    def filters(self) -> dict:
        """As Ansible asks for them."""
        return {"trishula_status": status, "trishula_status_problems": status_problems, "trishula_trace": trace}
