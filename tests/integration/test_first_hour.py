"""The command line and the client as people meet them: closed streams, short ids, full sockets, restarts, slips."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import trishula
from trishula.cli import main as cli
from trishula.cli.sandbox import Sandbox, until

COMMAND = f"{shlex.quote(sys.executable)} -m trishula.cli.main"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """mac with two agents, and agni."""
    with Sandbox(tmp_path_factory.mktemp("hour"), {"mac": ["mac", "dhyana"], "agni": ["agni"]}) as mesh:
        mesh.start()
        asyncio.run(mesh.linked())
        yield mesh
        assert not [place.name for place in mesh.places.values() if "Traceback" in place.log.read_text()]


def shell(line: str, socket: Path, *, stdin: int = subprocess.DEVNULL) -> subprocess.CompletedProcess[str]:
    """A line of bash, in which `trishula` is the command and speaks by `socket`."""
    script = f'trishula() {{ {COMMAND} "$@"; }}\n{line}'
    return subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "TRISHULA_SOCKET": str(socket)},
        stdin=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def mac(mesh: Sandbox) -> Path:
    return mesh.home("mac").socket("mac")


def unread(mesh: Sandbox, agent: str) -> list[dict[str, object]]:
    done = shell("trishula inbox --json", mesh.home(agent).socket(agent))
    found: list[dict[str, object]] = json.loads(done.stdout)["messages"]
    return found


# ---------------------------------------------------------------- streams


@pytest.mark.parametrize("where", [">&-", ">/dev/full", ">&1 | true", "1</dev/null"])
def test_a_message_whose_receipt_can_not_be_printed_is_stored_and_named_and_that_is_no_failure(
    mesh: Sandbox, where: str
) -> None:
    before = {item["id"] for item in unread(mesh, "dhyana")}
    # The reader of the pipe has gone before anything is written to it.
    done = shell(f"{{ sleep 0.2; trishula send dhyana x; }} {where}; exit ${{PIPESTATUS[0]}}", mac(mesh))
    new = {str(item["id"]) for item in unread(mesh, "dhyana")} - before
    assert done.returncode == cli.UNPRINTED, done.stderr
    (message_id,) = new
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"trishula: {message_id} is stored, but standard output can't be written (")


@pytest.mark.parametrize("options", ["", "--json", "--wait delivered"])
def test_with_neither_stream_the_exit_code_still_tells_stored_from_failed(mesh: Sandbox, options: str) -> None:
    assert shell(f"trishula send agni x {options} >&- 2>&-", mac(mesh)).returncode == cli.UNPRINTED
    assert shell(f"trishula send nobody x {options} >&- 2>&-", mac(mesh)).returncode == cli.FAILED
    assert shell("trishula fly >&- 2>&-", mac(mesh)).returncode == cli.USAGE


@pytest.mark.parametrize(
    "command", ["status", "status --json", "inbox", "inbox --json", "watch", "ping agni", "--help"]
)
@pytest.mark.parametrize("where", [">&-", ">/dev/full"])
def test_whatever_can_not_be_printed_is_said_in_one_line(mesh: Sandbox, command: str, where: str) -> None:
    if command == "watch":
        shell("trishula send mac 'to be watched'", mac(mesh))
    done = shell(f"trishula {command} {where}", mac(mesh))
    assert done.returncode == cli.UNPRINTED, done.stderr
    (line,) = done.stderr.splitlines()
    assert "standard output can't be written (" in line


def test_done_names_what_is_done_where_it_can_not_be_printed(mesh: Sandbox) -> None:
    message_id = json.loads(shell("trishula send mac x --json", mac(mesh)).stdout)["id"]
    done = shell(f"trishula done {message_id} >/dev/full", mac(mesh))
    assert (done.returncode, done.stderr.count("\n")) == (cli.UNPRINTED, 1)
    assert done.stderr.startswith(f"trishula: {message_id} is done, but ")
    assert message_id not in {item["id"] for item in unread(mesh, "mac")}


@pytest.mark.parametrize("command", ["send agni -", "send --file -", "done -"])
def test_a_closed_standard_input_is_wrong_usage(mesh: Sandbox, command: str) -> None:
    done = shell(f"trishula {command} <&-", mac(mesh))
    assert (done.returncode, done.stdout) == (cli.USAGE, "")
    assert done.stderr == "trishula: can't read standard input: it is closed\n"


@pytest.mark.parametrize("command", ["send agni -", "send agni - --subject s", "done -"])
def test_an_empty_standard_input_is_wrong_usage_and_stores_nothing(mesh: Sandbox, command: str) -> None:
    before = len(unread(mesh, "agni"))
    done = shell(f"false | trishula {command}", mac(mesh))
    assert (done.returncode, done.stdout) == (cli.USAGE, "")
    assert "standard input is empty" in done.stderr
    assert len(unread(mesh, "agni")) == before
    assert shell("trishula send agni ''", mac(mesh)).returncode == cli.DONE


# ---------------------------------------------------------------- the example of watch


def test_the_loop_in_the_help_of_watch_hands_on_every_message_and_says_done_after_the_work(
    mesh: Sandbox, tmp_path: Path
) -> None:
    shown = shell("trishula watch --help", mac(mesh)).stdout
    loop = shown.partition("example:\n")[2].partition("exit codes:")[0].partition("  trishula watch\n")[2]
    assert "while" in loop
    handler = tmp_path / "handle"
    handler.write_text(
        f"#!{sys.executable}\n"
        "import json, pathlib, sys\n"
        "message = json.load(sys.stdin)['message']\n"
        "if message['body'] == 'not now':\n    sys.exit(1)\n"
        "pathlib.Path(message['subject']).write_text(message['body'])\n"
    )
    handler.chmod(0o755)
    dhyana = mesh.home("dhyana").socket("dhyana")
    for item in unread(mesh, "dhyana"):
        shell(f"trishula done {item['id']}", dhyana)
    bodies = {"first": "x" * 200_000, "second": "not now", "third": "कार्य\n"}
    for subject, body in bodies.items():
        (tmp_path / "body").write_text(body)
        assert shell(f"trishula send dhyana - --subject {subject} < {tmp_path / 'body'}", mac(mesh)).returncode == 0
    (tmp_path / "body").unlink()
    script = f'trishula() {{ {COMMAND} "$@"; }}\n{loop}'
    watching = subprocess.Popen(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "TRISHULA_SOCKET": str(dhyana)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        asyncio.run(
            until(
                lambda: [item["subject"] for item in unread(mesh, "dhyana")] == ["second"], "two are done", seconds=60
            )
        )
    finally:
        os.killpg(watching.pid, signal.SIGTERM)
        watching.wait(10)
    assert {path.name: path.read_text() for path in tmp_path.iterdir() if path != handler} == {
        "first": bodies["first"],
        "third": bodies["third"],
    }


# ---------------------------------------------------------------- ids


def test_an_id_may_be_as_short_as_it_is_unique_in_every_command(mesh: Sandbox) -> None:
    def send(message: dict[str, str]) -> str:
        line = f"trishula send --file - --json --wait delivered <<< {shlex.quote(json.dumps(message))}"
        return str(json.loads(shell(line, mac(mesh)).stdout)["id"])

    one = send({"id": "20260210T033201Z_mac_agni_one", "to": "agni", "body": "1"})
    two = send({"id": "20260210T033201Z_mac_agni_two", "to": "agni", "body": "2"})
    agni = mesh.home("agni").socket("agni")
    for command in ("show", "trace", "done"):
        several = shell(f"trishula {command} 20260210", agni)
        assert (several.returncode, several.stdout) == (cli.FAILED, "")
        assert "20260210 is the beginning of several ids" in several.stderr
        assert one in several.stderr
        assert two in several.stderr
        assert "\\n" not in several.stderr
    assert '"body": "2"' in shell("trishula show 20260210t033201z_MAC_agni_t", agni).stdout
    assert f"{one}, as mac knows it" in shell("trishula trace 20260210T033201Z_mac_agni_o", mac(mesh)).stdout
    operator = mesh.places["agni"].socket()
    assert f"{one}, as agni knows it" in shell("trishula trace 20260210T033201Z_mac_agni_o", operator).stdout
    assert shell("trishula done 20260210T033201Z_mac_agni_o", agni).stdout == f"done {one} from mac\n"
    assert "has at least 4 characters" in shell("trishula show 202", agni).stderr
    answer = json.loads(shell("trishula send mac x --reply-to 20260210T033201Z_mac_agni_tw --json", agni).stdout)
    assert f'"reply_to": "{two}"' in shell(f"trishula show {answer['id']}", agni).stdout


def test_an_agent_finds_by_short_ids_only_what_is_its_own(mesh: Sandbox) -> None:
    async def story() -> None:
        async with mesh.client("mac") as mine, mesh.client("dhyana") as other:
            await mine.send({"id": "secret-plan", "to": "agni"})
            assert [item["id"] for item in (await mine.find("secret"))["messages"]] == ["secret-plan"]
            for everywhere in (False, True):
                assert (await other.find("secret", everywhere=everywhere))["messages"] == []

    asyncio.run(story())


# ---------------------------------------------------------------- slips and options of send


def test_a_time_to_live_is_the_messages_own_and_the_nodes_limit_is_named(mesh: Sandbox) -> None:
    sent = json.loads(shell("trishula send agni x --ttl 2h --json", mac(mesh)).stdout)
    (row,) = json.loads(shell(f"trishula trace {sent['id']} --json", mac(mesh)).stdout)["sent"]
    assert row["expires_at"] - row["stored_at"] == 2 * 3600 * 1000
    too_long = shell("trishula send agni x --ttl 52w", mac(mesh))
    assert (too_long.returncode, too_long.stdout) == (cli.FAILED, "")
    assert "limits.max_ttl_s" in too_long.stderr
    assert "2592000" in too_long.stderr


# ---------------------------------------------------------------- the way in


def test_who_finds_a_full_socket_hears_the_limit(mesh: Sandbox) -> None:
    async def story() -> None:
        sessions = [mesh.client("agni", patience=0) for _ in range(32)]
        for client in sessions:
            await client.__aenter__()
        with pytest.raises(trishula.NodeUnreachable, match=r"limits\.connections_per_address = 32"):
            await mesh.client("agni", patience=0).__aenter__()
        line = "trishula send mac x --timeout 1"
        said = await asyncio.to_thread(shell, line, mesh.home("agni").socket("agni"))
        assert said.returncode == cli.UNREACHABLE
        assert "limits.connections_per_address = 32" in said.stderr
        assert "start the node" not in said.stderr
        for client in sessions:
            await client.__aexit__(None, None, None)
        async with mesh.client("agni"):  # there is room again
            pass

    asyncio.run(story())


@pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root opens every socket, and no setpriv is here"
)
def test_who_may_not_open_the_default_socket_speaks_for_the_one_agent_that_is_theirs(mesh: Sandbox) -> None:
    runtime = mesh.places["mac"].runtime
    default, others = runtime / "node.sock", (runtime / "mac.sock", runtime / "dhyana.sock")
    # Root without its power over permissions, as far as that is granted here, is a login like another.
    bounded = "setpriv --bounding-set -dac_override,-dac_read_search -- " if os.geteuid() == 0 else ""
    inbox = f"unset TRISHULA_SOCKET; {bounded}{shlex.quote(sys.executable)} -c {shlex.quote(_INBOX)} {default}"
    try:
        default.chmod(0)
        several = shell(inbox, default)
        assert several.returncode == cli.UNREACHABLE
        assert "may speak for dhyana, mac: say for which: --agent dhyana" in several.stderr
        others[0].chmod(0)
        one = shell(f"{inbox} --json", default)
        assert (one.returncode, one.stderr) == (cli.DONE, "")
        assert json.loads(one.stdout)["messages"] == unread(mesh, "dhyana")
        named = shell(f"{bounded}{COMMAND} inbox", default)  # whoever names one means that one
        assert named.returncode == cli.UNREACHABLE
        others[1].chmod(0)
        none = shell(inbox, default)
        assert none.returncode == cli.UNREACHABLE
        assert "Permission denied" in none.stderr
    finally:
        for socket in (default, *others):
            socket.chmod(0o660)
    assert shell(inbox, default).returncode == cli.DONE


_INBOX = """
import sys
from trishula.client import endpoint
endpoint.DEFAULT_SOCKET = sys.argv[1]
from trishula.cli.main import main
sys.argv[1:] = ["inbox", *sys.argv[2:]]
sys.exit(main())
"""
"""`trishula inbox` on a host whose default socket is where the first argument says."""


@pytest.mark.parametrize("command", ["send mac x --timeout 60", "ping mac --timeout 60"])
def test_a_node_that_is_restarted_is_waited_for(tmp_path: Path, command: str) -> None:
    with Sandbox(tmp_path, {"mac": ["mac"]}) as mesh:
        mesh.start()
        asyncio.run(mesh.up())
        mesh.stop("mac")
        assert not mesh.home("mac").socket("mac").exists()
        back = threading.Timer(1, mesh.start, ["mac"])
        back.start()
        done = shell(f"trishula {command}", mesh.home("mac").socket("mac"))
        back.join()
        assert done.returncode == cli.DONE, done.stderr


def test_the_readmes_hybrid_says_websocket_from_its_first_message_on(mesh: Sandbox) -> None:
    async def story() -> None:
        for _ in range(5):
            async with trishula.Hybrid(mesh.home("mac").mailbox("mac"), mac(mesh)) as hybrid:
                assert await hybrid.send_with_fallback("agni", {"subject": "build"}) == "websocket"

    asyncio.run(story())


# ---------------------------------------------------------------- a client outside of its block


def test_a_client_that_was_left_tells_everybody_who_still_waits(mesh: Sandbox) -> None:
    async def story() -> None:
        mesh.signal("agni", signal.SIGSTOP)
        try:
            async with mesh.client("mac") as client:
                receipt = await client.send("agni", body="x")
                waiting = [
                    asyncio.create_task(work)
                    for work in (receipt.delivered(), receipt.read(), client.ping("agni"), client.receive())
                ]
                arrivals = aiter(client)
                for item in (await client.inbox())["messages"]:
                    await client.done(item["id"])
        finally:
            mesh.signal("agni", signal.SIGCONT)
        said = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 20)
        assert [type(answer) for answer in said[:3]] == [trishula.NotOpen] * 3
        assert isinstance(said[3], trishula.NotOpen | trishula.Message)
        with pytest.raises(trishula.NotOpen, match="the client is closed"):
            await anext(arrivals)
        with pytest.raises(trishula.NotOpen, match="the client is closed"):
            await client.send("agni")
        assert not client.connected

    asyncio.run(story())
