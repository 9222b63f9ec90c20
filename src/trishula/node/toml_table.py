"""Reading a TOML table so that every mistake in it is found at once, each with its key, its value and a fix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

from trishula.protocol.errors import ConfigError

_T = TypeVar("_T")


class Table:
    """One table of the file. `read…` returns the value or a stand-in; mistakes pile up in `errors`."""

    def __init__(self, name: str, values: Mapping[str, Any], errors: list[ConfigError]) -> None:
        self.name = name
        self.errors = errors
        self._values = values
        self._seen: set[str] = set()

    def table(self, key: str) -> Self:
        """A table within this one; empty where it is missing."""
        return type(self)(self._path(key), self._typed(key, dict, "a table", {}), self.errors)

    def has(self, key: str) -> bool:
        return key in self._values

    def names(self) -> tuple[str, ...]:
        """All keys, for tables whose keys are names."""
        self._seen.update(self._values)
        return tuple(self._values)

    def text(self, key: str, default: str | None = None, *, fix: str = "set it") -> str:
        if key not in self._values and default is None:
            self.wrong(key, None, f"{self._path(key)} is missing", fix)
        return self._typed(key, str, "text in quotes", default or "")

    def flag(self, key: str, *, default: bool) -> bool:
        return self._typed(key, bool, "true or false", default)

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        value = self._typed(key, int, "a whole number", default)
        if low <= value <= high:
            return value
        self.wrong(key, value, f"{self._path(key)} is {_shown(value)}", f"use {low} to {high}")
        return default

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._typed(key, list, "a list of names in quotes", [])
        if all(isinstance(item, str) for item in value):
            return tuple(value)
        self.wrong(key, value, f"{self._path(key)} is {_shown(value)}", "use a list of names in quotes")
        return ()

    def checked(self, key: str, value: str, check: Callable[[str], bool], expected: str) -> str:
        """`value`, which was read under `key`; a mistake where `check` says so."""
        if value and not check(value):
            self.wrong(key, value, f"{self._path(key)} is {_shown(value)}", f"use {expected}")
        return value

    def wrong(self, key: str, value: object, message: str, fix: str) -> None:
        self.errors.append(ConfigError(message, key=self._path(key), value=value, fix=fix))

    def done(self) -> None:
        """Whatever was not asked for is a mistake: a misspelt limit is worse than a missing one."""
        for key in self._values:
            if key not in self._seen:
                known = ", ".join(sorted(self._seen))
                self.wrong(key, self._values[key], f"{self._path(key)} is no known key", f"known here: {known}")

    def _path(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key

    def _typed(self, key: str, kind: type[_T], expected: str, default: _T) -> _T:
        self._seen.add(key)
        value = self._values.get(key, default)
        # bool is an int to Python, but `port = true` is a mistake
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
        self.wrong(key, value, f"{self._path(key)} is {_shown(value)}", f"use {expected}")
        return default


def _shown(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # int prints no more than 4300 digits, but tomllib reads 0xfff… of any length
        return "a number beyond all bounds"
