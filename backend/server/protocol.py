"""What is done with a client's connection, from its first byte until it is closed?

It replaces uvicorn's own protocol class (decision 0013).
"""

import asyncio
import logging
from collections import deque
from functools import partial
from typing import Any

from starlette.types import ASGIApp, Scope

from backend.errors import InternalError, Problem, TooSlow
from backend.server import wire
from backend.server.clients import Clients
from backend.server.exchange import BODY_BUFFER, Exchange
from backend.server.parser import SLICE, RequestParser

logger = logging.getLogger(__name__)


class HttpConnection(asyncio.Protocol):
    """One client. Its requests are answered one after the other; while one is served, no more is read."""

    def __init__(
        self, clients: Clients, app: ASGIApp, app_state: dict[str, Any], tasks: set[asyncio.Task[None]]
    ) -> None:
        self.clients = clients
        self.writable: asyncio.Future[None] | None = None  # exists while the write buffer is full
        self._app = app
        self._app_state = app_state
        self._tasks = tasks
        self._parser = RequestParser(self, clients.limits.head_bytes)
        self._head_begun = False
        self._unread = b""
        self._paused = False
        self._current: Exchange | None = None  # is being answered
        self._arriving: Exchange | None = None  # its body has not arrived completely
        self._waiting: deque[Exchange] = deque()
        self._discarding = False  # no more requests are accepted
        self._discarded = 0
        self._half_closed = False
        self._lingering = False
        # The client has closed its side. It may still read the answer: a half-closed connection looks the same.
        self._client_left = False
        self._refusal: Problem | None = None
        self._phase_since = clients.now
        self._written = self._sent = self._sent_at = 0

    # Called by asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # no stream has another
        self._transport = transport
        self._scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "server": _address(transport.get_extra_info("sockname")),
            "client": _address(transport.get_extra_info("peername")),
            "scheme": "http",
            "root_path": "",
        }
        if not self.clients.add(self):
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self._unread = self._unread + data if self._unread else data
        self.resume_parsing()

    def eof_received(self) -> bool:
        """Still answer a client that has closed its side after a complete request, as RFC 9112, 9.6 allows."""
        last = self._waiting[-1] if self._waiting else self._current
        if last is None or self._arriving:
            return False
        last.keep_alive = False
        self._discarding = self._half_closed = True
        self._client_left = True
        return True

    def connection_lost(self, _error: Exception | None) -> None:
        self.clients.remove(self)
        self._discarding = True
        self._client_left = True
        for exchange in filter(None, (self._current, *self._waiting)):
            exchange.incomplete = exchange.client_gone = True
            exchange.wake()
        self.resume_writing()
        self._parser.close()

    def pause_writing(self) -> None:
        self.writable = self.clients.loop.create_future()

    def resume_writing(self) -> None:
        if self.writable and not self.writable.done():
            self.writable.set_result(None)
        self.writable = None

    # Called by uvicorn

    def shutdown(self) -> None:
        """Close the connection if it is idle for a moment longer: a request may be on its way.

        Every answer from now on asks the client to take a new connection, which another process will accept.
        """
        self.clients.draining = True
        self.clients.loop.call_later(self.clients.limits.linger_seconds, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self._current is None:
            self._transport.close()

    # Called by Clients

    def abort(self) -> None:
        self._transport.abort()

    def check_timeouts(self, now: int) -> None:
        buffered, limits = self._transport.get_write_buffer_size(), self.clients.limits
        if not buffered or self._written - buffered != self._sent:
            self._sent, self._sent_at = self._written - buffered, now
        elif now - self._sent_at >= limits.stalled_seconds:
            self.abort()
            return
        # Do not count the time in which we do not read, or the client still receives the previous answer.
        if self._paused if self._arriving else buffered:
            self._phase_since += 1
        self._check_phase(now - self._phase_since)

    def _check_phase(self, seconds: int) -> None:
        limits = self.clients.limits
        if self._lingering:
            if seconds > limits.linger_seconds:
                self.abort()
        elif self._arriving:
            granted = limits.body_seconds + self._arriving.received // limits.body_bytes_per_second
            if seconds > min(granted, limits.body_most_seconds):
                self._refuse(TooSlow("its body came too slowly"))
        elif self._current is None and self._head_begun and seconds > limits.head_seconds:
            self._refuse(TooSlow("its head came too slowly"))
        elif self._current is None and not self._head_begun and seconds > limits.keep_alive:
            self._transport.close()

    # Called by the parser

    def on_head_begun(self) -> None:
        self._head_begun = True
        if self._current is None:
            self._phase_since = self.clients.now

    def on_request(self, request: Scope, *, keep_alive: bool) -> None:
        extensions = {"client_left": self._has_client_left, "leaving": self.clients.stopping_soon}
        scope = {**self._scope, **request, "state": self._app_state.copy(), "extensions": extensions}
        exchange = self._arriving = Exchange(self, scope, keep_alive=keep_alive)
        self._head_begun, self._phase_since = False, self.clients.now
        if self._current is None:
            self._begin(exchange)
        else:
            self._waiting.append(exchange)

    def on_body(self, body: bytes) -> None:
        if exchange := self._arriving:
            exchange.received += len(body)
            if not exchange.answered:
                exchange.body += body
                exchange.wake()

    def on_request_complete(self) -> None:
        exchange, self._arriving = self._arriving, None
        if exchange is None:
            return
        exchange.complete = True
        self._discarding = not exchange.keep_alive
        if exchange.waits_for_body:
            self.clients.mark_busy(self)
            exchange.wake()
        if exchange.answered:
            self._serve_next()  # without `resume_parsing`: this is called by it

    def _has_client_left(self) -> bool:
        return self._client_left

    # Called by an exchange

    def write(self, data: bytes) -> None:
        self._written += len(data)
        self._transport.write(data)

    def resume_parsing(self) -> None:
        """Parse what has arrived until a request waits to be served; then stop reading from the client."""
        if not self._unread and not self._paused:
            return
        while self._unread and not self._discarding and self._has_room():
            piece, self._unread = self._unread[:SLICE], self._unread[SLICE:]
            self._feed(piece)
        if self._discarding:
            self._discarded += len(self._unread)
            self._unread = b""
        self._pause_reading(bool(self._unread) or self._discarded > self.clients.limits.linger_bytes)

    def on_answered(self, exchange: Exchange) -> None:
        if exchange.incomplete:
            self._refusal = None  # its request has its answer
        if not exchange.keep_alive or exchange.incomplete:
            self._close_gracefully()
        elif exchange.complete:
            self._serve_next()
            self.resume_parsing()
        else:
            exchange.body.clear()
            self.clients.mark_idle(self)
            self.resume_parsing()

    # Reading

    def _has_room(self) -> bool:
        return len(self._arriving.body) <= BODY_BUFFER if self._arriving else self._current is None

    def _feed(self, piece: bytes) -> None:
        try:
            self._unread = self._parser.feed(piece) + self._unread
        except Problem as problem:
            if self._discarding:  # behind the last request
                self._discarded += 1
            else:
                self._refuse(problem)

    def _pause_reading(self, pause: bool) -> None:  # noqa: FBT001
        if pause is not self._paused and not self._transport.is_closing():
            self._paused = pause
            (self._transport.pause_reading if pause else self._transport.resume_reading)()

    # Serving

    def _begin(self, exchange: Exchange) -> None:
        self._current = exchange
        self.clients.mark_busy(self)
        self.clients.start_queue.add(partial(self._start, exchange))

    def _start(self, exchange: Exchange) -> None:
        if exchange.client_gone:
            return
        exchange.task = self.clients.loop.create_task(self._serve(exchange))
        self._tasks.add(exchange.task)

    async def _serve(self, exchange: Exchange) -> None:
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            logger.warning("cut off, as the time to stop has run out", extra={"event": "cut-off"})
        except Exception:  # the outermost frame of all
            logger.exception("failed", extra={"event": "failed"})
            self._refusal = None if exchange.started else InternalError()
        finally:
            if exchange.task:
                self._tasks.discard(exchange.task)
            if not exchange.answered:
                self._break_off(exchange)

    def _break_off(self, exchange: Exchange) -> None:
        """Close without ending the answer, so that the client can tell it from a complete one."""
        if exchange.started or self._refusal is None:
            self._transport.close()
        else:
            self._close_gracefully()

    def _serve_next(self) -> None:
        self._current = None
        if self._waiting:
            self._begin(self._waiting.popleft())
        elif self._refusal:
            self._close_gracefully()
        else:
            self._phase_since = self.clients.now
            self.clients.mark_idle(self)

    # Closing

    def _refuse(self, problem: Problem) -> None:
        """Accept no more requests, and send the reason once the earlier ones are answered."""
        self._discarding, self._refusal = True, problem
        self._discarded += 1
        if exchange := self._arriving:
            self._arriving, exchange.incomplete = None, True
            exchange.wake()
            if exchange.answered:
                self._refusal = self._current = None
        if self._current is None:
            self._close_gracefully()

    def _close_gracefully(self) -> None:
        """Close once the client has had time to read the last answer.

        Closing while some of its data is unread would make its system discard the answer (RFC 9112, 9.6).
        """
        if self._transport.is_closing():
            return
        if self._refusal:
            self._write_refusal(self._refusal)
        all_read = self._half_closed or not (self._refusal or self._arriving or self._discarded)
        self._discarding, self._current, self._arriving = True, None, None
        self._waiting.clear()
        if all_read:
            self._transport.close()
            return
        self._lingering, self._phase_since = True, self.clients.now
        self.clients.mark_idle(self)
        self._transport.write_eof()
        self.resume_parsing()

    def _write_refusal(self, problem: Problem) -> None:
        request_id, answer = wire.refusal(problem, self.clients.date)
        if problem.reason:
            extra = {"event": "no-request", "request_id": request_id, "status": problem.status}
            client = self._scope["client"]
            logger.warning("no request from %s: %s", client and client[0], problem.reason, extra=extra)
        self.write(answer)


def _address(name: object) -> tuple[str, int] | None:
    return (name[0], name[1]) if isinstance(name, tuple) else None
