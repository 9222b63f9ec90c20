"""What can go wrong, in words that a caller can act on.

    TrishulaError
     ├── MessageError     a message that is not one (bad JSON, bad id, too large, …)
     │    └── TruncatedError   good JSON so far, that ends too early: the rest may come
     ├── SendError        a good message that this node can't take (unknown recipient, id reused, store full, …)
     ├── FrameError       a peer or client that breaks the protocol; carries the close code
     └── ConfigError      a wrong key in node.toml or a credential file

Every error has a `code` for programs and a sentence for people; where one key or value is to blame they are named.
"""

from __future__ import annotations


class TrishulaError(Exception):
    """Base of all errors that TRISHULA raises on purpose.

    `code` is a stable word for programs, `key` and `value` name the culprit, `fix` says what to do about it.
    """

    code = "error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        key: str | None = None,
        value: object = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.key = key
        self.value = value
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}: {self.fix}" if self.fix else self.message


class MessageError(TrishulaError):
    """The bytes are not a message that the mesh carries."""

    code = "invalid"


class TruncatedError(MessageError):
    """The bytes are the beginning of a JSON object: with more behind them they may be a message."""


class SendError(TrishulaError):
    """The message is fine, but it can't be stored here and now."""

    code = "unsendable"


class FrameError(TrishulaError):
    """The other side broke the protocol; the connection ends with `close_code` (RFC 6455, section 7.4.1)."""

    code = "protocol"

    def __init__(self, message: str, *, close_code: int = 1008, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.close_code = close_code


class ConfigError(TrishulaError):
    """One mistake in the configuration."""

    code = "config"
