"""Says how the launch agent is, and what is newer than the process that it runs; asked on the host, by its own Python.

    python3 - LABEL PLIST FILE... <how_it_runs.py

The plist is read when the agent is loaded, the files when the process starts. Times of processes have whole seconds:
what was changed in the very second of a start counts as older, for no run restarts that fast.
"""

# ruff: noqa: INP001, S603, T201 - it is piped into an interpreter
from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path


def said(*command: str) -> str:
    """What a command prints; nothing where it fails."""
    run = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    return run.stdout if run.returncode == 0 else ""


def started(pid: str) -> float:
    """When a process started, in seconds since 1970; 0 if it has ended."""
    since = " ".join(said("ps", "-o", "lstart=", "-p", pid).split())
    return time.mktime(time.strptime(since, "%a %b %d %H:%M:%S %Y")) if since else 0


def newer(path: Path, since: float) -> bool:
    """Whether a file, a link, or anything in a folder was changed after `since`."""
    inside = path.rglob("*") if path.is_dir() and not path.is_symlink() else ()
    return any(at.lstat().st_ctime >= since + 1 for at in (path, *inside) if os.path.lexists(at))


def main(label: str, plist: str, files: list[str]) -> None:
    agent = said("launchctl", "print", f"gui/{os.getuid()}/{label}")
    if not agent:
        print("the agent is not loaded")
        return
    print("the agent is loaded")
    pid = re.search(r"^\s*pid = (\d+)$", agent, re.MULTILINE)
    since = started(pid[1]) if pid else 0
    if since == 0:
        print("the agent runs no process")
    elif newer(Path(plist), since):
        print(f"the agent is older than {plist}")
    for file in files if since else ():
        if newer(Path(file), since):
            print(f"the node is older than {file}")


main(sys.argv[1], sys.argv[2], sys.argv[3:])
