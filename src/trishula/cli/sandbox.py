"""A whole mesh on this machine: real nodes as processes on loopback, with TLS, tokens and pair keys of their own.

    with Sandbox(directory) as mesh:
        mesh.start()
        await mesh.linked()
        async with mesh.client("mac") as mac: ...
        mesh.kill("agni")
        mesh.start("agni")

The demo shows it and the integration tests are built on it. What is on disk is exactly what Ansible would put there
(docs/configuration.md), so nothing in a node knows of it.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import hashlib
import itertools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import trishula
from trishula.cli.usage import UsageError
from trishula.protocol.errors import TrishulaError

try:
    from trishula.cli.pki import Authority
except ModuleNotFoundError as missing:
    raise UsageError(
        f"a mesh of its own needs certificates, and {missing.name} is not installed",
        code="failed",
        fix="pip install 'trishula[demo]'",
    ) from None

STANDARD = {"mac": ("mac",), "agni": ("agni",), "rushabdev": ("rushabdev",)}
"""Nodes and the agents that live on them. Each node dials those after it: mac is behind NAT and is never dialled."""

Via = Callable[[str, str, str], str]
"""(dialler, dialled, the dialled node's own URL) to the URL that the dialler is given."""

PATIENCE_S = 60.0
"""How long `until` waits by default: a busy machine takes long, and what is right is never kept waiting."""
_POLL_S = 0.02
_STOP_S = 5.0
_LONGEST_SOCKET = 100
_LAST_WORDS = 2000
_MARK = ".trishula-sandbox"

# Run between fork and the node: make the listening socket descriptor 3, as systemd would, and die with the parent
# (PR_SET_PDEATHSIG, prctl(2); elsewhere than on Linux only an orderly end of the parent takes the node along).
_LAUNCH = """
import os, sys
listening, parent, *command = sys.argv[1:]
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 9)
    if os.getppid() != int(parent):
        sys.exit(1)
if int(listening) != 3:
    os.dup2(int(listening), 3)
    os.close(int(listening))
os.set_inheritable(3, True)
os.environ["LISTEN_FDS"] = "1"
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(command[0], command)
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where things of one node are."""

    name: str
    agents: tuple[str, ...]
    root: Path
    runtime: Path
    listening: socket.socket

    @property
    def config(self) -> Path:
        return self.root / "node.toml"

    @property
    def credentials(self) -> Path:
        return self.root / "credentials"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def ca(self) -> Path:
        return self.root / "tls" / "ca.crt"

    @property
    def url(self) -> str:
        host, port = self.listening.getsockname()
        return f"wss://{host}:{port}"

    def socket(self, agent: str | None = None) -> Path:
        """The socket of an agent; by default the node's own."""
        return self.runtime / f"{agent or 'node'}.sock"

    def mailbox(self, agent: str) -> Path:
        return self.state / "mailboxes" / agent

    def token_file(self, agent: str) -> Path:
        """The token with which an agent is let in at `url`."""
        return self.root / "tokens" / agent


class Sandbox:
    """Nodes, their files and their processes. Leaving the `with` block stops them all; the files stay."""

    def __init__(
        self,
        directory: Path,
        homes: Mapping[str, Sequence[str]] = STANDARD,
        *,
        limits: Mapping[str, int] | None = None,
        via: Via | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Lay out the files; nothing runs yet. A folder that was a sandbox before keeps its nodes' stores.

        `via` gives the URL that a node dials instead of its peer's own: a proxy's, say. `settings` are more keys for
        tables of every node.toml that has them; `{root}` in them is the folder of the node.
        """
        self.directory = directory.absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._claim = _claim(self.directory)
        self._short: str | None = None
        runtime = self._runtime(homes)
        self.places = {
            name: Place(name, tuple(agents), self.directory / name, runtime / name, _listening_socket())
            for name, agents in homes.items()
        }
        self._homes = {agent: place for place in self.places.values() for agent in place.agents}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.authority = Authority()
        self._via = via or (lambda _dialler, _dialled, url: url)
        self._settings = settings or {}
        self._write(limits or {})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------ processes

    def start(self, *names: str) -> None:
        """Start these nodes, by default all, without waiting for them."""
        for name in names or self.places:
            place = self.places[name]
            descriptor = place.listening.fileno()
            node = [sys.executable, "-m", "trishula.cli.main", "node", "run", "--config", str(place.config)]
            with place.log.open("ab") as log:
                self._processes[name] = subprocess.Popen(  # noqa: S603 - our own command
                    [sys.executable, "-I", "-S", "-c", _LAUNCH, str(descriptor), str(os.getpid()), *node],
                    pass_fds=[descriptor],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

    def kill(self, name: str) -> None:
        """SIGKILL: the node gets no chance to tidy up."""
        self._processes[name].kill()
        self._processes[name].wait()

    def stop(self, *names: str) -> None:
        """SIGTERM to these nodes, by default all, and wait until they have ended."""
        running = [self._processes[name] for name in names or self._processes if self.alive(name)]
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def alive(self, name: str) -> bool:
        process = self._processes.get(name)
        return process is not None and process.poll() is None

    def signal(self, name: str, number: signal.Signals) -> None:
        """Any other signal, such as SIGSTOP."""
        self._processes[name].send_signal(number)

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def close(self) -> None:
        """Stop the nodes and let go of their ports."""
        self.stop()
        for place in self.places.values():
            place.listening.close()
        self._claim.close()
        if self._short is not None:
            shutil.rmtree(self._short, ignore_errors=True)

    # ------------------------------------------------------------ talking to them

    def client(self, agent: str, **options: Any) -> trishula.Client:
        """A client of this agent, on its own socket."""
        return trishula.Client(self._homes[agent].socket(agent), **options)

    def home(self, agent: str) -> Place:
        """The node on which an agent lives."""
        return self._homes[agent]

    async def status(self, name: str) -> dict[str, Any]:
        """What the node says of itself."""
        async with trishula.Client(self.places[name].socket(), patience=0) as node:
            return await node.status()

    async def up(self, *names: str) -> None:
        """Wait until these nodes, by default all, answer."""
        for name in names or self.places:
            await until(lambda name=name: self._answers(name), f"{name} answers")  # type: ignore[misc]

    async def linked(self, *names: str) -> None:
        """Wait until each of these nodes, by default of all, is linked to all others, by its own word and by theirs."""
        await self.up()
        for name, other in itertools.permutations(self.places, 2):
            if not names or name in names or other in names:
                await until(lambda pair=(name, other): self._linked(*pair), f"{name} is linked to {other}")  # type: ignore[misc]

    async def _answers(self, name: str) -> bool:
        if not self.alive(name):
            raise TrishulaError(f"the node {name} has ended; its last words:\n{self._last_words(name)}")
        try:
            await self.status(name)
        except trishula.NodeUnreachable:
            return False
        return True

    async def _linked(self, name: str, other: str) -> bool:
        try:
            return bool((await self.status(name))["peers"][other]["linked"])
        except trishula.NodeUnreachable:
            return False

    def _last_words(self, name: str) -> str:
        return self.places[name].log.read_text("utf-8", "replace")[-_LAST_WORDS:]

    # ------------------------------------------------------------ what Ansible does on real hosts

    def put_certificate(self, name: str, certificate: bytes, key: bytes) -> None:
        """Put a pair where a node looks for it; one that runs takes it on SIGHUP."""
        folder = self.places[name].root / "tls"
        (folder / "node.crt").write_bytes(certificate)
        _write_secret(folder / "node.key", key)

    def _runtime(self, homes: Mapping[str, Sequence[str]]) -> Path:
        """Where the sockets go: a Unix socket's path is limited, so a long folder gets a short one beside it."""
        longest = max(len(f"{name}/{agent}.sock") for name, agents in homes.items() for agent in [*agents, "node"])
        runtime = self.directory / "run"
        if len(os.fsencode(runtime)) + 1 + longest > _LONGEST_SOCKET:
            self._short = tempfile.mkdtemp(prefix="trishula-", dir="/tmp")  # TMPDIR may be as long
            return Path(self._short)
        return runtime

    def _write(self, limits: Mapping[str, int]) -> None:
        tokens = {pair: secrets.token_urlsafe(32) for pair in itertools.combinations(self.places, 2)}
        keys = {frozenset(pair): base64.b64encode(secrets.token_bytes(32)).decode() for pair in tokens}
        for place in self.places.values():
            for folder in (place.state, place.runtime, place.root / "tls", place.root / "tokens"):
                folder.mkdir(parents=True, exist_ok=True)
            place.credentials.mkdir(mode=0o700, exist_ok=True)
            place.ca.write_bytes(self.authority.certificate)
            self.put_certificate(place.name, *self.authority.issue(place.name))
            accept = [
                {"node": dialler, "sha256": _sha256(token)}
                for (dialler, dialled), token in tokens.items()
                if dialled == place.name
            ]
            for agent in place.agents:
                token = secrets.token_urlsafe(32)
                _write_secret(place.token_file(agent), token.encode())
                accept.append({"agent": agent, "sha256": _sha256(token)})
            dial = {dialled: token for (dialler, dialled), token in tokens.items() if dialler == place.name}
            own = {peer: [{"kid": "1", "key": keys[frozenset((place.name, peer))]}] for peer in self._peers(place)}
            for file, value in (("accept.json", accept), ("dial.json", dial), ("keys.json", own)):
                _write_secret(place.credentials / file, json.dumps(value).encode())
            place.config.write_text(self._node_toml(place, set(dial), limits))

    def _node_toml(self, place: Place, dials: set[str], limits: Mapping[str, int]) -> str:
        host, port = place.listening.getsockname()
        tables: dict[str, dict[str, Any]] = {
            "node": {
                "name": place.name,
                "state_dir": str(place.state),
                "runtime_dir": str(place.runtime),
                "credentials_dir": str(place.credentials),
                "default_agent": place.agents[0],
                "always_on": place.name != next(iter(self.places)),
            },
            "listen": {"address": host, "port": port},
            "tls": {
                "certificate": str(place.root / "tls" / "node.crt"),
                "private_key": str(place.root / "tls" / "node.key"),
                "ca": str(place.ca),
            },
            "limits": dict(limits),
        }
        tables |= {f"agents.{agent}": {} for agent in place.agents}
        for peer in self._peers(place):
            other = self.places[peer]
            way = {"dial": True, "url": self._via(place.name, peer, other.url)} if peer in dials else {"dial": False}
            tables[f"peers.{peer}"] = {**way, "agents": list(other.agents)}
        for name in tables.keys() & self._settings.keys():
            more = self._settings[name].items()
            tables[name] |= {
                key: value.format(root=place.root) if isinstance(value, str) else value for key, value in more
            }
        # JSON's texts, numbers, truth values and lists are TOML's.
        return "\n".join(
            f"[{name}]\n"
            + "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in table.items())
            for name, table in tables.items()
        )

    def _peers(self, place: Place) -> list[str]:
        return [name for name in self.places if name != place.name]


async def until(holds: Callable[[], Any], what: str, *, seconds: float = PATIENCE_S) -> None:
    """Wait until `holds()`, plain or async, is true. Raises `TimedOut` naming `what` after `seconds`."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        result = holds()
        if await result if asyncio.iscoroutine(result) else result:
            return
        if asyncio.get_running_loop().time() > deadline:
            raise trishula.TimedOut(f"waited {seconds:g} s in vain until {what}")
        await asyncio.sleep(_POLL_S)


def _claim(directory: Path) -> TextIO:
    """The sandbox's mark, locked for as long as it is open."""
    mark = directory / _MARK
    if not mark.exists() and any(directory.iterdir()):
        raise UsageError(f"{directory} is neither empty nor a mesh that the demo made", fix="name a new folder")
    claim = mark.open("a")
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        claim.close()
        raise UsageError(f"another demo runs in {directory}", fix="end that one, or name another folder") from None
    return claim


def _listening_socket() -> socket.socket:
    """On a port that the system chooses. We hold it, so that it is the same again for a node that comes back."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.bind(("127.0.0.1", 0))
    listening.listen(128)
    return listening


def _write_secret(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
