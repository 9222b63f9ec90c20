from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import trishula
from trishula.cli import main as cli
from trishula.cli.agent import _message, _wanted
from trishula.cli.usage import UsageError


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from parsers(child)


ALL = list(parsers(cli._parser()))


def parse(*arguments: str) -> argparse.Namespace:
    return cli._parser().parse_args(arguments)


@pytest.mark.parametrize("parser", ALL, ids=lambda parser: parser.prog)
def test_the_help_of_every_command_has_an_example_and_the_exit_codes(parser: argparse.ArgumentParser) -> None:
    help_text = parser.format_help()
    assert f"example:\n  {parser.prog.split()[0]}" in help_text
    assert "3 node not reachable" in help_text


def test_these_are_the_commands() -> None:
    assert [parser.prog.removeprefix("trishula").strip() for parser in ALL] == [
        "", "send", "inbox", "show", "done", "watch", "status", "trace", "ping",
        "node", "node run", "node check", "node adopt", "doctor", "sync", "demo"
    ]  # fmt: skip


@pytest.mark.parametrize("command", ["send", "inbox", "show", "done", "watch", "status", "trace", "ping"])
def test_every_command_of_an_agent_takes_a_socket_and_prints_json(command: str) -> None:
    parser = next(parser for parser in ALL if parser.prog == f"trishula {command}")
    options = {option for action in parser._actions for option in action.option_strings}
    assert {"--socket", "--agent", "--json", "--help"} <= options


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"trishula {trishula.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["send", "agni", "x", "--wait", "read-and-understood"],
        ["send", "agni", "x", "--timeout", "0"],
        ["send", "agni", "x", "--timeout", "soon"],
        ["send", "agni", "x", "--timeout", "nan"],
        ["send", "agni", "x", "--ttl", "0"],
        ["send", "agni", "x", "--ttl", "2y"],
        ["send", "agni", "x", "--ttl", "-1h"],
        ["send", "agni", "-n"],
        ["send", "agni", "x", "--subject", "-n"],
        ["status", "-n"],
        ["inbox", "--limit", "0"],
        ["show"],
        ["ping"],
        ["node"],
        ["node", "run"],
        ["node", "check"],
    ],
    ids=" ".join,
)
def test_what_the_parser_does_not_understand_is_wrong_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == cli.USAGE
    said = capsys.readouterr()
    assert "usage: trishula" in said.err
    assert not said.out


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["send", "agni", "-n"], "comes after --: trishula send agni -- -n"),
        (["send", "agni", "--fix", "it"], "comes after --: trishula send agni -- "),
        (["send", "agni", "x", "--subject", "-n"], "--subject=-n"),
    ],
)
def test_a_text_that_looks_like_an_option_is_answered_by_how_it_is_written(
    wrong: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(wrong)
    assert words in capsys.readouterr().err


def test_written_so_it_is_taken() -> None:
    assert parse("send", "agni", "--", "-n").body == "-n"
    assert parse("send", "agni", "x", "--subject=-n").subject == "-n"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("30min", 1800), ("5m", 300), ("2h", 7200), ("7d", 604800)]
)
def test_a_time_to_live_has_a_unit(text: str, seconds: int) -> None:
    assert parse("send", "agni", "x", "--ttl", text).ttl == seconds
    assert parse("send", "--file", "x", "--ttl", text).ttl == seconds


@pytest.mark.parametrize(("slip", "meant"), [("urgnt", "urgent"), ("URGENT", "urgent"), ("hihg", "high")])
def test_a_priority_that_is_nearly_a_usual_one_is_a_slip(slip: str, meant: str) -> None:
    with pytest.raises(UsageError, match=rf"--priority {slip}: is {meant} meant\? Usual are urgent, high, normal, low"):
        _message(parse("send", "agni", "x", "--priority", slip))


@pytest.mark.parametrize("priority", ["urgent", "high", "normal", "low", "P1", "critical", "whenever you like"])
def test_any_other_priority_is_text(priority: str) -> None:
    assert _message(parse("send", "agni", "x", "--priority", priority))[1] == {"body": "x", "priority": priority}


def named(monkeypatch: pytest.MonkeyPatch, stdin: str, *arguments: str) -> list[tuple[str, str | None]]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
    given = parse("done", *arguments)
    return _wanted(given.ids, given.sender)


def test_done_reads_ids_and_what_watch_printed_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    assert named(monkeypatch, "a1\n\n b2\n", "-", "c3") == [("a1", None), ("b2", None), ("c3", None)]
    printed = json.dumps({"message": {"id": "a1", "from": "mac", "body": "x" * 200_000}, "meta": {}})
    assert named(monkeypatch, f'{printed}\n{{"id": "b2"}}\n', "-") == [("a1", "mac"), ("b2", None)]
    assert named(monkeypatch, printed, "-", "--from", "agni") == [("a1", "agni")]
    for rubbish in ("{", "{}", '{"message": 1}', "  \n"):
        with pytest.raises(UsageError, match="standard input"):
            named(monkeypatch, rubbish, "-")


@pytest.mark.parametrize("wrong", [["send", "agni", "x", "--timeout", "soon"], ["inbox", "--limit", "few"]])
def test_a_wrong_number_is_named_in_words(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(wrong)
    assert f"{wrong[-2]}: {wrong[-1]!r} is no number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["send"], "say who gets the message"),
        (["send", "agni"], "nothing to send"),
        (["send", "--file", "/no/such/file.json"], "No such file"),
        (["send", "--file", "x.json", "--subject", "s"], "--subject"),
        (["send", "--file", "x.json", "--reply-to", "s"], "--reply-to"),
        (["send", "agni", "body", "--file", "x.json"], "BODY"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_arguments_that_do_not_go_together_are_wrong_usage(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == cli.USAGE
    said = capsys.readouterr()
    assert word in said.err
    assert said.err.startswith("trishula: ")
    assert not said.out


def test_the_options_of_send_become_the_fields_of_the_message() -> None:
    arguments = parse(
        "send", "agni", "the body", "--subject", "s", "--type", "task", "--priority", "urgent", "--reply-to", "x1"
    )
    to, fields = _message(arguments)
    assert to == "agni"
    assert fields == {"subject": "s", "type": "task", "priority": "urgent", "reply_to": "x1", "body": "the body"}


def test_recipients_are_separated_by_commas() -> None:
    assert _message(parse("send", "agni, rushabdev", "x"))[0] == ["agni", "rushabdev"]


def test_a_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("zwei\nZeilen ✅".encode())))
    assert _message(parse("send", "agni", "-"))[1] == {"body": "zwei\nZeilen ✅"}


def test_standard_input_that_is_not_text_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe")))
    with pytest.raises(UsageError, match="not UTF-8"):
        _message(parse("send", "agni", "-"))


def sent(tmp_path: Path, content: str, *to: str) -> str | list[str] | bytes | dict[str, object]:
    file = tmp_path / "message.json"
    file.write_text(content)
    return _message(parse("send", *to, "--file", str(file)))[1]


def test_a_file_is_sent_as_it_is(tmp_path: Path) -> None:
    content = '{"to" : "agni",\n "n": 1.10, "tiny": 1e-09}'
    assert sent(tmp_path, content) == content.encode()
    assert sent(tmp_path, content, "agni") == content.encode()


@pytest.mark.parametrize("content", ['{"n": 1.10}\n', "{}", ' { "a": "}" } '])
def test_a_file_without_a_recipient_gets_that_of_the_command_line(tmp_path: Path, content: str) -> None:
    raw = sent(tmp_path, content, "agni")
    assert isinstance(raw, bytes)
    assert json.loads(raw) == {**json.loads(content), "to": "agni"}
    assert content.strip()[1:-1].strip() in raw.decode()


@pytest.mark.parametrize(
    ("own", "to"), [('"ALL"', "all"), ('["agni", "rushabdev"]', "rushabdev,agni"), ('["agni"]', "agni")]
)
def test_a_file_may_name_the_same_recipients_in_another_way(tmp_path: Path, own: str, to: str) -> None:
    content = f'{{"to": {own}}}'
    assert sent(tmp_path, content, to) == content.encode()


def test_a_file_to_somebody_else_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='is to "agni", the command line says "mac"'):
        sent(tmp_path, '{"to": "agni"}', "mac")


# ---------------------------------------------------------------- what is loaded


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after running this."""
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr.splitlines()[-1]))


def families(modules: set[str]) -> set[str]:
    return {module.split(".")[0] for module in modules}


def test_importing_trishula_loads_neither_the_library_nor_a_dependency() -> None:
    assert not {"msgspec", "websockets", "asyncio"} & loaded_by("import trishula")


def test_help_is_quick_because_it_loads_nothing() -> None:
    code = "from trishula.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert not {"msgspec", "websockets", "asyncio", "trishula.client"} & loaded_by(code)


@pytest.mark.parametrize(
    "command", ["inbox", "show x", "done x", "watch", "status", "trace x", "ping agni", "send agni x"]
)
def test_the_commands_of_an_agent_load_no_node(command: str) -> None:
    code = f"from trishula.cli.main import main\nassert main({[*command.split(), '--socket', '/no/socket']!r}) == 3"
    modules = loaded_by(code)
    assert "trishula.client.client" in modules
    assert not {module for module in modules if module.startswith("trishula.node")}
    assert not {"cryptography", "sqlite3"} & families(modules)


@pytest.mark.parametrize("module", ["trishula.node.daemon", "trishula.client"])
def test_node_and_library_load_no_extra_and_not_each_other(module: str) -> None:
    modules = loaded_by(f"import {module}")
    others = {"trishula.node": "trishula.client", "trishula.client": "trishula.node"}
    other = next(other for mine, other in others.items() if module.startswith(mine))
    assert not {name for name in modules if name.startswith((other, "trishula.cli."))}
    assert "cryptography" not in families(modules)


def test_the_library_has_its_names_and_no_others() -> None:
    for name in trishula.__all__:
        assert getattr(trishula, name).__name__ == {"HybridTRISHULA": "Hybrid"}.get(name, name)
    with pytest.raises(AttributeError, match="no attribute 'Mesh'"):
        trishula.Mesh  # noqa: B018
