"""Whose further outcomes a session still tells its agent."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from trishula.protocol.envelope import State
from trishula.protocol.records import Progress

MOST = 100_000
"""Messages of one session that are watched; the oldest make room."""


@dataclass(slots=True)
class _Watched:
    recipients: set[str]
    read: bool


class Watchlist:
    """Messages by id, each with the recipients of whom there is more to be said.

    `unconfirmed` is never the last word, a refusal always is, `delivered` is for who does not wait for `read`.
    """

    def __init__(self) -> None:
        self._messages: OrderedDict[str, _Watched] = OrderedDict()

    def watch(self, message_id: str, progress: Iterable[Progress], *, read: bool = False) -> None:
        """From here on; who once waits for `read` goes on to do so."""
        known = self._messages.get(message_id)
        read = read or (known is not None and known.read)
        recipients = {row.key.to for row in progress if not _is_last(row.state, read=read)}
        if recipients:
            self._messages[message_id] = _Watched(recipients, read)
            if len(self._messages) > MOST:
                self._messages.popitem(last=False)

    def wants(self, progress: Progress) -> bool:
        """Whether this is to be told. What is the last word on a recipient is wanted once."""
        watched = self._messages.get(progress.key.id)
        if watched is None or progress.key.to not in watched.recipients:
            return False
        if _is_last(progress.state, read=watched.read):
            watched.recipients.discard(progress.key.to)
            if not watched.recipients:
                del self._messages[progress.key.id]
        return True


def _is_last(state: State, *, read: bool) -> bool:
    return state in (State.REFUSED, State.READ) or (state is State.DELIVERED and not read)
