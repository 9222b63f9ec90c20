"""Whom a command speaks for."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

import trishula
from trishula.cli.reach import socket_of
from trishula.cli.usage import UsageError


def chosen(*, socket: str | None = None, agent: str | None = None) -> str | None:
    return socket_of(argparse.Namespace(socket=socket, agent=agent))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("node", "mac", "dhyana"):
        (tmp_path / f"{name}.sock").touch()
    monkeypatch.setenv("TRISHULA_SOCKET", str(tmp_path / "node.sock"))
    return tmp_path


def test_an_agents_socket_is_beside_the_default_one(folder: Path) -> None:
    assert chosen(agent="dhyana") == str(folder / "dhyana.sock")
    assert chosen() is None
    assert chosen(socket="/x.sock") == "/x.sock"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"agent": "mac", "socket": "/x.sock"}, "leave out --agent, or --socket"),
        ({"agent": "agni"}, "there are dhyana, mac"),
        ({"agent": "../mac"}, "no agent's name"),
        ({"agent": ""}, "no agent's name"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_can_not_be_meant_is_wrong_usage(arguments: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        chosen(**arguments)


def test_who_may_not_open_a_socket_hears_which_ones_it_may(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path).name != "mac.sock")
    with pytest.raises(trishula.NodeUnreachable, match=r"may not speak for mac.*you may speak for dhyana"):
        chosen(agent="mac")
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    with pytest.raises(trishula.NodeUnreachable, match="there are dhyana, mac"):
        chosen(agent="mac")
    assert folder.exists()


def test_where_no_node_has_been_the_connection_will_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRISHULA_SOCKET", str(tmp_path / "none" / "node.sock"))
    assert chosen(agent="mac") == str(tmp_path / "none" / "mac.sock")
