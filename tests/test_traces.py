"""Is a request found again by its trace: in the log, and by OpenTelemetry, told in its own wire format?"""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from people import User
from relay import Relay, first
from servers import Application, application, until
from test_metrics import workers

from backend.telemetry.traces import ids

MALFORMED = [
    b"",
    b"several",
    b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",
    b"00-4bf92f3577b34da6a3ce929d0e0e4736-" + b"0" * 16 + b"-01",
    b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
    b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
    b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
    b" 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
]


class Collector:
    """What came to an OTLP receiver: the bytes, and the spans that they are."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.bodies: list[bytes] = []

    def resources(self) -> Iterator[tuple[dict[str, Any], list[Span]]]:
        """Yield what each export says of its process, and its spans."""
        for body in list(self.bodies):
            for each in ExportTraceServiceRequest.FromString(body).resource_spans:
                yield told(each.resource), [span for scope in each.scope_spans for span in scope.spans]

    def spans(self, trace: str) -> list[Span]:
        """Return the spans of one trace in the order in which they ended."""
        return [span for _, spans in self.resources() for span in spans if span.trace_id.hex() == trace]

    def whole(self, trace: str) -> list[Span]:
        """Return the same, once the request's own span is there, which is the last."""
        until(lambda: any(span.kind == Span.SPAN_KIND_SERVER for span in self.spans(trace)), "no span has come")
        return self.spans(trace)


@contextmanager
def collecting() -> Iterator[Collector]:
    """Receive OTLP over HTTP on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
            received.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        received = Collector(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield received
        server.shutdown()


def told(what: Any) -> dict[str, Any]:
    """Return the attributes of a span or a resource."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in what.attributes}


def parent(*, sampled: bool = True) -> tuple[str, str, dict[str, str]]:
    """Return the ids of a client's span, and the header that names it."""
    trace, span = token_hex(16), token_hex(8)
    return trace, span, {"traceparent": f"00-{trace}-{span}-0{sampled:d}"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def app(line: tuple[Relay, str], collector: Collector) -> Iterator[Application]:
    url = line[1].replace("app@", "app:a-password@")
    with application(url, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY="20") as app:
        yield app


@pytest.fixture
def user(app: Application) -> Iterator[User]:
    user = User(app.base_url)
    with user.http:
        yield user


@pytest.mark.parametrize("malformed", MALFORMED)
def test_what_is_no_traceparent_is_not_believed(malformed: bytes) -> None:
    assert ids(malformed) == {}


@pytest.mark.spec("FR-033")
def test_the_clients_trace_stands_in_the_log_also_where_the_sdk_is_missing(database_url: str) -> None:
    without = "import sys; sys.modules['opentelemetry.sdk.trace'] = None; from backend.commands.cli import run; run()"
    trace, span, header = parent()
    with application(database_url, program=("-c", without), OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1") as app:
        user = User(app.base_url)
        with user.http:
            refused = user.http.get("/api/somebody-else/tasks", headers=header)
            twice = user.http.get(user.tasks, headers=[("traceparent", header["traceparent"])] * 2)
            bare = user.http.get(user.tasks)

        lines = app.lines_of(refused.headers["x-request-id"])
        assert [(line["event"], line["trace_id"], line["span_id"]) for line in lines] == [
            ("refused", trace, span),
            ("request", trace, span),
        ]
        for answer in (twice, bare):
            (written,) = app.lines_of(answer.headers["x-request-id"])
            assert not {"trace_id", "span_id"} & written.keys()
        (said,) = [each["message"] for each in app.events("other") if each["logger"] == "fastapi"]
        assert "requires fastapi[opentelemetry]" in said


@pytest.mark.spec("FR-033")
def test_a_request_is_a_span_below_its_clients_and_its_statement_one_below(
    app: Application, user: User, collector: Collector, line: tuple[Relay, str]
) -> None:
    trace, span, header = parent()

    answer = user.http.get(user.tasks, headers=header)

    statement, request = collector.whole(trace)
    address, database = urlsplit(app.base_url), urlsplit(line[1])
    assert (request.parent_span_id.hex(), request.name) == (span, "GET /api/{user_id}/tasks")
    assert told(request) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.route": "/api/{user_id}/tasks",
        "url.path": user.tasks,
        "url.scheme": "http",
        "client.address": "127.0.0.1",
        "server.address": address.hostname,
        "server.port": address.port,
    }
    assert (statement.parent_span_id, statement.kind) == (request.span_id, Span.SPAN_KIND_CLIENT)
    assert statement.name == "list"
    assert told(statement) == {
        "db.system.name": "postgresql",
        "db.namespace": database.path.strip("/"),
        "db.collection.name": "task",
        "db.operation.name": "SELECT",
        "db.query.summary": "list",
        "db.query.text": told(statement)["db.query.text"],
        "server.address": database.hostname,
        "server.port": database.port,
    }
    assert "WHERE task.user_id = $1" in told(statement)["db.query.text"]
    assert not any((request.events, statement.events, request.status.code, statement.status.code))
    (written,) = app.lines_of(answer.headers["x-request-id"])
    assert (written["trace_id"], written["span_id"]) == (trace, request.span_id.hex())


@pytest.mark.spec("FR-033")
def test_what_the_parent_does_not_sample_is_not_exported(app: Application, user: User, collector: Collector) -> None:
    unsampled, _, header = parent(sampled=False)
    sampled, _, later = parent()

    answer = user.http.get(user.tasks, headers=header)
    user.http.get(user.tasks, headers=later)

    assert len(collector.whole(sampled)) == 2
    assert collector.spans(unsampled) == []
    (written,) = app.lines_of(answer.headers["x-request-id"])
    assert written["trace_id"] == unsampled


@pytest.mark.parametrize("header", [None, MALFORMED[2].decode()])
def test_without_a_trace_of_the_client_a_new_one_begins(
    app: Application, user: User, collector: Collector, header: str | None
) -> None:
    answer = user.http.get(user.tasks, headers={"traceparent": header} if header else {})

    (written,) = app.lines_of(answer.headers["x-request-id"])
    statement, request = collector.whole(str(written["trace_id"]))
    assert (request.parent_span_id, statement.parent_span_id) == (b"", request.span_id)


def test_a_fault_of_ours_is_an_error_and_one_of_the_clients_is_none(
    user: User, collector: Collector, line: tuple[Relay, str]
) -> None:
    relay, _ = line
    missing, _, in_missing = parent()
    again, _, in_again = parent()
    lost, _, in_lost = parent()
    task = user.add()

    assert user.http.get(f"{user.tasks}/999999999", headers=in_missing).status_code == 404
    relay.lose_answer = first(1)
    assert user.http.get(user.tasks, headers=in_again).status_code == 200
    relay.lose_answer = first(1)
    assert user.http.patch(f"{user.tasks}/{task['id']}/complete", headers=in_lost).status_code == 503

    assert [span.status.code for span in collector.whole(missing)] == [Status.STATUS_CODE_UNSET] * 2
    broken, sent_again, answered = collector.whole(again)
    assert told(broken)["error.type"] == "08003"  # connection_does_not_exist
    assert (broken.status.code, sent_again.status.code) == (Status.STATUS_CODE_ERROR, Status.STATUS_CODE_UNSET)
    assert answered.status.code == Status.STATUS_CODE_UNSET
    *_, unavailable = collector.whole(lost)
    assert (unavailable.status.code, told(unavailable)["error.type"]) == (Status.STATUS_CODE_ERROR, "503")


@pytest.mark.spec("FR-017")
def test_nothing_secret_is_told(user: User, collector: Collector) -> None:
    trace, _, header = parent()
    unknown, _, in_unknown = parent()

    user.http.post(f"{user.tasks}?token={user.token}", json={"title": "a private matter"}, headers=header)
    user.http.get(f"/api/{user.token}/tasks", headers=in_unknown)

    path = told(collector.whole(unknown)[-1])["url.path"]
    assert path == "/api/(token)/tasks"
    assert len(collector.whole(trace)) == 2
    told_bytes = b"".join(collector.bodies)
    for secret in (user.token, "a private matter", "a-password", "token="):
        assert secret.encode() not in told_bytes


def test_every_worker_tells_its_last_spans_before_it_ends(database_url: str) -> None:
    traces = []
    with (
        collecting() as collector,
        application(
            database_url, "--workers", "2", processes=2,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY="600000",
            OTEL_EXPERIMENTAL_RESOURCE_DETECTORS="process",
        ) as app,
    ):  # fmt: skip
        serving = workers(app)
        for pid in serving:  # the other one accepts
            os.kill(pid, signal.SIGSTOP)
            trace, _, header = parent()
            traces.append(trace)
            httpx.get(f"{app.base_url}/api/x/tasks", headers=header)
            os.kill(pid, signal.SIGCONT)
        early = list(collector.bodies)
        code = app.stop()

        assert (early, code) == ([], 0)
        assert {resource["process.pid"] for resource, _ in collector.resources()} == set(serving)
        assert [len(collector.spans(trace)) for trace in traces] == [1, 1]


@pytest.mark.spec("FR-033")
def test_a_collector_that_never_answers_keeps_nobody_waiting(database_url: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        application(
            database_url,
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}",
            OTEL_EXPORTER_OTLP_TIMEOUT="3600",
        ) as app,
    ):
        user = User(app.base_url)
        with user.http:
            user.add()

        assert app.stop() == 0  # or it is killed
