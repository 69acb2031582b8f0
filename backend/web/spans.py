"""What does OpenTelemetry learn of a request?

All names are those of its semantic conventions for HTTP. What the log would not say of a request is not told either.
"""

import re
from collections.abc import Iterator

from opentelemetry.trace import SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.errors import InternalError
from backend.telemetry.metrics import METHODS, NO_ROUTE, OTHER_METHOD, PROBES
from backend.telemetry.traces import PARENT
from backend.web.request_log import UNKNOWN, RequestLog
from backend.web.routing import template

_HOST = re.compile(rb"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")
_w3c = TraceContextTextMapPropagator()


class Traced:
    """Puts a span around each request but probes, below that of its client, and hands it on as a child of this span."""

    def __init__(self, app: ASGIApp, tracer: Tracer, log: RequestLog) -> None:
        self._app = app
        self._tracer = tracer
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        parents = [value for name, value in scope["headers"] if name == b"traceparent"]
        known = len(parents) == 1 and PARENT.fullmatch(parents[0])
        parent = _w3c.extract({"traceparent": parents[0].decode()} if known else {})
        name = scope["method"] if scope["method"] in METHODS else "HTTP"
        status, ended = 0, False

        async def answer(message: Message) -> None:
            nonlocal status, ended
            status = message.get("status", status)
            ended = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        with self._tracer.start_as_current_span(
            name, parent, SpanKind.SERVER, record_exception=False, set_status_on_exception=False
        ) as span:
            below: dict[str, str] = {}
            _w3c.inject(below)
            headers = [header for header in scope["headers"] if header[0] != b"traceparent"]
            headers += [(name.encode(), value.encode()) for name, value in below.items()]
            scope = {**scope, "headers": headers}
            try:
                await self._app(scope, receive, answer)
            finally:
                if route := template(scope):
                    span.update_name(f"{name} {route}")
                span.set_attributes(dict(self._facts(scope, status)))
                if status >= InternalError.status or not ended:
                    span.set_attribute("error.type", str(status) if ended else "incomplete")
                    span.set_status(StatusCode.ERROR)

    def _facts(self, scope: Scope, status: int) -> Iterator[tuple[str, str | int]]:
        about = self._log.about(scope)
        yield "http.request.method", about["method"] if about["method"] in METHODS else OTHER_METHOD
        if about["method"] not in METHODS:
            yield "http.request.method_original", about["method"]
        if about["route"] != NO_ROUTE:
            yield "http.route", about["route"]
        if status:
            yield "http.response.status_code", status
        yield "url.path", about["path"]
        yield "url.scheme", scope["scheme"]
        if about["client"] != UNKNOWN:
            yield "client.address", about["client"]
        if host := _HOST.fullmatch(dict(scope["headers"]).get(b"host", b"")):
            yield "server.address", host[1].decode()
            yield "server.port", int(host[2] or {"https": 443}.get(scope["scheme"], 80))
