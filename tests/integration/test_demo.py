"""`trishula demo` as somebody tries it who has just cloned the project."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

import trishula
from trishula.cli.demo import inbox_files, tally
from trishula.cli.sandbox import Sandbox, until

DEMO = [sys.executable, "-m", "trishula.cli.main", "demo"]
NAMES = ("mac", "agni", "rushabdev")


def nodes_under(directory: Path) -> list[int]:
    """Process ids of nodes whose configuration lies in `directory`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if f"{directory}/" in (entry / "cmdline").read_text() and "node\0run" in (entry / "cmdline").read_text():
                found.append(int(entry.name))
        except (OSError, ValueError, UnicodeDecodeError):
            continue
    return found


@contextmanager
def serving(directory: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A `demo --serve`, and the line that it prints."""
    process = subprocess.Popen(
        [*DEMO, "--serve", "--dir", str(directory)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_demo_ends_with_one_object_that_says_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    done = subprocess.run([*DEMO, "--json", "--dir", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [(row["from"], row["to"]) for row in result["directions"]] == list(permutations(NAMES, 2))
    for row in result["directions"]:
        assert (row["route"], row["delivered"]) == ("direct", True)
        assert row["latency_ms"] > 0
    assert (result["lost"], result["doubled"]) == (0, 0)
    assert result["stored"] == result["delivered"] > 10
    files = [path for name in NAMES for path in (tmp_path / name / "state/mailboxes" / name / "inbox").glob("*.json")]
    assert len(files) == result["stored"]
    for words in ("kill -9 rushabdev", "linked again", "what arrived when", "lost 0, doubled 0"):
        assert words in done.stderr


def test_without_a_folder_nothing_is_left_behind(tmp_path: Path) -> None:
    done = subprocess.run(DEMO, capture_output=True, text=True, check=False, env=os.environ | {"TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert "lost 0, doubled 0" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_count_sees_what_is_lost_and_what_is_doubled(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as mesh:
        for agent, name in (("agni", "one.json"), ("agni", "one~mac.json"), ("mac", "two.json")):
            inbox = mesh.home(agent).mailbox(agent) / "inbox"
            inbox.mkdir(parents=True, exist_ok=True)
            (inbox / name).write_text(json.dumps({"id": name.removesuffix(".json").split("~")[0]}))
        files = inbox_files(mesh)
    assert files == Counter({("one", "agni"): 2, ("two", "mac"): 1})
    stored = [("one", "agni"), ("two", "mac"), ("three", "mac")]
    assert tally(stored, files) == {"stored": 3, "delivered": 2, "lost": 1, "doubled": 1}


def test_serve_says_where_everything_is_and_it_works(tmp_path: Path) -> None:
    async def use(nodes: dict[str, dict[str, str]]) -> None:
        mac, agni = nodes["mac"], nodes["agni"]
        async with (
            trishula.Client(mac["socket"]) as here,
            trishula.Client(url=agni["url"], ca=agni["ca"], token_file=agni["token_file"]) as there,
        ):
            receipt = await here.send("agni", subject="try it")
            await receipt.delivered(timeout=60)
            assert (await there.receive(timeout=60)).id == receipt.id
            file = Path(agni["mailbox"]) / "inbox" / f"{receipt.id}.json"
            await until(file.exists, "the file is in the mailbox")

    with serving(tmp_path) as (process, served):
        nodes = {node["node"]: node for node in served["nodes"]}
        assert tuple(nodes) == NAMES
        asyncio.run(use(nodes))
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_a_node_that_is_killed_under_serve_comes_back(tmp_path: Path) -> None:
    async def kill_and_wait(socket: str) -> None:
        async with trishula.Client(socket) as agni:
            before = (await agni.status())["uptime_s"]
            (victim,) = (pid for pid in nodes_under(tmp_path / "agni"))
            os.kill(victim, signal.SIGKILL)

            async def anew() -> bool:
                return nodes_under(tmp_path / "agni") not in ([], [victim])

            await until(anew, "another process runs")
            assert (await agni.status())["uptime_s"] < before + 20

    with serving(tmp_path) as (_, served):
        asyncio.run(kill_and_wait(next(node["socket"] for node in served["nodes"] if node["node"] == "agni")))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes the children along when the parent is killed")
def test_the_nodes_end_with_the_demo_however_it_ends(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path) as (process, _):
        assert len(nodes_under(tmp_path)) == 3
        process.send_signal(number)
        process.wait(20)
    asyncio.run(until(lambda: not nodes_under(tmp_path), "no node is left"))


def test_a_long_folder_gets_short_sockets(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 40)
    with serving(directory) as (process, served):
        sockets = [Path(node["socket"]) for node in served["nodes"]]
        assert all(len(str(socket)) < 104 for socket in sockets)
        assert all(socket.is_socket() for socket in sockets)
        assert all(node["mailbox"].startswith(str(directory)) for node in served["nodes"])
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    assert not any(socket.parent.exists() for socket in sockets)


def test_a_second_demo_in_the_same_folder_is_refused_while_the_first_runs(tmp_path: Path) -> None:
    with serving(tmp_path):
        second = subprocess.run([*DEMO, "--dir", str(tmp_path)], capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert "another demo runs in" in second.stderr


def test_a_folder_that_is_somebodys_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    done = subprocess.run([*DEMO, "--dir", str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "neither empty nor a mesh" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_without_cryptography_the_demo_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from trishula.cli.main import main; sys.exit(main(['demo', '--json']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'trishula[demo]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_secrets_of_the_sandbox_are_for_its_owner_only(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as mesh:
        for place in mesh.places.values():
            secrets = [
                *place.credentials.iterdir(),
                *(place.root / "tokens").iterdir(),
                place.root / "tls" / "node.key",
            ]
            assert len(secrets) == 5
            assert {path.stat().st_mode & 0o777 for path in secrets} == {0o600}
            assert "PRIVATE" not in place.ca.read_text()
