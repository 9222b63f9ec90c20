"""Puts a login's real ~/trishula aside, and takes over what is in it into the mailbox.

    ~/trishula ──aside──► ~/trishula.before-<date>/    inbox/*    ──► inbox/                        unread as before
                                                       outbox/**  ──► outbox/sent/<date>-imported/  never sent again
                                                       archive/** ──► archive/

All of it as the login itself: root would follow the links that somebody laid. What was put aside stays, with a list of
what was taken over, so that a run that was broken off is taken up where it ended.
"""

# ruff: noqa: INP001
from __future__ import annotations

import contextlib
import filecmp
import grp
import json
import os
import pwd
import shutil
import stat
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
---
module: trishula_old_folder
short_description: Move an old trishula folder into a mailbox
description: Puts it aside, then takes over what is in it. What was taken over is not taken over again.
options:
  user:
    description: Whose ~/trishula.
    type: str
    required: true
  mailbox:
    description: The mailbox.
    type: path
    required: true
  step:
    description: Which step.
    type: str
    choices: [aside, take_over]
    required: true
author: TRISHULA contributors
"""
EXAMPLES = r"""
- name: Put it aside
  trishula_old_folder:
    user: openclaw
    mailbox: /var/lib/trishula/mailboxes/mac
    step: aside
"""
RETURN = r"""
said:
  description: What was done, in words.
  returned: always
  type: list
"""

ASIDE = "trishula.before-"
LIST = ".taken-over"
ALL = "all of it"
TEMPORARY = ".trishula-"
"""How the name of a file begins that a node takes no notice of."""


class CannotMoveError(Exception):
    """Why, in words for the operator."""


def put_aside(home: Path, mailbox: Path, *, change: bool) -> list[str]:
    """``~/trishula`` under another name, if it is not the link to the mailbox already."""
    folder = home / "trishula"
    if not os.path.lexists(folder) or (folder.is_symlink() and folder.readlink() == mailbox):
        return []
    if not folder.is_dir():
        raise CannotMoveError(f"{folder} is no folder. Look at what it is, and move it out of the way.")
    dated = f"{ASIDE}{time.strftime('%Y%m%d')}"
    name = next(name for name in _numbered(dated) if not os.path.lexists(home / name))
    if change:
        folder.rename(home / name)
    return [f"{folder} is {home / name} now"]


def _numbered(name: str):  # noqa: ANN202 - a generator of names
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1


def take_over(home: Path, mailbox: Path, *, change: bool) -> list[str]:
    """What lies in all folders that were put aside, and was not taken over before."""
    said = []
    for aside in sorted(path for path in home.glob(f"{ASIDE}*") if path.is_dir()):
        done = _done(aside)
        if ALL in done:
            continue
        if not mailbox.is_dir():
            raise CannotMoveError(f"The mailbox {mailbox} is not there.")
        counts = dict.fromkeys(("inbox", "outbox", "archive"), 0)
        with _noting(aside, change=change) as note:
            for box, path, target in _moves(aside, mailbox):
                if str(path.relative_to(aside)) in done:
                    continue
                counts[box] += 1
                if change:
                    _copy(path, target, mailbox, resumed=bool(done))
                    note(str(path.relative_to(aside)))
            if change:
                os.sync()
                note(ALL)
        said.append(
            f"of {aside}: {counts['inbox']} unread, {counts['archive']} read, and {counts['outbox']} that were sent "
            "before and are not sent again"
        )
    return said


def _done(aside: Path) -> set[str]:
    done = set()
    with contextlib.suppress(FileNotFoundError):
        for line in (aside / LIST).read_text("utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # the last line, if the host died
                done.add(json.loads(line))
    return done


@contextlib.contextmanager
def _noting(aside: Path, *, change: bool):  # noqa: ANN202 - yields a function
    if not change:
        yield lambda _: None
        return
    with (aside / LIST).open("a", encoding="utf-8") as stream:

        def note(what: str) -> None:
            stream.write(json.dumps(what) + "\n")
            stream.flush()

        yield note


def _moves(aside: Path, mailbox: Path):  # noqa: ANN202 - yields (box, path, target)
    """Each file with where it goes, box by box, the oldest first. What is hidden was never whole: so rsync names it."""
    imported = f"{aside.name.removeprefix(ASIDE)}-imported"
    for box in ("inbox", "outbox", "archive"):
        found = []
        folder = aside / box
        for path in _files(folder):
            inside = path.relative_to(folder)
            if box == "outbox":
                target = mailbox / "outbox" / "sent" / imported / inside
            elif box == "inbox" and len(inside.parts) == 1:
                target = mailbox / "inbox" / inside
            elif box == "inbox":  # put into a folder by somebody who was done with it
                target = mailbox / "archive" / imported / inside
            else:
                target = mailbox / "archive" / inside
            found.append((path.lstat().st_mtime_ns, path, target))
        yield from ((box, path, target) for _, path, target in sorted(found))


def _files(folder: Path):  # noqa: ANN202 - yields paths
    def stop(error: OSError) -> None:
        raise error

    for top, folders, names in os.walk(folder, onerror=lambda error: None if not folder.exists() else stop(error)):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(top) / name
            if not name.startswith(".") and stat.S_ISREG(path.lstat().st_mode):
                yield path


def _copy(path: Path, target: Path, mailbox: Path, *, resumed: bool) -> None:
    """Whole or not at all, never over another, with its time: that says which is the older.

    Where a run was broken off it may be there, and not on the list yet; and its agent may have read it since.
    """
    for folder in reversed([parent for parent in target.parents if mailbox in parent.parents]):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o770)
    read = mailbox / "archive" / target.name
    for taken in (target, read) if resumed and target.parent == mailbox / "inbox" else (target,):
        if taken.is_file() and filecmp.cmp(path, taken, shallow=False):
            return
    if os.path.lexists(target):
        target = target.with_name(f"{target.stem}~imported{target.suffix}")
    temporary = target.with_name(f"{TEMPORARY}import-{os.getpid()}")
    with path.open("rb") as source, temporary.open("wb") as copy:
        shutil.copyfileobj(source, copy)
    info = path.stat()
    os.utime(temporary, ns=(info.st_atime_ns, info.st_mtime_ns))
    temporary.rename(target)


def _as(user: str) -> None:
    """Be somebody else for good."""
    entry = pwd.getpwnam(user)
    if os.geteuid() == 0 and entry.pw_uid != 0:
        os.setgroups([group.gr_gid for group in grp.getgrall() if user in group.gr_mem] + [entry.pw_gid])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    os.umask(0o007)


def work(user: str, mailbox: Path, step: str, *, change: bool) -> list[str]:
    home = Path(pwd.getpwnam(user).pw_dir)
    act = {"aside": put_aside, "take_over": take_over}[step]
    return act(home, mailbox, change=change)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "user": {"type": "str", "required": True},
            "mailbox": {"type": "path", "required": True},
            "step": {"type": "str", "choices": ["aside", "take_over"], "required": True},
        },
        supports_check_mode=True,
    )
    user, mailbox, step = (module.params[name] for name in ("user", "mailbox", "step"))
    # In a process of its own, so that Ansible's own end is still root's.
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            _as(user)
            answer = {"said": work(user, Path(mailbox), step, change=not module.check_mode)}
        except CannotMoveError as error:
            answer = {"error": str(error)}
        except OSError as error:
            answer = {"error": f"{user} can't do it: {error}. Let {user} own what is in ~/trishula ('chown -R')."}
        except BaseException as error:  # noqa: BLE001 - the parent waits for an answer
            answer = {"error": f"{type(error).__name__}: {error}"}
        with os.fdopen(writing, "w", encoding="utf-8") as stream:
            json.dump(answer, stream)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as stream:
        answer = json.loads(stream.read() or '{"error": "it ended without a word"}')
    os.waitpid(child, 0)
    if "error" in answer:
        module.fail_json(msg=answer["error"])
    module.exit_json(changed=bool(answer["said"]), said=answer["said"])


if __name__ == "__main__":
    main()
