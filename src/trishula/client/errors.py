"""What can go wrong between an agent and its node, beside a message that is not one (`MessageError`).

TrishulaError
 ├── MessageError     the message is not one; found here, before the node sees it
 ├── SendError        the node can't take the message: unknown recipient, id reused, store full, …
 ├── RequestError     the node can't answer a question: no such message, …
 ├── NodeUnreachable  no node at that socket or URL, or it doesn't let us in
 ├── NotOpen          a client outside of its `async with` block; also a `RuntimeError`
 ├── Refused          a recipient's node refused the message, for good
 ├── Unconfirmed      it expired without a word from a recipient's node; it may have arrived
 └── TimedOut         no answer in time; also a `TimeoutError`
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trishula.protocol.agent_frames import Outcome
from trishula.protocol.errors import TrishulaError


class RequestError(TrishulaError):
    """The node understood the question and can't answer it."""

    code = "request"


class NodeUnreachable(TrishulaError):  # noqa: N818 - reads as the fact that it is
    """There is no node to talk to. `value` is the socket or URL that was tried.

    `lasting`: waiting does not help, as somebody has to change something first.
    """

    code = "unreachable"

    def __init__(self, message: str, *, lasting: bool = False, **details: Any) -> None:
        super().__init__(message, **details)
        self.lasting = lasting


class NotOpen(TrishulaError, RuntimeError):  # noqa: N818 - a state, as above
    """The client is used outside of its `async with` block: before it is entered, or after it was left."""

    code = "not_open"


class Refused(TrishulaError):  # noqa: N818 - the word of the protocol
    """Final: these recipients will never get the message. `outcomes` has each one's reason."""

    code = "refused"

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        self.outcomes = tuple(outcomes)
        said = "; ".join(f"{outcome.dest} refused it for {outcome.to}: {outcome.reason}" for outcome in self.outcomes)
        super().__init__(said)


class Unconfirmed(TrishulaError):  # noqa: N818 - likewise
    """The message expired, and these recipients' nodes have not said a word. A later word corrects the receipt."""

    code = "unconfirmed"

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        self.outcomes = tuple(outcomes)
        nodes = ", ".join(f"{outcome.dest} for {outcome.to}" for outcome in self.outcomes)
        super().__init__(f"it expired without a word from {nodes}", fix="it may have arrived all the same")


class TimedOut(TrishulaError, TimeoutError):  # noqa: N818 - beside TimeoutError, which it also is
    """The answer did not come in time; what was stored goes on without us."""

    code = "timed_out"
