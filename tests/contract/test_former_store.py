"""The way back from a new format of the store: the node keeps a copy before it changes, Ansible puts it back."""

from __future__ import annotations

import fcntl
import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from tests.contract.conftest import ROOT

from trishula.node import database
from trishula.node.database import SCHEMA_VERSION, StoreError, connect, prepare, recognize

MODULE = ROOT / "roles" / "trishula_node" / "library" / "trishula_former_store.py"
SEND = (
    "INSERT INTO outgoing (sender, id, recipient, dest, digest, urgent, expires_at, stored_at, state, reason, route)"
    " VALUES ('mac', ?, 'agni', 'agni', 'd', 0, 5, 1, 'stored', '', '')"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a store of the first format that has sent something, as a node leaves it."""
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "lock").touch()
    with closing(connect(folder / "trishula.db")) as db:
        db.executescript(resources.files("trishula.node").joinpath("schema/1.sql").read_text("utf-8"))
        db.execute("PRAGMA user_version = 1")
        db.executemany("INSERT INTO meta VALUES (?, ?)", [("node", "mac"), ("incarnation", "i")])
        db.execute(SEND, ["before"])
    return folder


def start_with_this_release(folder: Path) -> str:
    path = folder / "trishula.db"
    return recognize(path, folder.with_suffix(".life"), prepare(path, "mac"))


def accept(folder: Path) -> None:
    with closing(connect(folder / "trishula.db")) as db:
        db.execute(SEND, ["since"])


def seen(folder: Path) -> tuple[int, list[str]]:
    """The format of a store, and what it has sent."""
    with closing(sqlite3.connect(folder / "trishula.db")) as db:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        return version, [row[0] for row in db.execute("SELECT id FROM outgoing ORDER BY seq")]


def put_back(folder: Path) -> dict[str, Any]:
    """What Ansible does on a host whose node is stopped."""
    here = [Path(sys.executable).with_name("ansible"), "localhost", "--connection=local"]
    run = subprocess.run(
        [*here, "--module-path", MODULE.parent, "--module-name", MODULE.stem, "--args", f"path={folder}"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder.parent), "ANSIBLE_LOAD_CALLBACK_PLUGINS": "true"}
        | {"ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal", "ANSIBLE_LOCAL_TEMP": str(folder.parent / "tmp")}
        | {
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    said: dict[str, Any] = json.loads(run.stdout.partition("=>")[2])
    return said | {"failed": run.returncode != 0}


def test_a_store_that_has_accepted_nothing_since_is_put_back_whole(folder: Path) -> None:
    assert start_with_this_release(folder) == "i"
    assert seen(folder) == (SCHEMA_VERSION, ["before"])
    said = put_back(folder)
    assert (said["changed"], said["stays"]) == (True, False)
    assert seen(folder) == (1, ["before"])
    assert {path.name for path in folder.iterdir()} == {"lock", "trishula.db"}
    assert put_back(folder)["changed"] is False


def test_a_store_that_has_accepted_something_since_stays_for_it_would_be_lost(folder: Path) -> None:
    start_with_this_release(folder)
    accept(folder)
    said = put_back(folder)
    assert (said["changed"], said["stays"], said["accepted"]) == (False, True, 1)
    assert seen(folder) == (SCHEMA_VERSION, ["before", "since"])


def test_a_store_whose_node_runs_is_left_alone(folder: Path) -> None:
    start_with_this_release(folder)
    with (folder / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = put_back(folder)
    assert said["failed"]
    assert "stop it first" in said["msg"]
    assert seen(folder)[0] == SCHEMA_VERSION


def test_a_store_that_was_put_back_is_no_restored_one_and_keeps_its_incarnation(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start_with_this_release(folder) == "i"
    (folder / "former.db").unlink()
    with monkeypatch.context() as next_release:
        next_release.setattr(database, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
        next_release.setattr(database, "resources", OneStepMore())
        assert start_with_this_release(folder) == "i"
    assert seen(folder)[0] == SCHEMA_VERSION + 1
    with pytest.raises(StoreError, match=f"format {SCHEMA_VERSION + 1}"):
        start_with_this_release(folder)
    assert put_back(folder)["changed"] is True
    assert start_with_this_release(folder) == "i"


def test_after_two_changes_that_were_not_proved_the_way_back_leads_to_before_the_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_with_this_release(folder)
    with monkeypatch.context() as next_release:
        next_release.setattr(database, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
        next_release.setattr(database, "resources", OneStepMore())
        start_with_this_release(folder)
    assert put_back(folder)["changed"] is True
    assert seen(folder) == (1, ["before"])


class OneStepMore:
    """The schema of a release that is yet to come."""

    def files(self, _: str) -> OneStepMore:
        return self

    def joinpath(self, _: str) -> OneStepMore:
        return self

    def read_text(self, _: str) -> str:
        return "CREATE TABLE novelty (number INTEGER PRIMARY KEY) STRICT;"


def test_without_room_for_the_copy_the_store_keeps_its_format_and_the_node_says_so(folder: Path) -> None:
    (folder / "former.db.new").mkdir()  # nothing can be written there
    with pytest.raises(StoreError, match="stays in the format 1"):
        start_with_this_release(folder)
    assert seen(folder) == (1, ["before"])


def test_a_step_that_fails_leaves_the_store_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(OneStepMore):
        def read_text(self, _: str) -> str:
            return "CREATE TABLE novelty (number INTEGER PRIMARY KEY) STRICT; CREATE TABLE meta (x);"

    monkeypatch.setattr(database, "resources", Broken())
    with pytest.raises(sqlite3.OperationalError):
        start_with_this_release(folder)
    assert seen(folder) == (1, ["before"])
