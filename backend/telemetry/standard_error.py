"""How is standard error written without ever waiting for whoever reads it?"""

import atexit
import io
import os
import select
import socket
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

NUMBER = 2
# What a pipe takes whole, so that two processes never write into the middle of each other's lines: Linux's PIPE_BUF.
WHOLE = 4_096
LINES, BYTES = 10_000, 1_048_576
LAST_SECONDS = 1.0

Send = Callable[[bytes], int]


class StandardError(io.RawIOBase):
    """Writes at once what can be written at once; keeps the rest for a thread that waits, and drops what is too much.

    Once something was dropped, all is until what was kept has gone: the gap is one, and `told` returns its line.
    """

    def __init__(self, number: int) -> None:
        self.told: Callable[[int], bytes] = lambda lines: b"dropped %d lines\n" % lines
        self.on_drop: Callable[[], None] = lambda: None
        self.longest = sys.maxsize if stat.S_ISREG(os.fstat(number).st_mode) else WHOLE
        self._number = number
        self._send = _never_waiting(number)
        self._at_once = self._send  # None while lines wait, and the next would overtake them.
        self._ready = select.poll()
        self._ready.register(number, select.POLLOUT)
        self._kept: deque[bytes] = deque()
        self._bytes = self._dropped = 0
        self._patience = LAST_SECONDS
        self._changed = threading.Condition()
        threading.Thread(target=self._deliver, daemon=True).start()

    def writable(self) -> bool:
        return True

    def write(self, line: Any, /) -> int:
        """Take a line; never waits, and raises nothing."""
        sent = 0
        if send := self._at_once:
            try:
                sent = send(line)
            except BlockingIOError:
                pass
            except OSError:
                with self._changed:
                    self._drop()
                return len(line)
        if sent < len(line):
            self._keep(bytes(line)[sent:])
        return len(line)

    def finish(self) -> None:
        """Wait until everything is written, but not long, and in vain not twice: perhaps nobody reads."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._kept, self._patience):
                self._patience = 0

    def _keep(self, line: bytes) -> None:
        with self._changed:
            full = self._dropped or len(self._kept) == LINES or self._bytes + len(line) > BYTES
            if self._kept and full:
                self._drop()
            else:
                self._append(line)

    def _append(self, line: bytes) -> None:
        self._at_once = None
        self._kept.append(line)
        self._bytes += len(line)
        self._changed.notify_all()

    def _drop(self) -> None:
        self._at_once = None
        self._dropped += 1
        self.on_drop()

    def _deliver(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._kept)
                line = self._kept[0]
            arrived = self._delivered(line)
            with self._changed:
                self._kept.popleft()
                self._bytes -= len(line)
                if not arrived:
                    self._drop()
                elif not self._kept:
                    self._calm()
                self._changed.notify_all()

    def _calm(self) -> None:
        if self._dropped:
            self._append(self.told(self._dropped))
            self._dropped = 0
        else:
            self._at_once = self._send

    def _delivered(self, line: bytes) -> bool:
        send = self._send or partial(os.write, self._number)
        try:
            while line:
                self._ready.poll()
                try:
                    line = line[send(line) :]
                except BlockingIOError:  # Another process was faster.
                    continue
        except OSError:
            return False
        return True


def install() -> StandardError | None:
    """Let everything that Python writes to standard error go this way; None where it is closed."""
    if sys.stderr is None:
        return None
    raw = StandardError(NUMBER)
    sys.stderr = io.TextIOWrapper(raw, "utf-8", "backslashreplace", line_buffering=True)
    atexit.register(raw.finish)
    return raw


def _never_waiting(number: int) -> Send | None:
    """Return what writes to this file or raises BlockingIOError; None where the system knows no way.

    O_NONBLOCK belongs to the opened file, which a terminal's shell and other workers share; so it is opened anew.
    """
    mode = os.fstat(number).st_mode
    if stat.S_ISREG(mode):  # Has no reader to wait for; opened anew, it would be written from its beginning.
        return partial(os.write, number)
    if stat.S_ISSOCK(mode):
        taken = socket.socket(fileno=os.dup(number))
        return lambda line: taken.send(line, socket.MSG_DONTWAIT)
    try:
        return partial(os.write, os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError:
        return None
