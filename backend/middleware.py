"""What happens around every request, whatever becomes of it?

From the outside in: `AccessLog`, Starlette's CORSMiddleware, `Problems`.
"""

import logging
import re
import time
from ipaddress import ip_address
from uuid import uuid4

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.errors import InternalError, NotFound, Problem, Refusal
from backend.routing import send_json

access_log = logging.getLogger("backend.access")
logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~-]{1,128}")


class AccessLog:
    """Gives each request an id, the client's own where it is harmless, and writes one line when it is answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        # The HTTP parser takes what follows the head of an upgrade for another protocol; the next request would begin
        # in the middle of this one's body.
        closing = [(b"connection", b"close")] if any(name == b"upgrade" for name, _ in scope["headers"]) else []
        started = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *closing, (b"x-request-id", request_id)]
                milliseconds = (time.perf_counter() - started) * 1000
                access_log.info("%s %d %.1f ms %s", where(scope), message["status"], milliseconds, request_id.decode())
            await send(message)

        await self._app(scope, receive, send_with_id)


class Problems:
    """The one place where an error becomes an answer, and where the log learns why."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        except Problem as problem:
            if isinstance(problem, Refusal):
                _log_refusal(scope, problem)
            await _answer(send, problem)
        except HTTPException as error:
            # The documentation page alone raises it: Starlette's static files and plain routes.
            await _answer(send, NotFound(error.detail))
        except ClientDisconnect:
            logger.info("client gone %s", where(scope))
        except Exception:
            # The outermost frame of ours: whatever arrives here is a bug, and its words are for the log alone.
            logger.exception("failed %s", where(scope))
            await _answer(send, InternalError())


async def _answer(send: Send, problem: Problem) -> None:
    content: dict[str, object] = {"detail": problem.detail}
    if problem.errors is not None:
        content["errors"] = problem.errors
    headers = [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
    await send_json(send, problem.status, orjson.dumps(content), headers)


def _log_refusal(scope: Scope, refusal: Refusal) -> None:
    logger.warning("refused %s reason=%s user=%a client=%s", where(scope), refusal.reason, refusal.user, _client(scope))


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
