"""Who asks, how often, and for how long do they wait? A process of its own that offers requests and notes each outcome.

It is told what to do as JSON on standard input, and writes JSON to standard output: for each request when it began and
ended (`time.monotonic`), the status, and whether a 503 says that nothing was changed. HTTP is written by hand, since
the load shares the machine with what it measures: a request costs it about a tenth of what it costs the application.
"""

import asyncio
import json
import random
import sys
import time
from typing import Any

import uvloop

# In place of a status: the client gave up, the connection ended without an answer, the load was over before one came.
GAVE_UP, BROKEN, UNFINISHED = -1, 0, -2
# What a client does whose connection was refused or broken, instead of asking without end.
PAUSE = 0.02
# So many requests may wait at once: neither side has sockets without end.
MOST = 4_000

LAST_CHUNK = b"\r\n0\r\n\r\n"

Outcome = tuple[int, bool]


class Session(asyncio.Protocol):
    """A keep-alive connection with one request at a time."""

    def __init__(self) -> None:
        self._received = b""
        self._head = b""
        self.transport: asyncio.Transport
        self.answer: asyncio.Future[Outcome] | None = None
        self.usable = True

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self, request: bytes) -> asyncio.Future[Outcome]:
        self.answer = asyncio.get_running_loop().create_future()
        self._received = self._head = b""
        self.transport.write(request)
        return self.answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._head:
            head, found, body = self._received.partition(b"\r\n\r\n")
            if not found:
                return
            self._head, self._received = head.lower(), body
        if not self._whole():
            return
        if b"connection: close" in self._head:
            self.transport.close()
            self.usable = False
        self._tell((int(self._head[9:12]), b"nothing was changed" in self._received))

    def _whole(self) -> bool:
        _, length, rest = self._head.partition(b"content-length: ")
        if length:
            return len(self._received) >= int(rest.split(b"\r\n", 1)[0])
        # In chunks, and perhaps megabytes of them: only the end is looked at.
        self._received = self._received[-len(LAST_CHUNK) :]
        return self._received == LAST_CHUNK

    def connection_lost(self, _error: Exception | None) -> None:
        self.usable = False
        self._tell((BROKEN, False))

    def _tell(self, outcome: Outcome) -> None:
        if self.answer and not self.answer.done():
            self.answer.set_result(outcome)


class Load:
    """Every request of the run, and the connections that are idle between two of them."""

    def __init__(self, address: list[Any], requests: list[str], patience: float | None) -> None:
        self._host, self._port = address
        self._requests = [each.encode() for each in requests]
        self._patience = patience
        self._idle: list[Session] = []
        self._random = random.Random(1)
        self.running: set[asyncio.Task[None]] = set()
        self.outcomes: list[tuple[float, float, int, bool]] = []

    async def one(self) -> None:
        """Send a request on an idle connection or on a new one, and note what became of it."""
        started, outcome = time.monotonic(), (UNFINISHED, False)
        try:
            async with asyncio.timeout(self._patience):
                outcome = await self._ask()
        except TimeoutError:
            outcome = (GAVE_UP, False)
        except OSError:
            outcome = (BROKEN, False)
        finally:
            self.outcomes.append((started, time.monotonic(), *outcome))

    async def _ask(self) -> Outcome:
        session = self._take() or await self._connected()
        try:
            outcome = await session.ask(self._random.choice(self._requests))
        except asyncio.CancelledError:
            session.transport.abort()
            raise
        if session.usable:
            self._idle.append(session)
        return outcome

    def _take(self) -> Session | None:
        while self._idle:
            if (session := self._idle.pop()).usable:
                return session
        return None

    async def _connected(self) -> Session:
        loop = asyncio.get_running_loop()
        _, session = await loop.create_connection(Session, self._host, self._port)
        return session

    async def arrive(self, seconds: float, rate: float) -> None:
        """Let requests arrive one by one whether or not those before were answered, while there are sockets."""
        began, sent = time.monotonic(), 0
        while (passed := time.monotonic() - began) < seconds:
            while sent < passed * rate:
                if len(self.running) < MOST:
                    self._start(self.one())
                sent += 1
            await asyncio.sleep(self._random.uniform(0.5, 1.5) / rate)

    async def crowd(self, seconds: float, clients: int) -> None:
        """Let so many clients ask one request after the other."""

        async def client() -> None:
            while time.monotonic() < until:
                await self.one()
                if self.outcomes[-1][2] == BROKEN:
                    await asyncio.sleep(PAUSE)

        until = time.monotonic() + seconds
        for _ in range(clients):
            self._start(client())
        await asyncio.sleep(seconds)

    def _start(self, work: Any) -> None:
        self.running.add(task := asyncio.create_task(work))
        task.add_done_callback(self.running.discard)


async def offer(order: dict[str, Any]) -> list[Any]:
    load = Load(order["address"], order["requests"], order["patience"])
    for seconds, rate, clients in order["phases"]:
        await (load.crowd(seconds, clients) if clients else load.arrive(seconds, rate))
    if load.running:
        await asyncio.wait(load.running, timeout=order["afterwards"])
    for task in list(load.running):
        task.cancel()
    await asyncio.gather(*load.running, return_exceptions=True)
    return load.outcomes


if __name__ == "__main__":
    json.dump(uvloop.run(offer(json.load(sys.stdin))), sys.stdout)
