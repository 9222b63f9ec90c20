"""What systemd and an operator see of a node that starts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from trishula.cli.sandbox import Sandbox


def run(sandbox: Sandbox, name: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "trishula.cli.main", "node", "run", "--config", str(sandbox.places[name].config)]
    return subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True)


def test_a_node_says_ready_only_when_every_agent_can_reach_it(tmp_path: Path) -> None:
    with (
        Sandbox(tmp_path / "m", {"mac": ("mac", "dhyana")}) as sandbox,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
    ):
        place = sandbox.places["mac"]
        place.listening.close()  # the node is to listen by itself
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(60)
        node = run(sandbox, "mac", NOTIFY_SOCKET=str(tmp_path / "notify"))
        try:
            assert notified.recv(1000).decode().startswith("READY=1\n")
            for agent in (None, "mac", "dhyana"):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(place.socket(agent)))
        finally:
            node.terminate()
            said = node.communicate(timeout=60)[1]
        assert node.returncode == 0, said


def test_a_group_that_is_not_there_ends_the_start_by_its_name(tmp_path: Path) -> None:
    with Sandbox(tmp_path, {"mac": ("mac",)}) as sandbox:
        place = sandbox.places["mac"]
        place.listening.close()
        place.config.write_text(place.config.read_text() + '\n[agents.dhyana]\nsocket_group = "no-such-group"\n')
        node = run(sandbox, "mac")
        said = node.communicate(timeout=60)[1]
        assert node.returncode == 1
        assert "there is no group 'no-such-group'" in said
        assert "Traceback" not in said


def test_a_second_node_on_the_same_store_ends_with_the_reason(tmp_path: Path) -> None:
    with Sandbox(tmp_path, {"mac": ("mac",)}) as sandbox:
        sandbox.places["mac"].listening.close()
        config = sandbox.places["mac"].config
        config.write_text(config.read_text().replace("port = ", "port = 0 # "))
        first, second = run(sandbox, "mac"), None
        try:
            assert first.stderr is not None
            assert "listens on" in first.stderr.readline()
            second = run(sandbox, "mac")
            said = second.communicate(timeout=60)[1]
            assert second.returncode == 1
            assert "another node is running on" in said
        finally:
            first.terminate()
            first.communicate(timeout=60)


def test_the_check_finds_what_could_not_start(tmp_path: Path) -> None:
    """A key that is not the certificate's, a CA that is none, a group that is not there."""
    with Sandbox(tmp_path, {"mac": ("mac",), "agni": ("agni",)}) as sandbox:
        place = sandbox.places["mac"]
        tls = place.root / "tls"
        command = [sys.executable, "-m", "trishula.cli.main", "node", "check", "--config", str(place.config)]
        assert subprocess.run(command, check=False, capture_output=True).returncode == 0
        (tls / "node.key").write_bytes((sandbox.places["agni"].root / "tls" / "node.key").read_bytes())
        (tls / "ca.crt").write_text("no certificate")
        place.config.write_text(place.config.read_text() + '\n[agents.dhyana]\nsocket_group = "no-such-group"\n')
        found = subprocess.run(command, check=False, capture_output=True, text=True)
        assert found.returncode == 1
        for words in ("don't make a pair", "is no CA file", "no group 'no-such-group'"):
            assert words in found.stderr
