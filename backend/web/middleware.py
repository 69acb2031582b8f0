"""What happens around every request, whatever becomes of it?"""

import logging
import re
import time
from collections.abc import Collection
from ipaddress import ip_address
from random import getrandbits

import orjson
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.errors import Departed, InternalError, NotFound, Overloaded, Problem, Refusal
from backend.telemetry import logs
from backend.telemetry.metrics import Metrics
from backend.web.answers import CONTENT_TYPE, PRIVATE, Headers, send_json

logger = logging.getLogger(__name__)

PREFLIGHT_SECONDS = 7_200
EXPOSED = ("WWW-Authenticate", "Retry-After", "X-Request-Id")
VARY = (b"vary", b"Origin")
CROWDED = orjson.dumps({"detail": Overloaded.detail})
CROWDED_HEADERS = [
    CONTENT_TYPE,
    (b"content-length", b"%d" % len(CROWDED)),
    *PRIVATE,
    *((name.lower().encode(), value.encode()) for name, value in Overloaded.headers.items()),
]
# A JWT begins with eyJ, which is {" in base64url; some frontends put it where it does not belong.
_REQUEST_ID = re.compile(rb"(?!eyJ)[A-Za-z0-9._~-]{1,128}")
_TOKEN = re.compile(r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9._-]*")


class Envelope:
    """Turns an error into an answer, gives each answer its id and its CORS headers, and writes one line when it ends.

    One layer that looks through the request's headers once; preflights are Starlette's (decision 0011).
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, origins: Collection[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._write = logs.access_writer()
        self._readable = {origin.encode(): _readable_by(origin) for origin in origins}
        self._preflight = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_credentials=True,
            allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["authorization", "content-type", "idempotency-key", "x-request-id"],
            max_age=PREFLIGHT_SECONDS,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, ended = time.perf_counter(), 0, False
        app, request_id, added = self._addressed(scope)
        logs.request_id.set(request_id)
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
                self._metrics.request(scope["method"], status, time.perf_counter() - started)
            elif not message.get("more_body"):
                ended = True
                self._write({"event": "request", "status": status}, where(scope), time.perf_counter() - started)
            await send(message)

        try:
            await app(scope, receive, answer)
        except Exception as error:  # noqa: BLE001 - the outermost frame of ours
            problem = self._problem(scope, error)
            # Once an answer has begun it stays without its end, and the server breaks the connection.
            if problem and not status:
                await _send_problem(answer, problem)
        finally:
            self._metrics.in_flight -= 1
            if status and not ended:
                self._write({"event": "broken-off", "status": status}, where(scope), time.perf_counter() - started)

    async def _turn_away(self, scope: Scope, send: Send, added: Headers) -> None:
        """Answer at the least cost, without a line in the log: to turn somebody away later costs three times as much,
        which is missing for those who could be served."""
        self._metrics.shed()
        self._metrics.request(scope["method"], Overloaded.status, 0)
        await send({"type": "http.response.start", "status": Overloaded.status, "headers": [*CROWDED_HEADERS, *added]})
        await send({"type": "http.response.body", "body": CROWDED})

    def _addressed(self, scope: Scope) -> tuple[ASGIApp, str, Headers]:
        """Return who answers the request, its id, the client's own where it is harmless, and what any answer says."""
        request_id = origin = asked = None
        closing: Headers = []
        for name, value in scope["headers"]:
            if name == b"origin":
                origin = value if origin is None else b"several"
            elif name == b"x-request-id" and not request_id and _REQUEST_ID.fullmatch(value):
                request_id = value.decode()
            elif name == b"access-control-request-method":
                asked = value
            elif name == b"upgrade":
                # `serve` hands none on. Another server's parser may take what follows for another protocol, and the
                # next request would begin in the middle of this one's body.
                closing = [(b"connection", b"close")]
        # No secret: the system's own random numbers, a call of the kernel each, would be 2 % of a request.
        request_id = request_id or f"{getrandbits(128):032x}"
        headers = [(b"x-request-id", request_id.encode()), *closing]
        if origin is not None and asked is not None and scope["method"] == "OPTIONS":
            return self._preflight, request_id, headers
        return self._app, request_id, [*headers, *self._readable.get(origin or b"", [VARY])]

    def _problem(self, scope: Scope, error: Exception) -> Problem | None:
        """Return what the client is told, and tell the log why; None where there is nobody to be told."""
        if isinstance(error, Refusal):
            _log_refusal(scope, error)
            self._metrics.refusal(error.reason)
        if isinstance(error, Problem):
            return error
        if isinstance(error, HTTPException):
            # The documentation page alone raises it: Starlette's static files and plain routes.
            return NotFound(error.detail)
        if isinstance(error, ClientDisconnect | Departed):
            logger.info("client gone %s", where(scope), extra={"event": "client-gone"})
            return None
        # Whatever arrives here is a bug, and its words are for the log alone.
        logger.error("failed %s", where(scope), exc_info=error, extra={"event": "failed"})
        return InternalError()


def _readable_by(origin: str) -> Headers:
    """Return the headers that let a page of this origin read an answer."""
    return [
        (b"access-control-allow-origin", origin.encode()),
        (b"access-control-allow-credentials", b"true"),
        (b"access-control-expose-headers", ", ".join(EXPOSED).encode()),
        VARY,
    ]


async def _send_problem(send: Send, problem: Problem) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
    await send_json(send, problem.status, orjson.dumps(problem.content), headers)


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
    if "eyJ" in path:
        path = _TOKEN.sub("(token)", path)
    return f"{scope['method']} {ascii(path)[1:-1][:256]}"
