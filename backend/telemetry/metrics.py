"""What is counted, for Prometheus?

Off unless METRICS_PORT is set. All workers write into files of one directory, which the first process serves.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from backend.errors import OperatorError

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


# How old a gauge may be, in seconds: the process that is asked is not the one that knows.
GAUGES_EVERY = 0.5


class Connections(Protocol):
    """What a pool tells of itself; it is asked only while somebody counts."""

    busy: int
    most: int

    @property
    def open(self) -> int: ...

    @property
    def waiting(self) -> int: ...


class NoMetrics:
    """What happens while nobody counts, and the list of what can be counted."""

    in_flight = 0

    async def watch(self, pool: Connections) -> None:
        """Tell again and again how many requests are under way, and how the pool is."""

    def request(self, method: str, status: int, seconds: float) -> None:
        """Count a request that was answered after so many seconds."""

    def refusal(self, reason: str) -> None:
        """Count a token or a path that was refused."""

    def statement(self) -> None:
        """Count one round trip to the database."""

    def retry(self) -> None:
        """Count a statement that was sent again after its connection broke."""

    def unavailable(self) -> None:
        """Count a request that the database could not serve."""

    def waited(self, seconds: float) -> None:
        """Count a request that had to wait so long for a connection, whether or not it got one."""

    def given_up(self) -> None:
        """Count a connection that was cut while the server still ran its statement."""

    def shed(self) -> None:
        """Count a request for which too many others waited."""

    def key_set_fetched(self) -> None:
        """Tell that Better Auth has just answered with its key set."""

    def log_line_dropped(self) -> None:
        """Count a line that the log could not take."""


class Prometheus(NoMetrics):
    """The counters of this process; `publish` must have been called in it, or in the one that started it."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        of = CollectorRegistry()
        self._requests = Counter("todo_requests", "Requests answered.", ["method", "status"], registry=of)
        text = "From the request's head to the answer's."
        self._latency = Histogram("todo_request_seconds", text, ["method"], registry=of)
        self._refusals = Counter("todo_refusals", "Requests refused with 401 or 403.", ["reason"], registry=of)
        self._statements = Counter("todo_statements", "Round trips to the database.", registry=of)
        self._retries = Counter("todo_retries", "Statements sent again after their connection broke.", registry=of)
        self._unavailable = Counter("todo_unavailable", "Requests that the database could not serve.", registry=of)
        self._shed = Counter("todo_shed", "Requests refused because too many waited.", registry=of)
        text = "Connections cut while the server still ran a statement."
        self._given_up = Counter("todo_connections_given_up", text, registry=of)
        text = "How long requests waited that did not get a connection at once."
        self._waited = Histogram("todo_pool_wait_seconds", text, registry=of)
        gauge = partial(Gauge, registry=of, multiprocess_mode="livesum")
        self._in_flight = gauge("todo_requests_in_flight", "Requests under way.")
        self._connections = gauge("todo_pool_connections", "Open connections.")
        self._busy = gauge("todo_pool_busy", "Connections that run a statement.")
        self._maximum = gauge("todo_pool_maximum", "How many connections there may be.")
        self._waiting = gauge("todo_pool_waiting", "Requests that wait for a connection.")
        self._dropped = Counter("todo_log_lines_dropped", "Lines that the log could not take.", registry=of)
        text = "Unix time at which each process last got the key set; 0 is never."
        self._key_set = Gauge("todo_key_set_fetched_seconds", text, registry=of, multiprocess_mode="liveall")

    def request(self, method: str, status: int, seconds: float) -> None:
        self._requests.labels(method, status).inc()
        self._latency.labels(method).observe(seconds)

    def refusal(self, reason: str) -> None:
        self._refusals.labels(reason).inc()

    def statement(self) -> None:
        self._statements.inc()

    def retry(self) -> None:
        self._retries.inc()

    def unavailable(self) -> None:
        self._unavailable.inc()

    def waited(self, seconds: float) -> None:
        self._waited.observe(seconds)

    def given_up(self) -> None:
        self._given_up.inc()

    def shed(self) -> None:
        self._shed.inc()

    async def watch(self, pool: Connections) -> None:
        while True:
            self._in_flight.set(self.in_flight)
            self._connections.set(pool.open)
            self._busy.set(pool.busy)
            self._maximum.set(pool.most)
            self._waiting.set(pool.waiting)
            await asyncio.sleep(GAUGES_EVERY)

    def key_set_fetched(self) -> None:
        self._key_set.set_to_current_time()

    def log_line_dropped(self) -> None:
        self._dropped.inc()


@contextmanager
def publish(host: str, port: int) -> Iterator[None]:
    """Serve the sum of all processes at http://host:port/metrics; to be entered before any of them starts."""
    with ExitStack() as stack:
        if DIRECTORY not in os.environ:
            os.environ[DIRECTORY] = stack.enter_context(TemporaryDirectory(prefix="todo-metrics-"))
        from prometheus_client import CollectorRegistry, start_http_server

        registry = CollectorRegistry()
        registry.register(_living())
        try:
            server, _ = start_http_server(port, host, registry)
        except OSError as error:
            raise OperatorError(f"Cannot publish metrics on {host}:{port}: {error.strerror}.") from None
        stack.callback(server.shutdown)
        yield


def _living() -> Any:
    from prometheus_client import Metric
    from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

    class Living(MultiProcessCollector):
        """Leaves the gauges of processes that were killed out of the sum: they could not do so themselves."""

        def collect(self) -> Iterator[Metric]:
            for file in Path(os.environ[DIRECTORY]).glob("gauge_live*_*.db"):
                pid = int(file.stem.rpartition("_")[2])
                if not _lives(pid):
                    mark_process_dead(pid)  # type: ignore[no-untyped-call]
            yield from super().collect()  # type: ignore[no-untyped-call]

    return Living(None)  # type: ignore[no-untyped-call]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
