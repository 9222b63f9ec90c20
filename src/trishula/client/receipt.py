"""What became of a message that was sent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from trishula.client.errors import Refused, TimedOut
from trishula.protocol.agent_frames import Outcome
from trishula.protocol.envelope import State, advances
from trishula.protocol.errors import TrishulaError

_DELIVERED = (State.DELIVERED, State.READ)


class Receipt:
    """A message that is stored, and how far it has come with each recipient.

    Kept up to date for as long as the client is open, over lost connections too.
    """

    def __init__(self, message_id: str, digest: str) -> None:
        self.id = message_id
        self.digest = digest
        """SHA-256 of the message's file, here and at every recipient."""
        self._outcomes: dict[str, Outcome] = {}
        self._error: TrishulaError | None = None
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        states = ", ".join(f"{outcome.to}: {outcome.state.value}" for outcome in self.outcomes)
        return f"<Receipt {self.id} {states or 'not stored'}>"

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """One for each recipient, as of now."""
        return tuple(self._outcomes.values())

    @property
    def settled(self) -> bool:
        """Whether every recipient's node has given its word."""
        return bool(self._outcomes) and not self._open()

    async def delivered(self, timeout: float | None = None) -> tuple[Outcome, ...]:
        """Wait until every recipient's node has the message on its disk.

        Raises `Refused` where one refused it, when all have answered; `TimedOut` after `timeout` seconds: the message
        is stored all the same, and goes on.
        """
        try:
            async with asyncio.timeout(timeout):
                while not self.settled:
                    if self._error is not None:
                        raise self._error
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as error:
            waiting = ", ".join(f"{outcome.to} on {outcome.dest}" for outcome in self._open())
            raise TimedOut(
                f"{self.id} is stored, and not yet confirmed after {timeout:.3g} s by {waiting}",
                value=self.id,
                fix="it goes on by itself; ask again later",
            ) from error
        refused = [outcome for outcome in self.outcomes if outcome.state is State.REFUSED]
        if refused:
            raise Refused(refused)
        return self.outcomes

    # ------------------------------------------------------------ for the session

    def learn(self, outcomes: Iterable[Outcome]) -> None:
        """News from the node; old news is ignored."""
        for outcome in outcomes:
            known = self._outcomes.get(outcome.to)
            if known is None or advances(known.state, outcome.state):
                self._outcomes[outcome.to] = outcome
        self._changed.set()

    def answered(self, answer: object) -> None:
        """The answer to a question about this message. Where it is an error, there will be no more news."""
        if isinstance(answer, TrishulaError):
            self._error = answer
            self._changed.set()

    def _open(self) -> list[Outcome]:
        return [o for o in self.outcomes if o.state not in (*_DELIVERED, State.REFUSED)]
