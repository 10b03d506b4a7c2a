# SPDX-License-Identifier: Apache-2.0
"""The line between the process that measures and those that are measured: JSON, a command and its answer per line.

It has pipes of its own: what a tool prints goes to a log, and cannot be mistaken for an answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).parent


class PeerError(Exception):
    """The other side failed, went silent or died; the message says how."""


class Peer:
    def __init__(self, process: subprocess.Popen[bytes], send: int, receive: int, log: str) -> None:
        self.process = process
        self.pid = process.pid
        self.log = log
        self._send = send
        self._receive = receive
        self._buffer = b''

    @classmethod
    def start(cls, tool: str, options: dict[str, Any], environment: dict[str, str], log: str) -> Peer:
        """A worker for one tool. It imports at once, and touches no device before it is told to."""
        to_read, to_write = os.pipe()
        from_read, from_write = os.pipe()
        options = {**options, 'log': log}
        with open(log, 'wb') as output:
            process = subprocess.Popen(
                [sys.executable, str(HERE / 'worker.py'), tool, str(to_read), str(from_write), json.dumps(options)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(to_read, from_write),
                env={**os.environ, **environment},
            )
        os.close(to_read)
        os.close(from_write)
        return cls(process, to_write, from_read, log)

    def call(self, command: dict[str, Any], timeout: float = 120.0) -> dict[str, Any]:
        try:
            os.write(self._send, json.dumps(command).encode() + b'\n')
        except BrokenPipeError:
            raise PeerError(self.last_words()) from None
        answer: dict[str, Any] = json.loads(self._line(timeout))
        if 'error' in answer:
            raise PeerError(answer['error'])
        return answer

    def _line(self, timeout: float) -> bytes:
        until = time.monotonic() + timeout
        while b'\n' not in self._buffer:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._receive], [], [], left)[0]:
                raise PeerError(f'no answer within {timeout:.0f} s')
            piece = os.read(self._receive, 1 << 16)
            if not piece:
                raise PeerError(self.last_words())
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b'\n')
        return line

    def last_words(self) -> str:
        """What a process that died had to say."""
        try:
            code = self.process.wait(10)
        except subprocess.TimeoutExpired:
            return 'it closed its line and went on'
        lines = [line for line in Path(self.log).read_text(errors='replace').splitlines() if line.strip()]
        return f'the process ended ({code}){": " + lines[-1][:300] if lines else ""}'

    def end(self, timeout: float = 60.0) -> int:
        """Has it exit by itself; its exit status, or that of being killed."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._send, b'{"do": "exit"}\n')
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = self.kill()
        self._close()
        return code

    def kill(self) -> int:
        self.process.kill()
        return self.process.wait()

    def _close(self) -> None:
        for descriptor in (self._send, self._receive):
            if descriptor >= 0:
                os.close(descriptor)
        self._send = self._receive = -1


class Line:
    """The worker's end."""

    def __init__(self, receive: int, send: int) -> None:
        self._receive: IO[bytes] = os.fdopen(receive, 'rb')
        self._send: IO[bytes] = os.fdopen(send, 'wb', buffering=0)

    def __iter__(self) -> Any:
        return (json.loads(line) for line in self._receive)

    def answer(self, result: dict[str, Any]) -> None:
        self._send.write(json.dumps(result).encode() + b'\n')
