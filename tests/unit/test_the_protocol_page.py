"""From docs/protocol.md alone one can write a second implementation: what follows is one, in plain Python."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from pathlib import Path
from typing import Any

import pytest

from trishula.protocol import agent_frames, frames
from trishula.protocol.envelope import Envelope, Key, Receipt, State
from trishula.protocol.signing import PairKey, envelope_mac, receipt_mac

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
KEY = PairKey("2026-02", bytes(range(32)))
PAYLOAD = '{\n  "id": "m1",\n  "from": "mac",\n  "to": "agni",\n  "body": "Grüße \U0001f531"\n}\n'.encode()


def signed_fields(label: str) -> list[str]:
    """The fields that the page says are signed under this label, in its order."""
    (line,) = re.findall(rf'^    "{label}", (.*)$', PAGE, re.MULTILINE)
    return str(line).split(", ")


def mac_by_the_page(secret: bytes, label: str, frame: dict[str, Any], payload: bytes = b"") -> bytes:
    """Of an envelope or a receipt as it stands in a frame."""
    signed = b""
    for value in (label, *(payload if name == "payload" else frame[name] for name in signed_fields(label))):
        field = value if isinstance(value, bytes) else str(value).encode()
        signed += str(len(field)).encode() + b":" + field
    return hmac.new(secret, signed, hashlib.sha256).digest()


ENVELOPES = [
    Envelope("mac", "agni", Key("mac", "m1", "agni"), 1_770_000_000_000, PAYLOAD),
    Envelope(
        "mac", "agni", Key("dhyana", "20260210T033201Z_mac_rushabdev_tui_access", "agni"), 0, b"{}\n", urgent=True
    ),
]
RECEIPTS = [
    Receipt("mac", "agni", Key("mac", "m1", "agni"), 1, hashlib.sha256(PAYLOAD).hexdigest(), State.DELIVERED, "", 500),
    Receipt("mac", "agni", Key("mac", "m1", "agni"), 1, "ab" * 32, State.REFUSED, "id_conflict", 1_770_000_000_000),
    Receipt("mac", "agni", Key("mac", "m1", "agni"), 1, "ab" * 32, State.READ, "größer", 0),
]


@pytest.mark.parametrize("envelope", ENVELOPES)
def test_the_mac_of_an_envelope_is_as_the_page_says(envelope: Envelope) -> None:
    item = frames.SignedEnvelope.seal(envelope, KEY.kid, envelope_mac(KEY, envelope))
    (frame,) = json.loads(frames.encode(frames.Deliver(seq=1, envelopes=[item])))["envelopes"]
    by_the_page = mac_by_the_page(KEY.secret, "trishula/1 envelope", frame, envelope.payload)
    assert base64.b64decode(frame["mac"]) == by_the_page


@pytest.mark.parametrize("receipt", RECEIPTS)
def test_the_mac_of_a_receipt_is_as_the_page_says(receipt: Receipt) -> None:
    item = frames.SignedReceipt.seal(receipt, KEY.kid, receipt_mac(KEY, receipt))
    (frame,) = json.loads(frames.encode(frames.Receipts(receipts=[item])))["receipts"]
    assert base64.b64decode(frame["mac"]) == mac_by_the_page(KEY.secret, "trishula/1 receipt", frame)


def test_the_pages_example_begins_as_what_is_signed_does() -> None:
    (example,) = re.findall(r"begin `(.*?)`", PAGE)
    named = {"kid": "1", "origin": "mac", "dest": "agni"}
    begin = ["trishula/1 envelope", *(named[name] for name in signed_fields("trishula/1 envelope")[:3])]
    assert "".join(f"{len(text)}:{text}" for text in begin) == example


def test_the_page_names_the_frames_that_each_role_says_and_hears() -> None:
    table = dict(re.findall(r"^\| (node|agent) \| (.*) \|$", PAGE, re.MULTILINE))
    node, agent = ([{*re.findall(r"`(\w+)`", cell)} for cell in table[role].split("|")] for role in ("node", "agent"))
    assert node[0] == tags(frames.PeerFrame)
    assert agent == [tags(agent_frames.AgentRequest), tags(agent_frames.AgentReply)]


def tags(union: Any) -> set[str]:
    return {kind.__name__.lower() for kind in union.__args__}
