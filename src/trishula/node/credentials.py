"""Tokens and pair keys: read once, from a folder that only root and this process can read. None is ever logged."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from trishula.protocol.errors import ConfigError
from trishula.protocol.frames import KeyId
from trishula.protocol.signing import Keyring, PairKey

FILES = ("accept.json", "dial.json", "keys.json")
_KEY_BYTES = 32
_T = TypeVar("_T")


class _Accepted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    node: str | None = None
    agent: str | None = None


class _PairKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kid: KeyId
    key: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a token or a socket belongs to: a node or an agent, never both.

    `operator`: an agent who may ask about the mail of the others, too.
    """

    node: str | None = None
    agent: str | None = None
    operator: bool = False

    def __str__(self) -> str:
        return f"node {self.node}" if self.node else f"agent {self.agent}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a node may know: hashes of the tokens it accepts, the tokens it shows, the keys of its own pairs."""

    accepted: tuple[tuple[bytes, Identity], ...] = field(repr=False)
    dial: Mapping[str, str] = field(repr=False)
    keyring: Keyring = field(repr=False)
    directory: Path | None = None
    """Where they were read."""

    @classmethod
    def none(cls) -> Credentials:
        return cls((), {}, Keyring({}))

    def identify(self, token: str) -> Identity | None:
        """Whose token this is. Takes the same time for every token: all hashes are compared, none leaves early."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found = None
        for known, identity in self.accepted:
            if hmac.compare_digest(digest, known):
                found = identity
        return found


def load_credentials(
    directory: Path,
    errors: list[ConfigError],
    *,
    agents: Collection[str],
    peers: Collection[str],
    dialled: Collection[str],
) -> Credentials:
    """The three files of `directory`. Mistakes are added to `errors`, without the secrets themselves."""
    accepted = _read(directory / "accept.json", list[_Accepted], errors) or []
    dial = _read(directory / "dial.json", dict[str, str], errors) or {}
    pairs = _read(directory / "keys.json", dict[str, list[_PairKey]], errors)
    for number, entry in enumerate(accepted):
        name, known, kind = (entry.node, peers, "node") if entry.agent is None else (entry.agent, agents, "agent")
        if (entry.node is None) == (entry.agent is None):
            _wrong(errors, "accept.json", f"[{number}]", "names not exactly one of node and agent", "name one")
        elif name not in known:
            _wrong(errors, "accept.json", f"[{number}]", f"admits the unknown {kind} {name!r}", "remove the entry")
    expected = {entry.node for entry in accepted}
    for peer in peers:
        if peer not in dialled and peer not in expected:
            _wrong(errors, "accept.json", peer, "has no token, but is to dial this node", "run site.yml to make one")
    for peer in dialled:
        if not dial.get(peer):
            _wrong(errors, "dial.json", peer, "is missing, but this node dials it", "run site.yml to make the token")
    for peer in peers:
        if pairs is not None and not pairs.get(peer):
            _wrong(errors, "keys.json", peer, "has no key", "run site.yml to derive the pair's key")
    keys = {
        peer: [_pair_key(peer, pair, errors) for pair in of_peer]
        for peer, of_peer in (pairs or {}).items()
        if peer in peers
    }
    return Credentials(
        accepted=tuple((bytes.fromhex(entry.sha256), Identity(entry.node, entry.agent)) for entry in accepted),
        dial=dial,
        keyring=Keyring(keys),
        directory=directory,
    )


def _pair_key(peer: str, pair: _PairKey, errors: list[ConfigError]) -> PairKey:
    try:
        secret = base64.b64decode(pair.key, validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if len(secret) != _KEY_BYTES:
        _wrong(errors, "keys.json", f"{peer}, kid {pair.kid}", f"is not {_KEY_BYTES} bytes in base64", "run site.yml")
    return PairKey(pair.kid, secret)


def _read(path: Path, kind: type[_T], errors: list[ConfigError]) -> _T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        fix = "run site.yml, or point node.credentials_dir at the folder"
        errors.append(ConfigError(f"can't read {path} ({error.strerror})", key=str(path), fix=fix))
    except (ValueError, RecursionError) as error:  # also of a path with a NUL in it
        errors.append(ConfigError(f"{path}: {error}", key=str(path), fix="see docs/configuration.md for its form"))
    return None


def _wrong(errors: list[ConfigError], file: str, key: str, what: str, fix: str) -> None:
    errors.append(ConfigError(f"{file}: {key} {what}", key=f"{file}: {key}", fix=fix))
