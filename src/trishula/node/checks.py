"""What must hold for a node to start, beyond a configuration that can be read."""

from __future__ import annotations

import grp
from collections.abc import Callable
from functools import partial

from trishula.node.config import Config
from trishula.node.tls import client_context, server_context
from trishula.protocol.errors import ConfigError


def obstacles(config: Config) -> list[ConfigError]:
    """Why a node with this configuration could not start: certificates that don't fit, groups that aren't there."""
    groups = [agent.socket_group for agent in config.agents.values() if agent.socket_group is not None]
    checks: list[Callable[[], object]] = [partial(server_context, config), partial(client_context, config)]
    checks += [partial(group_id, group) for group in groups]
    found = []
    for check in checks:
        try:
            check()
        except ConfigError as error:
            found.append(error)
    return found


def group_id(name: str) -> int:
    """The number of a group. Raises `ConfigError`."""
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):  # a NUL in the name
        raise ConfigError(
            f"there is no group {name!r}", key="agents.*.socket_group", value=name, fix="create it, or name another"
        ) from None
