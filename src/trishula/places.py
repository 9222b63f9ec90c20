"""Where a node is found that nobody names a place for, and how its host's own means are called there.

On Linux a node is the system's, on macOS its user's: all of it is in the user's Library.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Places:
    """What differs between two systems. `start`, `stop`, `restart` and `log` are what a person types."""

    config: Path
    credentials: Path
    state: Path
    runtime: Path
    fallback: Path
    """The folder of rsync's settings."""
    socket_path_limit: int
    """Bytes of a Unix socket's path: sun_path, without its end."""
    start: str
    stop: str
    restart: str
    log: str

    @property
    def socket(self) -> Path:
        return self.runtime / "node.sock"


def on_linux() -> Places:
    etc, lib = Path("/etc/trishula"), Path("/var/lib/trishula")
    return Places(
        config=etc / "node.toml",
        credentials=etc / "credentials",
        state=lib,
        runtime=Path("/run/trishula"),
        fallback=etc / "fallback",
        socket_path_limit=107,
        start="systemctl start trishula-node",
        stop="systemctl stop trishula-node.socket trishula-node.service",
        restart="systemctl restart trishula-node",
        log="journalctl -u trishula-node",
    )


def on_macos(home: Path) -> Places:
    own = home / "Library" / "Application Support" / "TRISHULA"
    return Places(
        config=own / "node.toml",
        credentials=own / "credentials",
        state=own,
        runtime=own / "run",
        fallback=own / "fallback",
        socket_path_limit=103,
        start="launchctl kickstart gui/$(id -u)/trishula.node",
        stop="launchctl bootout gui/$(id -u)/trishula.node",
        restart="launchctl kickstart -k gui/$(id -u)/trishula.node",
        log="less ~/Library/Logs/TRISHULA/node.log",
    )


HERE = on_macos(Path("~").expanduser()) if sys.platform == "darwin" else on_linux()
