"""Whatever comes from outside, only documented errors leave the parser."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

import trishula
from trishula.cli.agent import _addressed as addressed
from trishula.cli.node import obstacles
from trishula.cli.usage import UsageError
from trishula.node.config import ConfigErrors, load
from trishula.node.database import StoreError, prepare
from trishula.node.store import Store
from trishula.protocol import agent_frames, frames
from trishula.protocol.errors import ConfigError, FrameError, MessageError
from trishula.protocol.message import complete, inspect
from unit.fuzz import MARK, changed, damaged, json_values, leaves, mangled, odd_json, put, valid

hypothesis = settings(max_examples=150, deadline=None, derandomize=True)

MAX_BYTES = 1024 * 1024

# ---------------------------------------------------------------- frames

TABLES: dict[str, tuple[Callable[[bytes], frames.Frame], Any]] = {
    "peer": (frames.decode_peer, frames.PeerFrame),
    "agent": (agent_frames.decode_request, agent_frames.AgentRequest),
    "node": (agent_frames.decode_reply, agent_frames.AgentReply),
}
each_frame = pytest.mark.parametrize(
    ("role", "kind"),
    [(role, kind) for role, (_, table) in TABLES.items() for kind in get_args(table)],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)


@each_frame
@given(data=st.data())
@settings(hypothesis, max_examples=25)
def test_whatever_the_type_of_a_frame_allows_is_heard_as_it_was_said(
    role: str, kind: type, data: st.DataObject
) -> None:
    decode, _ = TABLES[role]
    frame = decode(json.dumps(data.draw(valid(kind))).encode())
    assert isinstance(frame, kind)
    assert decode(frames.encode(frame)) == frame


@each_frame
@given(data=st.data())
@settings(hypothesis, max_examples=50)
def test_a_frame_that_was_changed_anywhere_is_a_frame_or_a_frame_error(
    role: str, kind: type, data: st.DataObject
) -> None:
    only_frame_errors(role, data.draw(damaged(valid(kind))))


@each_frame
@given(data=st.data())
@settings(hypothesis, max_examples=3)
def test_an_odd_value_anywhere_in_a_frame_is_a_frame_or_a_frame_error(
    role: str, kind: type, data: st.DataObject
) -> None:
    for said in odd_json(data.draw(valid(kind))):
        only_frame_errors(role, said)


def only_frame_errors(role: str, said: bytes) -> None:
    decode, table = TABLES[role]
    try:
        frame = decode(said)
    except FrameError as error:
        code = error.close_code
    else:
        assert isinstance(frame, get_args(table))
        return
    assert code in (1007, 1008)


# ---------------------------------------------------------------- messages

messages = st.fixed_dictionaries(
    {
        "id": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
        "from": st.just("mac"),
        "to": st.sampled_from(["agni", "ALL", ["agni", "rushabdev"], "@builders"]),
    },
    optional={
        **{key: st.text(max_size=8) for key in ("type", "priority", "subject", "timestamp")},
        "reply_to": st.none() | st.text(max_size=8),
        "body": json_values,
    },
)


def only_message_errors(raw: bytes) -> None:
    with contextlib.suppress(MessageError):
        complete(raw, sender="mac", new_id="new-id", timestamp="t", max_bytes=MAX_BYTES)
    with contextlib.suppress(MessageError):
        inspect(raw, max_bytes=MAX_BYTES)


@given(raw=damaged(messages))
@settings(hypothesis, max_examples=300)
def test_a_message_that_was_changed_anywhere_is_a_message_or_a_message_error(raw: bytes) -> None:
    only_message_errors(raw)


@given(message=messages)
@settings(hypothesis, max_examples=5)
def test_an_odd_value_anywhere_in_a_message_is_a_message_or_a_message_error(message: dict[str, Any]) -> None:
    for raw in odd_json(message):
        only_message_errors(raw)


@given(raw=st.binary(max_size=200))
@hypothesis
def test_any_payload_is_a_message_or_a_message_error(raw: bytes) -> None:
    with contextlib.suppress(MessageError):
        inspect(raw, max_bytes=MAX_BYTES)


# ---------------------------------------------------------------- node.toml and the credentials

KEY = base64.b64encode(bytes(range(32))).decode()
HASH = "ab" * 32
TOKEN = "a-token-that-nobody-may-see"
CREDENTIALS: dict[str, Any] = {
    "accept.json": [{"node": "rushabdev", "sha256": HASH}, {"agent": "mac", "sha256": HASH}],
    "dial.json": {"agni": TOKEN},
    "keys.json": {peer: [{"kid": "1", "key": KEY}] for peer in ("agni", "rushabdev")},
}


def node_toml(folder: Path) -> dict[str, Any]:
    """A good file, as the tables that it is."""
    return {
        "node": {
            "name": "mac",
            "default_agent": "mac",
            "always_on": False,
            "credentials_dir": str(folder),
            **{key: f"/{key}" for key in ("state_dir", "runtime_dir", "mailbox_dir")},
        },
        "listen": {"address": "127.0.0.1", "port": 8765},
        "tls": {
            **{key: str(folder / "accept.json") for key in ("certificate", "private_key", "ca")},
            "public_roots": False,
        },
        "agents": {"mac": {"socket_group": "root"}, "dhyana": {}},
        "peers": {
            "agni": {"dial": True, "url": "wss://agni:8765", "agents": ["agni"]},
            "rushabdev": {"agents": ["rushabdev"], "always_on": True},
        },
        "groups": {"builders": ["agni", "rushabdev"]},
        "limits": {
            "max_message_bytes": 1024,
            "default_ttl_s": 60,
            "max_ttl_s": 60,
            "max_skew_s": 30,
            "connections_per_address": 32,
            "handshake_timeout_s": 5,
        },
    }


ODD_TOML = [
    *(
        "nan",
        "-inf",
        "1e400",
        "0x" + "f" * 5000,
        "9" * 5000,
        "1979-05-27T07:32:00Z",
        "25:61:61",
        "[" * 5000,
        "{" * 5000,
    ),
    *('"\\u0000"', '"/\\u0000"', '"\\ud800"', '"""', "''", "\x00", "\x7f", "", "true false", "[1, {}]", "1_000", "0o7"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CREDENTIALS_DIRECTORY", raising=False)
        yield tmp_path_factory.mktemp("config")


def toml(value: Any) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{toml(str(key))} = {toml(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(toml, value)) + "]"
        case None:
            return '""'
        case _:
            return json.dumps(value, ensure_ascii=False)


def file_of(tables: Any) -> bytes:
    tables = tables if isinstance(tables, dict) else {"node": tables}
    return "\n".join(f"{toml(str(name))} = {toml(table)}" for name, table in tables.items()).encode()


@st.composite
def changed_toml(draw: DrawFn, good: dict[str, Any]) -> bytes:
    value = good
    for _ in range(draw(st.integers(1, 3))):
        value = changed(draw, value)
    return mangled(draw, file_of(value))


def only_config_errors(folder: Path) -> None:
    try:
        config = load(folder / "node.toml")
    except ConfigErrors as mistakes:
        found = mistakes
    else:
        config.directory()
        assert all(isinstance(obstacle, ConfigError) for obstacle in obstacles(config))
        return
    assert found.errors
    assert all(error.key is not None and error.fix for error in found.errors)
    assert not any(secret in str(found) for secret in (KEY, HASH, TOKEN))


def lay_out(folder: Path, **files: bytes) -> None:
    given = {name: json.dumps(content).encode() for name, content in CREDENTIALS.items()}
    given["node.toml"] = file_of(node_toml(folder))
    for name, content in (given | files).items():
        (folder / name).write_bytes(content)


def test_the_configuration_is_good_before_it_is_changed(folder: Path) -> None:
    lay_out(folder)
    assert load(folder / "node.toml").node == "mac"


@pytest.mark.parametrize("odd", ODD_TOML, ids=range(len(ODD_TOML)))
def test_an_odd_value_anywhere_in_a_configuration_is_good_or_named(folder: Path, odd: str) -> None:
    good = node_toml(folder)
    for way in leaves(good):
        text = file_of(put(good, way, MARK)).replace(f'"{MARK}"'.encode(), odd.encode())
        lay_out(folder, **{"node.toml": text})
        only_config_errors(folder)


@given(data=st.data())
@settings(hypothesis, max_examples=200)
def test_a_configuration_that_was_changed_anywhere_is_good_or_all_its_mistakes(
    folder: Path, data: st.DataObject
) -> None:
    lay_out(folder, **{"node.toml": data.draw(changed_toml(node_toml(folder)))})
    only_config_errors(folder)


@given(raw=st.binary(max_size=200))
@hypothesis
def test_any_file_is_a_configuration_or_a_mistake(folder: Path, raw: bytes) -> None:
    lay_out(folder, **{"node.toml": raw})
    only_config_errors(folder)


@pytest.mark.parametrize("file", CREDENTIALS)
@given(data=st.data())
@hypothesis
def test_a_credential_file_that_was_changed_anywhere_is_good_or_named(
    folder: Path, file: str, data: st.DataObject
) -> None:
    any_bytes: SearchStrategy[bytes] = st.binary(max_size=100)
    lay_out(folder, **{file: data.draw(damaged(st.just(CREDENTIALS[file])) | any_bytes)})
    only_config_errors(folder)


@pytest.mark.parametrize("file", CREDENTIALS)
def test_an_odd_value_anywhere_in_a_credential_file_is_good_or_named(folder: Path, file: str) -> None:
    for said in odd_json(CREDENTIALS[file]):
        lay_out(folder, **{file: said})
        only_config_errors(folder)


# ---------------------------------------------------------------- an agent's own files and settings


@given(message=damaged(messages) | st.binary(max_size=50), to=st.sampled_from(["", "agni", ["agni", "rushabdev"]]))
@hypothesis
def test_any_message_file_is_taken_or_refused_in_words(message: bytes, to: str | list[str]) -> None:
    with contextlib.suppress(UsageError, MessageError):
        complete(addressed(message, to), sender="mac", new_id="new-id", timestamp="t", max_bytes=MAX_BYTES)


def test_a_message_file_with_something_odd_in_it_is_taken_or_refused_in_words() -> None:
    for message in odd_json({"from": "mac", "to": ["agni"], "body": {"a": [1]}}):
        with contextlib.suppress(UsageError, MessageError):
            complete(addressed(message, "agni"), sender="mac", new_id="new-id", timestamp="t", max_bytes=MAX_BYTES)


@pytest.mark.parametrize(
    "changed",
    [
        *(
            {"url": f"wss://{place}"}
            for place in ["", "[::1", "127.0.0.1:x", "127.0.0.1:99999", "a..b", "127.0.0.1:1/#x"]
        ),
        *({"token": token} for token in ["a\nb", "\ud800", "\xff"]),
        *({"ca": path} for path in ["\0", "/", "/dev/null"]),
        {"token": None, "token_file": "/bin/sh"},
        {"token": None, "token_file": "\0"},
    ],
    ids=repr,
)
def test_a_node_that_is_wrongly_named_is_unreachable_in_words(changed: dict[str, Any]) -> None:
    given = {"url": "wss://127.0.0.1:1", "token": "token"} | changed

    async def enter() -> None:
        async with trishula.Client(**given):
            pass

    with pytest.raises(trishula.NodeUnreachable):
        asyncio.run(enter())


# ---------------------------------------------------------------- the store's file


@pytest.mark.parametrize("damage", ["DELETE FROM meta", "DELETE FROM meta WHERE key = 'node'", "a byte of its schema"])
def test_a_damaged_store_is_refused_in_words(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "trishula.db"
    prepare(path, "mac")
    if damage.startswith("DELETE"):
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.executescript(damage)
    else:
        path.write_bytes(path.read_bytes().replace(b"CREATE TABLE", b"CREATE \xffABLE"))
    with pytest.raises(StoreError):
        Store(tmp_path, "mac")
