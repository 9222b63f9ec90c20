"""Which agent lives where, and who is meant by a name in `to`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from trishula.protocol.errors import SendError
from trishula.protocol.names import EVERYONE, PROBE


class Directory:
    """`homes` gives each agent's node, `groups` the members of each `@group`."""

    def __init__(self, homes: Mapping[str, str], groups: Mapping[str, Iterable[str]]) -> None:
        self._homes = dict(homes)
        self._groups = {name: tuple(members) for name, members in groups.items()}

    def home(self, agent: str) -> str | None:
        return self._homes.get(agent)

    def lives(self, agent: str, node: str) -> bool:
        """Whether mail of `agent` may come from, and go to, `node`."""
        return agent == PROBE or self._homes.get(agent) == node

    def expand(self, to: Iterable[str], *, sender: str) -> tuple[str, ...]:
        """The agents that `to` means, each once, in the order named; without the sender for `all` and groups (rule 10).

        Raises `SendError` for a name that the directory doesn't know, and where nobody is left.
        """
        agents: dict[str, None] = {}
        for name in to:
            if name.lower() == EVERYONE:
                agents.update(dict.fromkeys(agent for agent in self._homes if agent != sender))
            elif name.startswith("@"):
                agents.update(dict.fromkeys(agent for agent in self._members(name) if agent != sender))
            elif name in self._homes:
                agents[name] = None
            else:
                raise SendError(
                    f"there is no agent {name!r}",
                    code="unknown_recipient",
                    key="to",
                    value=name,
                    fix=f"known are {', '.join(sorted(self._homes))}, @group and all",
                )
        if not agents:
            raise SendError("nobody but the sender is meant", code="unknown_recipient", key="to", value=", ".join(to))
        return tuple(agents)

    def _members(self, name: str) -> tuple[str, ...]:
        try:
            return self._groups[name[1:]]
        except KeyError:
            known = ", ".join(f"@{group}" for group in sorted(self._groups))
            fix = f"known are {known}" if known else "this mesh has no groups ([groups] in node.toml)"
            raise SendError(
                f"there is no group {name!r}", code="unknown_recipient", key="to", value=name, fix=fix
            ) from None
