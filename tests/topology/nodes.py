"""A host of the mesh as the topology tests see it: what the inventory says of it, and short ways to ask it."""

from __future__ import annotations

import base64
import json
import shlex
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from testinfra.backend.base import CommandResult
    from testinfra.host import Host

SERVICE = "trishula-node.service"
UNITS = f"trishula-node.socket {SERVICE}"
"""Stopped together: the socket would start the service again."""
CONFIG = "/etc/trishula/node.toml"
CREDENTIALS = "/etc/trishula/credentials"
TLS = "/etc/trishula/tls"
INSTALL = "/opt/trishula"
MAILBOXES = "/var/lib/trishula/mailboxes"
ROOMS = "/var/lib/trishula/fallback"
SSH_CONFIG = "/etc/trishula/fallback/ssh_config"


# ssh says by 255 that there is no connection, and so says an ssh that is run on a host.
_SPARE_255 = '"$@"; code=$?; exit $((code == 255 ? 254 : code))'


@dataclass(frozen=True)
class Agent:
    name: str
    user: str
    group: str

    @property
    def socket(self) -> str:
        return f"/run/trishula/{self.name}.sock"

    @property
    def mailbox(self) -> str:
        return f"{MAILBOXES}/{self.name}"


def way_in(facts: Mapping[str, Any], inventory: Path) -> Path:
    """The ssh configuration in which the hosts of an inventory are aliases. Raises `KeyError` for other hosts."""
    config = facts["ansible_ssh_common_args"].removeprefix("-F ")
    return Path(config.replace("{{ inventory_dir }}", str(inventory)))


@dataclass(frozen=True)
class Node:
    name: str
    facts: Mapping[str, Any]
    host: Host
    ssh_config: Path

    @property
    def dials_only(self) -> bool:
        return bool(self.facts.get("trishula_outbound_only", False))

    @property
    def port(self) -> int:
        return int(self.facts["trishula_port"])

    @property
    def ssh_port(self) -> int:
        return int(self.facts.get("ansible_port", 22))

    @cached_property
    def agents(self) -> list[Agent]:
        """The first is the one whom the operator's socket speaks for."""
        agents = []
        for agent in self.facts["trishula_agents"]:
            user = agent.get("user", self.facts["trishula_agent_user"])
            agents.append(Agent(agent["name"], user, agent.get("group", user)))
        return agents

    @cached_property
    def address(self) -> str:
        """In its own network; behind NAT, nobody else's."""
        return self.host.check_output("hostname --all-ip-addresses").split()[0]

    def ssh(self, user: str, *argv: str) -> list[str]:
        """The command that runs another one on the host as one of its logins. It dies with its connection."""
        options = ["-F", str(self.ssh_config), "-o", "ControlPath=none", "-o", "ServerAliveInterval=0"]
        return ["ssh", *options, f"{user}@{self.facts['ansible_host']}", shlex.join(argv)]

    @property
    def pid(self) -> int:
        return int(self.properties(SERVICE, "MainPID")["MainPID"])

    def run(self, *argv: object, user: str = "root") -> CommandResult:
        """Run a command as one of the host's users."""
        words = [str(word) for word in (["sudo", "-u", user, *argv] if user != "root" else argv)]
        return self.host.run(" ".join(["sh -c %s sh", *["%s"] * len(words)]), _SPARE_255, *words)

    def read(self, path: str) -> bytes:
        """A file's bytes."""
        return self.output("cat %s", path)

    def output(self, command: str, *args: str) -> bytes:
        """What a command prints, text or not."""
        return base64.b64decode(self.host.check_output(f"{command} | base64", *args))

    def rights(self, *paths: str) -> set[str]:
        """Owner, group and mode of files, all in one question: `{"root:root 600"}` where they are alike."""
        out = self.host.check_output(" ".join(["stat --format '%%U:%%G %%a'", *["%s"] * len(paths)]), *paths)
        return set(out.splitlines())

    def properties(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit as systemd has them loaded."""
        out = self.host.check_output(f"systemctl show {unit} --property {','.join(names)}")
        return dict(line.split("=", 1) for line in out.splitlines())

    def python(self, script: str, *args: object) -> str:
        """What a script prints that runs on the host, and sees the other hosts as it does."""
        run = self.run("python3", "-c", script, *args)
        assert run.rc == 0, run.stderr
        return run.stdout.strip()

    def connect(self, to: str, port: int) -> str:
        """`open`, `refused` or `dropped`, and the first bytes that an open port says within a second."""
        return self.python(_CONNECT, to, port)

    def source(self, to: Node) -> str:
        """The address that its packets to another host bear when they leave it."""
        return self.python(_SOURCE, to.address)

    def status(self) -> dict[str, Any]:
        """What the node says of itself; nothing while it can't be reached."""
        run = self.run("trishula", "status", "--json")
        return json.loads(run.stdout) if run.rc == 0 else {}

    def linked(self) -> set[str]:
        return {name for name, peer in self.status().get("peers", {}).items() if peer["linked"]}

    def ailments(self) -> list[dict[str, Any]]:
        """What the node finds that somebody should look after; nothing while it can't be reached."""
        return [one for one in self.status().get("findings", ()) if one["state"] in ("warning", "failed")]

    def send(self, to: str, *options: str) -> str:
        """The id of a message from the node's first agent."""
        run = self.run("trishula", "send", to, "a message of the tests", "--json", *options, user=self.agents[0].user)
        assert run.rc == 0, run.stderr
        identity: str = json.loads(run.stdout)["id"]
        return identity

    def in_inbox(self, identity: str) -> bool:
        """Whether a message's file lies in the inbox of the node's first agent."""
        return bool(self.host.file(f"{self.agents[0].mailbox}/inbox/{identity}.json").exists)

    def secrets(self) -> set[str]:
        """Every word that this host must keep to itself."""
        keys = json.loads(self.read(f"{CREDENTIALS}/keys.json"))
        found = {entry["key"] for pair in keys.values() for entry in pair}
        found |= set(json.loads(self.read(f"{CREDENTIALS}/dial.json")).values())
        found |= {self.read(f"/etc/trishula/agents/{agent.name}.token").decode().strip() for agent in self.agents}
        return found | self.private_keys()

    def private_keys(self) -> set[str]:
        """Of TLS and ssh, line by line."""
        pem = self.output(f"cat {TLS}/node.key /etc/trishula/fallback/push /etc/trishula/fallback/pull").decode()
        return {line for line in pem.splitlines() if not line.startswith("-----")}


_CONNECT = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1) as peer:
        try:
            print("open", peer.recv(8).decode())
        except TimeoutError:
            print("open")
except TimeoutError:
    print("dropped")
except ConnectionRefusedError:
    print("refused")
"""

# Connecting a datagram socket sends nothing.
_SOURCE = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.connect((sys.argv[1], 9))
    print(sock.getsockname()[0])
"""


def eventually(condition: Callable[[], Any], *, within: float) -> Any:
    """Wait until a condition holds, and fail when its time is over."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within:g} s; the last answer: {value!r}"
        time.sleep(0.1)
    return value
