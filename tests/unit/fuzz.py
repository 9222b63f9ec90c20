"""Input for parsers: whatever a type allows, and what becomes of it when somebody changes a few places.

The strategies are derived from the types that the decoders are made of, so a new frame is covered when it is written.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from msgspec import inspect

json_values: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)

ODD_JSON = [
    *(b"NaN", b"-Infinity", b"1e400", b"-0", b"01", b"9" * 5000, b"1." + b"0" * 5000, b"18446744073709551616"),
    *(b'"\\ud800"', b'"\\u0000"', b'"\xff"', b'"\xed\xa0\x80"', b'"\n"', b'"', b"", b"nul", b"\xef\xbb\xbf{}"),
    *(
        b"[" * 50_000,
        b'{"a":' * 50_000,
        b"[" * 900 + b"]" * 900,
        b'{"a":1,"a":2}',
        b"{} {}",
        b'"' + b"x" * 70_000 + b'"',
    ),
]
"""In the place of a value: what no JSON value is, or not for every reader."""

MARK = "\ue000odd\ue000"
"""Stands where something odd will."""


def leaves(value: Any) -> Iterator[tuple[Any, ...]]:
    """The way to each place of a tree that holds no others."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    empty = True
    for key, item in inner:
        empty = False
        yield from ((key, *way) for way in leaves(item))
    if empty:
        yield ()


def put(value: Any, way: tuple[Any, ...], new: Any) -> Any:
    """The tree with something else in this place."""
    if not way:
        return new
    key, *rest = way
    inner = put(value[key], tuple(rest), new)
    if isinstance(value, dict):
        return value | {key: inner}
    return [*value[:key], inner, *value[key + 1 :]]


@cache
def valid(kind: Any) -> SearchStrategy[Any]:
    """Values, as JSON has them, that a decoder of this type accepts."""
    return _of(inspect.type_info(kind))


def _of(kind: inspect.Type) -> SearchStrategy[Any]:  # noqa: C901, PLR0911, PLR0912 - an arm for each type
    match kind:
        case inspect.UnionType(types):
            return st.one_of([_of(each) for each in types])
        case inspect.StructType(fields=fields, tag_field=tag_field, tag=tag):
            required = {field.encode_name: _of(field.type) for field in fields if field.required}
            optional = {field.encode_name: _of(field.type) for field in fields if not field.required}
            if tag_field is not None:
                required[tag_field] = st.just(tag)
            return st.fixed_dictionaries(required, optional=optional)
        case inspect.IntType(ge=low, le=high):
            return st.integers(-(2**63) if low is None else int(low), 2**63 - 1 if high is None else int(high))
        case inspect.StrType(pattern=str(pattern)):
            return st.from_regex(pattern, fullmatch=True)
        case inspect.StrType(min_length=least, max_length=most):
            return st.text(min_size=least or 0, max_size=min(50 if most is None else most, 50))
        case inspect.BytesType():
            return st.binary(max_size=40).map(lambda data: base64.b64encode(data).decode())
        case (
            inspect.ListType(item_type=item, min_length=least) | inspect.VarTupleType(item_type=item, min_length=least)
        ):
            return st.lists(_of(item), min_size=least or 0, max_size=(least or 0) + 2)
        case inspect.TupleType(item_types):
            return st.tuples(*map(_of, item_types)).map(list)
        case inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(_of(key), _of(value), max_size=3)
        case inspect.EnumType(cls):
            return st.sampled_from([member.value for member in cls])
        case inspect.LiteralType(values):
            return st.sampled_from(values)
        case inspect.FloatType():
            return st.floats(allow_nan=False, allow_infinity=False)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.RawType() | inspect.AnyType():
            return json_values
    raise NotImplementedError(f"say here what {kind} looks like in JSON")


@st.composite
def damaged(draw: DrawFn, values: SearchStrategy[Any]) -> bytes:
    """The JSON of such a value after a few changes: of values, of keys, or of bytes."""
    value = draw(values)
    for _ in range(draw(st.integers(1, 3))):
        value = changed(draw, value)
    return mangled(draw, json.dumps(value, ensure_ascii=False).encode())


def mangled(draw: DrawFn, said: bytes) -> bytes:
    if draw(st.booleans()):
        return said
    place = draw(st.integers(0, len(said)))
    return said[:place] + draw(st.binary(max_size=3)) + said[place + draw(st.integers(0, 3)) :]


def changed(draw: DrawFn, value: Any) -> Any:
    """`value`, a tree, with one place in it replaced, removed, renamed, doubled or added."""
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 5)) == 0:
        return draw(json_values)
    if isinstance(value, list):
        place = draw(st.integers(0, len(value) - 1))
        inner = [changed(draw, value[place])]
        return value[:place] + draw(st.sampled_from([inner, [], [*inner, value[place]]])) + value[place + 1 :]
    key = draw(st.sampled_from(list(value)))
    rest = {name: item for name, item in value.items() if name != key}
    match draw(st.integers(0, 5)):
        case 0:
            return rest
        case 1:
            return {**rest, draw(st.text(max_size=8)): value[key]}
        case _:
            return {**rest, key: changed(draw, value[key])}


def odd_json(value: Any) -> Iterator[bytes]:
    """The JSON of `value` with something odd in the place of each of its leaves in turn."""
    for way in leaves(value):
        said = json.dumps(put(value, way, MARK), ensure_ascii=False).encode()
        for odd in ODD_JSON:
            yield said.replace(f'"{MARK}"'.encode(), odd)
