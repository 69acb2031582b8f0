"""What is an ASGI application called with, for one request and its answer?"""

import asyncio
from typing import Protocol

from starlette.types import Message, Scope

from backend.server import wire
from backend.server.limits import Client, Crowd

# What waits of a body until the application reads it, and what is read of one that nobody wants any more.
BODY_WAITING = 65_536


class Line(Client, Protocol):
    """The connection, as an exchange needs it."""

    crowd: Crowd
    full: asyncio.Future[None] | None

    def write(self, data: bytes) -> None: ...
    def read_on(self) -> None: ...
    def on_answered(self, exchange: "Exchange") -> None: ...


class Exchange:
    """One request, whose body may still be on its way, and one answer."""

    # Of the class, as long as they are so: most requests change few of them.
    received = 0
    arrived = False  # the whole body has
    awaited = False  # the application has waited for it
    cut = False  # the rest of the request will not come
    gone = False  # and nobody will read the answer
    begun = False
    answered = False
    task: asyncio.Task[None] | None = None
    _start: Message | None = None
    _taken = False
    _continued = False
    _woken: asyncio.Future[None] | None = None
    _left: int | None = None
    _chunked = False
    _bodiless = False

    def __init__(self, line: Line, scope: Scope, *, keep_alive: bool) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.body = bytearray()
        self._line = line

    def wake(self) -> None:
        """Let `receive` look again."""
        if self._woken and not self._woken.done():
            self._woken.set_result(None)

    async def receive(self) -> Message:
        """Return what has come of the body; after all of it, wait until the client is gone or has its answer."""
        if not self.cut and self._unsure():
            self._continued = True
            self._line.write(wire.CONTINUE)
        while not (self.cut or self.answered or self.body or (self.arrived and not self._taken)):
            if not self.arrived:
                self.awaited = True
                self._line.crowd.awaited(self._line)
            self._woken = self._line.crowd.loop.create_future()
            await self._woken
        if self.cut or self.answered:
            return {"type": "http.disconnect"}
        body, self._taken = bytes(self.body), self.arrived
        self.body.clear()
        self._line.read_on()
        return {"type": "http.request", "body": body, "more_body": not self._taken}

    async def send(self, message: Message) -> None:
        """Write a piece of the answer, once the client has room for it; the head goes with the first piece."""
        while self._line.full and not self.gone:
            await asyncio.shield(self._line.full)
        if self.gone:
            return
        kind = message["type"]
        if kind == "http.response.start" and not (self._start or self.begun):
            self._start = message
            return
        if kind != "http.response.body" or self.answered or not (self._start or self.begun):
            raise RuntimeError(f"The application has sent {kind} out of turn.")
        head, more = b"" if self.begun else self._head(), message.get("more_body", False)
        self._line.write(head + self._framed(message.get("body", b""), more=more))
        if not more:
            self.answered = True
            self.wake()
            self._line.on_answered(self)

    def _head(self) -> bytes:
        """Return the head, and settle how the end of the body is told (RFC 9112, 6.3)."""
        start, self._start = self._start or {}, None
        status, headers = start["status"], list(start["headers"])
        named = dict(headers)
        self._bodiless = status in {204, 304} or self.scope["method"] == "HEAD"
        if b"content-length" in named:
            self._left = int(named[b"content-length"])
        elif not self._bodiless and self.scope["http_version"] == "1.1":
            self._chunked = True
            headers.append(wire.CHUNKED)
        elif not self._bodiless:
            self.keep_alive = False
        closing = named.get(b"connection") == b"close"
        self.keep_alive = self.keep_alive and not closing and not self._line.crowd.draining and self._ends_soon()
        if not (self.keep_alive or closing):
            headers.append(wire.CLOSE)
        head = wire.head(status, self._line.crowd.date, headers)
        self.begun = True
        return head

    def _framed(self, body: bytes, *, more: bool) -> bytes:
        if self._bodiless:
            return b""
        if self._chunked:
            return wire.chunk(body) if more else wire.chunk(body) + wire.LAST_CHUNK
        if self._left is not None:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("The answer is not as long as its Content-Length.")
        return body

    def _ends_soon(self) -> bool:
        """Whether the rest of the request is so short that reading it costs less than a new connection."""
        if self.arrived:
            return True
        left = int(self._header(b"content-length") or BODY_WAITING * 2) - self.received
        return left <= BODY_WAITING and not self._unsure()

    def _unsure(self) -> bool:
        """Whether the client waits to be told to go on, so that its body may never come (RFC 9110, 10.1.1)."""
        nothing_yet = not (self.arrived or self.received or self._continued)
        return nothing_yet and self._header(b"expect").lower() == b"100-continue"

    def _header(self, wanted: bytes) -> bytes:
        return next((value for name, value in self.scope["headers"] if name == wanted), b"")
