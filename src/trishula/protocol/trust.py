"""What a node signs, and what it believes of what others sent."""

from __future__ import annotations

from trishula.protocol import frames
from trishula.protocol.clock import Instant
from trishula.protocol.directory import Directory
from trishula.protocol.envelope import Envelope, Receipt, State
from trishula.protocol.errors import MessageError
from trishula.protocol.limits import Limits
from trishula.protocol.message import digest_of, inspect
from trishula.protocol.records import Seal
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

    def seal(self, envelope: Envelope) -> Seal:
        """The MAC of one of our envelopes, with the key of today: it is made for each transmission."""
        key = self._keyring.signing(envelope.dest)
        return Seal(key.kid, envelope_mac(key, envelope))

    def sign(self, receipt: Receipt) -> frames.SignedReceipt:
        """Our word, signed for its origin."""
        key = self._keyring.signing(receipt.origin)
        return frames.SignedReceipt.seal(receipt, key.kid, receipt_mac(key, receipt))

    def verify(self, signed: frames.SignedEnvelope, envelope: Envelope) -> None:
        """Raises `DeferError` where an envelope to us is not what its origin sent.

        Not a refusal, for a wrong signature either: a refusal is final, and must not be had by tampering.
        """
        key = self._keyring.find(envelope.origin, signed.kid)
        if key is None:
            raise DeferError(f"signed with the unknown key {signed.kid!r}")
        if not same_mac(envelope_mac(key, envelope), signed.mac):
            raise DeferError("its signature is wrong")
        if not self._directory.lives(envelope.key.sender, envelope.origin):
            raise DeferError(f"{envelope.key.sender} does not live on {envelope.origin}")

    def judge(self, envelope: Envelope) -> tuple[str, str]:
        """(digest, refusal) of an authentic envelope: the refusal is empty, or what will never change."""
        if not self._directory.lives(envelope.key.to, self._node):
            return digest_of(envelope.payload), f"unknown_recipient: {envelope.key.to} does not live on {self._node}"
        try:
            message = inspect(envelope.payload, max_bytes=self._limits.max_message_bytes)
        except MessageError as error:
            code = "too_large" if error.code == "too_large" else "rejected"
            return digest_of(envelope.payload), f"{code}: {error.message}"[:500]
        if (message.sender, message.id) != (envelope.key.sender, envelope.key.id):
            return message.digest, "rejected: the payload's id or from is not the envelope's"
        return message.digest, ""

    def lives_too_long(self, now: Instant, envelope: Envelope) -> bool:
        """Whether it expires later than any message that is sent today may."""
        return envelope.expires_at > now.wall + self._limits.max_ttl + self._limits.max_skew

    def carries(self, envelope: Envelope, neighbour: str) -> None:
        """Raises `DeferError` where a relay has no business with an envelope from `neighbour` (rule 4)."""
        if envelope.origin != neighbour:
            raise DeferError(f"its origin is {envelope.origin}, and a relay takes mail from its origin only")
        key = envelope.key
        if not self._directory.lives(key.sender, envelope.origin):
            raise DeferError(f"{key.sender} does not live on {envelope.origin}")
        if not self._directory.lives(key.to, envelope.dest):
            raise DeferError(f"{key.to} does not live on {envelope.dest}")

    def doubt(self, signed: frames.SignedReceipt, receipt: Receipt) -> str:
        """What is wrong with a receipt for our mail, whoever carried it; or nothing."""
        if receipt.outcome not in ANSWERS:
            return f"{receipt.outcome.value} is no answer"
        key = self._keyring.find(receipt.dest, signed.kid)
        if key is None:
            return f"signed with the unknown key {signed.kid!r}"
        return "" if same_mac(receipt_mac(key, receipt), signed.mac) else "its signature is wrong"
