"""Ids as people type them: whole, or as much of the beginning as is in one id only, as with git."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trishula
from trishula.protocol.names import is_message_id

SHORTEST = 4
"""Characters of an id that stand for all of it."""

_T = TypeVar("_T")


async def with_whole_id(
    mesh: trishula.Client,
    given: str,
    ask: Callable[[str], Awaitable[_T]],
    *,
    boxes: tuple[str, ...] = ("inbox", "outbox"),
    sender: str | None = None,
    everywhere: bool = False,
) -> _T:
    """The answer to `ask(given)`, or, where there is no such message, of the only one whose id begins so.

    Only messages in `boxes`, and from `sender`, come into question. Raises `RequestError` for none, and for several.
    """
    try:
        return await ask(given)
    except trishula.RequestError as error:
        if error.code != "not_found":
            raise
        found = await _beginning(mesh, given, everywhere=everywhere)
        ids = {item["id"] for item in found if item["box"] in boxes and (sender is None or item["from"] == sender)}
        if not ids and len(given) < SHORTEST:
            error.fix = f"the beginning of an id has at least {SHORTEST} characters"
        if not ids:
            raise
    return await ask(_the_only(given, ids, found))


async def whole_id(mesh: trishula.Client, given: str) -> str:
    """The id that is meant; `given` itself where no message is known whose id begins so. Raises `RequestError`."""
    found = await _beginning(mesh, given)
    ids = {item["id"] for item in found}
    return given if given in ids or not ids else _the_only(given, ids, found)


async def _beginning(mesh: trishula.Client, given: str, *, everywhere: bool = False) -> list[dict[str, Any]]:
    if len(given) < SHORTEST or not is_message_id(given):
        return []
    messages: list[dict[str, Any]] = (await mesh.find(given, everywhere=everywhere))["messages"]
    return messages


def _the_only(given: str, ids: set[str], found: list[dict[str, Any]]) -> str:
    if len(ids) == 1:
        return ids.pop()
    listed = {f"  {item['id']}  {item['box']}, from {item['from']}" for item in found if item["id"] in ids}
    raise trishula.RequestError(
        "\n".join([f"{given} is the beginning of several ids; give more of the one that you mean", *sorted(listed)]),
        code="ambiguous",
        key="id",
        value=given,
    )
