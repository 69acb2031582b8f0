"""How is standard error written without ever blocking on its reader?"""

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
# Linux's PIPE_BUF: up to this length a write to a pipe is atomic, so that lines of several processes never mix.
ATOMIC_BYTES = 4_096
QUEUE_LINES, QUEUE_BYTES = 10_000, 1_048_576
FINISH_SECONDS = 1.0

Send = Callable[[bytes], int]


class StandardError(io.RawIOBase):
    """Writes directly while that does not block; queues the rest for a thread, and drops lines if the queue is full.

    Once a line was dropped, all are until the queue is empty, so that there is one gap; `told` returns the line for it.
    """

    def __init__(self, number: int) -> None:
        self.told: Callable[[int], bytes] = lambda lines: b"dropped %d lines\n" % lines
        self.on_drop: Callable[[], None] = lambda: None
        self.longest = sys.maxsize if stat.S_ISREG(os.fstat(number).st_mode) else ATOMIC_BYTES
        self._number = number
        self._send = _non_blocking(number)
        self._send_directly = self._send  # None while lines are queued, which the next line must not overtake
        self._ready = select.poll()
        self._ready.register(number, select.POLLOUT)
        self._queue: deque[bytes] = deque()
        self._queued_bytes = self._dropped = 0
        self._finish_seconds = FINISH_SECONDS
        self._changed = threading.Condition()
        threading.Thread(target=self._deliver, daemon=True).start()

    def writable(self) -> bool:
        return True

    def write(self, line: Any, /) -> int:
        """Take a line; never blocks, and never raises."""
        sent = 0
        if send := self._send_directly:
            try:
                sent = send(line)
            except BlockingIOError:
                pass
            except OSError:
                with self._changed:
                    self._drop()
                return len(line)
        if sent < len(line):
            self._enqueue(bytes(line)[sent:])
        return len(line)

    def finish(self) -> None:
        """Wait a second at most until everything is written; after a timeout the next call does not wait again."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._queue, self._finish_seconds):
                self._finish_seconds = 0

    def _enqueue(self, line: bytes) -> None:
        with self._changed:
            full = len(self._queue) == QUEUE_LINES or self._queued_bytes + len(line) > QUEUE_BYTES
            if self._queue and (full or self._dropped):
                self._drop()
            else:
                self._append(line)

    def _append(self, line: bytes) -> None:
        self._send_directly = None
        self._queue.append(line)
        self._queued_bytes += len(line)
        self._changed.notify_all()

    def _drop(self) -> None:
        self._send_directly = None
        self._dropped += 1
        self.on_drop()

    def _deliver(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue)
                line = self._queue[0]
            written = self._written(line)
            with self._changed:
                self._queue.popleft()
                self._queued_bytes -= len(line)
                if not written:
                    self._drop()
                elif not self._queue:
                    self._on_empty()
                self._changed.notify_all()

    def _on_empty(self) -> None:
        if self._dropped:
            self._append(self.told(self._dropped))
            self._dropped = 0
        else:
            self._send_directly = self._send

    def _written(self, line: bytes) -> bool:
        send = self._send or partial(os.write, self._number)
        try:
            while line:
                self._ready.poll()
                try:
                    line = line[send(line) :]
                except BlockingIOError:  # another process has filled it
                    continue
        except OSError:
            return False
        return True


def install() -> StandardError | None:
    """Replace `sys.stderr` by this class; None if it is closed."""
    if sys.stderr is None:
        return None
    raw = StandardError(NUMBER)
    sys.stderr = io.TextIOWrapper(raw, "utf-8", "backslashreplace", line_buffering=True)
    atexit.register(raw.finish)
    return raw


def _non_blocking(number: int) -> Send | None:
    """Return a function that writes to this file or raises BlockingIOError; None if the system offers none.

    O_NONBLOCK would also apply to the shell and the other workers, which share the open file; so it is opened again.
    """
    mode = os.fstat(number).st_mode
    if stat.S_ISREG(mode):  # never blocks; opened again, it would be overwritten from its beginning
        return partial(os.write, number)
    if stat.S_ISSOCK(mode):
        taken = socket.socket(fileno=os.dup(number))
        return lambda line: taken.send(line, socket.MSG_DONTWAIT)
    try:
        return partial(os.write, os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError:
        return None
