"""What an agent wrote is what travels: verbatim, completed, or refused by name."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trishula.protocol.errors import MessageError, TruncatedError
from trishula.protocol.message import MAX_DEPTH, MAX_RECIPIENTS, Message, complete, inspect
from trishula.protocol.names import PROBE

SAMPLES = sorted((Path(__file__).parent.parent / "samples").glob("*.json"))
MAX_BYTES = 1024 * 1024

hypothesis = settings(max_examples=150, deadline=None, derandomize=True)


def write(raw: bytes | str, *, sender: str = "mac", max_bytes: int = MAX_BYTES) -> Message:
    data = raw.encode() if isinstance(raw, str) else raw
    return complete(data, sender=sender, new_id="new-id", timestamp="2026-02-10T00:00:00Z", max_bytes=max_bytes)


def with_field(key: str, value: str) -> str:
    """A good message but for one field, given as JSON text."""
    fields = {"id": '"m1"', "from": '"mac"', "to": '"agni"', "timestamp": '"t"'} | {key: value}
    return "{" + ", ".join(f'"{name}": {text}' for name, text in fields.items()) + "}"


def nested(depth: int, opening: str, closing: str) -> str:
    """A message that is `depth` levels deep, itself the first."""
    return with_field("body", opening * (depth - 1) + "1" + closing * (depth - 1))


# ---------------------------------------------------------------- verbatim


def test_the_samples_are_there() -> None:
    assert len(SAMPLES) == 11


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_every_sample_keeps_each_value_as_it_was_written_and_in_order(sample: Path) -> None:
    raw = sample.read_bytes()
    written = json.loads(raw, parse_float=str, parse_int=str)
    message = write(raw, sender=written["from"])

    arrived = json.loads(message.payload, parse_float=str, parse_int=str)
    assert list(arrived.items())[: len(written)] == list(written.items())
    filled_in = [key for key in ("id", "from", "timestamp") if key not in written]
    assert list(arrived)[len(written) :] == filled_in


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_the_digest_of_a_sample_is_what_sha256sum_says_of_its_file(sample: Path) -> None:
    message = write(sample.read_bytes(), sender=json.loads(sample.read_bytes())["from"])
    assert message.digest == hashlib.sha256(message.payload).hexdigest()


@pytest.mark.parametrize(
    "text", ["1.10", "1e-09", "-0.0", "12345678901234567890", "0.30000000000000004", "1E+2", '"\\u00e9\\/"', "[ 1 ,2]"]
)
def test_a_value_is_not_rewritten(text: str) -> None:
    assert f'\n  "body": {text}\n'.encode() in write(with_field("body", text)).payload


def test_what_is_missing_is_filled_in_at_the_end_one_key_a_line() -> None:
    message = write('{"to":"agni","body":{"a": 1}}')
    assert message.payload == (
        b"{\n"
        b'  "to": "agni",\n'
        b'  "body": {"a": 1},\n'
        b'  "id": "new-id",\n'
        b'  "from": "mac",\n'
        b'  "timestamp": "2026-02-10T00:00:00Z"\n'
        b"}\n"
    )


def test_what_the_agent_gave_is_never_replaced() -> None:
    message = write(with_field("id", '"20260210T033201Z_mac_rushabdev_tui_access"'))
    assert message.id == "20260210T033201Z_mac_rushabdev_tui_access"
    assert b"new-id" not in message.payload
    assert b"2026-02-10T00" not in message.payload


@pytest.mark.parametrize(
    ("to", "expected"), [('"agni"', ("agni",)), ('["agni", "@all-hands", "ALL"]', ("agni", "@all-hands", "ALL"))]
)
def test_recipients_are_read_as_written(to: str, expected: tuple[str, ...]) -> None:
    assert write(with_field("to", to)).to == expected


@pytest.mark.parametrize(("priority", "urgent"), [('"urgent"', True), ('"high"', False), ('"URGENT"', False)])
def test_only_the_priority_urgent_is_urgent(priority: str, urgent: bool) -> None:  # noqa: FBT001  (a table's column)
    assert write(with_field("priority", priority)).urgent is urgent


def test_the_probe_may_write_and_no_agent_can_have_its_name() -> None:
    assert write('{"to": ".ping"}', sender=PROBE).sender == PROBE
    with pytest.raises(MessageError, match="but you are 'mac'"):
        write(with_field("from", f'"{PROBE}"'))


# ---------------------------------------------------------------- refused

NAMED = [
    pytest.param("id", '"../../etc/passwd"', id="an id that climbs"),
    pytest.param("id", '".hidden"', id="an id that hides"),
    pytest.param("id", '"a/b"', id="an id with a slash"),
    pytest.param("id", '"a\\\\b"', id="an id with a backslash"),
    pytest.param("id", '"a\\u0000b"', id="an id with a nul"),
    pytest.param("id", '"a\\n"', id="an id that ends with a newline"),
    pytest.param("id", f'"{"x" * 129}"', id="an id of 129 characters"),
    pytest.param("id", f'"{"x" * 300}"', id="an id of 300 characters"),
    pytest.param("id", '"-rf"', id="an id that reads as an option"),
    pytest.param("id", '"~root"', id="an id that a shell would expand"),
    pytest.param("id", '"naïve"', id="an id beyond ASCII"),
    pytest.param("id", '"\\u0661"', id="an id of digits beyond ASCII"),
    pytest.param("id", '""', id="an empty id"),
    pytest.param("id", "7", id="a number as id"),
    pytest.param("id", "null", id="null as id"),
    pytest.param("id", '["m1"]', id="a list as id"),
    pytest.param("from", '"MAC"', id="a from in capitals"),
    pytest.param("from", '"all"', id="from everyone"),
    pytest.param("from", '"mac\\n"', id="a from that ends with a newline"),
    pytest.param("from", f'"{"m" * 64}"', id="a from of 64 characters"),
    pytest.param("from", "null", id="from null"),
    pytest.param("from", "1", id="a number as from"),
    pytest.param("to", "null", id="to null"),
    pytest.param("to", '""', id="to nobody, as text"),
    pytest.param("to", "[]", id="to nobody, as a list"),
    pytest.param("to", "5", id="a number as to"),
    pytest.param("to", '{"agni": 1}', id="an object as to"),
    pytest.param("to", '["agni", 5]', id="a number among the recipients"),
    pytest.param("to", json.dumps(["agni"] * (MAX_RECIPIENTS + 1)), id="too many recipients"),
    pytest.param("type", "1", id="a number as type"),
    pytest.param("priority", "1", id="a number as priority"),
    pytest.param("subject", '{"a": 1}', id="an object as subject"),
    pytest.param("timestamp", "1760000000", id="a number as timestamp"),
    pytest.param("reply_to", "1", id="a number as reply_to"),
]


@pytest.mark.parametrize(("key", "value"), NAMED)
def test_a_wrong_field_is_refused_by_its_name(key: str, value: str) -> None:
    with pytest.raises(MessageError) as refused:
        write(with_field(key, value))
    assert refused.value.key == key
    assert f'"{key}"' in str(refused.value) or key in ("id", "from")


def test_a_message_to_nobody_is_refused_by_the_name_of_the_key() -> None:
    with pytest.raises(MessageError, match='"to" is missing') as refused:
        write('{"body": 1}')
    assert refused.value.key == "to"


def test_a_message_from_somebody_else_is_refused_naming_both() -> None:
    with pytest.raises(MessageError, match=r"'agni'.*'mac'") as refused:
        write(with_field("from", '"agni"'))
    assert (refused.value.key, refused.value.code) == ("from", "wrong_sender")


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        ('{"to": "agni", "to": "rushabdev"}', "to"),
        ('{"to": "agni", "body": [{"a": {"b": 1, "b": 2}}]}', "b"),
        ('{"to": "agni", "x": 1, "\\u0078": 2}', "x"),
    ],
    ids=["at the top", "deep inside", "in two spellings"],
)
def test_a_key_that_is_there_twice_is_refused_by_its_name(raw: str, key: str) -> None:
    with pytest.raises(MessageError, match="is there twice") as refused:
        write(raw)
    assert refused.value.key == key


def test_the_one_key_that_is_there_twice_is_found_among_very_many_without_holding_up_the_node() -> None:
    keys = [f"k{number:05}" for number in range(80_000)]
    begun = time.process_time()
    with pytest.raises(MessageError, match="k79999"):
        write(with_field("body", "{" + ",".join(f'"{key}":1' for key in [*keys, keys[-1]]) + "}"))
    assert time.process_time() - begun < 5  # comparing each with each takes a minute


GOOD = b'{"to": "agni", "x": 1}'
BROKEN = {
    "nothing": b"",
    "a word": b"hello",
    "text": b'"to"',
    "a list": b'[{"to": "agni"}]',
    "a number": b"1",
    "cut short": GOOD[:-1],
    "more behind it": GOOD + b" {}",
    "a comma too many": b'{"to": "agni",}',
    "a comment": b'{"to": "agni"} // hi',
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16-le"),
    "Latin-1": b'{"to": "agni", "x": "caf\xe9"}',
    "a key in Latin-1": b'{"to": "agni", "caf\xe9": 1}',
    "overlong UTF-8": b'{"to": "agni", "x": "\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"to": "agni", "x": "\xed\xa0\x80"}',
    "a lone high surrogate": b'{"to": "agni", "x": "\\ud800"}',
    "a lone high surrogate before text": b'{"to": "agni", "x": "\\ud800 and more text"}',
    "a lone low surrogate": b'{"to": "agni", "x": "\\udc00 and more text"}',
    "a lone surrogate in a key": b'{"to": "agni", "\\ud800 is a key": 1}',
    "NaN": b'{"to": "agni", "x": NaN}',
    "Infinity": b'{"to": "agni", "x": -Infinity}',
    "1e400": b'{"to": "agni", "x": 1e400}',
    "-1e400": b'{"to": "agni", "x": [-1e400]}',
    "an integer that no reader takes": b'{"to": "agni", "x": ' + b"9" * 5000 + b"}",
    "a raw newline in text": b'{"to": "agni", "x": "a\nb"}',
    "binary rubbish": bytes(range(256)),
}


@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_not_one_json_object_for_every_reader_is_refused(raw: bytes) -> None:
    with pytest.raises(MessageError) as refused:
        write(raw)
    assert refused.value.code == "invalid"


@pytest.mark.parametrize(("opening", "closing"), ["[]", ('{"a":', "}")], ids=["lists", "objects"])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 1000, 200_000])
def test_deep_nesting_is_refused_however_deep(depth: int, opening: str, closing: str) -> None:
    with pytest.raises(MessageError, match="deeper than 64 levels"):
        write(nested(depth, opening, closing), max_bytes=10 * MAX_BYTES)


@pytest.mark.parametrize(("opening", "closing"), ["[]", ('{"a":', "}")], ids=["lists", "objects"])
def test_nesting_up_to_the_limit_is_carried(opening: str, closing: str) -> None:
    raw = nested(MAX_DEPTH, opening, closing)
    assert json.loads(write(raw).payload) == json.loads(raw)


def test_many_brackets_side_by_side_are_not_deep() -> None:
    write(with_field("body", json.dumps([[]] * 1000 + [{}] * 1000)))


def test_a_message_over_the_limit_is_refused_with_size_and_limit() -> None:
    with pytest.raises(MessageError, match=r"has 22 bytes, the limit is 21") as refused:
        write(GOOD, max_bytes=len(GOOD) - 1)
    assert refused.value.code == "too_large"


def test_the_limit_is_on_the_payload_as_it_is_stored() -> None:
    payload = write(GOOD).payload
    assert write(GOOD, max_bytes=len(payload)).payload == payload
    with pytest.raises(MessageError) as refused:
        write(GOOD, max_bytes=len(payload) - 1)
    assert refused.value.code == "too_large"


# ---------------------------------------------------------------- at the other end


def test_a_payload_reads_at_the_recipient_as_it_was_fixed_at_the_origin() -> None:
    message = write(with_field("priority", '"urgent"'))
    assert inspect(message.payload, max_bytes=MAX_BYTES) == message


@pytest.mark.parametrize("key", ["id", "from"])
def test_a_payload_without_id_or_from_is_refused_by_name(key: str) -> None:
    fields = {"id": "m1", "from": "mac", "to": "agni"}
    del fields[key]
    with pytest.raises(MessageError) as refused:
        inspect(json.dumps(fields).encode(), max_bytes=MAX_BYTES)
    assert refused.value.key == key


# ---------------------------------------------------------------- for all messages

numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)
heads = st.fixed_dictionaries(
    {"to": st.sampled_from(["agni", "ALL", ["agni", "rushabdev"], "@builders"])},
    optional={
        "id": st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z"),
        "from": st.just("mac"),
        "subject": st.text(),
        "timestamp": st.text(),
        "reply_to": st.none() | st.text(),
    },
)
_RESERVED = {"id", "from", "to", "type", "priority", "subject", "timestamp", "reply_to"}
extras = st.dictionaries(st.text().filter(lambda key: key not in _RESERVED), values, max_size=5)


@given(head=heads, extra=extras, indent=st.sampled_from([None, 2]), ascii_only=st.booleans())
@hypothesis
def test_any_object_with_a_valid_head_keeps_its_values_and_is_complete_at_once(
    head: dict[str, Any],
    extra: dict[str, Any],
    indent: int | None,
    ascii_only: bool,  # noqa: FBT001  (Hypothesis passes keywords)
) -> None:
    written = head | extra
    message = write(json.dumps(written, indent=indent, ensure_ascii=ascii_only))

    arrived = json.loads(message.payload)
    assert [(key, arrived[key]) for key in written] == list(written.items())
    assert list(arrived)[: len(written)] == list(written)
    assert write(message.payload).payload == message.payload
    assert inspect(message.payload, max_bytes=MAX_BYTES) == message


@given(st.binary(max_size=200))
@hypothesis
def test_any_bytes_are_a_message_or_a_message_error(raw: bytes) -> None:
    only_message_errors(raw)


@given(st.data())
@hypothesis
def test_any_damage_to_a_message_is_a_message_or_a_message_error(data: st.DataObject) -> None:
    good = bytearray(write(with_field("body", '{"a": [1.5, "caf\\u00e9 \\ud83e\\udeb7", null]}')).payload)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(good) - 1))
        good[place] = data.draw(st.integers(0, 255))
    only_message_errors(bytes(good))


def only_message_errors(raw: bytes) -> None:
    try:
        message = write(raw)
    except MessageError:
        return
    readable = json.loads(message.payload)
    json.dumps(readable, ensure_ascii=False).encode()  # raises on a lone surrogate
    assert not any(isinstance(value, float) and not math.isfinite(value) for value in readable.values())


# ---------------------------------------------------------------- what is no JSON is named, with its place

BROKEN = [
    (
        b"\xef\xbb\xbf" + b'{"to": "agni"}',
        "a byte order mark",
        "line 1, column 1 (byte 0)",
        "without a byte order mark",
    ),
    ('{"to": "agni"}'.encode("utf-16"), "it is UTF-16", "(byte 0)", "iconv -f UTF-16 -t UTF-8"),
    ('{"to": "agni"}'.encode("utf-16-le"), "it is UTF-16", "(byte 0)", "iconv"),
    ('{"to": "agni"}'.encode("utf-16-be"), "it is UTF-16", "(byte 0)", "iconv"),
    ('{"to": "agni"}'.encode("utf-32"), "it is UTF-32", "(byte 0)", "iconv -f UTF-32"),
    ('{\n"to": "André"}'.encode("latin-1"), "the byte 0xE9", "line 2, column 12 (byte 13)", "iconv -f LATIN1"),
    (b'{"to": "\xc3\xa9\xc3("}', "the byte 0xC3", "line 1, column 10 (byte 10)", "save it as UTF-8"),
    (b'{"to": "\xed\xa0\xbd"}', "half of a surrogate pair", "column 9 (byte 8)", "whole character"),
    (rb'{"to": "\ud83d"}', r"\ud83d is half of a surrogate pair", "column 9 (byte 8)", "both halves"),
    (rb'{"to": "\ud83d and more than six"}', r"\ud83d is half of", "column 9 (byte 8)", "both halves"),
    (rb'{"to": "\ud83d\ude00", "body": "\udE00"}', r"\udE00 is half of", "column 33 (byte 32)", "both halves"),
    (b'{"to": "agni"}\0\0\0', "a NUL byte", "column 15 (byte 14)", "write it anew"),
    (b'{"to": "a\0gni"}', "a NUL byte", "column 10 (byte 9)", "write it anew"),
    (b"\0" * 8, "a NUL byte", "column 1 (byte 0)", "write it anew"),
    (b'{"to": "two\nlines"}', r"a bare control character '\n'", "column 12 (byte 11)", r"\u000a"),
    (b'{\n "to": "agni",\n "n": NaN}', "NaN is no JSON value", "line 3, column 7 (byte 23)", "null"),
    (b'{"NaN": 1, "to": [1, -Infinity]}', "-Infinity is no JSON value", "column 22 (byte 21)", "null"),
    (b'{"to": None}', "None is no JSON value", "column 8 (byte 7)", "null"),
    (b'{"n": "1e400", "m": 1e400}', "a number that is out of range", "column 21 (byte 20)", "a string"),
    (b"{'to': 'agni'}", "double quotes", "column 2 (byte 1)", "one JSON object"),
    (b'{"to": "agni"} {"to": "mac"}', "extra data", "column 16 (byte 15)", "one JSON object"),
    (b"to: agni", "expecting value", "column 1 (byte 0)", "one JSON object"),
    (b"n", "does not begin with {", "column 1 (byte 0)", "one JSON object"),
    (b'{"n": ' + b"9" * 5000 + b"}", "a number that is out of range", "column 7 (byte 6)", "a string"),
]


@pytest.mark.parametrize(("raw", "name", "place", "fix"), BROKEN, ids=range(len(BROKEN)))
def test_what_is_no_json_is_named_as_what_it_is_with_its_place_and_fix(
    raw: bytes, name: str, place: str, fix: str
) -> None:
    with pytest.raises(MessageError) as caught:
        write(raw)
    assert name in caught.value.message
    assert caught.value.message.endswith(place)
    assert fix in (caught.value.fix or "")
    assert not isinstance(caught.value, TruncatedError)


WHOLE = r"""
{"to": ["agni", "all"], "body": "Grüße \" \\ \ud83d\ude00 \u00e9 🔱", "n": [-1.5e-10, 0, true, false, null], "o": {}}
""".encode()


def test_every_beginning_of_an_object_is_truncated_and_says_where_it_ends() -> None:
    end = WHOLE.rstrip()
    for length in range(len(end)):
        with pytest.raises(TruncatedError) as caught:
            write(end[:length])
        assert "it is empty" in caught.value.message or caught.value.message.endswith(f"(byte {length})")
    write(WHOLE)


def test_what_more_bytes_could_not_mend_is_not_truncated() -> None:
    for wrong in (b'{"to": "agni",,', b'{"to" "agni', b"[", b'"a', b'{"to": "\xff', b"{\0", rb'{"to": "\ud83dx'):
        with pytest.raises(MessageError) as caught:
            write(wrong)
        assert not isinstance(caught.value, TruncatedError), wrong


@hypothesis
@given(st.binary(max_size=60) | st.binary(max_size=30).map(lambda more: b'{"to": "agni", "x": "' + more))
def test_whatever_bytes_there_are_the_error_is_one_of_ours(raw: bytes) -> None:
    with contextlib.suppress(MessageError):
        write(raw)


@pytest.mark.parametrize("key", ["ttl", "ttl_s", "TTL", "ttl_seconds"])
def test_a_time_to_live_in_a_message_is_refused_because_nobody_would_keep_to_it(key: str) -> None:
    with pytest.raises(MessageError) as caught:
        write(with_field(key, "60"))
    assert (caught.value.key, caught.value.value) == (key, "60")
    assert "--ttl" in str(caught.value)
    write(with_field("body", '{"ttl": 60}'))
    write(with_field("throttle", "60"))
    inspect(write(with_field("x", "60")).payload.replace(b'"x"', b'"ttl"'), max_bytes=MAX_BYTES)  # it came from a peer
