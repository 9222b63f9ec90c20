"""The questions of an agent that the store answers."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from trishula.node import queries, replies
from trishula.node.bounced import Bounced
from trishula.node.store import Store
from trishula.protocol import agent_frames
from trishula.protocol.errors import TrishulaError


async def inbox(store: Store, agent: str, request: agent_frames.Inbox, folder: Bounced) -> dict[str, Any]:
    """A page of the unread messages of `agent`, and what it has in `bounced/`."""
    letters, more = await store.read(
        partial(queries.letters, agent=agent, after=request.after, limit=request.limit + 1)
    )
    more = more or len(letters) > request.limit
    messages = [replies.summary(letter) for letter in letters[: request.limit]]
    return {"messages": messages, "more": more, "bounced": await asyncio.to_thread(folder.summary)}


async def bounced(folder: Bounced, request: agent_frames.Bounced) -> dict[str, Any]:
    """What an agent has in `bounced/`."""
    items = await asyncio.to_thread(folder.items)
    return {"files": items[: request.limit], "more": len(items) > request.limit}


async def retry(folder: Bounced, name: str) -> dict[str, Any]:
    """The name in the outbox of a file that was not sent and is to be."""
    try:
        return {"file": await asyncio.to_thread(folder.retry, name)}
    except OSError as error:
        raise TrishulaError(f"{name} can't be moved to the outbox: {error.strerror}", key="file", value=name) from None


async def show(store: Store, agent: str, message_id: str) -> dict[str, Any]:
    """A message that `agent` got or sent, whole."""
    letter = await store.read(lambda db: queries.letter(db, agent, message_id))
    if letter is not None:
        shown: dict[str, Any] = {"box": "inbox", "digest": letter.digest, "payload": letter.payload.decode()}
        return {**shown, "meta": replies.meta(letter)}
    found = await store.read(lambda db: queries.sent(db, agent, message_id))
    if found is None:
        raise not_found(message_id, f"{agent} has neither got nor sent a message {message_id}")
    digest, payload, progress = found
    shown = {"box": "outbox", "digest": digest, "payload": payload.decode()}
    return {**shown, "outcomes": [replies.outcome(row) for row in progress]}


def not_found(message_id: str, message: str) -> TrishulaError:
    return TrishulaError(message, code="not_found", key="id", value=message_id)
