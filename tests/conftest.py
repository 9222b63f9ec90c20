"""For all tests."""

from __future__ import annotations

import signal
from collections import defaultdict

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="live through this seed only, as a failure says it")


def pytest_configure() -> None:
    # What a script starts with & ignores Ctrl-C, and so would every process of a test that wants to be interrupted.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The seconds that each folder's tests took, all workers added up, for the summary of scripts/test."""
    seconds: dict[str, float] = defaultdict(float)
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        if isinstance(report, pytest.TestReport):
            seconds[report.nodeid.removeprefix("tests/").partition("/")[0]] += report.duration
    told = ", ".join(f"{folder} {took:.0f}" for folder, took in seconds.items())
    if told:
        terminalreporter.write_line(f"seconds of tests: {told}")
