"""A person at a terminal: logs in by ssh, types a line, answers sudo's question, reads until the next prompt."""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from topology.nodes import Node

_PROMPT = re.compile(r"@@(\d+)@@ $")
_QUESTION = re.compile(r"(?i)password[^:\n]*: ?$")


class Answer(NamedTuple):
    code: int
    said: str

    @property
    def text(self) -> str:
        """In one line, for sentences that were broken."""
        return " ".join(self.said.split())


class Terminal:
    """One login shell. Use as a context manager."""

    def __init__(self, node: Node, user: str, password: str) -> None:
        """`password` answers every question for one."""
        self._password = password
        self._shell = subprocess.Popen(
            [*node.ssh(user)[:-1], "-tt"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        # The prompt is written in two parts, so that the echo of this line isn't taken for one.
        self._type("stty -echo; stty cols 1000; PS1='@''@$?@''@ '; PS2=; unset PROMPT_COMMAND")
        self._read(within=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._shell.kill()
        self._shell.communicate()

    def run(self, line: str, *, within: float = 900) -> Answer:
        """Type a line, and wait for the next prompt. Fails after `within` seconds with what was said until then."""
        self._type(line)
        return self._read(within=within)

    def succeed(self, line: str, *, within: float = 900) -> Answer:
        answer = self.run(line, within=within)
        assert answer.code == 0, f"$ {line}\n{answer.said}"
        return answer

    def _type(self, line: str) -> None:
        self._shell.stdin.write(f"{line}\n".encode())
        self._shell.stdin.flush()

    def _read(self, *, within: float) -> Answer:
        deadline = time.monotonic() + within
        said = ""
        while not (prompt := _PROMPT.search(said)):
            readable, _, _ = select.select([self._shell.stdout], [], [], max(0.0, deadline - time.monotonic()))
            assert readable, f"no prompt within {within:g} s after:\n{said}"
            chunk = os.read(self._shell.stdout.fileno(), 65536)
            assert chunk, f"the connection ended after:\n{said}"
            said += chunk.decode(errors="replace").replace("\r", "")
            if _QUESTION.search(said):
                self._type(self._password)
                said += "\n"
        return Answer(int(prompt[1]), said[: prompt.start()])
