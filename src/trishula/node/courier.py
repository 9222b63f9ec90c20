"""rsync over ssh: carries what lies in a room to a peer, and fetches what lies there for us.

What the keys allow is decided on the other side, by forced commands: to add to one folder, and to read another. How to
reach a peer stands in `ssh_config`, under `trishula-push-<peer>` and `trishula-pull-<peer>`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from trishula.node.config import Config, PeerConfig
from trishula.node.wire import LARGEST_PEER_FRAME as _LARGEST

STALLED_S = 10
"""Seconds without a byte after which rsync gives up."""
RUN_WITHIN_S = 60.0
"""Seconds after which a run is ended, whatever it does: a half-dead ssh session must not block the next one."""
_SAID = 500
_VANISHED = 24
"""How rsync ends when files went while it ran: what was answered meanwhile."""
_BUSY = "Another instance of rrsync is already accessing this directory"
"""One session adds to a folder at a time. Whose else it is but ours, a moment ago or from `trishula doctor`?"""
_BUSY_FOR_S = 5.0
_BUSY_PAUSE_S = 0.25


def courier_to(config: Config, peer: PeerConfig) -> Courier | None:
    """For a peer with which rsync is ours to run."""
    if config.fallback is None or peer.sync in ("none", "never"):
        return None
    return Courier(peer.name, config.fallback.dir / peer.name, config.fallback.ssh_config, peer.sync == "push+pull")


@dataclass(frozen=True, slots=True)
class Courier:
    """Runs rsync for one peer."""

    peer: str
    room: Path
    ssh_config: Path
    pulls: bool

    async def push(self, *, dry: bool = False) -> str:
        """Ours to the peer. Returns nothing, or what went wrong. `dry`: asks only whether we may, and moves no file."""
        return await self._run(f"{self.room / 'out'}/", f"trishula-push-{self.peer}:", dry=dry)

    async def pull(self, *, dry: bool = False) -> str:
        """The peer's to us. Likewise."""
        return await self._run(f"trishula-pull-{self.peer}:", f"{self.room / 'in'}/", dry=dry)

    async def _run(self, source: str, target: str, *, dry: bool) -> str:
        shell = f"ssh -F {shlex.quote(str(self.ssh_config))}"
        options = ["--recursive", "--times", "--no-perms", "--omit-dir-times", "--exclude=.*", f"--max-size={_LARGEST}"]
        if dry:
            # On a connection of its own: one that is kept warm would belong to whoever asks, and shut the node out.
            shell += " -o ControlPath=none"
            options.append("--dry-run")
        command = ["rsync", *options, f"--timeout={STALLED_S}", "--rsh", shell, source, target]
        over = time.monotonic() + _BUSY_FOR_S
        while _BUSY in (problem := await self._once(command)):
            if dry:
                return ""  # so we may
            if time.monotonic() > over:
                break
            await asyncio.sleep(_BUSY_PAUSE_S)
        return problem

    async def _once(self, command: list[str]) -> str:
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            return f"rsync can't be run: {error.strerror}"
        try:
            async with asyncio.timeout(RUN_WITHIN_S):
                _, said = await process.communicate()
        except TimeoutError:
            return f"rsync did not end within {RUN_WITHIN_S:.0f} s"
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode in (0, _VANISHED):
            return ""
        words = " ".join(said.decode("utf-8", "replace").split())[:_SAID]
        return f"rsync ended with {process.returncode}: {words or 'it said nothing'}"
