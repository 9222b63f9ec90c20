"""For all tests."""

from __future__ import annotations

import signal

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="live through this seed only, as a failure says it")


def pytest_configure() -> None:
    # What a script starts with & ignores Ctrl-C, and so would every process of a test that wants to be interrupted.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
