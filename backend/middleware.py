"""What happens around every request, whatever becomes of it?

From the outside in: `AccessLog`, Starlette's CORSMiddleware, `Problems`.
"""

import logging
import re
import time
from collections.abc import Awaitable
from ipaddress import ip_address
from uuid import uuid4

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend import logs
from backend.answers import send_json
from backend.errors import InternalError, NotFound, Problem, Refusal
from backend.metrics import NoMetrics

access_log = logging.getLogger("backend.access")
logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~-]{1,128}")


class AccessLog:
    """Gives each request an id, the client's own where it is harmless, and writes one line when its answer ends."""

    def __init__(self, app: ASGIApp, metrics: NoMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        logs.request_id.set(request_id.decode())
        # The HTTP parser takes what follows the head of an upgrade for another protocol; the next request would begin
        # in the middle of this one's body.
        closing = [(b"connection", b"close")] if any(name == b"upgrade" for name, _ in scope["headers"]) else []
        started, status, ended = time.perf_counter(), 0, False

        async def send_with_id(message: Message) -> None:
            nonlocal status, ended
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *closing, (b"x-request-id", request_id)]
                status = message["status"]
                self._metrics.request(scope["method"], status, time.perf_counter() - started)
            elif not message.get("more_body"):
                ended = True
                _log_answer(scope, {"event": "request", "status": status}, started)
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            if status and not ended:
                _log_answer(scope, {"event": "broken-off", "status": status}, started, " broken off")


class Problems:
    """The one place where an error becomes an answer, and where the log learns why."""

    def __init__(self, app: ASGIApp, metrics: NoMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sending = _Sending(send)
        try:
            await self._app(scope, receive, sending)
        except Problem as problem:
            if isinstance(problem, Refusal):
                _log_refusal(scope, problem)
                self._metrics.refusal(problem.reason)
            await _answer(sending, problem)
        except HTTPException as error:
            # The documentation page alone raises it: Starlette's static files and plain routes.
            await _answer(sending, NotFound(error.detail))
        except ClientDisconnect:
            logger.info("client gone %s", where(scope), extra={"event": "client-gone"})
        except Exception:
            # The outermost frame of ours: whatever arrives here is a bug, and its words are for the log alone.
            logger.exception("failed %s", where(scope), extra={"event": "failed"})
            await _answer(sending, InternalError())


class _Sending:
    """Sends on, and remembers that an answer has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    def __call__(self, message: Message) -> Awaitable[None]:
        self.begun = True
        return self._send(message)


async def _answer(sending: _Sending, problem: Problem) -> None:
    if sending.begun:
        # It is too late for another answer. This one stays without its end, and the server breaks the connection.
        return
    content: dict[str, object] = {"detail": problem.detail}
    if problem.errors is not None:
        content["errors"] = problem.errors
    headers = [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
    await send_json(sending, problem.status, orjson.dumps(content), headers)


def _log_answer(scope: Scope, facts: dict[str, object], started: float, broken: str = "") -> None:
    milliseconds = (time.perf_counter() - started) * 1000
    facts["milliseconds"] = round(milliseconds, 1)
    access_log.info("%s %d%s %.1f ms", where(scope), facts["status"], broken, milliseconds, extra=facts)


def _log_refusal(scope: Scope, refusal: Refusal) -> None:
    client = _client(scope)
    facts = {"event": "refused", "reason": refusal.reason, "user": refusal.user, "client": client}
    logger.warning(
        "refused %s reason=%s user=%a client=%s", where(scope), refusal.reason, refusal.user, client, extra=facts
    )


def _client(scope: Scope) -> str:
    """Return the client's address: behind proxies it is text out of a header, and only an address may reach the log."""
    host = scope["client"][0] if scope.get("client") else ""
    try:
        return str(ip_address(host.partition("%")[0]))
    except ValueError:
        return "unknown"


def where(scope: Scope) -> str:
    """Return method and path for the log: as they came on the wire, so that no client can write a line of its own,
    and without the query, where tokens are sometimes put."""
    path = scope.get("raw_path", b"").decode("latin-1")
    return f"{scope['method']} {ascii(path)[1:-1][:256]}"


def _request_id(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return bytes(value)
    return uuid4().hex.encode()
