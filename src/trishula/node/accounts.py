"""Groups of the system by name."""

from __future__ import annotations

import grp

from trishula.protocol.errors import ConfigError


def group_id(name: str) -> int:
    """The number of a group. Raises `ConfigError`."""
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):  # a NUL in the name
        raise ConfigError(
            f"there is no group {name!r}", key="agents.*.socket_group", value=name, fix="create it, or name another"
        ) from None
