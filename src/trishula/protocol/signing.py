"""MACs: one key per pair of nodes, every field framed by its length, one label per purpose.

HMAC-SHA256 (RFC 2104). A relay holds neither key of a pair that it isn't part of: it can read what it carries, but not
forge, alter or redirect it.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trishula.protocol.envelope import Envelope, Receipt

_ENVELOPE = b"trishula/1 envelope"
_RECEIPT = b"trishula/1 receipt"


@dataclass(frozen=True, slots=True)
class PairKey:
    """A key that two nodes share, and the id by which they call it."""

    kid: str
    secret: bytes

    def __repr__(self) -> str:
        return f"PairKey(kid={self.kid!r})"


class Keyring:
    """The keys of a node's own pairs, by peer: the first of each signs, all of them verify (rotation)."""

    def __init__(self, keys: Mapping[str, Sequence[PairKey]]) -> None:
        self._signing = {peer: pair[0] for peer, pair in keys.items() if pair}
        self._all = {(peer, key.kid): key for peer, pair in keys.items() for key in pair}

    def signing(self, peer: str) -> PairKey:
        """The key to sign with for `peer`. Raises `KeyError` where there is none."""
        return self._signing[peer]

    def find(self, peer: str, kid: str) -> PairKey | None:
        return self._all.get((peer, kid))


def envelope_mac(key: PairKey, envelope: Envelope) -> bytes:
    """32 bytes over everything that the recipient acts on."""
    return _mac(key, _ENVELOPE, *_address(envelope), envelope.payload)


def receipt_mac(key: PairKey, receipt: Receipt) -> bytes:
    """32 bytes over everything that the origin acts on."""
    return _mac(
        key,
        _RECEIPT,
        *_address(receipt),
        receipt.digest.encode(),
        receipt.outcome.encode(),
        receipt.reason.encode(),
        b"%d" % receipt.at,
    )


def same_mac(one: bytes, other: bytes) -> bool:
    """Whether two MACs are equal, in a time that doesn't tell where they differ."""
    return hmac.compare_digest(one, other)


def _address(item: Envelope | Receipt) -> tuple[bytes, ...]:
    sender, message_id, to = item.key
    return (
        item.origin.encode(),
        item.dest.encode(),
        sender.encode(),
        message_id.encode(),
        to.encode(),
        b"%d" % item.expires_at,
    )


def _mac(key: PairKey, label: bytes, *fields: bytes) -> bytes:
    framed = b"".join(b"%d:%b" % (len(field), field) for field in (label, key.kid.encode(), *fields))
    return hmac.digest(key.secret, framed, "sha256")
