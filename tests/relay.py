"""What happens on the line between the application and its database? A relay that counts, delays and breaks it.

It is cheap, for it shares the machine with what is measured through it.
"""

import asyncio
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import uvloop

Target = tuple[str, int] | str

RESET = struct.pack("ii", 1, 0)
# https://www.postgresql.org/docs/current/protocol-message-formats.html, CancelRequest
CANCEL = struct.pack("!i", 80877102)
# Seconds: when a frozen relay looks again, how late uvloop's timers mostly are, and the shortest of them.
FROZEN, LATE, SHORTEST = 0.01, 0.0007, 0.001


# What PostgreSQL says after an answer: that it waits for the next statement.
READY = b"Z" + struct.pack("!i", 5) + b"I"


def error_response(sqlstate: str, message: str) -> bytes:
    """Return what PostgreSQL says when a statement has failed, and that it waits for the next one."""
    fields = b"".join(
        each.encode() + b"\0" for each in ("SERROR", "VERROR", f"C{sqlstate}", f"M{message}")
    )  # fmt: skip
    return b"E" + struct.pack("!i", len(fields) + 5) + fields + b"\0" + READY


def executes(sent: bytes) -> bool:
    """Whether the client runs one of our prepared statements: B binds arguments to it."""
    return sent[:1] == b"B" and b"todo_" in sent


def first(count: int) -> Callable[[bytes], bool]:
    """Return what is true of so many statements, and of none after them."""
    left = iter(range(count))
    return lambda sent: executes(sent) and next(left, None) is not None


class _End(asyncio.Protocol):
    """What comes in here goes out at the other end of the line, in order, when it is due."""

    def __init__(self, line: "_Line", *, to_server: bool) -> None:
        self.other: _End
        self.transport: asyncio.Transport
        self.gone = False
        self._line = line
        self._to_server = to_server
        self._early: list[bytes] = []
        self._queue: deque[tuple[float, bytes]] = deque()
        self._last = 0.0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        if self._to_server:
            self._line.relay.accept(self._line)

    def data_received(self, data: bytes) -> None:
        self._arrived(data)

    def eof_received(self) -> bool:
        self._arrived(b"")
        return True

    def connection_lost(self, _error: Exception | None) -> None:
        self.gone = True
        self._line.ended()
        self._arrived(b"")

    def begin(self) -> None:
        """Look at what came before there was a server."""
        for data in self._early:
            self._arrived(data)

    def _arrived(self, data: bytes) -> None:
        if not self._line.server_is_there:
            self._early.append(data)
        else:
            self._pass_on(self._line.seen(data, to_server=self._to_server) if data else data)

    def _pass_on(self, data: bytes) -> None:
        relay = self._line.relay
        due = time.monotonic() + relay.delay
        if relay.bytes_per_second:
            due = self._last = max(due, self._last) + len(data) / relay.bytes_per_second
        self._queue.append((due, data))
        if len(self._queue) == 1:
            self._deliver()

    def _deliver(self) -> None:
        line = self._line
        while self._queue:
            wait = FROZEN if line.relay.frozen else self._queue[0][0] - time.monotonic()
            if wait > LATE:
                asyncio.get_running_loop().call_later(max(wait - LATE, SHORTEST), self._deliver)
                return
            _, data = self._queue.popleft()
            if line.lost or data == b"-" or self.other.transport.is_closing():
                continue
            if data:
                self.other.transport.write(data)
            else:
                self.other.transport.close()


class _Line:
    """One connection: two ends, and whose turn it is."""

    def __init__(self, relay: "Relay") -> None:
        self.relay = relay
        self.client, self.server = _End(self, to_server=True), _End(self, to_server=False)
        self.client.other, self.server.other = self.server, self.client
        self.server_is_there = False
        self.lost = False
        self.asked = False
        self.doomed = False

    async def connect(self) -> None:
        loop, target = asyncio.get_running_loop(), self.relay.target
        while self.relay.hole:  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(FROZEN)
        self.lost = self.relay.hole
        try:
            if isinstance(target, str):
                await loop.create_unix_connection(lambda: self.server, target)
            else:
                await loop.create_connection(lambda: self.server, *target)
        except OSError:
            self.client.transport.abort()
            return
        self.server_is_there = True
        for end in (self.client, self.server):
            end.begin()

    def seen(self, data: bytes, *, to_server: bool) -> bytes:
        relay = self.relay
        relay.bytes += len(data)
        if to_server:
            relay.statements += executes(data)
            relay.cancels += data[4:8] == CANCEL
            self.asked = True
            self.doomed = bool(relay.lose_answer and relay.lose_answer(data))
            if relay.refuse and (refusal := relay.refuse(data)):
                relay.refused += 1
                self.client.transport.write(refusal)
                return b"-"
        elif self.asked:
            relay.turns += 1
            self.asked = False
        if self.doomed and not to_server:
            relay.refused += 1
            self.reset()
            return b"-"
        return data

    def ended(self) -> None:
        if self.client.gone and (self.server.gone or not self.server_is_there):
            self.relay.forget(self)

    def reset(self) -> None:
        for end in self._ends():
            line = end.transport.get_extra_info("socket")
            if line.family != socket.AF_UNIX:
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            end.transport.abort()

    def abort(self) -> None:
        for end in self._ends():
            end.transport.abort()

    def _ends(self) -> list[_End]:
        return [end for end in (self.client, self.server)[: 1 + self.server_is_there] if not end.gone]


class Relay:
    """Passes bytes on from a TCP port of its own, in a thread of its own.

    `turns` counts round trips: something from the client followed by something from the server. `delay` is in seconds
    each way. While `hole` is set nothing new gets through; `lose` makes the present connections dumb for good. `refuse`
    may answer in the server's place, and `lose_answer` lets the server do it and breaks the line instead of telling;
    `refused` counts both. Without TLS, `statements` counts those that were sent, and `cancels` the connections that
    only ask for one to be cancelled.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.turns = self.bytes = self.connections = self.refused = self.statements = self.cancels = 0
        self.delay = 0.0
        self.bytes_per_second = 0
        self.frozen = False
        self.hole = False
        self.refuse: Callable[[bytes], bytes | None] | None = None
        self.lose_answer: Callable[[bytes], bool] | None = None
        self.port = 0
        self._lines: set[_Line] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._loop = uvloop.new_event_loop()
        self._stopping: asyncio.Event | None = None

    @contextmanager
    def running(self) -> Iterator[Self]:
        ready = threading.Event()
        thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(ready),))
        thread.start()
        assert ready.wait(10)
        try:
            yield self
        finally:
            assert self._stopping
            self._loop.call_soon_threadsafe(self._stopping.set)
            thread.join()
            self._loop.close()

    @property
    def open(self) -> int:
        return len(self._lines)

    def reset(self) -> None:
        """Break every connection as a router does that has forgotten them."""
        self._do(lambda line: line.reset())

    def lose(self) -> None:
        """Swallow all that the present connections carry, in both directions, and tell nobody."""
        self._do(lambda line: setattr(line, "lost", True))

    def half_close(self) -> None:
        """End the way from the server to the client alone."""
        self._do(lambda line: line.client.transport.write_eof())

    def say(self, words: bytes) -> None:
        """Say something to every client that the server has not said."""
        self._do(lambda line: line.client.transport.write(words))

    def _do(self, action: Callable[[_Line], object]) -> None:
        done = threading.Event()

        def run() -> None:
            for line in list(self._lines):
                action(line)
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(10)

    def accept(self, line: _Line) -> None:
        self.connections += 1
        self._lines.add(line)
        self._connecting.add(task := self._loop.create_task(line.connect()))
        task.add_done_callback(self._connecting.discard)

    def forget(self, line: _Line) -> None:
        self._lines.discard(line)

    async def _serve(self, ready: threading.Event) -> None:
        self._stopping = asyncio.Event()
        server = await asyncio.get_running_loop().create_server(
            lambda: _Line(self).client, "127.0.0.1", 0, backlog=1024
        )
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._stopping.wait()
        server.close()
        for task in list(self._connecting):
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        while self._lines:
            for line in list(self._lines):
                line.abort()
            await asyncio.sleep(FROZEN)


@contextmanager
def relayed(url: str) -> Iterator[tuple[Relay, str]]:
    """Put a relay in front of the embedded server, which listens on a Unix socket; yields it and the URL through it."""
    parts = urlsplit(url)
    with Relay(f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432").running() as relay:
        yield relay, f"postgresql://app@127.0.0.1:{relay.port}{parts.path}?sslmode=disable"
