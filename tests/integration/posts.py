"""The rsync fallback of a `Sandbox` as the role trishula_fallback makes it: a real sshd for each host, keys that may do
one thing each, rooms, and the tables of node.toml. One user plays all accounts.

with Sandbox(directory) as mesh, Posts(mesh, behind_nat="mac") as posts:
    mesh.start()
    ...
    posts.sshd("agni").stop()
"""

from __future__ import annotations

import getpass
import itertools
import os
import shutil
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from trishula.cli.sandbox import Place, Sandbox

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "/usr/sbin/sshd"
RRSYNC = "/usr/bin/rrsync"


class Sshd:
    """The ssh server of one host."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        self.keys = folder / "authorized_keys"
        self.keys.touch(mode=0o600)
        _make_key(folder / "host_key")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\n"
            f"AuthorizedKeysFile {self.keys}\nAuthenticationMethods publickey\nStrictModes no\nUsePAM no\n"
            "MaxStartups 100\nLogLevel VERBOSE\nClientAliveInterval 5\nClientAliveCountMax 2\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host_key(self) -> str:
        return (self._folder / "host_key.pub").read_text().strip()

    def start(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", self._folder / "sshd_config"], stdout=log, stderr=log, start_new_session=True
            )

    def stop(self) -> None:
        """And all its sessions with it, as when the host dies."""
        if self._process is not None:
            subprocess.run(["pkill", "-KILL", "-s", str(self._process.pid)], check=False)
            self._process.kill()
            self._process.wait()
            self._process = None


class Posts:
    """All hosts' ends of it."""

    def __init__(self, mesh: Sandbox, *, behind_nat: str | None = None) -> None:
        if missing := [tool for tool in (SSHD, RRSYNC) if not Path(tool).exists()]:
            pytest.fail(f"no {' and no '.join(missing)}: install openssh-server and rsync", pytrace=False)
        self._mesh = mesh
        self._sshds = {name: Sshd(place.root / "ssh") for name, place in mesh.places.items()}
        for place in mesh.places.values():
            for key in ("push", "pull"):
                _make_key(place.root / "ssh" / key)
        for here, there in itertools.permutations(mesh.places, 2):
            for box in ("in", "out", "rejected"):
                (self.room(here, there) / box).mkdir(parents=True)
            if there != behind_nat:
                self._allow(mesh.places[here], mesh.places[there])
        for name, place in mesh.places.items():
            self._configure(place, nat=name == behind_nat, behind_nat=behind_nat)

    def __enter__(self) -> Self:
        for sshd in self._sshds.values():
            sshd.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sshd in self._sshds.values():
            sshd.stop()

    def sshd(self, name: str) -> Sshd:
        return self._sshds[name]

    def room(self, here: str, there: str) -> Path:
        """On the host `here`, the room of its peer `there`."""
        return self._mesh.places[here].root / "fallback" / there

    def _allow(self, here: Place, there: Place) -> None:
        """`here` may add to its room on `there`, and read what lies there for it."""
        room = self.room(there.name, here.name)
        commands = {"push": f"{RRSYNC} -wo -munge -no-del {room}/in", "pull": f"{RRSYNC} -ro {room}/out"}
        with self._sshds[there.name].keys.open("a") as keys:
            for name, command in commands.items():
                public = (here.root / "ssh" / f"{name}.pub").read_text().strip()
                keys.write(f'restrict,command="{command}" {public}\n')

    def _configure(self, place: Place, *, nat: bool, behind_nat: str | None) -> None:
        ssh_config, known_hosts = place.root / "ssh" / "config", place.root / "ssh" / "known_hosts"
        blocks, known = [], []
        for peer in self._mesh.places:
            if peer in (place.name, behind_nat):
                continue
            known.append(f"{peer} {self._sshds[peer].host_key}\n")
            blocks += [
                f"Host trishula-{key}-{peer}\n  HostName 127.0.0.1\n  Port {self._sshds[peer].port}\n"
                f"  User {getpass.getuser()}\n  IdentityFile {place.root}/ssh/{key}\n  HostKeyAlias {peer}\n"
                for key in ("push", "pull")
            ]
        known_hosts.write_text("".join(known))
        ssh_config.write_text(
            f"{''.join(blocks)}Host *\n  IdentitiesOnly yes\n  BatchMode yes\n  ConnectTimeout 5\n"
            f"  StrictHostKeyChecking yes\n  UserKnownHostsFile {known_hosts}\n"
        )
        text = place.config.read_text()
        for peer in self._mesh.places:
            sync = "none" if peer == behind_nat else "push+pull" if nat else "push"
            text = text.replace(f"[peers.{peer}]\n", f'[peers.{peer}]\nsync = "{sync}"\n')
        fallback = f'[fallback]\ndir = "{place.root / "fallback"}"\nssh_config = "{ssh_config}"\n'
        place.config.write_text(f"{text}\n{fallback}")


def _make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", path], check=True)
