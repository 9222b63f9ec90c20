"""The folder `bounced/` of one mailbox: what its agent wrote and was not sent, and how that is sent after all.

    outbox/NAME ─► invalid ─► bounced/NAME, and NAME.reason.json beside it
                                 ├──────► mended in place, or asked for ─► outbox/NAME again, the reason goes
                                 └──────► changed and still invalid: another reason

A file with a reason beside it was dropped by the agent. The node's own notices of messages that did not arrive lie
there too, without one: they look like messages and must never be sent.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from trishula.node import drops
from trishula.node.drops import REASON, Bad, Mark, Ready, Unfinished
from trishula.node.files import content, move
from trishula.protocol.errors import TrishulaError

_MAX_NOTICE_BYTES = 2 * 1024 * 1024
"""A notice has the subject of its message."""
_ORPHANED_S = 60.0
"""A reason without its file is kept so long: an editor takes a file away before it puts the next one there."""
_UNREADABLE = "unreadable"
_NOT_ARRIVED = ("refused", "unconfirmed")

log = logging.getLogger(__name__)


class Bounced:
    """All methods are called in threads; none raises `OSError` but `retry`."""

    def __init__(self, mailbox: Path, agent: str, max_bytes: int) -> None:
        self.path = mailbox / "bounced"
        self.agent = agent
        self.max_bytes = max_bytes
        self._folder = str(self.path)
        self._outbox = str(mailbox / "outbox")
        self._looked = 0
        """When the folder had changed last as all was looked at; 0: it may have changed since."""
        self._seen: dict[str, tuple[int, int]] = {}
        """Inode and ctime of the files that their reasons describe as they are now."""
        self._orphans: dict[str, float] = {}
        """Reasons whose file has gone, and since when."""
        self._summary: tuple[int, dict[str, Any]] = (-1, {})
        """The last one, and when the folder had changed last."""

    # ------------------------------------------------------------ what is sent after all

    def touched(self) -> None:
        """A file here may have changed, which the folder itself does not show."""
        self._looked = 0

    def send_mended(self, *, at: int, thorough: bool) -> None:
        """Put what is valid now back into the outbox; give what is still invalid its new reason. `at` is in ms.

        A file that is as it was when it bounced is not read, and where nothing was touched only the folder is looked
        at, unless `thorough`: watchers miss events.
        """
        changed = self._changed()
        if changed == self._looked and not thorough:
            return
        self._looked = changed
        names = self._names()
        self._remove_orphans(names)
        dropped = sorted(name for name in names if name + REASON in names)
        self._seen = {name: self._seen[name] for name in dropped if name in self._seen}
        for name in dropped:
            with contextlib.suppress(OSError):
                self._send_if_mended(name, at)

    def _changed(self) -> int:
        """When the folder changed last; -1 while it may change again under the same time stamp."""
        with contextlib.suppress(OSError):
            changed = self.path.stat().st_mtime_ns
            return changed if time.time_ns() - changed > drops.SETTLED_NS else -1
        return 0

    def _send_if_mended(self, name: str, at: int) -> None:
        status = os.lstat(f"{self._folder}/{name}")
        seen = (status.st_ino, status.st_ctime_ns)
        if self._seen.get(name) == seen:
            return
        if self._is_as_it_was(name, drops.mark_of(status)):
            self._seen[name] = seen
            return
        match drops.look(self._folder, self.agent, name, None, most=self.max_bytes):
            case Ready():
                self._give_back(name)
                log.info("%s, which was not sent for %s, is valid now and goes out", name, self.agent)
            case Unfinished(mark=mark, error=error) | Bad(mark=mark, error=error):
                drops.explain(self._folder, self.agent, name, mark, error, at=at)
                self._seen[name] = seen

    def _is_as_it_was(self, name: str, mark: Mark) -> bool:
        """Whether it has not changed since its reason was written."""
        reason = self._reason(name)
        if reason.get("code") == _UNREADABLE:
            return not os.access(f"{self._folder}/{name}", os.R_OK)
        if "mtime_ns" not in reason:  # written by an earlier version
            return mark.mtime_ns <= os.lstat(f"{self._folder}/{name}{REASON}").st_mtime_ns
        return (reason["mtime_ns"], reason.get("size")) == (mark.mtime_ns, mark.size)

    def retry(self, name: str) -> str:
        """Put a file back into the outbox, whether or not it has changed. Returns its name there.

        Raises `TrishulaError` where there is no such file, or it is still no message.
        """
        names = self._names()
        if name not in names or name + REASON not in names:
            fix = "`trishula bounced` lists what was not sent; a notice that a message did not arrive can't be sent"
            text = f"{self.agent} has no such bounced file: {name}"
            raise TrishulaError(text, code="not_found", key="file", value=name, fix=fix)
        seen = drops.look(self._folder, self.agent, name, None, most=self.max_bytes)
        if isinstance(seen, Unfinished | Bad):
            raise seen.error
        return self._give_back(name)

    def _give_back(self, name: str) -> str:
        """The file first: after a crash in between, the reason is an orphan."""
        target = name
        try:
            move(f"{self._folder}/{name}", f"{self._outbox}/{target}")
        except FileExistsError:
            target = f"{name.removesuffix('.json')}~{os.lstat(f'{self._folder}/{name}').st_ino}.json"
            move(f"{self._folder}/{name}", f"{self._outbox}/{target}")
        self.left(name)
        return target

    # ------------------------------------------------------------ reasons

    def left(self, name: str) -> None:
        """A file of this name was sent: the reason why it was not goes, unless it is that of another file here."""
        path = f"{self._folder}/{name}"
        if os.path.lexists(path + REASON) and not any(os.path.lexists(path + end) for end in ("", REASON + REASON)):
            with contextlib.suppress(OSError):
                os.unlink(path + REASON)  # noqa: PTH108 - a string

    def _remove_orphans(self, names: set[str]) -> None:
        now = time.monotonic()
        orphans = [
            name
            for name in names
            if name.endswith(f".json{REASON}") and name + REASON not in names and name.removesuffix(REASON) not in names
        ]
        self._orphans = {name: self._orphans.get(name, now) for name in orphans}
        for name, since in self._orphans.items():
            if now - since > _ORPHANED_S:
                self.left(name.removesuffix(REASON))

    def _reason(self, name: str) -> dict[str, Any]:
        return _json_in(f"{self._folder}/{name}{REASON}")

    # ------------------------------------------------------------ for people

    def items(self) -> list[dict[str, Any]]:
        """All that was not sent or did not arrive, oldest first: `file, state, reason, fix, at` (ms since 1970)."""
        names = self._names()
        items = []
        for name in names:
            reason = name + REASON
            told = _json_in(f"{self._folder}/{reason if reason in names else name}")
            is_notice = name == f"{told.get('id')}~{told.get('to')}.json" and told.get("state") in _NOT_ARRIVED
            if reason in names or is_notice:
                with contextlib.suppress(OSError):
                    at = os.lstat(f"{self._folder}/{reason if reason in names else name}").st_mtime_ns // 1_000_000
                    state = told["state"] if is_notice else "not sent"
                    text = {key: str(told.get(key) or "") for key in ("reason", "fix")}
                    items.append({"file": drops.text_of(name), "state": state, **text, "at": at})
        return sorted(items, key=lambda item: (item["at"], item["file"]))

    def summary(self) -> dict[str, Any]:
        """How many there are, since when, and the reason of the oldest."""
        changed = self._changed()
        at, summary = self._summary
        if changed != at or changed < 0:
            items = self.items()
            first = items[0] if items else {"at": None, "reason": ""}
            summary = {"count": len(items), "oldest": first["at"], "reason": first["reason"]}
            self._summary = (changed, summary)
        return summary

    def _names(self) -> set[str]:
        """Nothing where the folder is a link: that of another agent is not ours to send from."""
        with contextlib.suppress(OSError):
            if not self.path.is_symlink():
                return {*filter(drops.is_drop, os.listdir(self._folder))}  # noqa: PTH208 - names
        return set()


def _json_in(path: str) -> dict[str, Any]:
    """The object in a file, or an empty one."""
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(content(path, _MAX_NOTICE_BYTES) or b"")
        if isinstance(value, dict):
            return value
    return {}
