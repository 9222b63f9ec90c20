"""The command as a person or a script meets it: what it prints where, and the code that it ends with."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trishula.cli.sandbox import Sandbox, until

TRISHULA = [sys.executable, "-m", "trishula.cli.main"]


def trishula(*arguments: str, socket: Path | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    where = [] if socket is None else ["--socket", str(socket)]
    return subprocess.run([*TRISHULA, *arguments, *where], input=stdin, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def mac(three_nodes: Sandbox) -> Path:
    return three_nodes.home("mac").socket("mac")


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """mac runs, agni does not."""
    with Sandbox(tmp_path_factory.mktemp("lonely"), {"mac": ["mac"], "agni": ["agni"]}) as mesh:
        mesh.start("mac")
        asyncio.run(mesh.up("mac"))
        yield mesh


# ---------------------------------------------------------------- exit codes


def test_0_and_the_receipt_when_it_is_done(mac: Path) -> None:
    done = trishula("send", "agni,rushabdev", "Hello.", "--wait", "delivered", socket=mac)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("stored ")
    assert lines[1].startswith("  agni on agni: delivered (direct, ")
    assert lines[2].startswith("  rushabdev on rushabdev: delivered (direct, ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["send", "nobody", "x"], "there is no agent 'nobody': known are agni, mac, rushabdev"),
        (["send", "@builders", "x"], "no groups"),
        (["show", "no-such-id"], "no-such-id"),
        (["show", "../../etc/passwd"], "no message id"),
        (["ping", "nowhere"], "no node 'nowhere'"),
        (["ping", "No Where"], "no node's name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_1_and_the_reason_when_it_failed(mac: Path, arguments: list[str], words: str) -> None:
    done = trishula(*arguments, socket=mac)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("trishula: ")
    assert words in done.stderr


def test_1_when_the_message_is_from_somebody_else_naming_both(mac: Path) -> None:
    done = trishula("send", "--file", "-", socket=mac, stdin='{"from": "rushabdev", "to": "agni", "body": "x"}')
    assert (done.returncode, done.stdout) == (1, "")
    assert "'rushabdev'" in done.stderr
    assert "'mac'" in done.stderr


@pytest.mark.parametrize(
    "content", ["{", '{"to": "agni", "x": 1, "x": 2}', '{"to": "agni", "id": "a/b"}', "[]", "\udcff"]
)
def test_1_when_the_file_holds_no_message(mac: Path, tmp_path: Path, content: str) -> None:
    file = tmp_path / "message.json"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    for to in ([], ["agni"]):
        done = trishula("send", *to, "--file", str(file), socket=mac)
        assert (done.returncode, done.stdout) == (1, "")
        assert "Traceback" not in done.stderr


def test_2_for_wrong_usage(mac: Path) -> None:
    assert trishula("send", "agni", socket=mac).returncode == 2
    assert trishula("fly").returncode == 2


@pytest.mark.parametrize(
    "command",
    ["send agni x --timeout 1", "inbox", "show x", "done x", "watch", "status", "trace x", "ping agni --timeout 1"],
)
def test_3_when_no_node_is_there_naming_socket_and_fix(tmp_path: Path, command: str) -> None:
    done = trishula(*command.split(), socket=tmp_path / "none.sock")
    assert (done.returncode, done.stdout) == (3, "")
    assert str(tmp_path / "none.sock") in done.stderr
    assert "TRISHULA_SOCKET" in done.stderr


def test_3_when_the_node_is_there_and_does_not_greet(tmp_path: Path) -> None:
    with Sandbox(tmp_path, {"mac": ["mac"]}) as mesh:
        mesh.start()
        asyncio.run(mesh.up())
        mesh.signal("mac", signal.SIGSTOP)
        done = trishula("send", "mac", "x", "--timeout", "0.3", socket=mesh.home("mac").socket("mac"))
        mesh.kill("mac")
    assert (done.returncode, done.stdout) == (3, "")
    assert "did not answer within 0.3 s" in done.stderr


def test_4_when_it_is_not_confirmed_in_time_and_it_is_stored_and_goes_on(tmp_path: Path) -> None:
    async def story() -> None:
        with Sandbox(tmp_path, {"mac": ["mac"], "agni": ["agni"]}) as mesh:
            mesh.start("mac")
            await mesh.up("mac")
            mac = mesh.home("mac").socket("mac")
            done = trishula("send", "agni", "x", "--wait", "delivered", "--timeout", "0.3", "--json", socket=mac)
            assert done.returncode == 4
            receipt = json.loads(done.stdout)
            assert receipt["outcomes"][0]["state"] == "stored"
            assert f"{receipt['id']} is stored" in done.stderr
            assert "agni on agni" in done.stderr
            assert "goes on by itself" in done.stderr
            mesh.start("agni")
            inbox = mesh.home("agni").mailbox("agni") / "inbox" / f"{receipt['id']}.json"
            await until(inbox.exists, "it arrives when its recipient's node is there")

    asyncio.run(story())


def test_4_when_a_node_does_not_answer_a_ping_in_time(lonely: Sandbox) -> None:
    done = trishula("ping", "agni", "--timeout", "0.3", "--json", socket=lonely.home("mac").socket("mac"))
    assert done.returncode == 4
    assert json.loads(done.stdout) == {
        "from": "mac",
        "to": "agni",
        "route": None,
        "delivered": False,
        "latency_ms": None,
    }
    assert "no answer from agni" in done.stderr


def test_stored_is_all_that_send_waits_for_unless_told(lonely: Sandbox) -> None:
    done = trishula("send", "agni", "x", "--json", socket=lonely.home("mac").socket("mac"))
    assert done.returncode == 0
    assert json.loads(done.stdout)["outcomes"][0]["state"] == "stored"


# ---------------------------------------------------------------- what it prints


def test_delivered_means_that_the_recipients_disk_has_it(three_nodes: Sandbox, mac: Path) -> None:
    done = trishula("send", "agni", "x", "--wait", "delivered", "--json", socket=mac)
    message_id = json.loads(done.stdout)["id"]
    three_nodes_agni = three_nodes.home("agni").socket("agni")
    shown = trishula("show", message_id, "--json", socket=three_nodes_agni)
    assert json.loads(shown.stdout)["digest"] == json.loads(done.stdout)["digest"]


def test_send_prints_its_receipt_as_json(mac: Path) -> None:
    done = trishula("send", "agni", "x", "--wait", "delivered", "--json", socket=mac)
    receipt = json.loads(done.stdout)
    assert list(receipt) == ["id", "digest", "outcomes"]
    (outcome,) = receipt["outcomes"]
    assert (outcome["from"], outcome["to"], outcome["dest"]) == ("mac", "agni", "agni")
    assert (outcome["state"], outcome["route"], outcome["method"]) == ("delivered", "direct", "websocket")
    assert outcome["latency_ms"] > 0
    assert "frame" not in outcome


def test_the_options_of_send_arrive_as_fields(three_nodes: Sandbox, mac: Path) -> None:
    options = ["--subject", "S", "--type", "task", "--priority", "urgent", "--reply-to", "before"]
    done = trishula(
        "send", "agni", "-", *options, "--wait", "delivered", "--json", socket=mac, stdin="zwei\nZeilen ✅\n"
    )
    shown = trishula("show", json.loads(done.stdout)["id"], "--json", socket=three_nodes.home("agni").socket("agni"))
    message = json.loads(json.loads(shown.stdout)["payload"])
    fields = {key: message[key] for key in ("from", "subject", "type", "priority", "reply_to", "body")}
    assert fields == {
        "from": "mac",
        "subject": "S",
        "type": "task",
        "priority": "urgent",
        "reply_to": "before",
        "body": "zwei\nZeilen ✅\n",
    }


def test_a_hostile_subject_does_nothing_to_the_terminal(three_nodes: Sandbox, mac: Path) -> None:
    agni = three_nodes.home("agni").socket("agni")
    subject = "\x1b]0;owned\x07\x1b[2J\u202e\nfake line"
    done = trishula("send", "agni", "x", "--subject", subject, "--wait", "delivered", "--json", socket=mac)
    listed = trishula("inbox", "--limit", "1000", socket=agni)
    shown = trishula("show", json.loads(done.stdout)["id"], socket=agni)
    for said in (listed, shown):
        assert said.returncode == 0
        assert not set("\x1b\x07\u202e") & set(said.stdout)
        assert not any(line.startswith("fake") for line in said.stdout.splitlines())
    assert r"\x1b]0;owned\x07\x1b[2J\u202e\nfake line" in listed.stdout


def test_inbox_is_a_table_or_json_and_says_when_there_is_more(three_nodes: Sandbox) -> None:
    agni, mac = (three_nodes.home(agent).socket(agent) for agent in ("agni", "mac"))
    for number in range(3):
        assert (
            trishula("send", "mac", "x", "--subject", f"n{number}", "--wait", "delivered", socket=agni).returncode == 0
        )
    listed = trishula("inbox", "--limit", "1000", socket=mac).stdout.splitlines()
    assert listed[0].split() == ["RECEIVED", "FROM", "PRIORITY", "SUBJECT", "ID"]
    assert [line.split()[-2] for line in listed[-3:]] == ["n0", "n1", "n2"]
    page = json.loads(trishula("inbox", "--limit", "2", "--json", socket=mac).stdout)
    assert len(page["messages"]) == 2
    assert page["more"] is True
    assert "--limit 4 shows them" in trishula("inbox", "--limit", "2", socket=mac).stdout


def test_an_empty_inbox_says_so(lonely: Sandbox) -> None:
    done = trishula("inbox", socket=lonely.home("mac").socket("mac"))
    assert (done.returncode, done.stdout) == (0, "mac has no unread messages\n")


def test_show_says_what_became_of_a_message(mac: Path) -> None:
    sent = trishula("send", "agni", "the body", "--wait", "delivered", "--json", socket=mac)
    shown = trishula("show", json.loads(sent.stdout)["id"], socket=mac).stdout
    assert shown.startswith(f"outbox, sha256 {json.loads(sent.stdout)['digest']}\n  agni on agni: delivered (direct, ")
    assert shown.endswith("}\n")
    assert '  "body": "the body",\n' in shown


def test_status_is_for_people_and_for_programs(mac: Path, lonely: Sandbox) -> None:
    said = trishula("status", socket=mac).stdout
    assert said.startswith("mac: ready, version ")
    assert "DOWN" not in said
    found = json.loads(trishula("status", "--json", socket=mac).stdout)
    assert found["ready"] is True
    assert found["peers"]["agni"]["linked"] is True
    assert "DOWN" in trishula("status", socket=lonely.home("mac").socket("mac")).stdout


def test_ping_says_how_long_it_took(mac: Path) -> None:
    assert trishula("ping", "agni", socket=mac).stdout.startswith("mac to agni and back: ")
    pinged = json.loads(trishula("ping", "rushabdev", "--json", socket=mac).stdout)
    assert pinged.pop("latency_ms") > 0
    assert pinged == {"from": "mac", "to": "rushabdev", "route": "direct", "delivered": True}


def test_the_socket_may_come_from_the_environment(mac: Path) -> None:
    done = subprocess.run(
        [*TRISHULA, "status"], env={"TRISHULA_SOCKET": str(mac)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# ---------------------------------------------------------------- ends


def test_a_reader_that_goes_away_is_no_traceback(mac: Path) -> None:
    with subprocess.Popen(
        [*TRISHULA, "status", "--json", "--socket", str(mac)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait() == 141
        assert process.stderr.read() == b""


def test_ctrl_c_is_no_traceback(lonely: Sandbox) -> None:
    waiting = ["send", "agni", "x", "--wait", "delivered", "--socket", str(lonely.home("mac").socket("mac"))]
    unread = lonely.home("mac").mailbox("mac") / "outbox"
    before = len(list(unread.glob("*.json")))
    with subprocess.Popen([*TRISHULA, *waiting], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while len(list(unread.glob("*.json"))) == before:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out, err) == (130, b"", b"")


# ---------------------------------------------------------------- node check


def test_node_check_passes_what_a_node_could_start_with(three_nodes: Sandbox) -> None:
    config = str(three_nodes.places["mac"].config)
    assert trishula("node", "check", "--config", config).returncode == 0
    checked = trishula("node", "check", "--config", config, "--json")
    assert json.loads(checked.stdout) == {"ok": True, "errors": []}


def test_node_check_and_node_run_name_key_value_and_fix_of_every_mistake(tmp_path: Path) -> None:
    with Sandbox(tmp_path, {"mac": ["mac"]}) as mesh:
        config = mesh.places["mac"].config
        config.write_text(config.read_text().replace('name = "mac"', 'name = "Mac Book"') + "\n[limit]\nx = 1\n")
        checked = trishula("node", "check", "--config", str(config), "--json")
        assert checked.returncode == 1
        found = json.loads(checked.stdout)
        assert found["ok"] is False
        name = next(error for error in found["errors"] if error["key"] == "node.name")
        assert name["value"] == "Mac Book"
        assert name["fix"]
        for command in ("check", "run"):
            said = trishula("node", command, "--config", str(config))
            assert (said.returncode, said.stdout) == (1, "")
            assert "node.name" in said.stderr
            assert "limit" in said.stderr
            assert "Traceback" not in said.stderr


# ---------------------------------------------------------------- node adopt


def test_node_adopt_gives_a_store_another_life_and_nothing_comes_twice(tmp_path: Path) -> None:
    with Sandbox(tmp_path, {"mac": ["mac"], "agni": ["agni"]}) as mesh:
        config = str(mesh.places["mac"].config)
        mesh.start("mac", "agni")
        asyncio.run(mesh.linked("mac", "agni"))
        agni, mac = (mesh.home(agent).socket(agent) for agent in ("agni", "mac"))
        for subject in ("one", "two"):
            send = ("send", "mac", "x", "--subject", subject, "--wait", "delivered")
            assert trishula(*send, socket=agni).returncode == 0
        before = json.loads(trishula("status", "--json", socket=mac).stdout)["incarnation"]

        running = trishula("node", "adopt", "--config", config)
        assert (running.returncode, running.stdout) == (1, "")
        assert "another node is running" in running.stderr
        assert "systemctl stop trishula-node.socket trishula-node.service" in running.stderr

        mesh.stop("mac")
        adopted = trishula("node", "adopt", "--config", config, "--json")
        assert adopted.returncode == 0, adopted.stderr
        said = json.loads(adopted.stdout)
        assert (said["node"], said["was"]) == ("mac", before)
        assert said["incarnation"] != before

        mesh.start("mac")
        asyncio.run(mesh.linked("mac", "agni"))
        assert json.loads(trishula("status", "--json", socket=mac).stdout)["incarnation"] == said["incarnation"]
        assert trishula("send", "mac", "x", "--subject", "three", "--wait", "delivered", socket=agni).returncode == 0
        unread = json.loads(trishula("inbox", "--json", socket=mac).stdout)["messages"]
        assert sorted(message["subject"] for message in unread) == ["one", "three", "two"]
        assert "2 messages in them are taken as delivered before" in mesh.places["mac"].log.read_text()


def test_node_adopt_makes_a_store_where_there_is_none(tmp_path: Path) -> None:
    with Sandbox(tmp_path, {"mac": ["mac"]}) as mesh:
        adopted = trishula("node", "adopt", "--config", str(mesh.places["mac"].config))
        assert adopted.returncode == 0, adopted.stderr
        assert "start the node" in adopted.stdout
        mesh.start("mac")
        asyncio.run(mesh.up("mac"))
