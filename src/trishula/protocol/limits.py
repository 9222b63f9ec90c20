"""The sizes and times that a node keeps to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in ms."""

    max_message_bytes: int = 1024 * 1024
    default_ttl: int = 7 * 24 * 3600 * 1000
    max_ttl: int = 30 * 24 * 3600 * 1000
    max_skew: int = 30 * 1000
    window_bytes: int = 4 * 1024 * 1024
