"""Why some bytes are not a JSON object, for whoever wrote them: named as what they are, with the position in the file.

Asked only where decoding has failed, so it costs a good message nothing.
"""

from __future__ import annotations

import json
import re

from trishula.protocol.errors import MessageError, TruncatedError

_SAVE_AS = "save it as UTF-8"
_MARKS = (  # the longer ones first: UTF-32 begins like UTF-16
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
    (b"{\x00\x00\x00", "UTF-32"),
    (b"\x00\x00\x00{", "UTF-32"),
    (b"{\x00", "UTF-16"),
    (b"\x00{", "UTF-16"),
)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|(?P<half>u[dD][89a-fA-F][\da-fA-F]{2})|.)", re.DOTALL
)
_HALF_OF_AN_ESCAPE = re.compile(rb"(?:\\(?:u(?:[dD](?:[c-fC-F][\da-fA-F]?)?)?)?)?")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|(?P<word>-?[\w.+-]++)', re.DOTALL)
_NO_VALUE = re.compile(r"-?(?:NaN|Infinity|undefined|None|True|False)\b")
_OBJECT = "write one JSON object in UTF-8"


def explain(raw: bytes, error: Exception) -> MessageError:
    """The error for bytes that are no JSON. `error` is what the decoder said.

    It is a `TruncatedError` where the bytes are good so far and only end too early.
    """
    return _encoding(raw) or _surrogate(raw) or _syntax(raw, str(error))


def _encoding(raw: bytes) -> MessageError | None:
    """What is wrong with the bytes as text."""
    if raw.startswith(_BYTE_ORDER_MARK):
        return _fault("it begins with a byte order mark (EF BB BF) at", raw, 0, f"{_SAVE_AS} without a byte order mark")
    for mark, name in _MARKS:
        if raw.startswith(mark):
            return _fault(f"it is {name}, not UTF-8, from", raw, 0, f"{_SAVE_AS}: iconv -f {name} -t UTF-8")
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        # The rest of the last character may come.
        may_come = error.end == len(raw) and error.reason == "unexpected end of data"
        return None if may_come else _not_utf8(raw, error.start)
    return None


def _not_utf8(raw: bytes, at: int) -> MessageError:
    if raw[at] == 0xED:  # noqa: PLR2004 - how the encoding of a surrogate begins
        return _fault("half of a surrogate pair, encoded by itself, at", raw, at, "write the whole character")
    fix = f"{_SAVE_AS}; if it is Latin-1: iconv -f LATIN1 -t UTF-8"
    return _fault(f"not UTF-8: the byte 0x{raw[at]:02X} at", raw, at, fix)


def _surrogate(raw: bytes) -> MessageError | None:
    for escape in _ESCAPE.finditer(raw):
        if escape["half"] is not None and not _HALF_OF_AN_ESCAPE.fullmatch(raw, escape.end()):
            text = f"\\{escape['half'].decode()} is half of a surrogate pair at"
            return _fault(text, raw, escape.start(), "write both halves, or the character itself")
    return None


def _syntax(raw: bytes, said: str) -> MessageError:
    if "truncated" in said or said.endswith(f"invalid number (byte {len(raw)})"):
        begin = raw.lstrip()
        if begin and not begin.startswith(b"{"):
            return _fault("it does not begin with { at", raw, len(raw) - len(begin), _OBJECT)
        text = f"it ends too early, at {_place(raw, len(raw))}" if begin else "it is empty"
        fix = "write all of it; in an outbox under a name that begins with a dot, and rename it then"
        return TruncatedError(f"not valid JSON: {text}", fix=fix)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        return _not_utf8(raw, error.start)
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return _at_fault(raw, text, error.pos, error.msg.removesuffix(" at"))
    except (ValueError, RecursionError):
        pass  # integers of thousands of digits
    return _unreadable(raw, text) or MessageError(f"not valid JSON: {said}", fix=_OBJECT)


def _at_fault(raw: bytes, text: str, pos: int, said: str) -> MessageError:
    at, char = len(text[:pos].encode()), text[pos : pos + 1]
    if char == "\0":
        return _fault("a NUL byte at", raw, at, "write it anew: its writer left a gap in it, or did not finish")
    if char and char < " ":
        return _fault(f"a bare control character {char!r} at", raw, at, f"write \\u{ord(char):04x} in its place")
    if found := _NO_VALUE.match(text, pos):
        return _fault(f"{found[0]} is no JSON value, at", raw, at, "write null, true, false, a number or a string")
    return _fault(f"{said[:1].lower()}{said[1:]} at", raw, at, _OBJECT)


def _unreadable(raw: bytes, text: str) -> MessageError | None:
    """What some readers take and others don't: NaN, and numbers that are out of range."""
    for token in _TOKEN.finditer(text):
        if token["word"] is None:
            continue
        at, word = len(text[: token.start()].encode()), token["word"]
        if _NO_VALUE.match(word):
            return _at_fault(raw, text, token.start(), "")
        if word[-1].isdigit() and abs(float(word)) == float("inf"):
            return _fault("a number that is out of range, at", raw, at, "write it as a string")
    return None


def _fault(text: str, raw: bytes, at: int, fix: str) -> MessageError:
    return MessageError(f"not valid JSON: {text} {_place(raw, at)}", fix=fix)


def _place(raw: bytes, at: int) -> str:
    """Lines and columns count from 1, in characters; bytes from 0."""
    begin = raw.rfind(b"\n", 0, at) + 1
    line, column = raw.count(b"\n", 0, at) + 1, len(raw[begin:at].decode(errors="replace")) + 1
    return f"line {line}, column {column} (byte {at})"
