"""What the interface before this one calls a route."""

from __future__ import annotations

from trishula.protocol.records import UNSIGNED

WEBSOCKET = "websocket"
FILE_FALLBACK = "file_fallback"

_METHODS = {"": "", "rsync": FILE_FALLBACK, UNSIGNED: FILE_FALLBACK}


def method_of(route: str) -> str:
    """Of a route that was taken; nothing, where none was."""
    return _METHODS.get(route, WEBSOCKET)


def method_now(route: str) -> str:
    """Of the route that is in use: where there is none, what is sent waits as a file."""
    return method_of(route) or FILE_FALLBACK
