"""Says which files in some folders were touched, a few milliseconds later, where the system can watch folders.

Where it can't (no inotify, none left, a folder that is not there) whoever relies on it has to look more often.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import watchfiles

_STEP_MS = 5
"""Of quiet after a change, and between two looks whether there was any: 6 ms to notice a file, 0.2 % of a core idle."""
_MOST_MS = 50
_AGAIN_S = 30.0

log = logging.getLogger(__name__)


class Watcher:
    """Watches `folders` from a thread of its own. `touched` is called there, with the paths of files."""

    def __init__(self, folders: Iterable[Path], touched: Callable[[list[str]], None]) -> None:
        self._all = [*folders]
        self._touched = touched
        self._stop = threading.Event()
        self.problem = "not yet begun"
        """Why nothing is said of changes; empty while all is well."""
        # It says how many changes there were, each time.
        logging.getLogger("watchfiles").setLevel(logging.WARNING)

    async def run(self) -> None:
        """For ever, whatever happens to the folders."""
        loop = asyncio.get_running_loop()
        said = ""
        while True:
            ended = loop.create_future()
            thread = threading.Thread(target=self._watch, args=(loop, ended, stop := threading.Event()), daemon=True)
            self._stop = stop
            thread.start()
            try:
                self.problem = await ended
            finally:
                stop.set()
            if self.problem and self.problem != said:
                said = self.problem
                log.warning("the outboxes can't be watched, so they are looked at more often: %s", self.problem)
            await asyncio.sleep(_AGAIN_S if self.problem else 0)

    def anew(self) -> None:
        """A folder is another one than it was."""
        self._stop.set()

    def _watch(self, loop: asyncio.AbstractEventLoop, ended: asyncio.Future[str], stop: threading.Event) -> None:
        problem = ""
        try:
            changes = watchfiles.watch(
                *[folder for folder in self._all if folder.is_dir()],
                watch_filter=None,
                debounce=_MOST_MS,
                step=_STEP_MS,
                stop_event=stop,
                rust_timeout=1000,
                yield_on_timeout=True,
                raise_interrupt=False,
                force_polling=False,
                recursive=False,
            )
            for batch in changes:
                self.problem = ""
                if batch:
                    self._touched([path for change, path in batch if change is not watchfiles.Change.deleted])
        except Exception as error:  # noqa: BLE001 - whatever it is, there are the looks
            problem = str(error) or type(error).__name__
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(_end, ended, problem)


def _end(ended: asyncio.Future[str], problem: str) -> None:
    if not ended.done():
        ended.set_result(problem)
