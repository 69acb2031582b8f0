"""What is counted, for Prometheus?

Off unless METRICS_PORT is set. All workers write into files of one directory, which the first process serves.
"""

import asyncio
import importlib
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from tempfile import TemporaryDirectory
from typing import Any, Protocol, Self

from backend.errors import OperatorError

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

# Checks are asked for again and again, and would hide what clients ask for.
PROBES = frozenset({"/health", "/livez", "/readyz"})
# The route of what matches none, and the method of what HTTP does not know: no client may be able to make up series.
NO_ROUTE, OTHER_METHOD = "(none)", "_OTHER"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"})
# In seconds, as OpenTelemetry advises for db.client.operation.duration; the library's own are those for HTTP.
STATEMENT_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)

# How old a gauge may be, in seconds: the process that is asked is not the one that knows.
GAUGES_EVERY = 0.5


class Connections(Protocol):
    """What a pool tells of itself."""

    busy: int
    most: int

    @property
    def open(self) -> int: ...

    @property
    def waiting(self) -> int: ...


class Readiness(Protocol):
    obstacle: str | None


class Watched(Protocol):
    """What a database tells of itself; it is asked only while somebody counts."""

    @property
    def pool(self) -> Connections: ...

    @property
    def readiness(self) -> Readiness: ...


class _Nothing:
    """Stands for the library while nobody counts: whatever it is asked for or told, nothing happens."""

    def __getattr__(self, _name: str) -> Self:
        return self

    def __call__(self, *_values: object, **_options: object) -> Self:
        return self


class Metrics:
    """What this process counts: the metrics, and what is called when something happens.

    Where `counting`, `publish` must have been called in it, or in the one that started it.
    """

    in_flight = 0
    # Set by the server, where it is ours.
    clients: Collection[object] = ()
    most_clients = 0

    def __init__(self, *, counting: bool = False) -> None:
        self.counting = counting
        library: Any = importlib.import_module("prometheus_client") if counting else _Nothing()
        of = library.CollectorRegistry()
        counter, histogram = partial(library.Counter, registry=of), partial(library.Histogram, registry=of)
        gauge = partial(library.Gauge, registry=of, multiprocess_mode="livesum")
        requests = counter("todo_requests", "Requests answered.", ["route", "method", "status"])
        text = "From the request's head to the answer's."
        latency = histogram("todo_request_seconds", text, ["route", "method"])
        probes = counter("todo_probes", "Checks answered.", ["probe", "status"])
        text = "How long a statement took, from sending it to its last row."
        statements = histogram("todo_statement_seconds", text, ["statement"], buckets=STATEMENT_BUCKETS)
        # The library looks for a series anew each time.
        self._answered = cache(
            lambda route, method, status: (
                requests.labels(route, method, status).inc,
                latency.labels(route, method).observe,
            )
        )
        self._probed = cache(lambda probe, status: probes.labels(probe, status).inc)
        self._ran = cache(lambda statement: statements.labels(statement).observe)
        self._refusals = counter("todo_refusals", "Requests refused with 401 or 403.", ["reason"])
        self.retry = counter("todo_retries", "Statements sent again after their connection broke.").inc
        self.unavailable = counter("todo_unavailable", "Requests that the database could not serve.").inc
        self.shed = counter("todo_shed", "Requests refused because too many waited.").inc
        text = "Connections cut while the server still ran a statement."
        self.given_up = counter("todo_connections_given_up", text).inc
        text = "How long requests waited that did not get a connection at once."
        self.waited = histogram("todo_pool_wait_seconds", text).observe
        self.log_line_dropped = counter("todo_log_lines_dropped", "Lines that the log could not take.").inc
        text = "Unix time at which each process last got the key set; 0 is never."
        key_set = gauge("todo_key_set_fetched_seconds", text, multiprocess_mode="liveall")
        self.key_set_fetched = key_set.set_to_current_time
        self._gauges: dict[Any, Callable[[Watched], float]] = {
            gauge("todo_processes", "Processes that serve."): lambda _: 1,
            gauge("todo_ready", "Processes that can serve."): lambda database: not database.readiness.obstacle,
            gauge("todo_clients", "Open connections of clients."): lambda _: len(self.clients),
            gauge("todo_clients_maximum", "How many clients there may be."): lambda _: self.most_clients,
            gauge("todo_requests_in_flight", "Requests under way."): lambda _: self.in_flight,
            gauge("todo_pool_connections", "Open connections."): lambda database: database.pool.open,
            gauge("todo_pool_busy", "Connections that run a statement."): lambda database: database.pool.busy,
            gauge("todo_pool_maximum", "How many connections there may be."): lambda database: database.pool.most,
            gauge("todo_pool_waiting", "Requests that wait for a connection."): lambda database: database.pool.waiting,
        }

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that was answered after so many seconds; `route` is the path's template."""
        if route in PROBES:
            self._probed(route, status)()
            return
        count, observe = self._answered(route, method if method in METHODS else OTHER_METHOD, status)
        count()
        observe(seconds)

    def statement(self, label: str, seconds: float) -> None:
        self._ran(label)(seconds)

    def refusal(self, reason: str) -> None:
        """Count a token or a path that was refused."""
        self._refusals.labels(reason).inc()

    async def watch(self, database: Watched) -> None:
        """Tell again and again how many requests are under way, and how the database's pool is."""
        while self.counting:
            for gauge, value in self._gauges.items():
                gauge.set(value(database))
            await asyncio.sleep(GAUGES_EVERY)


@contextmanager
def publish(host: str, port: int) -> Iterator[None]:
    """Serve the sum of all processes at http://host:port/metrics; to be entered before any of them starts."""
    with ExitStack() as stack:
        if DIRECTORY not in os.environ:
            try:
                os.environ[DIRECTORY] = stack.enter_context(TemporaryDirectory(prefix="todo-metrics-"))
            except OSError:
                raise OperatorError(
                    f"METRICS_PORT needs a directory that can be written: mount one at /tmp, or name it in {DIRECTORY}."
                ) from None
        from prometheus_client import CollectorRegistry, start_http_server

        from backend.telemetry.scrape import Processes

        registry = CollectorRegistry()
        registry.register(Processes(os.environ[DIRECTORY]))
        try:
            server, _ = start_http_server(port, host, registry)
        except OSError as error:
            raise OperatorError(f"Cannot publish metrics on {host}:{port}: {error.strerror}.") from None
        stack.callback(server.shutdown)
        yield
