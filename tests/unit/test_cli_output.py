from __future__ import annotations

import json

import pytest

from trishula.cli.output import age, clock, milliseconds, print_json, print_table, size, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("red \x1b[31malert", r"red \x1b[31malert"),
        ("bell\x07 backspace\x08 delete\x7f", r"bell\x07 backspace\x08 delete\x7f"),
        ("\x9b31m", r"\x9b31m"),
        ("one\ntwo\tthree\r", r"one\ntwo\tthree\r"),
        ("\u202edesrever", r"\u202edesrever"),
        ("a\u2028b", r"a\u2028b"),
        ("\ue000 \U000e0001", "\\ue000 \U000e0001"),
    ],
)
def test_what_would_act_on_a_terminal_is_shown_instead(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize("text", ["कार्य 完了 ✅", "emoji 🪷🕉️ and 👩\u200d💻", "naïve café", "a\u00a0b"])
def test_the_scripts_of_the_world_are_shown_as_they_are(text: str) -> None:
    assert visible(text) == text


def test_lines_of_a_longer_text_stay_lines() -> None:
    assert visible('{\n\t"a": "\x1b"\n}', lines=True) == '{\n\t"a": "\\x1b"\n}'


def test_json_is_one_line_of_ascii_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"subject": "line\u2028separator \x1b[31m ✅"}
    print_json(value)
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert len(printed.splitlines()) == 1
    assert json.loads(printed) == value


def test_columns_stand_under_each_other_with_wide_characters_too(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", "N"), [("完了", 1), ("ab", 22), ("a\nb", 3)], right=(1,))
    assert capsys.readouterr().out.splitlines() == ["NAME   N", "完了   1", "ab    22", "a\\nb   3"]


def test_an_empty_table_has_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", "N"), [])
    assert capsys.readouterr().out == "NAME  N\n"


def test_moments_carry_their_time_zone_and_unknown_times_a_dash() -> None:
    assert clock(0)[-6] in "+-"
    assert milliseconds(1.25) == "1.2 ms"
    assert milliseconds(None) == "-"


@pytest.mark.parametrize(
    ("seconds", "said"), [(-1, "0 s"), (0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (3 * 86400, "3 d")]
)
def test_spans_of_time_are_in_their_largest_unit(seconds: float, said: str) -> None:
    assert age(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (512 * 2**20, "512 MiB"), (2**33, "8.0 GiB")]
)
def test_sizes_are_in_their_largest_unit(count: int, said: str) -> None:
    assert size(count) == said
