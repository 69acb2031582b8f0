"""What is an ASGI application called with, for one request and its answer?"""

import asyncio
from typing import TYPE_CHECKING

from starlette.types import Message, Scope

from backend.server import wire

if TYPE_CHECKING:
    from backend.server.protocol import HttpConnection

# How much of a body is buffered until the application reads it, and is read of one that the application does not want.
BODY_BUFFER = 65_536


class Exchange:
    """One request, whose body may not have arrived yet, and one answer."""

    # On the class, because most requests change only a few of them.
    received = 0
    complete = False  # the whole request has arrived
    waits_for_body = False
    incomplete = False  # the rest of the request will not arrive
    client_gone = False
    started = False  # the head of the answer is written
    answered = False
    task: asyncio.Task[None] | None = None
    _start: Message | None = None
    _body_delivered = False
    _told_to_continue = False
    _wakeup: asyncio.Future[None] | None = None
    _bytes_left: int | None = None
    _chunked = False
    _bodiless = False

    def __init__(self, connection: "HttpConnection", scope: Scope, *, keep_alive: bool) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.body = bytearray()
        self._connection = connection

    def wake(self) -> None:
        """Let `receive` check again what it waits for."""
        if self._wakeup and not self._wakeup.done():
            self._wakeup.set_result(None)

    async def receive(self) -> Message:
        """Return what has arrived of the body; after all of it, wait for the end of the answer or of the connection."""
        if not self.incomplete and self._expects_continue():
            self._told_to_continue = True
            self._connection.write(wire.CONTINUE)
        while not (self.incomplete or self.answered or self.body or (self.complete and not self._body_delivered)):
            if not self.complete:
                self.waits_for_body = True
                self._connection.clients.mark_idle(self._connection)
            self._wakeup = self._connection.clients.loop.create_future()
            await self._wakeup
        if self.incomplete or self.answered:
            return {"type": "http.disconnect"}
        body, self._body_delivered = bytes(self.body), self.complete
        self.body.clear()
        self._connection.resume_parsing()
        return {"type": "http.request", "body": body, "more_body": not self._body_delivered}

    async def send(self, message: Message) -> None:
        """Write a piece of the answer once the write buffer has room; the head goes with the first piece."""
        while self._connection.writable and not self.client_gone:
            self._connection.clients.mark_idle(self._connection)
            await asyncio.shield(self._connection.writable)
        if self.client_gone:
            return
        kind = message["type"]
        if kind == "http.response.start" and not (self._start or self.started):
            self._start = message
            return
        if kind != "http.response.body" or self.answered or not (self._start or self.started):
            raise RuntimeError(f"The application has sent {kind} out of turn.")
        head, more = b"" if self.started else self._head(), message.get("more_body", False)
        self._connection.write(head + self._framed(message.get("body", b""), more=more))
        if more:
            self._connection.clients.mark_idle(self._connection)
        else:
            self.answered = True
            if not head:
                self._connection.clients.mark_busy(self._connection)  # it was idle while it took the other pieces
            self.wake()
            self._connection.on_answered(self)

    def _head(self) -> bytes:
        """Return the head, and decide how the client recognises the end of the body (RFC 9112, 6.3)."""
        start, self._start = self._start or {}, None
        status, headers = start["status"], list(start["headers"])
        named = dict(headers)
        self._bodiless = status in {204, 304} or self.scope["method"] == "HEAD"
        if b"content-length" in named:
            self._bytes_left = int(named[b"content-length"])
        elif not self._bodiless and self.scope["http_version"] == "1.1":
            self._chunked = True
            headers.append(wire.CHUNKED)
        elif not self._bodiless:
            self.keep_alive = False
        closing = named.get(b"connection") == b"close"
        draining = self._connection.clients.draining
        self.keep_alive = self.keep_alive and not closing and not draining and self._rest_is_short()
        if not (self.keep_alive or closing):
            headers.append(wire.CLOSE)
        head = wire.head(status, self._connection.clients.date, headers)
        self.started = True
        return head

    def _framed(self, body: bytes, *, more: bool) -> bytes:
        if self._bodiless:
            return b""
        if self._chunked:
            return wire.chunk(body) if more else wire.chunk(body) + wire.LAST_CHUNK
        if self._bytes_left is not None:
            self._bytes_left -= len(body)
            if self._bytes_left < 0 or (self._bytes_left and not more):
                raise RuntimeError("The answer is not as long as its Content-Length.")
        return body

    def _rest_is_short(self) -> bool:
        """Whether reading the rest of the request is cheaper than a new connection."""
        if self.complete:
            return True
        rest = int(self._header(b"content-length") or BODY_BUFFER * 2) - self.received
        return rest <= BODY_BUFFER and not self._expects_continue()

    def _expects_continue(self) -> bool:
        """Whether the client sends the body only when told to continue (RFC 9110, 10.1.1), and was not told yet."""
        nothing_yet = not (self.complete or self.received or self._told_to_continue)
        return nothing_yet and self._header(b"expect").lower() == b"100-continue"

    def _header(self, wanted: bytes) -> bytes:
        return next((value for name, value in self.scope["headers"] if name == wanted), b"")
