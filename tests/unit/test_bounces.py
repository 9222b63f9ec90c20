from __future__ import annotations

import json

import pytest

from trishula.node.bounces import Bounce, bounce_file
from trishula.protocol.envelope import State


def bounce(state: State, reason: str = "", payload: bytes = b'{"subject": "S"}') -> Bounce:
    return Bounce(1, "mac", "m1", "agni", "far", state, reason, 1_700_000_000_123, payload)


@pytest.mark.parametrize(
    ("state", "reason", "words"),
    [
        (
            State.REFUSED,
            "too_large: 9 bytes",
            "far refused it, and agni will never get this message: too_large: 9 bytes",
        ),
        (State.REFUSED, "removed", "far is no longer in the mesh"),
        (State.UNCONFIRMED, "expired", "agni may have got it all the same"),
        (State.DELIVERED, "", "since then that has come: agni got it"),
        (State.READ, "", "since then that has come: agni got it"),
    ],
)
def test_a_bounce_says_in_a_sentence_what_became_of_the_message(state: State, reason: str, words: str) -> None:
    told = json.loads(bounce_file(bounce(state, reason)))
    assert words in told["text"]
    assert (told["state"], told["reason"], told["at"]) == (state.value, reason, "2023-11-14T22:13:20.123Z")


def test_a_bounce_is_one_key_a_line_and_keeps_every_script() -> None:
    file = bounce_file(bounce(State.REFUSED, "x", '{"subject": "कार्य ✅"}'.encode()))
    assert '  "subject": "कार्य ✅",\n' in file.decode()
    assert file.endswith(b'"\n}\n')
    assert json.loads(bounce_file(bounce(State.REFUSED, "x", b"{}")))["subject"] == ""


def test_its_name_is_that_of_the_message_and_of_the_recipient() -> None:
    assert bounce(State.REFUSED).name == "m1~agni.json"
