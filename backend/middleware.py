"""What happens around every request, whatever becomes of it?

From the outside in: `AccessLog`, Starlette's CORSMiddleware, `Problems`.
"""

import logging
import re
import time
from ipaddress import ip_address
from secrets import token_hex

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend import logs
from backend.errors import InternalError, NotFound, Problem, Refusal
from backend.metrics import NoMetrics
from backend.routing import send_json

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~-]{1,128}")


class AccessLog:
    """Gives each request an id, the client's own where it is harmless, and writes one line when it is answered."""

    def __init__(self, app: ASGIApp, metrics: NoMetrics) -> None:
        self._app = app
        self._metrics = metrics
        self._write = logs.access_writer()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id, added = _request_id_and_headers(scope)
        logs.request_id.set(request_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *added]
                seconds, status = time.perf_counter() - started, message["status"]
                self._write(where(scope), status, seconds)
                self._metrics.request(scope["method"], status, seconds)
            await send(message)

        await self._app(scope, receive, send_with_id)


class Problems:
    """The one place where an error becomes an answer, and where the log learns why."""

    def __init__(self, app: ASGIApp, metrics: NoMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        except Problem as problem:
            if isinstance(problem, Refusal):
                _log_refusal(scope, problem)
                self._metrics.refusal(problem.reason)
            await _answer(send, problem)
        except HTTPException as error:
            # The documentation page alone raises it: Starlette's static files and plain routes.
            await _answer(send, NotFound(error.detail))
        except ClientDisconnect:
            logger.info("client gone %s", where(scope), extra={"event": "client-gone"})
        except Exception:
            # The outermost frame of ours: whatever arrives here is a bug, and its words are for the log alone.
            logger.exception("failed %s", where(scope), extra={"event": "failed"})
            await _answer(send, InternalError())


async def _answer(send: Send, problem: Problem) -> None:
    content: dict[str, object] = {"detail": problem.detail}
    if problem.errors is not None:
        content["errors"] = problem.errors
    headers = [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
    await send_json(send, problem.status, orjson.dumps(content), headers)


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


def _request_id_and_headers(scope: Scope) -> tuple[str, list[tuple[bytes, bytes]]]:
    """Return the id of the request, and what it adds to the answer's headers."""
    request_id, added = None, []
    for name, value in scope["headers"]:
        if name == b"x-request-id" and not request_id and _REQUEST_ID.fullmatch(value):
            request_id = value.decode()
        elif name == b"upgrade":
            # The HTTP parser takes what follows the head of an upgrade for another protocol; the next request would
            # begin in the middle of this one's body.
            added.append((b"connection", b"close"))
    request_id = request_id or token_hex(16)
    return request_id, [*added, (b"x-request-id", request_id.encode())]
