"""Finds what syncs a folder called trishula by rsync (cron, systemd) and ends it. Of what is changed a copy is kept."""

# ruff: noqa: INP001
from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import stat
import subprocess
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
---
module: trishula_old_sync
short_description: Find and end an old sync of a trishula folder
description: Looks into crontabs, /etc/cron.*, and the units of systemd. In check mode it only looks.
options:
  logins:
    description: Whose user units to look into, besides root's.
    type: list
    elements: str
    required: true
  keep:
    description: Folder for copies of what is changed.
    type: path
    required: true
  root:
    description: The file system to look into.
    type: path
    default: /
author: TRISHULA contributors
"""
EXAMPLES = r"""
- name: End the old sync
  trishula_old_sync:
    logins: [openclaw]
    keep: /var/backups/trishula-adopt
"""
RETURN = r"""
found:
  description: What was found, each with where it stands and what it says.
  returned: always
  type: list
"""

# A folder called trishula, and not one of TRISHULA's own: what backs those up is no old sync.
FOLDER = re.compile(r"(?<![\w.-])trishula(?![\w.-])")
OURS = re.compile(r"/(var/lib|var/backups|etc|opt|run|usr/local/bin)/trishula\b")
RSYNC = re.compile(r"(?<![\w-])rsync(?![\w-])")
PATH = re.compile(r"[~$/{][^\s;|&<>\"'()]*")
EXEC = re.compile(r"\s*Exec(StartPre|Start|StartPost|Reload|Stop)\s*=")
LARGEST_SCRIPT = 1 << 20
COMMENT = "# ended by TRISHULA's adopt: "


class OldSync:
    """One host's file system under ``root``."""

    def __init__(self, root: Path, logins: list[str], keep: Path) -> None:
        self.root = root
        self.keep = keep
        self.homes = dict(self._homes(["root", *logins]))
        self.found: list[dict[str, str]] = []

    def _homes(self, logins: list[str]) -> list[tuple[str, Path]]:
        homes = []
        for login in dict.fromkeys(logins):
            with contextlib.suppress(KeyError):
                homes.append((login, self.at(pwd.getpwnam(login).pw_dir)))
        return homes

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    # ── What it looks at ────────────────────────────────────────────────────────────────────────────────────────────

    def syncs(self, command: str, home: Path | None = None) -> bool:
        """Whether a command, or a script that it names, syncs a trishula folder by rsync."""
        texts = [command, *(self._script(word, home) for word in PATH.findall(command))]
        text = OURS.sub("", "\n".join(texts))
        return FOLDER.search(text) is not None and RSYNC.search(text) is not None

    def _script(self, word: str, home: Path | None) -> str:
        if home is not None:
            word = re.sub(r"^(~|\$HOME|\$\{HOME\})(?=/)", lambda _: "/" + str(home.relative_to(self.root)), word)
        if not word.startswith("/") or OURS.match(word):
            return ""
        return _text(self.at(word))

    def run(self, *, change: bool) -> None:
        for path in _files(self.at("/var/spool/cron/crontabs")):  # of whomever: any login may carry an agent's mail
            home = self.homes.get(path.name) or dict(self._homes([path.name])).get(path.name)
            self._crontab(path, f"the crontab of {path.name}", home, change)
        for path in [self.at("/etc/crontab"), self.at("/etc/anacrontab"), *_files(self.at("/etc/cron.d"))]:
            self._crontab(path, self._name(path), None, change)
        for often in ("hourly", "daily", "weekly", "monthly"):
            for path in _files(self.at(f"/etc/cron.{often}")):
                self._script_of_cron(path, change)
        for folder in ("/etc/systemd/system", "/usr/local/lib/systemd/system"):
            self._units(self.at(folder), None, change)
        for login, home in self.homes.items():
            self._units(home / ".config/systemd/user", login, change)

    def _name(self, path: Path) -> str:
        return "/" + str(path.relative_to(self.root))

    def _kept(self, path: Path) -> None:
        self.keep.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copy2(path, self.keep / f"{time.strftime('%Y%m%dT%H%M%S')}-{self._name(path)[1:].replace('/', '_')}")

    # ── cron ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _crontab(self, path: Path, name: str, home: Path | None, change: bool) -> None:  # noqa: FBT001
        lines = _text(path).splitlines(keepends=True)
        syncing = {
            number for number, line in enumerate(lines) if not line.lstrip().startswith("#") and self.syncs(line, home)
        }
        self.found += [{"where": name, "what": lines[number].strip()} for number in sorted(syncing)]
        if syncing and change:
            self._kept(path)
            told = "".join(COMMENT * (number in syncing) + line for number, line in enumerate(lines))
            _replace(path, told)

    def _script_of_cron(self, path: Path, change: bool) -> None:  # noqa: FBT001
        mode = path.stat().st_mode
        if mode & 0o111 and self.syncs(_text(path)):
            self.found.append({"where": self._name(path), "what": "a script that cron runs"})
            if change:
                self._kept(path)
                path.chmod(stat.S_IMODE(mode) & ~0o111)

    # ── systemd ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _units(self, folder: Path, login: str | None, change: bool) -> None:  # noqa: FBT001
        units = {path.name: path for path in _files(folder)}
        home = self.homes.get(login) if login is not None else None
        for name in sorted(units):
            if not name.endswith(".service"):
                continue
            commands = _joined(_text(units[name]))
            syncing = [line for line in commands if EXEC.match(line) and self.syncs(line.partition("=")[2], home)]
            if not syncing:
                continue
            starters = [
                other
                for other in sorted(units)
                if re.fullmatch(r".*\.(timer|path)", other)
                and (Path(other).stem == Path(name).stem or f"Unit={name}" in _text(units[other]).split())
            ]
            where = f"the unit {' and '.join([*starters, name])}" + (f" of {login}" if login else "")
            self.found.append({"where": where, "what": syncing[0].partition("=")[2].strip()})
            if change:
                self._end([*starters, name], folder, login)

    def _end(self, names: list[str], folder: Path, login: str | None) -> None:
        """Stop and forget units. Their files go to the kept ones, or ours of the same name would be taken for them."""
        self._systemctl(login, "stop", *names)
        for name in names:
            path = folder / name
            for wanting in [*folder.glob("*.wants"), *folder.glob("*.requires")]:
                (wanting / name).unlink(missing_ok=True)
            self._kept(path)
            path.unlink()
        self._systemctl(login, "daemon-reload")

    def _systemctl(self, login: str | None, *words: str) -> None:
        """A login's own systemd may not run, and then has nothing to stop."""
        if self.root == Path("/"):
            manager = [] if login is None else ["--user", f"--machine={login}@.host"]
            command = ["/usr/bin/systemctl", *manager, *words]
            subprocess.run(command, check=login is None, capture_output=True)  # noqa: S603 - names of units


def _files(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return []


def _text(path: Path) -> str:
    """What is in a file that could be a script; nothing for what is none."""
    with contextlib.suppress(OSError, ValueError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return stream.read(LARGEST_SCRIPT).decode("utf-8", "replace")
    return ""


def _joined(text: str) -> list[str]:
    return re.sub(r"\\\n\s*", " ", text).splitlines()


def _replace(path: Path, text: str) -> None:
    """In one step, with the rights that it has."""
    info = path.stat()
    temporary = path.with_name(f"tmp.{os.getpid()}.{path.name}")
    temporary.write_text(text, "utf-8", errors="replace")
    os.chown(temporary, info.st_uid, info.st_gid)
    temporary.chmod(stat.S_IMODE(info.st_mode))
    temporary.rename(path)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "logins": {"type": "list", "elements": "str", "required": True},
            "keep": {"type": "path", "required": True},
            "root": {"type": "path", "default": "/"},
        },
        supports_check_mode=True,
    )
    old = OldSync(Path(module.params["root"]), module.params["logins"], Path(module.params["keep"]))
    try:
        old.run(change=not module.check_mode)
    except (OSError, subprocess.CalledProcessError) as error:
        module.fail_json(msg=f"An old sync can't be ended: {error}", found=old.found)
    module.exit_json(changed=bool(old.found), found=old.found)


if __name__ == "__main__":
    main()
