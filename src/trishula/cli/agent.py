"""The commands of an agent, or of a person who speaks for one: send, inbox, show, done, ping."""

from __future__ import annotations

import argparse
import difflib
import errno
import json
import sys
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

import trishula
from trishula.cli.ids import whole_id, with_whole_id
from trishula.cli.main import DONE
from trishula.cli.output import clock, milliseconds, print_json, print_table, visible
from trishula.cli.reach import with_node
from trishula.cli.streams import after
from trishula.cli.usage import UsageError
from trishula.client.client import MOST_LISTED
from trishula.protocol.agent_frames import Outcome
from trishula.protocol.records import UNSIGNED


def send(arguments: argparse.Namespace) -> int:
    """`trishula send`."""
    recipients, message = _message(arguments)
    deadline = time.monotonic() + arguments.timeout

    async def work(mesh: trishula.Client) -> int:
        options = {"ttl_s": arguments.ttl, "timeout": _left(deadline)}
        if isinstance(message, bytes):
            receipt = await mesh.send(message, **options)
        else:
            if arguments.reply_to is not None:
                message["reply_to"] = await whole_id(mesh, arguments.reply_to)
            receipt = await mesh.send(recipients, **options, **message)
        problem: trishula.TrishulaError | None = None
        wait = {"delivered": receipt.delivered, "read": receipt.read}.get(arguments.wait)
        if wait is not None:
            try:
                await wait(timeout=_left(deadline))
            except (trishula.Refused, trishula.Unconfirmed, trishula.TimedOut) as error:
                problem = error
        with after(f"{receipt.id} is stored", problem):
            if arguments.json:
                print_json({"id": receipt.id, "digest": receipt.digest, "outcomes": _plain(receipt.outcomes)})
            else:
                print(f"stored {receipt.id}")
                if wait is not None:
                    _print_outcomes(receipt.outcomes)
        return DONE

    return with_node(arguments, work, deadline=deadline)


def inbox(arguments: argparse.Namespace) -> int:
    """`trishula inbox`."""

    async def work(mesh: trishula.Client) -> int:
        messages: list[dict[str, Any]] = []
        more = True
        while more and len(messages) < arguments.limit:
            after = messages[-1]["cursor"] if messages else 0
            page = await mesh.inbox(after=after, limit=min(MOST_LISTED, arguments.limit - len(messages)))
            messages += page["messages"]
            more = page["more"]
        if arguments.json:
            print_json({"messages": messages, "more": more})
        elif not messages:
            print(f"{mesh.agent} has no unread messages")
        else:
            print_table(
                ("RECEIVED", "FROM", "PRIORITY", "SUBJECT", "ID"),
                [
                    (clock(item["received_at"]), _from(item), item["priority"], item["subject"] or "-", item["id"])
                    for item in messages
                ],
            )
            if more:
                print(f"and more; --limit {2 * arguments.limit} shows them")
        return DONE

    return with_node(arguments, work)


def show(arguments: argparse.Namespace) -> int:
    """`trishula show`."""

    async def work(mesh: trishula.Client) -> int:
        found = await with_whole_id(mesh, arguments.id, mesh.show)
        outcomes = msgspec.convert(found.get("outcomes", []), list[Outcome])
        if arguments.json:
            print_json(found | ({"outcomes": _plain(outcomes)} if outcomes else {}))
            return DONE
        print(f"{found['box']}, sha256 {found['digest']}")
        if "meta" in found:
            meta = found["meta"]
            print(f"received {clock(meta['received_at'])} from node {meta['node']}, route {meta['route']}")
        _print_outcomes(outcomes)
        print()
        print(visible(found["payload"], lines=True), end="")
        return DONE

    return with_node(arguments, work)


def done(arguments: argparse.Namespace) -> int:
    """`trishula done`."""
    wanted = _wanted(arguments.ids, arguments.sender)

    async def work(mesh: trishula.Client) -> int:
        read: list[dict[str, Any]] = []
        failed: list[tuple[str, trishula.RequestError]] = []
        for message_id, sender in wanted:
            try:
                read += (
                    await with_whole_id(
                        mesh, message_id, partial(mesh.done, sender=sender), boxes=("inbox",), sender=sender
                    )
                )["messages"]
            except trishula.RequestError as error:
                failed.append((message_id, error))
        with after(f"{', '.join(item['id'] for item in read) or 'nothing'} is done", failed[-1][1] if failed else None):
            if arguments.json:
                print_json({"messages": read, "failed": [{"id": name, "error": str(error)} for name, error in failed]})
            else:
                for item in read:
                    before = "" if item["fresh"] else f", since {clock(item['read_at'])}"
                    print(f"done {item['id']} from {item['from']}{before}")
            for name, reason in failed[:-1]:
                print(visible(f"trishula: {name}: {reason}", lines=True), file=sys.stderr)
        return DONE

    return with_node(arguments, work)


def _wanted(given: Iterable[str], sender: str | None) -> list[tuple[str, str | None]]:
    """Ids and senders. `-` is standard input: an id in each line, or a message as `watch --json` prints it."""
    wanted: list[tuple[str, str | None]] = []
    for text in given:
        if text != "-":
            wanted.append((text, sender))
            continue
        lines = [line for line in _text(_read("-")).split("\n") if line.strip()]
        if not lines:
            raise UsageError(
                "standard input is empty: it is to have an id, or a message of `watch --json`, in each line"
            )
        wanted += [_named(line, sender) for line in lines]
    return wanted


def _named(line: str, sender: str | None) -> tuple[str, str | None]:
    if not line.lstrip().startswith("{"):
        return line.strip(), sender
    try:
        printed = json.loads(line)
        message = printed.get("message", printed)
        return str(message["id"]), sender or message.get("from") or None
    except (ValueError, RecursionError, LookupError, AttributeError, TypeError):
        raise UsageError("a line of standard input is no message as `watch --json` prints it") from None


def ping(arguments: argparse.Namespace) -> int:
    """`trishula ping`."""
    deadline = time.monotonic() + arguments.timeout

    async def work(mesh: trishula.Client) -> int:
        route, latency_ms = "", None
        problem: trishula.TrishulaError | None = None
        try:
            outcome = await mesh.ping(arguments.node, route=arguments.route, timeout=_left(deadline))
            route, latency_ms = outcome.route, outcome.latency_ms
        except (trishula.Refused, trishula.Unconfirmed, trishula.TimedOut) as error:
            problem = error
        with after(f"{arguments.node} was asked", problem):
            if arguments.json:
                print_json(
                    {
                        "from": mesh.node,
                        "to": arguments.node,
                        "route": route or None,
                        "delivered": problem is None,
                        "latency_ms": latency_ms,
                    }
                )
            elif problem is None:
                print(f"{mesh.node} to {arguments.node} and back: {milliseconds(latency_ms)}, route {route}")
        return DONE

    return with_node(arguments, work, deadline=deadline)


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _plain(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """For JSON, without the tag that tells frames apart."""
    plain: list[dict[str, Any]] = msgspec.to_builtins(list(outcomes))
    for outcome in plain:
        del outcome["frame"]
    return plain


def _from(item: dict[str, Any]) -> str:
    """Whom a message is from, as its node vouches, or as it says itself."""
    return f"{item['from']} ({UNSIGNED})" if item["route"] == UNSIGNED else str(item["from"])


def _print_outcomes(outcomes: Iterable[Outcome]) -> None:
    for outcome in outcomes:
        details = [
            outcome.reason,
            outcome.route,
            "" if outcome.latency_ms is None else milliseconds(outcome.latency_ms),
        ]
        said = ", ".join(detail for detail in details if detail)
        print(visible(f"  {outcome.to} on {outcome.dest}: {outcome.state.value}{f' ({said})' if said else ''}"))


# ---------------------------------------------------------------- the message


def _message(arguments: argparse.Namespace) -> tuple[str | list[str], bytes | dict[str, Any]]:
    """Recipients, and the fields of a message or the bytes of a whole one."""
    fields = {
        "subject": arguments.subject,
        "type": arguments.type,
        "priority": arguments.priority,
        "reply_to": arguments.reply_to,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    recipients = [name.strip() for name in (arguments.to or "").split(",")]
    to = recipients[0] if len(recipients) == 1 else recipients
    if arguments.file is not None:
        extra = [f"--{name.replace('_', '-')}" for name in given] + (["BODY"] if arguments.body is not None else [])
        if extra:
            raise UsageError(f"--file holds the whole message, so {', '.join(extra)} has no place beside it")
        return to, _addressed(_read(arguments.file), to)
    if not arguments.to:
        raise UsageError("say who gets the message: trishula send TO BODY, or --file MESSAGE.json")
    if arguments.body is None and arguments.subject is None:
        raise UsageError("there is nothing to send: give BODY (- reads standard input), --subject or --file")
    _check_priority(arguments.priority)
    body = arguments.body
    if body == "-":
        body = _text(_read("-"))
        if not body:
            raise UsageError(
                "standard input is empty, so there is nothing to send",
                fix="look at the command before the pipe; for an empty body write '' in the place of -",
            )
    return to, given | ({} if body is None else {"body": body})


def _check_priority(given: str | None) -> None:
    """Any text is one, but a slip must not make an urgent message an ordinary one. Raises `UsageError`."""
    if given is None or given in _PRIORITIES:
        return
    for meant in difflib.get_close_matches(given.strip().lower(), _PRIORITIES, n=1, cutoff=0.7):
        raise UsageError(
            f"--priority {given}: is {meant} meant? Usual are {', '.join(_PRIORITIES)}; only urgent goes first",
            fix="correct it, or send a whole message with --file, whose priority may be any text",
        )


_PRIORITIES = ("urgent", "high", "normal", "low")


def _read(path: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        what = "standard input" if path == "-" else path
        raise UsageError(
            f"can't read {what}: {'it is closed' if error.errno == errno.EBADF else error.strerror}"
        ) from None


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input is not UTF-8 text: {error.reason} at byte {error.start}") from None


def _addressed(message: bytes, to: str | list[str]) -> bytes:
    """The message, to `to` if it doesn't say itself to whom. Its values stay as they are spelt."""
    if not to:
        return message
    try:
        own = json.loads(message)
        fields = msgspec.json.decode(message, type=dict[str, msgspec.Raw])
    except (ValueError, RecursionError):
        return message  # what is wrong with it is said where every message is looked at
    if "to" not in own:
        return message.rstrip()[:-1] + (b"," if fields else b"") + b'"to":' + json.dumps(to).encode() + b"}"
    if _names(own["to"]) != _names(to):
        raise UsageError(
            f"the message in the file is to {json.dumps(own['to'])}, the command line says {json.dumps(to)}",
            fix="leave one of them out",
        )
    return message


def _names(to: object) -> set[str]:
    """Who is meant, however it is written."""
    names = to if isinstance(to, list) else [to]
    return {"all" if str(name).lower() == "all" else str(name) for name in names}
