"""All that nodes and agents show each other, derived from one mesh secret.

    mesh.yml: mesh_secret ────────┐             ┌─► pair keys, one a pair of nodes   keys.json on both
                                  ├─HMAC-SHA256─┼─► tokens of nodes, one a dialler   dial.json → accept.json
    generations.yml: generations ─┘             └─► tokens of agents, one an agent   <agent>.token → accept.json

What is derived is named by a label: a purpose, the names, and the generation of every node concerned. Each part is
framed by its length, so no two labels are the same bytes. To raise a node's generation gives it other keys and tokens,
and leaves those of all other pairs as they are.

While its secrets are rotated, a node is in two generations (``trishula_rotation``): the first is what is shown and
signed with, and both are good.

A node is handed its own values only. None of them leads back to the mesh secret or to another's.
"""

# ruff: noqa: INP001 - Ansible looks into this folder; it is no package
from __future__ import annotations

import base64
import hashlib
import hmac
from itertools import product

PAIR_KEY = "trishula/1 pair key"
NODE_TOKEN = "trishula/1 node token"  # noqa: S105 - a label
AGENT_TOKEN = "trishula/1 agent token"  # noqa: S105 - a label
SECRET_BYTES = 32


class MeshSecretError(ValueError):
    """The mesh file can't be used. Says why, never what it holds."""


def keys(mesh: dict, node: str, peers: list[dict]) -> dict:
    """``keys.json`` of ``node``: the keys of its own pairs, the one to sign with first."""
    return {peer["name"]: _pair_keys(mesh, node, peer["name"]) for peer in peers}


def dial(mesh: dict, node: str, peers: list[dict]) -> dict:
    """``dial.json`` of ``node``: the token that it shows to each peer that it dials."""
    return {peer["name"]: _node_tokens(mesh, node, peer["name"])[0] for peer in peers if peer["dial"]}


def accept(mesh: dict, node: str, peers: list[dict], agents: list[dict]) -> list[dict]:
    """``accept.json`` of ``node``: whom it lets in, by the digests of the tokens that each of them may show."""
    nodes = [
        {"node": peer["name"], "sha256": _sha256(token)}
        for peer in peers
        if not peer["dial"]
        for token in _node_tokens(mesh, peer["name"], node)
    ]
    tokens = [
        {"agent": agent["name"], "sha256": _sha256(token)}
        for agent in agents
        for token in _agent_tokens(mesh, node, agent["name"])
    ]
    return nodes + tokens


def agent_token(mesh: dict, node: str, agent: str) -> str:
    """The token that ``agent`` shows to its own node."""
    return _agent_tokens(mesh, node, agent)[0]


def conflicts(ours: dict, theirs: dict) -> list[str]:
    """The peers for which two ``keys.json`` give one key id to different keys: they come of different mesh secrets."""
    return sorted(
        peer
        for peer, held in theirs.items()
        for mine in ours.get(peer, [])
        if any(key["kid"] == mine["kid"] and key["key"] != mine["key"] for key in held)
    )


def ahead(ours: dict, theirs: dict) -> list[str]:
    """The peers whose keys are of a later generation in ``theirs``: what counts the generations was lost since."""
    return sorted(
        peer
        for peer, held in theirs.items()
        if peer in ours and any(there > here for there, here in zip(_latest(held), _latest(ours[peer]), strict=True))
    )


def before(theirs: dict, node: str, generation: int) -> bool:
    """Whether ``theirs``, the ``keys.json`` of ``node``, is from before this generation of it. No keys are, too."""
    held = (
        int(key["kid"].split(".")[0 if node < peer else 1]) for peer, keys_held in theirs.items() for key in keys_held
    )
    return max(held, default=0) < generation


def _latest(pair: list[dict]) -> tuple[int, int]:
    """Of both nodes of a pair, the lower-named first."""
    low, high = zip(*((int(part) for part in key["kid"].split(".")) for key in pair), strict=True)
    return max(low), max(high)


def drawn(mesh: dict) -> bool:
    """Whether the mesh secret was drawn: 32 random bytes are never all ASCII, and never few different ones."""
    secret = _secret(mesh)
    return len(set(secret)) > SECRET_BYTES // 2 and not secret.isascii()


def _pair_keys(mesh: dict, one: str, other: str) -> list[dict]:
    low, high = sorted((one, other))
    return [
        {
            "kid": ".".join(generations),
            "key": base64.b64encode(_derive(mesh, PAIR_KEY, low, high, *generations)).decode(),
        }
        for generations in product(_generations(mesh, low), _generations(mesh, high))
    ]


def _node_tokens(mesh: dict, dialler: str, acceptor: str) -> list[str]:
    """Good in one direction and at one node."""
    return [
        _token(_derive(mesh, NODE_TOKEN, dialler, acceptor, *generations))
        for generations in product(_generations(mesh, dialler), _generations(mesh, acceptor))
    ]


def _agent_tokens(mesh: dict, node: str, agent: str) -> list[str]:
    return [_token(_derive(mesh, AGENT_TOKEN, node, agent, generation)) for generation in _generations(mesh, node)]


def _derive(mesh: dict, *label: str) -> bytes:
    framed = b"".join(len(part).to_bytes(4, "big") + part for part in (text.encode() for text in label))
    return hmac.digest(_secret(mesh), framed, hashlib.sha256)


def _secret(mesh: dict) -> bytes:
    try:
        secret = base64.b64decode(mesh["mesh_secret"], validate=True)
    except (KeyError, TypeError, ValueError):
        raise MeshSecretError("mesh_secret is missing, or is not base64: restore the file from a backup") from None
    if len(secret) != SECRET_BYTES:
        raise MeshSecretError(
            f"mesh_secret has {len(secret)} bytes instead of {SECRET_BYTES}: restore the file from a backup"
        )
    return secret


def _generations(mesh: dict, node: str) -> list[str]:
    """Of a node that the file does not name: it is in its first."""
    generations = (mesh.get("generations") or {}).get(node, [1])
    if (
        not isinstance(generations, list)
        or not generations
        or any(not isinstance(it, int) or it < 1 for it in generations)
    ):
        raise MeshSecretError(f"the generations of {node} are not a list of whole numbers from 1 on")
    return [str(generation) for generation in generations]


def _token(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).rstrip(b"=").decode()


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def differing(paths: list[dict], owner: str, said: list[str]) -> list[dict]:
    """Those of ``paths`` that a host doesn't have as they shall be.

    ``paths`` are ``{path, mode, group}`` with ``content`` for a file; ``said`` is what stat (``%a %U %G %n``) and
    sha256sum print there.
    """
    lines = set(said)

    def as_it_shall_be(path: dict) -> bool:
        rights = f"{path['mode']} {owner} {path['group']} {path['path']}"
        if "content" not in path:
            return rights in lines
        digest = hashlib.sha256(path["content"].encode()).hexdigest()
        return {rights, f"{digest}  {path['path']}"} <= lines

    return [path for path in paths if not as_it_shall_be(path)]


class FilterModule:
    """``mesh | trishula_keys(node, peers)`` and its likes."""

    def filters(self) -> dict:
        """As Ansible asks for them."""
        return {
            "trishula_keys": keys,
            "trishula_dial": dial,
            "trishula_accept": accept,
            "trishula_agent_token": agent_token,
            "trishula_key_conflicts": conflicts,
            "trishula_keys_ahead": ahead,
            "trishula_keys_before": before,
            "trishula_drawn": drawn,
            "trishula_differing": differing,
        }
