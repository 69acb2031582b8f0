"""What happens around every request, whatever becomes of it?"""

import re
import time
from collections.abc import Collection, Sequence
from inspect import iscoroutinefunction
from itertools import takewhile
from random import getrandbits
from typing import Any

import orjson
from fastapi import HTTPException as FastAPIException
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.errors import Departed, InternalError, Overloaded, Problem, Refusal
from backend.telemetry import logs, traces
from backend.telemetry.metrics import NO_ROUTE, Metrics
from backend.web.answers import private
from backend.web.headers import Headers, described
from backend.web.preflights import Preflights
from backend.web.request_log import RequestLog
from backend.web.routing import invalid, template

# What FastAPI's `exception_handlers` holds: a status or a class, and what to call.
Handlers = dict[Any, Any]

EXPOSED = ("WWW-Authenticate", "Retry-After", "X-Request-Id")
VARY = (b"vary", b"Origin")
CROWDED = orjson.dumps({"detail": Overloaded.detail})
CROWDED_HEADERS = [
    *described(CROWDED),
    *((name.lower().encode(), value.encode()) for name, value in Overloaded.headers.items()),
]
# Whatever is harmless in a line of the log, and no JWT.
_REQUEST_ID = re.compile(rb"(?!eyJ)[A-Za-z0-9._~-]{1,128}")


class Envelope:
    """Turns an error into an answer, gives each answer its id and its CORS headers, and writes one line when it ends.

    One layer that looks through the request's headers once; preflights are Starlette's (decision 0011).
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        log: RequestLog,
        origins: Collection[str],
        handlers: Handlers,
        middleware: Sequence[Middleware],
    ) -> None:
        self._handlers = handlers
        self._metrics = metrics
        self._log = log
        if middleware:  # sees errors as answers, as it would in FastAPI
            known = {Problem, HTTPException, RequestValidationError, *handlers} - {500, Exception}
            answered: Handlers = dict.fromkeys(known, self._response)
            app = ExceptionMiddleware(app, answered)
        for kind, arguments, options in reversed(middleware):
            app = kind(app, *arguments, **options)
        self._app = app
        self._readable = {origin.encode(): _readable_by(origin) for origin in origins}
        self._preflight = Preflights(app, origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, ended = time.perf_counter(), 0, False
        app, request_id, parent, added = self._addressed(scope)
        logs.request_id.set(request_id)
        logs.trace.set(traces.ids(parent) if parent else {})
        # Only what needs the database: neither the checks and the document nor a preflight do.
        crowded = (state := scope.get("state")) and state["database"].pool.crowded
        if crowded and app is self._app and scope["path"].startswith("/api/"):
            await self._turn_away(scope, send, added)
            return
        self._metrics.in_flight += 1

        async def answer(message: Message) -> None:
            nonlocal status, ended
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *added]
                if self._metrics.counting:
                    route = template(scope) or NO_ROUTE
                    self._metrics.request(route, scope["method"], status, time.perf_counter() - started)
            elif not message.get("more_body"):
                ended = True
                self._log.answered("request", scope, status, time.perf_counter() - started)
            await send(message)

        try:
            await app(scope, receive, answer)
        except Exception as error:  # noqa: BLE001 - the outermost frame of ours
            # Once an answer has begun it stays without its end, and the server breaks the connection.
            response = await self._response(Request(scope, receive), error)
            if response and not status:
                await response(scope, receive, answer)
        finally:
            self._metrics.in_flight -= 1
            if status and not ended:
                self._log.answered("broken-off", scope, status, time.perf_counter() - started)

    async def _turn_away(self, scope: Scope, send: Send, added: Headers) -> None:
        """Answer at the least cost, without a line in the log: to turn somebody away later costs three times as much,
        which is missing for those who could be served."""
        self._metrics.shed()
        self._metrics.request(NO_ROUTE, scope["method"], Overloaded.status, 0)
        await send({"type": "http.response.start", "status": Overloaded.status, "headers": [*CROWDED_HEADERS, *added]})
        await send({"type": "http.response.body", "body": CROWDED})

    def _addressed(self, scope: Scope) -> tuple[ASGIApp, str, bytes | None, Headers]:
        """Return who answers the request, its id, the client's own where it is harmless, its `traceparent`, and what
        any answer says."""
        request_id = origin = asked = parent = None
        closing: Headers = []
        for name, value in scope["headers"]:
            if name == b"origin":
                origin = value if origin is None else b"several"
            elif name == b"x-request-id" and not request_id and _REQUEST_ID.fullmatch(value):
                request_id = value.decode()
            elif name == b"access-control-request-method":
                asked = value
            elif name == b"traceparent":
                parent = value if parent is None else b"several"
            elif name == b"upgrade":
                # `serve` hands none on. Another server's parser may take what follows for another protocol, and the
                # next request would begin in the middle of this one's body.
                closing = [(b"connection", b"close")]
        # No secret: the system's own random numbers, a call of the kernel each, would be 2 % of a request.
        request_id = request_id or f"{getrandbits(128):032x}"
        headers = [(b"x-request-id", request_id.encode()), *closing]
        if origin is not None and asked is not None and scope["method"] == "OPTIONS":
            return self._preflight, request_id, parent, headers
        return self._app, request_id, parent, [*headers, *self._readable.get(origin or b"", [VARY])]

    async def _response(self, request: Request, error: Exception) -> Response | None:
        """Return what the client is told, and tell the log why; None where there is nobody to be told."""
        if isinstance(error, Refusal):
            self._log.refused(request.scope, error)
            self._metrics.refusal(error.reason)
        if isinstance(error, ClientDisconnect | Departed):
            self._log.client_gone(request.scope)
            return None
        handler, shown = _handler(self._handlers, error)
        if not (handler or isinstance(error, Problem | RequestValidationError)):
            self._log.failed(request.scope, error)
            handler = self._handlers.get(500) or self._handlers.get(Exception)
        if isinstance(error, RequestValidationError):
            error = invalid(error.errors())
        if handler:
            try:
                is_async = iscoroutinefunction(handler)
                answer = await handler(request, shown) if is_async else await run_in_threadpool(handler, request, shown)
                return private(answer)
            except Exception as failure:  # noqa: BLE001 - whatever a handler does, the client is answered
                self._log.failed(request.scope, failure)
        problem = error if isinstance(error, Problem) and not handler else InternalError()
        headers = {"content-type": "application/json", **problem.headers}
        return private(Response(orjson.dumps(problem.content), problem.status, headers))


def _handler(handlers: Handlers, error: Exception) -> tuple[Any, Exception]:
    """Return who answers an error, if anybody does, and the error as they know it: ours are HTTPExceptions to them."""
    known = [error]
    if isinstance(error, Problem):
        as_http = FastAPIException(error.status, error.detail, dict(error.headers))
        known.append(RequestValidationError(error.errors) if error.errors else as_http)
    for each in known:
        kinds = takewhile(lambda kind: kind is not Exception, type(each).__mro__)
        for kind in (getattr(each, "status_code", None), *kinds):
            if kind in handlers:
                return handlers[kind], each
    return http_exception_handler if isinstance(error, HTTPException) else None, error


def _readable_by(origin: str) -> Headers:
    """Return the headers that let a page of this origin read an answer."""
    return [
        (b"access-control-allow-origin", origin.encode()),
        (b"access-control-allow-credentials", b"true"),
        (b"access-control-expose-headers", ", ".join(EXPOSED).encode()),
        VARY,
    ]
