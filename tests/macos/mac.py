"""A Mac as a host of the mesh: this machine, with a home of its own.

On macOS everything is real: its launchctl runs the node in the session of the user who runs the tests. Elsewhere this
machine gives the answers of a Mac (`stand_in/`): uname, plutil, and a launchctl that runs what it is given.
"""

from __future__ import annotations

import base64
import getpass
import grp
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = Path(__file__).with_name("stand_in")
IS_REAL = sys.platform == "darwin"
FACTS = {
    "trishula_outbound_only": True,
    "trishula_always_on": False,
    "trishula_agent_user": "dhyana",
    "trishula_agents": [{"name": "mac"}, {"name": "dhyana"}],
}


def inventory(folder: Path, **mac: Any) -> Path:
    """Write an inventory of a Mac and two servers, in a group reached as root. A fact None is left out."""
    servers = {
        name: {"trishula_address": address, "trishula_agents": [{"name": name}]}
        for name, address in (("agni", "127.0.0.2"), ("rushabdev", "127.0.0.3"))  # nobody is there
    }
    common = {
        "ansible_user": "root",
        "ansible_become": True,
        "trishula_port": 18765,
        "trishula_agent_user": "openclaw",
        "trishula_fallback_enabled": True,
    }
    hosts = folder / "hosts.yml"
    facts = {name: value for name, value in (FACTS | mac).items() if value is not None}
    mesh = {"hosts": {"mac": facts, **servers}, "vars": common}
    hosts.write_text(yaml.safe_dump({"trishula": mesh, "trishula_macos": {"hosts": {"mac": None}}}))
    return hosts


class Mac:
    """The host, and its controller's folder. `close` stops the node and removes the home."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Not in `folder`, for the path of a socket is short; and without links, for a node's is.
        self.home = Path(tempfile.mkdtemp(prefix="mac", dir="/tmp")).resolve()
        self.own = self.home / "Library" / "Application Support" / "TRISHULA"
        self.login = getpass.getuser() if os.getuid() else "daemon"
        self.state = folder / "launchd"
        self.rc = 0
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        for path in (self.state, folder / "bin", folder / "secrets"):
            path.mkdir()
        if IS_REAL:
            self.command("launchctl", f'echo "$*" >>{self.state}/calls; exec /bin/launchctl "$@"')
        else:
            for tool in ("launchctl", "plutil", "uname"):
                (folder / "bin" / tool).symlink_to(STAND_IN / tool)
            if os.getuid() == 0:
                self.command("id", f'test "$1" = -un && echo {self.login} || exec /usr/bin/id "$@"')
        self.command("sudo", f"touch {folder}/sudo; exit 1")
        secret = base64.b64encode(os.urandom(32)).decode()
        (folder / "secrets" / "mesh.yml").write_text(f"mesh_secret: {secret}\n")
        key, ca = folder / "secrets" / "ca.key", folder / "secrets" / "ca.crt"
        subject = ["-subj", "/CN=TRISHULA mesh CA", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        subprocess.run(
            ["openssl", "req", "-x509", *curve, "-nodes", "-keyout", key, "-out", ca, *subject, "-days", "99"],
            check=True,
            capture_output=True,
        )

    def command(self, name: str, text: str) -> None:
        """Put a command before those of the machine."""
        path = self.folder / "bin" / name
        path.unlink(missing_ok=True)  # a link would be written through
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """What a process on the Mac has."""
        return {
            **os.environ,
            "FAKE_MAC": str(self.state),
            "HOME": str(self.home),
            "TRISHULA_SOCKET": str(self.own / "run/node.sock"),  # here the command looks where Linux has it
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "COLUMNS": "1000",
        }

    def play(
        self, *playbooks: str, options: tuple[str, ...] = (), env: dict[str, str] | None = None, **mac: Any
    ) -> str:
        """Run playbooks on it. Returns their output; the exit code is in `rc`."""
        hosts = inventory(
            self.folder,
            **{
                "ansible_connection": "local",
                "ansible_python_interpreter": sys.executable,
                "trishula_port": self.port,
                "trishula_agent_user": self.login,
                "trishula_home": str(self.home),
                "trishula_node_python": sys.executable,
                "trishula_install_source": "index",
                "trishula_node_artifacts_dir": str(self.folder / "dist"),
                "_site_group": grp.getgrgid(os.getgid()).gr_name,
            }
            | mac,
        )
        run = subprocess.run(
            [
                Path(sys.executable).with_name("ansible-playbook"),
                *("-i", hosts, "--limit", "mac", *options),
                *(f"playbooks/{name}.yml" for name in playbooks),
            ],
            cwd=ROOT,
            env={
                **self.environment,
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_LOCAL_TEMP": str(self.folder / "tmp"),
            }
            | (env or {}),
            capture_output=True,
            text=True,
            check=False,
        )
        self.rc = run.returncode
        return run.stdout + run.stderr

    def calls(self) -> list[str]:
        """The verbs that launchctl was given since the last call of this, without its questions."""
        file = self.state / "calls"
        told = file.read_text().splitlines() if file.exists() else []
        file.write_text("")
        return [call.split()[0] for call in told if not call.startswith("print")]

    def status(self) -> dict[str, Any]:
        """What the node says of itself."""
        run = [self.home / ".local/bin/trishula", "status", "--json", "--socket", self.own / "run/node.sock"]
        return json.loads(subprocess.check_output(run))

    def close(self) -> None:
        tell = ["launchctl", "bootout", f"gui/{os.getuid()}/trishula.node"]
        subprocess.run(tell, env=self.environment, check=False, capture_output=True)
        shutil.rmtree(self.home)
