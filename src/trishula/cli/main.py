"""The `trishula` command: arguments in, exit code out. Each command's module is loaded when it is asked for."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import re
import shlex
import sys
from collections.abc import Sequence
from typing import NoReturn

from trishula import __version__
from trishula.cli import streams
from trishula.places import HERE
from trishula.protocol.errors import TrishulaError

DONE, FAILED, USAGE, UNREACHABLE, TIMED_OUT, UNPRINTED = range(6)
_INTERRUPTED = 128 + 2
_BROKEN_PIPE = 128 + 13

_CODES = {"unreachable": UNREACHABLE, "timed_out": TIMED_OUT, "usage": USAGE}

CONFIG = HERE.config

_SEND = ("agent", "send")

_EXIT_CODES = (
    "exit codes: 0 done, 1 failed with a reason, 2 wrong usage, 3 node not reachable, 4 timed out,\n"
    "            5 done, but the result can't be printed"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; by default that of this process, with its standard streams."""
    if argv is None:
        streams.take_over()
    code = DONE
    try:
        code = _run(argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except streams.Unprinted as lost:
        if lost.reader_left:
            return _BROKEN_PIPE
        _complain(lost)
        return code or UNPRINTED
    except TrishulaError as error:
        _complain(error)
        return _CODES.get(error.code, FAILED)
    finally:
        streams.settle()
    return code


def _run(argv: Sequence[str] | None) -> int:
    try:
        arguments = _parse(argv)
    except SystemExit:
        sys.stdout.flush()  # of --help and --version
        raise
    module, function = arguments.run
    code: int = getattr(importlib.import_module(f"trishula.cli.{module}"), function)(arguments)
    return code


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        text, hint = " ".join(unknown), ""
        if arguments.run == _SEND:
            to = arguments.to or "TO"
            hint = f" (a BODY that begins with - comes after --: trishula send {to} -- {shlex.quote(text)})"
        parser.error(f"unrecognized arguments: {text}{hint}")
    return arguments


def _complain(error: TrishulaError) -> None:
    from trishula.cli.output import visible  # noqa: PLC0415 - only where it is needed

    print(f"trishula: {visible(str(error), lines=True)}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """Says how a value is written that looks like an option."""

    def error(self, message: str) -> NoReturn:
        hint = "; one that begins with - is written with =, as in --subject=-n"
        super().error(message + (hint if message.endswith("expected one argument") else ""))


class _Commands:
    """Adds commands that look alike."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(self, name: str, text: str, example: str, run: tuple[str, str]) -> argparse.ArgumentParser:
        parser = self._parsers.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"example:\n  {example}\n\n{_EXIT_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.set_defaults(run=run)
        return parser


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="trishula",
        description="A durable, signed, real-time message mesh for the agents of a few machines.",
        epilog=f"example:\n  trishula send agni 'The build is green.' --wait delivered\n\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"trishula {__version__}")
    commands = _Commands(parser)
    _add_send(commands)
    _add_questions(commands)
    _add_node(commands)
    _add_doctor(commands)
    _add_sync(commands)
    _add_demo(commands)
    return parser


_ID = "its id, or as much of the beginning as is in no other"


def _add_send(commands: _Commands) -> None:
    send = commands.add(
        "send",
        "send a message to an agent, several (a,b), a @group or all",
        "trishula send agni 'Please build the release.' --subject Build --wait delivered --timeout 5\n"
        "  git log -1 | trishula send agni,rushabdev - --subject 'Last commit'\n"
        "  trishula send agni --ttl 2h --priority urgent -- '- a text that begins with -'\n"
        "  trishula send --file message.json",
        _SEND,
    )
    send.add_argument("to", nargs="?", metavar="TO", help="who gets it; may be left out with --file")
    send.add_argument(
        "body", nargs="?", metavar="BODY", help="the text; - reads it from standard input, -- comes before one with a -"
    )
    send.add_argument("--file", metavar="MESSAGE.json", help="a whole message as a JSON object; - is standard input")
    send.add_argument("--subject", metavar="TEXT")
    send.add_argument("--type", metavar="TEXT", help="task, response, note, ... (default: message)")
    send.add_argument(
        "--priority",
        metavar="TEXT",
        help="urgent goes first; high, normal, low or any other is text for the reader (default: normal)",
    )
    send.add_argument(
        "--ttl",
        type=_span,
        metavar="TIME",
        help="30min, 2h, 7d: if it is not delivered by then, it never is (default: what the node says, 7d)",
    )
    send.add_argument("--reply-to", metavar="ID", help="the message that this one answers")
    send.add_argument(
        "--wait",
        choices=("stored", "delivered", "read"),
        default="stored",
        help="until it is on this node's disk, on the disks of all recipients' nodes, or done with (default: stored)",
    )
    _add_timeout(send, 30)
    _add_common(send)


def _add_questions(commands: _Commands) -> None:
    inbox = commands.add("inbox", "list the unread messages, oldest first", "trishula inbox", ("agent", "inbox"))
    inbox.add_argument("--limit", type=_count, default=100, metavar="N", help="at most so many (default: 100)")
    _add_common(inbox)

    show = commands.add(
        "show",
        "show one message that this agent got or sent, and what became of it",
        "trishula show 20260210T033201Z_mac_rushabdev_tui_access",
        ("agent", "show"),
    )
    show.add_argument("id", metavar="ID", help=_ID)
    _add_common(show)

    done = commands.add(
        "done",
        "say that messages are handled: no session gets them again, their senders are told, their files go to archive/",
        "trishula done 20260210T033201Z_mac_rushabdev_tui_access\n"
        "  trishula inbox --json | jq -r '.messages[].id' | trishula done -",
        ("agent", "done"),
    )
    done.add_argument(
        "ids", nargs="+", metavar="ID", help=f"{_ID}; - reads ids, or lines of watch --json, from standard input"
    )
    done.add_argument("--from", dest="sender", metavar="AGENT", help="the one from AGENT, if several have the id")
    _add_common(done)

    watch = commands.add(
        "watch",
        "print the unread messages, then each one as it arrives, until Ctrl-C",
        "trishula watch\n"
        "  trishula watch --json | while IFS= read -r message; do\n"
        """    printf '%s\\n' "$message" | ./handle && printf '%s\\n' "$message" | trishula done -\n"""
        "  done  # ./handle reads the message; where it fails, the message stays unread, for the next watch",
        ("watch", "watch"),
    )
    watch.add_argument(
        "--done", action="store_true", help="once it is printed, a message is done, whatever becomes of it then"
    )
    _add_common(watch)

    status = commands.add(
        "status",
        "say how the node is, its links and agents, and what waits for whom",
        "trishula status",
        ("status", "status"),
    )
    _add_common(status)

    trace = commands.add(
        "trace",
        "say where a message has been, where it is, and what it waits for, as this node knows it",
        "trishula trace 20260210T033201Z_mac_rushabdev_tui_access",
        ("trace", "trace"),
    )
    trace.add_argument("id", metavar="ID", help=_ID)
    _add_common(trace)

    ping = commands.add(
        "ping",
        "send a signed probe to a node's disk and back, and say how long it took",
        "trishula ping agni --timeout 5",
        ("agent", "ping"),
    )
    ping.add_argument("node", metavar="NODE")
    ping.add_argument(
        "--route", choices=("rsync",), default="", help="whatever links there are (default: as mail goes)"
    )
    _add_timeout(ping, 10)
    _add_common(ping)


def _add_node(commands: _Commands) -> None:
    node = commands.add(
        "node", "run a node, check its configuration, or adopt a store", "trishula node check --help", ("node", "")
    )
    actions = _Commands(node)
    run = actions.add(
        "run",
        "run the node until SIGTERM or SIGINT",
        f"trishula node run --config {shlex.quote(str(CONFIG))}",
        ("node", "run"),
    )
    check = actions.add(
        "check",
        "say whether a node could start with this configuration, or what is wrong with it",
        f"trishula node check --config {shlex.quote(str(CONFIG))}",
        ("node", "check"),
    )
    adopt = actions.add(
        "adopt",
        "say that the store was put back from a copy: peers forget what the node said before, and it takes stock of"
        " its mailboxes at its next start",
        f"trishula node adopt --config {shlex.quote(str(CONFIG))}\n  # before: {HERE.stop}; and start them again",
        ("node", "adopt"),
    )
    for parser in (run, check, adopt):
        parser.add_argument("--config", required=True, metavar="node.toml")
    _add_json(check)
    _add_json(adopt)


def _add_doctor(commands: _Commands) -> None:
    doctor = commands.add(
        "doctor",
        "ask this host, its node and the way to its peers what is wrong, and say what to do about it",
        "trishula doctor --json  # as root: it looks at credentials",
        ("doctor", "doctor"),
    )
    doctor.add_argument(
        "--config", default=CONFIG, metavar="node.toml", help=f"what the node was started with (default: {CONFIG})"
    )
    doctor.add_argument("--socket", metavar="PATH", help="the node's socket (default: node.sock where --config says)")
    _add_json(doctor)


def _add_sync(commands: _Commands) -> None:
    sync = commands.add(
        "sync",
        "run rsync once with every peer: what a timer does where the node works by files alone",
        f"trishula sync --config {shlex.quote(str(CONFIG))}",
        ("sync", "sync"),
    )
    sync.add_argument("--config", required=True, metavar="node.toml")
    _add_json(sync)


def _add_demo(commands: _Commands) -> None:
    demo = commands.add(
        "demo",
        "show three real nodes at work, as processes on this machine: one is killed and comes back, nothing is lost",
        "trishula demo\n  trishula demo --serve --dir /tmp/mesh",
        ("demo", "demo"),
    )
    demo.add_argument(
        "--serve", action="store_true", help="keep the nodes up until Ctrl-C and print where they are, as one JSON line"
    )
    demo.add_argument("--dir", metavar="D", help="where the mesh lives, and stays (default: a temporary folder)")
    _add_json(demo)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--socket",
        metavar="PATH",
        help=f"the node's socket (default: $TRISHULA_SOCKET, else {HERE.socket}, else the only one that you may open)",
    )
    parser.add_argument("--agent", metavar="NAME", help="speak for this agent: its socket beside the default one")
    _add_json(parser)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def _add_timeout(parser: argparse.ArgumentParser, default: float) -> None:
    parser.add_argument(
        "--timeout", type=_seconds, default=default, metavar="S", help=f"give up after S seconds (default: {default:g})"
    )


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < 366 * 24 * 3600:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")


def _span(text: str) -> int:
    """Seconds."""
    found = re.fullmatch(r"(\d{1,9})(s|sec|m|min|h|d|w)?", text.strip())
    if found is None or not (seconds := int(found[1]) * _UNITS[found[2] or "s"]):
        raise argparse.ArgumentTypeError(f"{text!r} is no span of time: write 90s, 30min, 2h or 7d")
    return seconds


_UNITS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 24 * 3600, "w": 7 * 24 * 3600}


def _count(text: str) -> int:
    with contextlib.suppress(ValueError):
        if (value := int(text)) >= 1:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")


if __name__ == "__main__":
    sys.exit(main())
