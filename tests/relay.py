"""What happens on the line between the application and its database? A relay that counts, delays and breaks it."""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self
from urllib.parse import parse_qs, urlsplit

Target = tuple[str, int] | str

RESET = struct.pack("ii", 1, 0)
# https://www.postgresql.org/docs/current/protocol-message-formats.html, CancelRequest
CANCEL = struct.pack("!i", 80877102)


def error_response(sqlstate: str, message: str) -> bytes:
    """Return what PostgreSQL says when a statement has failed, and that it waits for the next one."""
    fields = b"".join(
        each.encode() + b"\0" for each in ("SERROR", "VERROR", f"C{sqlstate}", f"M{message}")
    )  # fmt: skip
    return b"E" + struct.pack("!i", len(fields) + 5) + fields + b"\0" + b"Z" + struct.pack("!i", 5) + b"I"


def executes(sent: bytes) -> bool:
    """Whether the client runs one of our statements: B binds arguments to it."""
    return sent[:1] == b"B"


def first(count: int) -> Callable[[bytes], bool]:
    """Return what is true of so many statements, and of none after them."""
    left = iter(range(count))
    return lambda sent: executes(sent) and next(left, None) is not None


class _Line:
    """One connection: two pumps, and whose turn it is."""

    def __init__(self, relay: "Relay", client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.relay, self.client, self.server = relay, client, server
        self.lost = False
        self.asked = False
        self.doomed = False

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, to_server: bool) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        delivery = asyncio.create_task(self._deliver(queue, writer))
        try:
            while data := await reader.read(65_536):
                await queue.put(
                    (asyncio.get_running_loop().time() + self.relay.delay, self._seen(data, to_server=to_server))
                )
        except OSError:
            pass
        except asyncio.CancelledError:
            delivery.cancel()
            raise
        await queue.put((asyncio.get_running_loop().time() + self.relay.delay, b""))
        await delivery

    def _seen(self, data: bytes, *, to_server: bool) -> bytes:
        relay = self.relay
        relay.bytes += len(data)
        if to_server:
            relay.statements += executes(data)
            relay.cancels += data[4:8] == CANCEL
            self.asked = True
            self.doomed = bool(relay.lose_answer and relay.lose_answer(data))
            if relay.refuse and (refusal := relay.refuse(data)):
                relay.refused += 1
                self.client.write(refusal)
                return b"-"
        elif self.asked:
            relay.turns += 1
            self.asked = False
        if self.doomed and not to_server:
            relay.refused += 1
            self.reset()
            return b"-"
        return data

    async def _deliver(self, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                due, data = await queue.get()
                await asyncio.sleep(due - asyncio.get_running_loop().time())
                while self.relay.frozen:  # noqa: ASYNC110 - another thread sets it
                    await asyncio.sleep(0.01)
                if self.lost or data == b"-":
                    continue
                if not data:
                    writer.close()
                    return
                if self.relay.bytes_per_second:
                    await asyncio.sleep(len(data) / self.relay.bytes_per_second)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass

    def reset(self) -> None:
        for writer in (self.client, self.server):
            if line := writer.get_extra_info("socket"):
                if line.family != socket.AF_UNIX:
                    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                writer.transport.abort()


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
        self._loop = asyncio.new_event_loop()
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
        self._do(lambda line: line.client.write_eof())

    def _do(self, action: Callable[[_Line], object]) -> None:
        done = threading.Event()

        def run() -> None:
            for line in list(self._lines):
                action(line)
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(10)

    async def _serve(self, ready: threading.Event) -> None:
        self._stopping = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.add(task := asyncio.create_task(self._connected(reader, writer)))
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._stopping.wait()
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.hole:  # noqa: ASYNC110 - another thread sets it
                await asyncio.sleep(0.01)
            try:
                if isinstance(self.target, str):
                    server_reader, server = await asyncio.open_unix_connection(self.target)
                else:
                    server_reader, server = await asyncio.open_connection(*self.target)
            except OSError:
                return
            line = _Line(self, client, server)
            self._lines.add(line)
            if self.hole:
                line.lost = True
            try:
                await asyncio.gather(
                    line.pump(client_reader, server, to_server=True), line.pump(server_reader, client, to_server=False)
                )
            finally:
                self._lines.discard(line)
                server.transport.abort()
        finally:
            client.transport.abort()


@contextmanager
def relayed(url: str) -> Iterator[tuple[Relay, str]]:
    """Put a relay in front of the embedded server, which listens on a Unix socket; yields it and the URL through it."""
    parts = urlsplit(url)
    with Relay(f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432").running() as relay:
        yield relay, f"postgresql://app@127.0.0.1:{relay.port}{parts.path}?sslmode=disable"
