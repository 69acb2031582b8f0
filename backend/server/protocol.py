"""How do the bytes that a client sends become requests, and when has it to go?

It stands in the place of uvicorn's own protocol class (decision 0013).
"""

import asyncio
import logging
from collections import deque
from functools import partial
from typing import Any
from urllib.parse import unquote

import httptools
from starlette.types import ASGIApp, Scope

from backend.errors import BadRequest, HeadTooLarge, InternalError, Problem, TooSlow
from backend.server import wire
from backend.server.exchange import BODY_WAITING, Exchange
from backend.server.limits import Crowd

logger = logging.getLogger(__name__)

# The parser gets so much at once: all requests that are pipelined in it wait in memory.
SLICE = 4_096


class HttpConnection(asyncio.Protocol):
    """One client. Its requests are answered one after the other; what it sends meanwhile is not read."""

    def __init__(self, crowd: Crowd, app: ASGIApp, app_state: dict[str, Any], tasks: set[asyncio.Task[None]]) -> None:
        self.crowd = crowd
        self.full: asyncio.Future[None] | None = None  # until the client has taken what waits for it
        self._app = app
        self._app_state = app_state
        self._tasks = tasks
        self._parser = httptools.HttpRequestParser(self)
        self._fault: Problem = BadRequest("it is not valid HTTP")
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_begun = False
        self._quiet = 0  # bytes that have come since a head, or a piece of a body, was complete
        self._unread = b""
        self._paused = False
        self._current: Exchange | None = None  # is being answered
        self._arriving: Exchange | None = None  # its body is on its way
        self._waiting: deque[Exchange] = deque()
        self._ended = False  # whatever comes now is no request
        self._discarded = 0
        self._half_closed = False
        self._lingering = False
        # The client has closed its side. It may still read its answer, but who closes a connection looks the same.
        self._left = asyncio.Event()
        self._refusal: Problem | None = None
        self._since = crowd.now
        self._written = self._taken = self._taken_at = 0

    # What asyncio calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # no stream has another
        self._transport = transport
        self._addresses = [_address(transport.get_extra_info(name)) for name in ("sockname", "peername")]
        if not self.crowd.admit(self):
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self._unread = self._unread + data if self._unread else data
        self.read_on()

    def eof_received(self) -> bool:
        """Answer a client that has ended its own direction after a whole request, as RFC 9112, 9.6 lets it."""
        last = self._waiting[-1] if self._waiting else self._current
        if last is None or self._arriving:
            return False
        last.keep_alive = False
        self._ended = self._half_closed = True
        self._left.set()
        return True

    def connection_lost(self, _error: Exception | None) -> None:
        self.crowd.leave(self)
        self._ended = True
        self._left.set()
        for exchange in filter(None, (self._current, *self._waiting)):
            exchange.cut = exchange.gone = True
            exchange.wake()
        self.resume_writing()
        del self._parser  # it and this object hold each other

    def pause_writing(self) -> None:
        self.full = self.crowd.loop.create_future()

    def resume_writing(self) -> None:
        if self.full and not self.full.done():
            self.full.set_result(None)
        self.full = None

    # What uvicorn calls

    def shutdown(self) -> None:
        """Let idle connections live a little when the server stops: a request may be on its way on one of them.

        Every answer from then on asks the client to take a new connection, which another process will accept.
        """
        self.crowd.draining = True
        self.crowd.loop.call_later(self.crowd.limits.linger_seconds, self._leave)

    def _leave(self) -> None:
        if self._current is None:
            self._transport.close()

    # What the crowd calls

    def drop(self) -> None:
        self._transport.abort()

    def look(self, now: int) -> None:
        pending, limits = self._transport.get_write_buffer_size(), self.crowd.limits
        if not pending or self._written - pending != self._taken:
            self._taken, self._taken_at = self._written - pending, now
        elif now - self._taken_at >= limits.stalled_seconds:
            self.drop()
            return
        if self._paused if self._arriving else pending:
            self._since += 1  # the time is not the client's own
        self._look_at_phase(now - self._since)

    def _look_at_phase(self, seconds: int) -> None:
        limits = self.crowd.limits
        if self._lingering:
            if seconds > limits.linger_seconds:
                self.drop()
        elif self._arriving:
            granted = limits.body_seconds + self._arriving.received // limits.body_bytes_per_second
            if seconds > min(granted, limits.body_most_seconds):
                self._refuse(TooSlow("its body came too slowly"))
        elif self._current is None and self._head_begun and seconds > limits.head_seconds:
            self._refuse(TooSlow("its head came too slowly"))
        elif self._current is None and not self._head_begun and seconds > limits.keep_alive:
            self._transport.close()

    # What the parser calls

    def on_message_begin(self) -> None:
        self._url, self._headers, self._head_begun = b"", [], True
        if self._current is None:
            self._since = self.crowd.now

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        version = self._parser.get_http_version()
        self._check_head(version)
        method, upgrade = self._parser.get_method(), self._parser.should_upgrade()
        if upgrade and method != b"CONNECT":
            return  # `_feed` goes on without the upgrade
        scope = self._scope(method.decode(), version)
        keep_alive = version == "1.1" and not upgrade and self._parser.should_keep_alive()
        exchange = self._arriving = Exchange(self, scope, keep_alive=keep_alive)
        # What comes behind the body are trailers: no headers (RFC 9110, 6.5.1), and nobody here wants them.
        self._headers, self._head_begun, self._quiet, self._since = [], False, 0, self.crowd.now
        if self._current is None:
            self._begin(exchange)
        else:
            self._waiting.append(exchange)

    def on_body(self, body: bytes) -> None:
        self._quiet = 0
        if exchange := self._arriving:
            exchange.received += len(body)
            if not exchange.answered:
                exchange.body += body
                exchange.wake()

    def on_message_complete(self) -> None:
        exchange, self._arriving = self._arriving, None
        if exchange is None:
            return
        self._quiet, exchange.arrived = 0, True
        self._ended = not exchange.keep_alive
        if exchange.awaited:
            self.crowd.busy(self)
            exchange.wake()
        if exchange.answered:
            self._next()  # not `read_on`: the parser is at work

    # What an exchange calls

    def write(self, data: bytes) -> None:
        self._written += len(data)
        self._transport.write(data)

    def read_on(self) -> None:
        """Parse what has come, as far as there is room for it; the client keeps the rest."""
        if not self._unread and not self._paused:
            return
        while self._unread and not self._ended and self._has_room():
            piece, self._unread = self._unread[:SLICE], self._unread[SLICE:]
            self._feed(piece)
        if self._ended:
            self._discarded += len(self._unread)
            self._unread = b""
        self._pause(bool(self._unread) or self._discarded > self.crowd.limits.linger_bytes)

    def on_answered(self, exchange: Exchange) -> None:
        if exchange.cut:
            self._refusal = None  # its request has its answer
        if not exchange.keep_alive or exchange.cut:
            self._farewell()
        elif exchange.arrived:
            self._next()
            self.read_on()
        else:
            exchange.body.clear()
            self.crowd.awaited(self)
            self.read_on()

    # The rest is its own

    def _check_head(self, version: str) -> None:
        """Raise for a head that is too large, or that no server may accept (RFC 9112, 3.2)."""
        if self._quiet > self.crowd.limits.head_bytes - SLICE:
            size = len(self._url) + sum(len(name) + len(value) + 4 for name, value in self._headers)
            if size > self.crowd.limits.head_bytes:
                self._fault = HeadTooLarge("its head is too large")
                raise self._fault
        names = [name for name, _ in self._headers]
        hosts = names.count(b"host")
        if version not in {"1.0", "1.1"} or hosts > 1 or (version == "1.1" and not hosts):
            raise self._fault
        if b"transfer-encoding" in names and self._codings() != [b"chunked"]:
            raise self._fault

    def _codings(self) -> list[bytes]:
        return [value.lower() for name, value in self._headers if name == b"transfer-encoding"]

    def _scope(self, method: str, version: str) -> Scope:
        path, query = self._target()
        text = path.decode("ascii")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "server": self._addresses[0],
            "client": self._addresses[1],
            "scheme": "http",
            "method": method,
            "root_path": "",
            "path": unquote(text) if "%" in text else text,
            "raw_path": path,
            "query_string": query,
            "headers": self._headers,
            "state": self._app_state.copy(),
            "extensions": {"client_left": self._left.wait, "leaving": self.crowd.leaving},
        }

    def _target(self) -> tuple[bytes, bytes]:
        if self._url.startswith(b"/") and b"#" not in self._url:
            path, _, query = self._url.partition(b"?")
            return path, query
        parsed = httptools.parse_url(self._url)
        return parsed.path or b"/", parsed.query or b""

    def _has_room(self) -> bool:
        return len(self._arriving.body) <= BODY_WAITING if self._arriving else self._current is None

    def _feed(self, piece: bytes) -> None:
        self._quiet += len(piece)
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._unread = piece[upgrade.args[0] :] + self._unread
            if not self._ended:
                self._without_upgrade()
        except httptools.HttpParserError:
            if self._ended:
                self._discarded += 1  # behind a request that was the last
            else:
                self._refuse(self._fault)
        else:
            if self._quiet > self.crowd.limits.head_bytes:
                self._refuse(HeadTooLarge("its head is too large"))

    def _without_upgrade(self) -> None:
        """Parse the head again as if it asked for no other protocol (RFC 9110, 7.8): the parser would take all that
        follows for that one's."""
        version = self._parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self._parser.get_method(), self._url, version)]
        lines += [b"%b: %b" % header for header in self._headers if header[0] != b"upgrade"]
        self._parser, self._quiet = httptools.HttpRequestParser(self), 0
        self._feed(b"\r\n".join([*lines, b"\r\n"]))

    def _begin(self, exchange: Exchange) -> None:
        self._current = exchange
        self.crowd.busy(self)
        self.crowd.door.enter(partial(self._start, exchange))

    def _start(self, exchange: Exchange) -> None:
        if exchange.gone:
            return
        exchange.task = self.crowd.loop.create_task(self._serve(exchange))
        self._tasks.add(exchange.task)

    async def _serve(self, exchange: Exchange) -> None:
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            logger.warning("cut off, as the time to stop has run out", extra={"event": "cut-off"})
        except Exception:  # the outermost frame of all
            logger.exception("failed", extra={"event": "failed"})
            self._refusal = None if exchange.begun else InternalError()
        finally:
            if exchange.task:
                self._tasks.discard(exchange.task)
            if not exchange.answered:
                self._break_off(exchange)

    def _break_off(self, exchange: Exchange) -> None:
        """End what will have no end; a client must be able to tell it from a whole answer."""
        if exchange.begun or self._refusal is None:
            self._transport.close()
        else:
            self._farewell()

    def _next(self) -> None:
        self._current = None
        if self._waiting:
            self._begin(self._waiting.popleft())
        elif self._refusal:
            self._farewell()
        else:
            self._since = self.crowd.now
            self.crowd.awaited(self)

    def _refuse(self, problem: Problem) -> None:
        """Read no more requests, and say why once those before are answered."""
        self._ended, self._refusal = True, problem
        self._discarded += 1
        if cut := self._arriving:
            self._arriving, cut.cut = None, True
            cut.wake()
            if cut.answered:
                self._refusal = self._current = None
        if self._current is None:
            self._farewell()

    def _farewell(self) -> None:
        """Close the connection behind the last answer, once the client has had time to read it: closing with something
        unread would tell its system to throw the answer away (RFC 9112, 9.6)."""
        if self._transport.is_closing():
            return
        if self._refusal:
            self._write_refusal(self._refusal)
        tidy = self._half_closed or not (self._refusal or self._arriving or self._discarded)
        self._ended, self._current, self._arriving = True, None, None
        self._waiting.clear()
        if tidy:
            self._transport.close()
            return
        self._lingering, self._since = True, self.crowd.now
        self.crowd.awaited(self)
        self._transport.write_eof()
        self.read_on()

    def _write_refusal(self, problem: Problem) -> None:
        request_id, answer = wire.refusal(problem, self.crowd.date)
        if problem.reason:
            extra = {"event": "no-request", "request_id": request_id, "status": problem.status}
            client = self._addresses[1]
            logger.warning("no request from %s: %s", client and client[0], problem.reason, extra=extra)
        self.write(answer)

    def _pause(self, wanted: bool) -> None:  # noqa: FBT001
        if wanted is not self._paused and not self._transport.is_closing():
            self._paused = wanted
            (self._transport.pause_reading if wanted else self._transport.resume_reading)()


def _address(name: object) -> tuple[str, int] | None:
    return (name[0], name[1]) if isinstance(name, tuple) else None
