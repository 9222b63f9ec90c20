"""The names of things. Each becomes a part of a file name somewhere, so nothing that looks otherwise gets through."""

from __future__ import annotations

import re

AGENT_PATTERN = r"[a-z0-9][a-z0-9-]{0,62}"
ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
KID_PATTERN = r"[A-Za-z0-9._-]{1,32}"

PROBE = ".ping"
"""Lives on every node and reads its mail at once: what `trishula ping` writes to. No agent can have this name."""

EVERYONE = "all"

_agent = re.compile(AGENT_PATTERN)
_id = re.compile(ID_PATTERN)


def is_agent(name: str) -> bool:
    return _agent.fullmatch(name) is not None and name != EVERYONE


def is_message_id(name: str) -> bool:
    return _id.fullmatch(name) is not None
