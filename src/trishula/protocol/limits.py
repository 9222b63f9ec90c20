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
    max_open: int = 100_000
    """Envelopes of one agent for one node that have no answer yet; `send` refuses more."""
    max_unread: int = 100_000
    """Unread messages of one agent; more are deferred."""
    max_store_bytes: int = 8 * 1024 * 1024 * 1024
    """The supported size of the store; beyond it, it takes nothing new."""
    max_held_bytes: int = 512 * 1024 * 1024
    """Payloads in custody for one node; more are deferred."""
