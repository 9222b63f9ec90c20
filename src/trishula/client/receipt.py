"""What became of a message that was sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable

from trishula.client.errors import Refused, TimedOut, Unconfirmed
from trishula.protocol.agent_frames import Outcome
from trishula.protocol.envelope import State, advances
from trishula.protocol.errors import TrishulaError

_READ = (State.READ,)
_DELIVERED = (State.DELIVERED, State.READ)


class Receipt:
    """A message that is stored, and how far it has come with each recipient.

    Kept up to date until it is delivered, and with `read` beyond that, for as long as the client is open, over lost
    connections too.
    """

    def __init__(
        self, message_id: str, digest: str, ask_on: Callable[[Receipt], Awaitable[None]] | None = None
    ) -> None:
        self.id = message_id
        self.follows_read = False
        """Whether somebody waits for it to be read."""
        self._ask_on = ask_on
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
        """Whether every recipient's node has given its word: all of it, where somebody waits for it to be read."""
        return bool(self._outcomes) and not self._open(_READ if self.follows_read else _DELIVERED)

    async def delivered(self, timeout: float | None = None) -> tuple[Outcome, ...]:
        """Wait until every recipient's node has the message on its disk.

        When all have answered, or the message has expired, raises `Refused` where one refused it, else `Unconfirmed`
        where one gave no word: it may have arrived, and a later word still corrects the receipt. `TimedOut` after
        `timeout` seconds: the message is stored all the same, and goes on.
        """
        return await self._until(_DELIVERED, "confirmed", timeout)

    async def read(self, timeout: float | None = None) -> tuple[Outcome, ...]:
        """Wait until every recipient is done with the message. Raises as `delivered` does."""
        if not self.follows_read:
            self.follows_read = True
            if self._ask_on is not None:
                await self._ask_on(self)
        return await self._until(_READ, "read", timeout)

    async def _until(self, states: Collection[State], what: str, timeout: float | None) -> tuple[Outcome, ...]:
        try:
            async with asyncio.timeout(timeout):
                while not self._outcomes or self._open((*states, State.UNCONFIRMED)):
                    if self._error is not None:
                        raise self._error
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as error:
            waiting = ", ".join(f"{outcome.to} on {outcome.dest}" for outcome in self._open(states))
            raise TimedOut(
                f"{self.id} is stored, and not yet {what} after {timeout:.3g} s by {waiting}",
                value=self.id,
                fix="it goes on by itself; ask again later",
            ) from error
        for state, kind in ((State.REFUSED, Refused), (State.UNCONFIRMED, Unconfirmed)):
            if blamed := [outcome for outcome in self.outcomes if outcome.state is state]:
                raise kind(blamed)
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
        """The answer to a question about this message. Where it is an error, there is no more news from here."""
        if isinstance(answer, TrishulaError):
            self._error = answer
            self._changed.set()

    def _open(self, states: Collection[State]) -> list[Outcome]:
        """Of whom there is more to be heard than `states`, or a refusal."""
        return [o for o in self.outcomes if o.state not in states and o.state is not State.REFUSED]
