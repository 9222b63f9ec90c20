"""In which generation the secrets of each node are: ``generations.yml``, from step to step.

    [1] ── accept ──► [1, 2] ── send ──► [2, 1] ── retire ──► [2]      a rotation
    [1] ── revoke ──► [2]                                              a stolen node, noted as such until
                                                                       it is taken back: `welcome`
    [1] ── members ─► [2]                                              a node that left

The first of a list is what is shown and signed with, all of it is accepted. So nothing is refused as long as every host
has taken one step before any host takes the next. Each step leaves as it is what has taken it: an interrupted run is
taken up by the next one, with the same words.

A state has ``generations``, by node; ``since``, when a node's last one was made; ``revoked``, whom nobody talks to
though it stands in the inventory; ``gone``, who stands there no more; and ``stolen``, from which generation on what a
node that was revoked holds is its own again, until it was handed that. It holds no secret.
"""

# ruff: noqa: INP001 - Ansible looks into this folder; it is no package
from __future__ import annotations

from datetime import UTC, datetime

_FORM = "%Y-%m-%dT%H:%M:%SZ"
_DAY_S = 24 * 3600


def members(state: dict, nodes: list[str]) -> dict:
    """``nodes`` are all that there are. Who has left gets a new generation, for whoever comes back under its name."""
    new = _read(state)
    for node in sorted(new["generations"].keys() - {*nodes, *new["gone"]}):
        if node not in new["revoked"]:
            _raise(new, node)
        new["gone"].append(node)
    new["gone"] = sorted({*new["gone"]} - {*nodes})
    new["revoked"] = [node for node in new["revoked"] if node in nodes]
    for node in nodes:
        new["generations"].setdefault(node, [1])
    return new


def accept(state: dict, nodes: list[str], now: str, older_than: float) -> dict:
    """Begin a rotation for those of ``nodes`` whose secrets are ``older_than`` days, if none is under way."""
    new = _read(state)
    if any(len(of) > 1 for of in new["generations"].values()):
        return new
    for node in nodes:
        if node not in new["revoked"] and _age(new, node, now) >= older_than * _DAY_S:
            new["generations"][node] = [*_of(new, node), _next(new, node)]
            new["since"][node] = now
    return new


def send(state: dict) -> dict:
    """Show the new ones, and sign with them."""
    new = _read(state)
    new["generations"] = {node: sorted(of, reverse=True) for node, of in new["generations"].items()}
    return new


def retire(state: dict) -> dict:
    """Take the old ones no more, where the new ones are sent."""
    new = _read(state)
    new["generations"] = {node: of[:1] if of[0] == max(of) else of for node, of in new["generations"].items()}
    return new


def revoke(state: dict, nodes: list[str], now: str) -> dict:
    """From now on nothing of what ``nodes`` hold is good anywhere."""
    new = _read(state)
    for node in nodes:
        if node not in new["revoked"]:
            _raise(new, node)
            new["since"][node] = now
            new["revoked"] = sorted([*new["revoked"], node])
            new["stolen"][node] = _of(new, node)[0]
    return new


def welcome(state: dict, nodes: list[str]) -> dict:
    """``nodes`` hold their new secrets, and nothing from before they were revoked."""
    new = _read(state)
    new["stolen"] = {node: since for node, since in new["stolen"].items() if node not in nodes}
    return new


def _raise(state: dict, node: str) -> None:
    state["generations"][node] = [_next(state, node)]


def _next(state: dict, node: str) -> int:
    return max(_of(state, node)) + 1


def _of(state: dict, node: str) -> list[int]:
    return state["generations"].get(node, [1])


def _age(state: dict, node: str, now: str) -> float:
    """In seconds; endless where nobody noted when they were made."""
    since = state["since"].get(node)
    return (_moment(now) - _moment(since)).total_seconds() if since else float("inf")


def _moment(text: str) -> datetime:
    return datetime.strptime(text, _FORM).replace(tzinfo=UTC)


def _read(state: dict) -> dict:
    """A copy with all that belongs to it. Who is revoked was stolen, though an older release did not note it."""
    generations = state.get("generations") or {}
    revoked = {node: max(generations.get(node, [1])) for node in state.get("revoked") or []}
    return {
        "generations": {node: list(of) for node, of in (state.get("generations") or {}).items()},
        "since": dict(state.get("since") or {}),
        "revoked": list(state.get("revoked") or []),
        "gone": list(state.get("gone") or []),
        "stolen": revoked | (state.get("stolen") or {}),
    }


class FilterModule:
    """``state | trishula_send_new`` and its likes."""

    def filters(self) -> dict:
        """As Ansible asks for them."""
        return {
            "trishula_members": members,
            "trishula_accept_new": accept,
            "trishula_send_new": send,
            "trishula_retire_old": retire,
            "trishula_revoke": revoke,
            "trishula_welcome": welcome,
        }
