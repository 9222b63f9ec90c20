"""`node.toml` and the credentials as the node uses them. What each key means: docs/configuration.md."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from trishula.node.credentials import Credentials, load_credentials
from trishula.node.toml_table import Table
from trishula.places import HERE
from trishula.protocol.directory import Directory
from trishula.protocol.errors import ConfigError
from trishula.protocol.limits import Limits
from trishula.protocol.names import is_agent

Sync = Literal["none", "push", "push+pull", "never"]
Transport = Literal["websocket", "files"]


class ConfigErrors(ConfigError):  # noqa: N818 - it holds several
    """All mistakes of a configuration, in the order of the file."""

    def __init__(self, errors: list[ConfigError]) -> None:
        super().__init__("\n".join(str(error) for error in errors))
        self.errors = errors


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """An agent that lives here. `socket_group` may use its socket; None: the node's own group.

    `receipts`: it wants to be told in files how far its messages have come.
    """

    name: str
    socket_group: str | None
    receipts: bool = False


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """Another node. `url` is empty where it dials us."""

    name: str
    dial: bool
    url: str
    always_on: bool
    agents: tuple[str, ...]
    sync: Sync
    """What rsync is to carry between it and us, on our initiative; `never`: nor on its own."""


@dataclass(frozen=True, slots=True)
class FallbackConfig:
    """Where the files lie that rsync carries, a room for each peer, and how ssh is told of the peers."""

    dir: Path
    ssh_config: Path


@dataclass(frozen=True, slots=True)
class Config:
    """A checked configuration."""

    node: str
    state_dir: Path
    store_dir: Path
    runtime_dir: Path
    mailbox_dir: Path
    default_agent: str
    always_on: bool
    transport: Transport
    """`files`: nobody is dialled and nobody let in; a timer runs rsync."""
    fallback: FallbackConfig | None
    unsigned_inbox: bool
    """Whether what others put into inboxes is shown, though nobody vouches for it."""
    jikoku_log: Path | None
    listen_address: str
    listen_port: int
    certificate: Path
    private_key: Path
    ca: Path
    public_roots: bool
    agents: Mapping[str, AgentConfig]
    peers: Mapping[str, PeerConfig]
    groups: Mapping[str, tuple[str, ...]]
    limits: Limits
    connections_per_address: int
    handshake_timeout_s: int
    credentials: Credentials

    def directory(self) -> Directory:
        homes = {agent: peer.name for peer in self.peers.values() for agent in peer.agents}
        return Directory(homes | dict.fromkeys(self.agents, self.node), self.groups)


def load(path: Path, credentials_dir: Path | None = None, *, secrets: bool = True) -> Config:
    """The configuration in `path`. Raises `ConfigErrors` with every mistake in it and in the credentials.

    The credentials are in `credentials_dir`, else where the file says, else where systemd put them
    ($CREDENTIALS_DIRECTORY). Without `secrets`, for who may not read them, there are none.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigErrors([_unreadable(path, error)]) from None
    except (ValueError, RecursionError) as error:  # not all of tomllib's own: int counts digits, and it nests in calls
        raise ConfigErrors([ConfigError(f"{path} is not TOML: {error}", key=str(path), fix="mend the line")]) from None
    errors: list[ConfigError] = []
    config = _read(Table("", values, errors), credentials_dir, secrets=secrets)
    if errors:
        raise ConfigErrors(errors)
    return config


def _read(root: Table, credentials_dir: Path | None, *, secrets: bool) -> Config:
    node, listen, tls, limits = (root.table(key) for key in ("node", "listen", "tls", "limits"))
    name = node.checked("name", node.text("name"), is_agent, "a-z 0-9 - (at most 63, not `all`)")
    state_dir = _absolute(node, "state_dir", node.text("state_dir", str(HERE.state)))
    runtime_dir = _absolute(node, "runtime_dir", node.text("runtime_dir", str(HERE.runtime)))
    mailbox_dir = _absolute(node, "mailbox_dir", node.text("mailbox_dir", str(state_dir / "mailboxes")))
    agents = _agents(root, runtime_dir)
    peers = _peers(root, name)
    _one_home_each(root, agents, peers)
    read = Config(
        node=name,
        state_dir=state_dir,
        store_dir=state_dir / "store",
        runtime_dir=runtime_dir,
        mailbox_dir=mailbox_dir,
        default_agent=_default_agent(node, agents),
        always_on=node.flag("always_on", default=True),
        transport=_transport(node, root),
        fallback=_fallback(root),
        unsigned_inbox=node.flag("unsigned_inbox", default=False),
        jikoku_log=_absolute(node, "jikoku_log", path) if (path := node.text("jikoku_log", "")) else None,
        listen_address=listen.text("address", "127.0.0.1"),
        listen_port=listen.integer("port", 8765, 0, 65535),
        certificate=_readable(tls, "certificate"),
        private_key=_readable(tls, "private_key"),
        ca=_readable(tls, "ca"),
        public_roots=tls.flag("public_roots", default=False),
        agents=agents,
        peers=peers,
        groups=_groups(root, agents, peers),
        limits=_limits(limits),
        connections_per_address=limits.integer("connections_per_address", 32, 1, 100_000),
        handshake_timeout_s=limits.integer("handshake_timeout_s", 5, 1, 60),
        credentials=_credentials(node, credentials_dir, agents, peers, secrets=secrets),
    )
    for table in (node, listen, tls, limits, root):
        table.done()
    return read


def _agents(root: Table, runtime_dir: Path) -> dict[str, AgentConfig]:
    table = root.table("agents")
    agents = {}
    for name in table.names():
        _agent_name(table, name)
        entry = table.table(name)
        agents[name] = AgentConfig(
            name, entry.text("socket_group", "") or None, receipts=entry.flag("receipts", default=False)
        )
        entry.done()
    longest = max((os.fsencode(runtime_dir / f"{name}.sock") for name in [*agents, "node"]), key=len)
    if len(longest) > HERE.socket_path_limit:
        root.wrong(
            "node.runtime_dir",
            str(runtime_dir),
            f"node.runtime_dir makes {longest.decode()} {len(longest)} bytes long",
            f"use a shorter one: a Unix socket's path has at most {HERE.socket_path_limit} bytes",
        )
    if not agents:
        root.wrong("agents", None, "no agent lives here", "add a table [agents.NAME]")
    return agents


def _peers(root: Table, node: str) -> dict[str, PeerConfig]:
    table = root.table("peers")
    peers = {}
    for name in table.names():
        entry = table.table(name)
        _agent_name(table, name)
        if name == node:
            table.wrong(name, name, f"peers.{name} is this node itself", "list the other nodes only")
        dial = entry.flag("dial", default=False)
        url = entry.checked("url", entry.text("url", ""), _is_wss, "wss://HOST:PORT")
        if dial and not url:
            entry.wrong("url", url, f"peers.{name}.url is missing, but dial = true", "set url = wss://HOST:PORT")
        for agent in (agents := entry.texts("agents")):
            _agent_name(entry, agent)
        sync = _one_of(entry, "sync", "none", get_args(Sync))
        peers[name] = PeerConfig(name, dial, url, entry.flag("always_on", default=True), agents, sync)
        entry.done()
    return peers


def _transport(node: Table, root: Table) -> Any:
    transport = _one_of(node, "transport", "websocket", get_args(Transport))
    if transport == "files" and not root.has("fallback"):
        node.wrong("transport", transport, "node.transport is files, but there is no [fallback]", "add the table")
    return transport


def _fallback(root: Table) -> FallbackConfig | None:
    if not root.has("fallback"):
        return None
    table = root.table("fallback")
    folder = _absolute(table, "dir", table.text("dir", str(HERE.state / "fallback")))
    ssh_config = _absolute(table, "ssh_config", table.text("ssh_config", str(HERE.fallback / "ssh_config")))
    table.done()
    return FallbackConfig(folder, ssh_config)


def _one_of(table: Table, key: str, default: str, words: Sequence[str]) -> Any:
    return table.checked(key, table.text(key, default), lambda word: word in words, " or ".join(words))


def _one_home_each(root: Table, agents: Mapping[str, AgentConfig], peers: Mapping[str, PeerConfig]) -> None:
    homes = dict.fromkeys(agents, "agents")
    for peer in peers.values():
        for agent in peer.agents:
            if agent in homes:
                key = f"peers.{peer.name}.agents"
                root.wrong(key, agent, f"{key}: {agent!r} lives in {homes[agent]} already", "give it one home")
            homes[agent] = f"peers.{peer.name}"


def _groups(
    root: Table, agents: Mapping[str, AgentConfig], peers: Mapping[str, PeerConfig]
) -> dict[str, tuple[str, ...]]:
    known = {*agents, *(agent for peer in peers.values() for agent in peer.agents)}
    table = root.table("groups")
    groups = {}
    for name in table.names():
        _agent_name(table, name)
        groups[name] = table.texts(name)
        for member in groups[name]:
            if member not in known:
                table.wrong(name, member, f"groups.{name}: there is no agent {member!r}", "name agents only")
    return groups


def _default_agent(node: Table, agents: Mapping[str, AgentConfig]) -> str:
    only = next(iter(agents)) if len(agents) == 1 else None
    name = node.text("default_agent", only, fix="say which agent node.sock speaks for")
    if name and agents and name not in agents:
        node.wrong(
            "default_agent", name, f"node.default_agent: {name!r} does not live here", f"use {', '.join(agents)}"
        )
    return name


def _limits(table: Table) -> Limits:
    default = Limits()
    max_ttl = table.integer("max_ttl_s", default.max_ttl // 1000, 60, 366 * 24 * 3600)
    default_ttl = table.integer("default_ttl_s", min(default.default_ttl // 1000, max_ttl), 1, 366 * 24 * 3600)
    if default_ttl > max_ttl:
        table.wrong(
            "default_ttl_s",
            default_ttl,
            f"limits.default_ttl_s is {default_ttl}, above limits.max_ttl_s, {max_ttl}",
            "lower the one or raise the other",
        )
    return Limits(
        max_message_bytes=table.integer("max_message_bytes", default.max_message_bytes, 1024, 64 * 1024 * 1024),
        default_ttl=default_ttl * 1000,
        max_ttl=max_ttl * 1000,
        max_skew=table.integer("max_skew_s", default.max_skew // 1000, 1, 3600) * 1000,
        max_open=table.integer("max_open_per_agent", default.max_open, 1, 10_000_000),
        max_unread=table.integer("max_unread_per_agent", default.max_unread, 1, 10_000_000),
        max_store_bytes=table.integer("max_store_bytes", default.max_store_bytes, 1024 * 1024, 2**53),
        max_held_bytes=table.integer("max_held_bytes", default.max_held_bytes, 0, 2**53),
    )


def _credentials(
    node: Table,
    directory: Path | None,
    agents: Mapping[str, AgentConfig],
    peers: Mapping[str, PeerConfig],
    *,
    secrets: bool,
) -> Credentials:
    configured = node.text("credentials_dir", "")
    if not secrets:
        return Credentials.none()
    given = directory or configured or os.environ.get("CREDENTIALS_DIRECTORY")
    # Who checks the configuration by hand finds them there; a unit is given its own copy.
    if not given and HERE.credentials.is_dir():
        given = HERE.credentials
    if not given:
        node.wrong(
            "credentials_dir",
            None,
            "node.credentials_dir is missing",
            "set it, or let systemd hand the credentials over (LoadCredential=)",
        )
        return Credentials.none()
    dialled = [peer.name for peer in peers.values() if peer.dial]
    return load_credentials(Path(given), node.errors, agents=agents, peers=peers, dialled=dialled)


def _absolute(table: Table, key: str, value: str) -> Path:
    table.checked(key, value, _is_absolute, "an absolute path")
    return Path(value)


def _is_absolute(path: str) -> bool:
    return Path(path).is_absolute() and "\0" not in path


def _readable(table: Table, key: str) -> Path:
    path = _absolute(table, key, table.text(key, fix="name a PEM file"))
    if _is_absolute(str(path)):
        try:
            path.open("rb").close()
        except OSError as error:
            mistake = _unreadable(path, error)
            table.wrong(key, str(path), f"{table.name}.{key}: {mistake.message}", mistake.fix or "")
    return path


def _unreadable(path: Path, error: OSError) -> ConfigError:
    fix = "make it readable for the user of the node" if isinstance(error, PermissionError) else "is the path right?"
    return ConfigError(f"can't read {path} ({error.strerror})", key=str(path), fix=fix)


def _agent_name(table: Table, name: str) -> None:
    if not is_agent(name):
        table.wrong(name, name, f"{table.name}: {name!r} is no name", "use a-z 0-9 - (at most 63, not `all`)")


def _is_wss(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        return parts.scheme == "wss" and bool(host.encode("idna")) and parts.port != 0 and not parts.username
    except ValueError:
        return False
