"""`trishula watch`, `trace`, `status` and `--agent`, as an operator uses them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

import trishula
from trishula.cli.sandbox import Sandbox, until

TRISHULA = [sys.executable, "-u", "-m", "trishula.cli.main"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TRISHULA, *arguments], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """mac with its human, and agni; rushabdev stays away, so agni holds its mail."""
    homes = {"mac": ["mac", "dhyana"], "agni": ["agni"], "rushabdev": ["rushabdev"]}
    with Sandbox(tmp_path_factory.mktemp("watched"), homes) as mesh:

        async def up() -> None:
            mesh.start("mac", "agni")
            await mesh.up("mac", "agni")
            await until(lambda: mesh._linked("mac", "agni"), "mac and agni are linked")

        asyncio.run(up())
        yield mesh


def socket(mesh: Sandbox, agent: str) -> str:
    return str(mesh.home(agent).socket(agent))


def send(mesh: Sandbox, sender: str, to: str, body: str, *options: str) -> str:
    done = run("send", to, body, *options, "--json", "--socket", socket(mesh, sender))
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["id"])


class Watching(subprocess.Popen[str]):
    """A `trishula watch` that runs."""

    def __init__(self, *arguments: str) -> None:
        super().__init__(
            [*TRISHULA, "watch", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        )

    def message(self) -> dict[str, Any]:
        """The next line of one that prints JSON."""
        found: dict[str, Any] = json.loads(lines(self.stdout))
        return found


def lines(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


# ---------------------------------------------------------------- watch


def test_watch_prints_what_is_unread_then_what_comes_as_one_json_object_a_line(mesh: Sandbox) -> None:
    send(mesh, "agni", "dhyana", "one\ntwo", "--subject", "unread")
    with Watching("--json", "--done", "--socket", socket(mesh, "dhyana")) as watching:
        first = watching.message()
        assert (first["message"]["subject"], first["message"]["body"]) == ("unread", "one\ntwo")
        assert (first["meta"]["node"], first["meta"]["route"]) == ("agni", "direct")
        assert list(first) == ["message", "meta"]
        second = send(mesh, "agni", "dhyana", "x", "--subject", "new")
        assert watching.message()["message"]["id"] == second
        archive = mesh.home("dhyana").mailbox("dhyana") / "archive"
        asyncio.run(until((archive / f"{second}.json").exists, "what was printed is done"))
        watching.send_signal(signal.SIGTERM)
        assert (watching.wait(10), watching.stderr and watching.stderr.read()) == (0, "")
    assert "no unread messages" in run("inbox", "--socket", socket(mesh, "dhyana")).stdout


def test_watch_prints_for_people_whatever_strangers_write_and_leaves_it_unread(mesh: Sandbox) -> None:
    message_id = send(mesh, "agni", "dhyana", "line 1\n\x1b[2Jline 2", "--subject", "S\x07", "--priority", "urgent")
    with Watching("--socket", socket(mesh, "dhyana")) as watching:
        head, *body = [lines(watching.stdout) for _ in range(4)]
        assert head[4] == "-"
        assert head.rstrip().endswith(rf"agni: S\x07  [urgent]  ({message_id})")
        assert body == ["    line 1\n", "    \\x1b[2Jline 2\n", "\n"]
        watching.send_signal(signal.SIGINT)
        assert (watching.wait(10), watching.stderr and watching.stderr.read()) == (130, "")
    assert run("done", message_id, "--socket", socket(mesh, "dhyana")).returncode == 0


def test_each_watch_of_an_agent_prints_every_message(mesh: Sandbox) -> None:
    with (
        Watching("--json", "--socket", socket(mesh, "mac")) as one,
        Watching("--json", "--socket", socket(mesh, "mac")) as other,
    ):
        message_id = send(mesh, "agni", "mac", "x")
        for watching in (one, other):
            assert watching.message()["message"]["id"] == message_id
            watching.terminate()
    assert run("done", message_id, "--socket", socket(mesh, "mac")).returncode == 0


@pytest.mark.parametrize("when", ["while it prints", "while there is nothing to print"])
def test_watch_ends_when_nobody_reads_on(mesh: Sandbox, when: str) -> None:
    with Watching("--json", "--socket", socket(mesh, "mac")) as watching:
        message_id = send(mesh, "agni", "mac", "x")
        assert watching.message()["message"]["id"] == message_id
        if when == "while it prints":
            send(mesh, "agni", "mac", "x")
        assert watching.stdout is not None
        watching.stdout.close()
        assert watching.wait(10) == 141
        assert watching.stderr is not None
        assert watching.stderr.read() == ""
    listed = json.loads(run("inbox", "--json", "--socket", socket(mesh, "mac")).stdout)["messages"]
    assert run("done", *[item["id"] for item in listed], "--socket", socket(mesh, "mac")).returncode == 0


def test_watch_survives_a_restart_of_its_node_and_prints_nothing_twice(tmp_path: Path) -> None:
    with Sandbox(tmp_path, {"mac": ["mac"]}) as mesh:
        mesh.start()
        asyncio.run(mesh.up())
        with Watching("--json", "--socket", socket(mesh, "mac")) as watching:
            before = send(mesh, "mac", "mac", "before")
            assert watching.message()["message"]["id"] == before
            mesh.kill("mac")
            mesh.start("mac")
            asyncio.run(mesh.up())
            after = send(mesh, "mac", "mac", "after")
            assert watching.message()["message"]["id"] == after
            watching.terminate()
            assert watching.wait(10) == 0


# ---------------------------------------------------------------- done


def test_done_takes_several_and_says_which_it_did_not_find(mesh: Sandbox) -> None:
    ids = [send(mesh, "agni", "mac", "x", "--wait", "delivered") for _ in range(2)]
    done = run("done", ids[0], "no-such-id", ids[1], "--from", "agni", "--socket", socket(mesh, "mac"))
    assert done.returncode == 1
    assert done.stdout == "".join(f"done {message_id} from agni\n" for message_id in ids)
    assert done.stderr == "trishula: mac has got no message no-such-id from agni\n"
    again = run("done", *ids, "--json", "--socket", socket(mesh, "mac"))
    assert again.returncode == 0
    assert [(item["id"], item["fresh"]) for item in json.loads(again.stdout)["messages"]] == [
        (message_id, False) for message_id in ids
    ]


# ---------------------------------------------------------------- trace, status


def test_a_trace_follows_a_message_to_sender_recipient_and_relay_each_as_far_as_it_knows(mesh: Sandbox) -> None:
    message_id = send(mesh, "mac", "agni,rushabdev", "x", "--subject", "far")
    operator = mesh.places["agni"].socket()

    async def story() -> None:
        async with (
            mesh.client("mac") as mac,
            mesh.client("agni") as agni,
            mesh.client("dhyana") as stranger,
            trishula.Client(operator) as node,
        ):

            async def handed_on() -> bool:
                sent = (await mac.trace(message_id))["sent"]
                return sent[0]["state"] == "delivered" and sent[1]["custodian"] is not None

            await until(handed_on, "agni has both")
            to_agni, to_rushabdev = (await mac.trace(message_id))["sent"]
            assert (to_agni["route"], to_agni["subject"], to_agni["dest"]) == ("direct", "far", "agni")
            assert to_agni["delivered_at"] >= to_agni["stored_at"]
            assert (to_rushabdev["state"], to_rushabdev["custodian"]) == ("stored", "agni")

            async def filed() -> bool:
                return (await agni.trace(message_id))["received"][0]["file"] == f"inbox/{message_id}.json"

            await until(filed, "its file is written")
            mine, all_of_it = await agni.trace(message_id), await node.trace(message_id)
            assert (len(mine["received"]), mine["sent"], mine["held"]) == (1, [], [])
            assert all_of_it["received"] == mine["received"]
            assert (mine["received"][0]["from"], mine["received"][0]["route"]) == ("mac", "direct")
            (held,) = all_of_it["held"]
            assert (held["from"], held["to"], held["origin"], held["dest"]) == ("mac", "rushabdev", "mac", "rushabdev")
            assert (held["place"], held["route_now"]) == ("queued", None)
            with pytest.raises(trishula.RequestError, match="nothing is known here"):
                await stranger.trace(message_id)

    asyncio.run(story())
    people = run("trace", message_id, "--socket", socket(mesh, "mac")).stdout
    assert "waits      in custody of agni, which hands it on to rushabdev" in people
    assert "waits      there is no way to rushabdev" in run("trace", message_id, "--socket", str(operator)).stdout


def test_status_is_one_page_on_links_mail_and_agents_everywhere(mesh: Sandbox) -> None:
    send(mesh, "mac", "agni,rushabdev", "x")

    async def story() -> None:
        async def told() -> bool:
            peers = (await mesh.status("mac"))["peers"]
            return peers["rushabdev"]["custody"].get("agni") and peers["agni"]["agents"]["agni"]["unread"]

        await until(told, "mac knows of both")
        mac, agni = await mesh.status("mac"), await mesh.status("agni")
        assert (mac["clock"]["trusted"], mac["clock"]["state"]) == (True, "trusted")
        assert 0 < mac["store"]["used"] <= mac["store"]["limit"]
        away, near = mac["peers"]["rushabdev"], mac["peers"]["agni"]
        assert (away["linked"], away["route"], away["agents"], away["storing"]) == (False, "relay:agni", {}, None)
        assert away["backlog"] == away["custody"]["agni"] >= 1
        assert (near["linked"], near["route"], near["storing"], near["backlog"]) == (True, "direct", True, 0)
        assert near["agents"]["agni"]["oldest"] <= time.time() * 1000
        assert near["rtt_ms"] >= 0
        assert agni["peers"]["rushabdev"]["held"]["count"] == away["backlog"]
        assert agni["store"]["held"]["bytes"] == agni["peers"]["rushabdev"]["held"]["bytes"] > 0
        page = run("status", "--socket", socket(mesh, "mac")).stdout
        assert "DOWN" in page
        assert f"{away['backlog']} ({away['backlog']} with agni)" in page
        assert "clock trusted" in page
        assert max(len(line) for line in page.splitlines() if not line.startswith("FAILED")) <= 100

    asyncio.run(story())


# ---------------------------------------------------------------- --agent


def test_agent_chooses_the_socket_beside_the_default_one(mesh: Sandbox) -> None:
    here = str(mesh.places["mac"].socket())
    sent = run("send", "agni", "x", "--agent", "dhyana", "--json", TRISHULA_SOCKET=here)
    assert json.loads(sent.stdout)["outcomes"][0]["from"] == "dhyana"
    unknown = run("inbox", "--agent", "nobody", TRISHULA_SOCKET=here)
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "no agent 'nobody' has a socket" in unknown.stderr
    assert "there are dhyana, mac" in unknown.stderr
    both = run("inbox", "--agent", "dhyana", "--socket", here)
    assert (both.returncode, both.stdout) == (2, "")
    assert "leave out --agent, or --socket" in both.stderr
