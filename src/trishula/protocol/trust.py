"""What a node signs, and what it believes of what others sent."""

from __future__ import annotations

from collections.abc import Sequence

from trishula.protocol import frames
from trishula.protocol.clock import Instant
from trishula.protocol.directory import Directory
from trishula.protocol.envelope import Envelope, Receipt, State
from trishula.protocol.errors import MessageError
from trishula.protocol.limits import Limits
from trishula.protocol.message import digest_of, inspect
from trishula.protocol.signing import Keyring, envelope_mac, receipt_mac, same_mac

ANSWERS = (State.DELIVERED, State.READ, State.REFUSED)


class DeferError(Exception):
    """This envelope can't be taken now, but perhaps later."""


class Trust:
    """The judgement of `node`, by its keys, its directory and its limits."""

    def __init__(self, node: str, directory: Directory, keyring: Keyring, limits: Limits) -> None:
        self._node = node
        self._directory = directory
        self._keyring = keyring
        self._limits = limits

    def seal(self, dest: str, envelopes: Sequence[Envelope]) -> list[frames.SignedEnvelope]:
        """Our envelopes for `dest`, signed with the key of today: a MAC is made for each transmission."""
        key = self._keyring.signing(dest)
        return [frames.SignedEnvelope.seal(item, key.kid, envelope_mac(key, item)) for item in envelopes]

    def seal_receipts(self, origin: str, receipts: Sequence[Receipt]) -> list[frames.SignedReceipt]:
        """Our word to `origin`, signed."""
        key = self._keyring.signing(origin)
        return [frames.SignedReceipt.seal(item, key.kid, receipt_mac(key, item)) for item in receipts]

    def authentic(self, signed: frames.SignedEnvelope, envelope: Envelope, neighbour: str) -> bool:
        """Whether an envelope from `neighbour` is what its origin sent to us. False for our own, come back.

        Raises `DeferError` for all other doubts, a wrong signature too: a refusal is final, and must not be had by
        tampering.
        """
        if envelope.origin == self._node:
            return False
        if envelope.origin != neighbour:
            raise DeferError(f"its origin is {envelope.origin}, and this node takes mail from its origin only")
        if envelope.dest != self._node:
            raise DeferError(f"it is for the node {envelope.dest}")
        key = self._keyring.find(envelope.origin, signed.kid)
        if key is None:
            raise DeferError(f"signed with the unknown key {signed.kid!r}")
        if not same_mac(envelope_mac(key, envelope), signed.mac):
            raise DeferError("its signature is wrong")
        if not self._directory.lives(envelope.key.sender, envelope.origin):
            raise DeferError(f"{envelope.key.sender} does not live on {envelope.origin}")
        if not self._directory.lives(envelope.key.to, self._node):
            raise DeferError(f"{envelope.key.to} does not live here")
        return True

    def judge(self, now: Instant, envelope: Envelope) -> tuple[str, str]:
        """(digest, refusal) of an authentic envelope: the refusal is empty, or what will never change."""
        try:
            message = inspect(envelope.payload, max_bytes=self._limits.max_message_bytes)
        except MessageError as error:
            return digest_of(envelope.payload), f"{error.code}: {error.message}"[:500]
        if (message.sender, message.id) != (envelope.key.sender, envelope.key.id):
            return message.digest, "invalid: the payload's id or from is not the envelope's"
        if envelope.expires_at > now.wall + self._limits.max_ttl + self._limits.max_skew:
            return message.digest, "bad_ttl: it expires later than this node's limits.max_ttl_s allows"
        return message.digest, ""

    def doubt(self, signed: frames.SignedReceipt, receipt: Receipt, neighbour: str) -> str:
        """What is wrong with a receipt from `neighbour`, or nothing."""
        if receipt.origin != self._node or receipt.dest != neighbour:
            return f"it is {receipt.dest}'s word to {receipt.origin}"
        if receipt.outcome not in ANSWERS:
            return f"{receipt.outcome.value} is no answer"
        key = self._keyring.find(neighbour, signed.kid)
        if key is None:
            return f"signed with the unknown key {signed.kid!r}"
        return "" if same_mac(receipt_mac(key, receipt), signed.mac) else "its signature is wrong"
