"""Messages: from what an agent wrote to the payload that travels.

The values of an agent's JSON object are kept **verbatim**: `1.10` stays `1.10`, whatever a JSON library would make of
it, because the bytes are what is signed and what every recipient finds in its inbox. So a message is decoded twice:
once in full, to know that every reader will be able to, and once into raw slices, to lay it out again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec

from trishula.protocol.errors import MessageError
from trishula.protocol.json_faults import explain
from trishula.protocol.names import PROBE, is_agent, is_message_id

_FILES = bytes.fromhex("7d5c1d0a5a435c1f9f0e6f1f2b8a9c10")
"""The namespace of ids that are made of files."""

MAX_DEPTH = 64
"""Nesting that every JSON reader in use survives; deeper is refused."""

MAX_RECIPIENTS = 256

URGENT = "urgent"

_full = msgspec.json.Decoder()
_raw = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TIMESTAMP = re.compile(rb',\n  "timestamp": "[^"\\]*"\n}\n')
"""The end of a payload to which a node added the timestamp."""
_TTL = re.compile(r"ttl(_\w+)?", re.IGNORECASE)
_SHOWN = 80
_TEXT_KEYS = ("type", "priority", "subject", "timestamp")


@dataclass(frozen=True, slots=True)
class Message:
    """A message as its origin fixed it.

    `payload` is the mailbox file, byte for byte; `digest` its SHA-256 in hex. `to` is as written: not yet expanded.
    `written` is the length of what its agent wrote of the payload: all of it, or all but the timestamp at its end.
    """

    id: str
    sender: str
    to: tuple[str, ...]
    urgent: bool
    payload: bytes
    digest: str
    written: int = field(compare=False)

    def is_again(self, stored: bytes) -> bool:
        """Whether the payload `stored` under this id is this message but for the timestamp, which a node added here."""
        same = self.written < len(self.payload) and stored.startswith(self.payload[: self.written])
        return same and _TIMESTAMP.fullmatch(stored, self.written) is not None


def complete(raw: bytes, *, sender: str, new_id: str, timestamp: str | None, max_bytes: int) -> Message:
    """The message that agent `sender` wrote, with a missing `id`, `from` or `timestamp` filled in at the end.

    `new_id` and `timestamp` are used only where the agent left them out; None leaves the timestamp to the node.
    Raises `MessageError`, naming the key.
    """
    value = _decode(raw, max_bytes)
    given = {"id": new_id, "from": sender} | ({} if timestamp is None else {"timestamp": timestamp})
    missing = [(key, text) for key, text in given.items() if key not in value]
    value.update(missing)
    _check(value)
    if value["from"] != sender:
        raise MessageError(
            f"the message says it is from {value['from']!r}, but you are {sender!r}",
            code="wrong_sender",
            key="from",
            value=value["from"],
            fix=f'leave out "from" or set it to "{sender}"',
        )
    _check_unread(value)
    payload = _lay_out(raw, missing)
    if len(payload) > max_bytes:
        raise _too_large(len(payload), max_bytes)
    dated = bool(missing) and missing[-1][0] == "timestamp"
    return _message(value, payload, payload.rindex(b",\n") if dated else len(payload))


def inspect(payload: bytes, *, max_bytes: int) -> Message:
    """The message in a payload that another node fixed. Raises `MessageError` for what no honest node sends."""
    value = _decode(payload, max_bytes)
    for key in ("id", "from"):
        if key not in value:
            raise MessageError(f'the payload has no "{key}"', key=key)
    _check(value)
    return _message(value, payload, len(payload))


def digest_of(payload: bytes) -> str:
    """SHA-256 of a payload, in hex: what `sha256sum` says of its mailbox file."""
    return hashlib.sha256(payload).hexdigest()


def id_of_file(agent: str, name: str, mtime_ns: int, raw: bytes) -> str:
    """The id of a message that came as a file without one (UUIDv5): who finds the file again finds the same."""
    what = f"{agent}\n{name}\n{mtime_ns}\n{digest_of(raw)}"
    digits = hashlib.sha1(_FILES + what.encode(), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"


def _message(value: dict[str, Any], payload: bytes, written: int) -> Message:
    to = value["to"]
    return Message(
        id=value["id"],
        sender=value["from"],
        to=(to,) if isinstance(to, str) else tuple(to),
        urgent=value.get("priority") == URGENT,
        payload=payload,
        digest=digest_of(payload),
        written=written,
    )


def _decode(raw: bytes, max_bytes: int) -> dict[str, Any]:
    """The whole value, decoded as strictly as any reader would. Refuses what two readers could take differently."""
    if len(raw) > max_bytes:
        raise _too_large(len(raw), max_bytes)
    try:
        value = _full.decode(raw)  # UTF-8, numbers in range, no NaN, no lone surrogates
        json.loads(raw, object_pairs_hook=_no_duplicates)
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, MessageError):
            raise
        raise explain(raw, error) from None
    if not isinstance(value, dict):
        raise MessageError(f"a message is a JSON object, not {_kind(value)}")
    # The brackets are counted first because nearly every message passes that way without the walk.
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise _too_deep()
    return value


class _DuplicateKeyError(MessageError, ValueError):
    """A `MessageError` that `json.loads` lets pass as one of its own."""


def _no_duplicates(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise _DuplicateKeyError(f"the key {twice!r} is there twice", key=twice, fix="keep one of them")


def _depth(value: object) -> int:
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        if depth > MAX_DEPTH:
            break
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return depth


def _check(value: dict[str, Any]) -> None:
    """Types and names of the fields that the mesh itself reads; everything else is the agents' business."""
    message_id, sender, to = value["id"], value["from"], value.get("to")
    if not isinstance(message_id, str) or not is_message_id(message_id):
        raise MessageError(
            f"the id {_short(message_id)} is not one",
            key="id",
            value=_short(message_id),
            fix="use a UUID or 1 to 128 of A-Z a-z 0-9 . _ - beginning with a letter or digit, or leave it out",
        )
    if not isinstance(sender, str) or not (is_agent(sender) or sender == PROBE):
        raise MessageError(f"{_short(sender)} is no agent's name", key="from", value=_short(sender))
    if to in (None, "", []):
        raise MessageError('the message has no recipient: "to" is missing', key="to", fix='set "to"')
    names = [to] if isinstance(to, str) else to
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MessageError(f'"to" is an agent\'s name or a list of them, not {_short(to)}', key="to", value=_short(to))
    if len(names) > MAX_RECIPIENTS:
        raise MessageError(f'"to" names {len(names)} recipients, the limit is {MAX_RECIPIENTS}', key="to")
    for key in _TEXT_KEYS:
        if not isinstance(value.get(key, ""), str):
            raise MessageError(f'"{key}" is text, not {_kind(value[key])}', key=key, value=_short(value[key]))
    if not isinstance(value.get("reply_to"), str | None):
        raise MessageError(f'"reply_to" is an id or null, not {_kind(value["reply_to"])}', key="reply_to")


def _check_unread(value: dict[str, Any]) -> None:
    """Refuse what reads like an order to the mesh that it would not hear."""
    key = next((key for key in value if _TTL.fullmatch(key)), None)
    if key is not None:
        raise MessageError(
            f'"{key}" in a message changes nothing: how long it is kept is not a part of it',
            key=key,
            value=_short(value[key]),
            fix=f"leave it out and say it beside the message: `trishula send --ttl SECONDS`, ttl_s= in Python; if it is"
            f' for the recipient, call it other than "{key}"',
        )


def _lay_out(raw: bytes, missing: list[tuple[str, str]]) -> bytes:
    """One top-level key a line, values verbatim, the missing fields last, a newline at the end."""
    fields = [(key, bytes(slice_)) for key, slice_ in _raw.decode(raw).items()]
    fields += [(key, msgspec.json.encode(text)) for key, text in missing]
    return b"{\n" + b",\n".join(b"  %b: %b" % (msgspec.json.encode(key), slice_) for key, slice_ in fields) + b"\n}\n"


def _too_large(size: int, limit: int) -> MessageError:
    return MessageError(
        f"the message has {size} bytes, the limit is {limit}",
        code="too_large",
        key="max_message_bytes",
        value=size,
        fix="send a reference to a file instead, or raise limits.max_message_bytes on every node",
    )


def _too_deep() -> MessageError:
    return MessageError(f"the message is nested deeper than {MAX_DEPTH} levels", fix="flatten it")


def _kind(value: object) -> str:
    kinds: dict[type, str] = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
    return kinds.get(type(value), "a number")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
