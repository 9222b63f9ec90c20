"""A MAC covers everything that the other side acts on, and nothing slips from one field into the next."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trishula.protocol.envelope import Envelope, Key, Receipt, State
from trishula.protocol.signing import Keyring, PairKey, envelope_mac, receipt_mac, same_mac

KEY = PairKey("1", b"k" * 32)
ENVELOPE = Envelope("mac", "agni", Key("mac", "m1", "agni"), 1_000, b'{\n  "id": "m1"\n}\n')
RECEIPT = Receipt("mac", "agni", Key("mac", "m1", "agni"), 1_000, "ab" * 32, State.DELIVERED, "", 500)

hypothesis = settings(max_examples=150, deadline=None, derandomize=True)


@pytest.mark.parametrize(
    "changed",
    [
        replace(ENVELOPE, origin="rushabdev"),
        replace(ENVELOPE, dest="rushabdev"),
        replace(ENVELOPE, key=ENVELOPE.key._replace(sender="dhyana")),
        replace(ENVELOPE, key=ENVELOPE.key._replace(id="m2")),
        replace(ENVELOPE, key=ENVELOPE.key._replace(to="rushabdev")),
        replace(ENVELOPE, expires_at=1_001),
        replace(ENVELOPE, payload=ENVELOPE.payload.replace(b"m1", b"m2")),
        replace(ENVELOPE, payload=ENVELOPE.payload[:-1]),
    ],
)
def test_each_field_of_an_envelope_is_covered(changed: Envelope) -> None:
    assert envelope_mac(KEY, changed) != envelope_mac(KEY, ENVELOPE)


@pytest.mark.parametrize(
    "changed",
    [
        replace(RECEIPT, origin="rushabdev"),
        replace(RECEIPT, dest="rushabdev"),
        replace(RECEIPT, key=RECEIPT.key._replace(sender="dhyana")),
        replace(RECEIPT, key=RECEIPT.key._replace(id="m2")),
        replace(RECEIPT, key=RECEIPT.key._replace(to="rushabdev")),
        replace(RECEIPT, expires_at=1_001),
        replace(RECEIPT, digest="cd" * 32),
        replace(RECEIPT, outcome=State.REFUSED),
        replace(RECEIPT, reason="full"),
        replace(RECEIPT, at=501),
    ],
)
def test_each_field_of_a_receipt_is_covered(changed: Receipt) -> None:
    assert receipt_mac(KEY, changed) != receipt_mac(KEY, RECEIPT)


def test_the_lane_is_a_hint_for_queues_and_not_signed() -> None:
    assert envelope_mac(KEY, replace(ENVELOPE, urgent=True)) == envelope_mac(KEY, ENVELOPE)


def test_the_id_of_the_key_is_covered() -> None:
    assert envelope_mac(PairKey("2", KEY.secret), ENVELOPE) != envelope_mac(KEY, ENVELOPE)
    assert receipt_mac(PairKey("2", KEY.secret), RECEIPT) != receipt_mac(KEY, RECEIPT)


def test_the_key_of_another_pair_makes_another_mac() -> None:
    assert envelope_mac(PairKey("1", b"x" * 32), ENVELOPE) != envelope_mac(KEY, ENVELOPE)
    assert receipt_mac(PairKey("1", b"x" * 32), RECEIPT) != receipt_mac(KEY, RECEIPT)


def test_a_mac_is_that_of_rfc_2104_over_length_framed_fields() -> None:
    """Fixed for ever: a node of another release computes the same."""
    address = b"1:1" + b"3:mac" + b"4:agni" + b"3:mac" + b"2:m1" + b"4:agni" + b"4:1000"
    envelope = b"19:trishula/1 envelope" + address + b'17:{\n  "id": "m1"\n}\n'
    receipt = b"18:trishula/1 receipt" + address + b"64:" + b"ab" * 32 + b"9:delivered" + b"0:" + b"3:500"
    assert envelope_mac(KEY, ENVELOPE) == hmac.new(KEY.secret, envelope, hashlib.sha256).digest()
    assert receipt_mac(KEY, RECEIPT) == hmac.new(KEY.secret, receipt, hashlib.sha256).digest()


@given(text=st.text(min_size=1, max_size=20), cuts=st.lists(st.integers(0, 20), min_size=4, max_size=4))
@hypothesis
def test_no_byte_can_move_into_the_neighbouring_field(text: str, cuts: list[int]) -> None:
    def cut(places: list[int]) -> Envelope:
        a, b, c, d = sorted(places)
        return Envelope(text[:a], text[a:b], Key(text[b:c], text[c:d], text[d:]), 1, b"")

    moved = [min(place + 1, len(text)) for place in cuts]
    same = cut(cuts) == cut(moved)
    assert (envelope_mac(KEY, cut(cuts)) == envelope_mac(KEY, cut(moved))) is same


def test_the_first_key_of_a_pair_signs_and_all_verify() -> None:
    old, new = PairKey("1", b"o" * 32), PairKey("2", b"n" * 32)
    keyring = Keyring({"agni": [new, old]})
    assert keyring.signing("agni") is new
    assert (keyring.find("agni", "1"), keyring.find("agni", "2")) == (old, new)
    assert keyring.find("agni", "3") is None


def test_a_key_is_found_for_its_own_pair_only() -> None:
    keyring = Keyring({"agni": [KEY]})
    assert keyring.find("rushabdev", "1") is None
    with pytest.raises(KeyError):
        keyring.signing("rushabdev")


def test_macs_are_the_same_only_as_a_whole() -> None:
    mac = envelope_mac(KEY, ENVELOPE)
    assert same_mac(mac, bytes(mac))
    assert not same_mac(mac, mac[:-1])
    assert not same_mac(mac, b"")


def test_a_key_does_not_show_its_secret() -> None:
    assert repr(PairKey("1", b"the secret")) == "PairKey(kid='1')"
    assert "secret" not in str([PairKey("1", b"the secret")])
