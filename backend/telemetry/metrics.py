"""What is counted, for Prometheus?

Off unless METRICS_PORT is set. All workers write into files of one directory, which the first process serves.
"""

import asyncio
import importlib
import os
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from tempfile import TemporaryDirectory
from typing import Any, Protocol, Self, TypeVar, cast

from backend.errors import OperatorError

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

# Checks are asked for again and again, and would hide what clients ask for.
PROBES = frozenset({"/health", "/livez", "/readyz"})
# The route of what matches none, and the method of what HTTP does not know: no client may be able to make up series.
NO_ROUTE, OTHER_METHOD = "(none)", "_OTHER"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"})
# In seconds, as OpenTelemetry advises for db.client.operation.duration; the library's own are those for HTTP.
STATEMENT_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)

# How old a number may be, in seconds: the process that is asked is not the one that knows.
TOLD_EVERY = 0.5

Fetch = TypeVar("Fetch", bound=Callable[..., Coroutine[Any, Any, Any]])


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


class _Tally:
    """Counts in memory what is counted in each request: the library takes a microsecond for each of five numbers."""

    def __init__(self, histogram: Any, counter: Any = None) -> None:
        self._histogram, self._counter = histogram, counter
        self._bounds = histogram._upper_bounds  # noqa: SLF001 - it has no other way to be given more than one
        self._counts, self._sum = [0] * len(self._bounds), 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def hand_over(self) -> None:
        """Give the library what has come since the last time."""
        if self._counter:
            self._counter.inc(sum(self._counts))
        self._histogram._sum.inc(self._sum)  # noqa: SLF001
        for bucket, count in zip(self._histogram._buckets, self._counts, strict=True):  # noqa: SLF001
            if count:
                bucket.inc(count)
        self._counts, self._sum = [0] * len(self._bounds), 0.0


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
        self._tallies: list[_Tally] = []
        self._answered = cache(
            lambda route, method, status: self._tally(
                latency.labels(route, method), requests.labels(route, method, status)
            )
        )
        self._ran = cache(lambda statement: self._tally(statements.labels(statement)))
        self._probes = probes
        self._refusals = counter("todo_refusals", "Requests refused with 401 or 403.", ["reason"])
        self.retry = counter("todo_retries", "Statements sent again after their connection broke.").inc
        self.unavailable = counter("todo_unavailable", "Requests that the database could not serve.").inc
        self.shed = counter("todo_shed", "Requests refused because too many waited.").inc
        text = "Connections cut while the server still ran a statement."
        self.given_up = counter("todo_connections_given_up", text).inc
        text = "How long requests waited that did not get a connection at once."
        waited = histogram("todo_pool_wait_seconds", text)
        self.waited = (self._tally(waited) if counting else waited).observe
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
        if not self.counting:
            return
        if route in PROBES:
            self._probes.labels(route, status).inc()
        else:
            self._answered(route, method if method in METHODS else OTHER_METHOD, status).observe(seconds)

    def timed(self, fetch: Fetch) -> Fetch:
        """Return what runs a statement as `fetch` does, and counts how long it took; itself where nobody counts."""
        if not self.counting:
            return fetch

        async def timed(connection: Any, statement: Any, *rest: Any) -> Any:
            began = time.perf_counter()
            try:
                return await fetch(connection, statement, *rest)
            finally:
                self._ran(statement.label).observe(time.perf_counter() - began)

        return cast("Fetch", timed)

    def refusal(self, reason: str) -> None:
        """Count a token or a path that was refused."""
        self._refusals.labels(reason).inc()

    async def watch(self, database: Watched) -> None:
        """Tell again and again what was counted meanwhile, how many requests are under way, and how the pool is."""
        if not self.counting:
            return
        try:
            while True:
                self._tell(database)
                await asyncio.sleep(TOLD_EVERY)
        finally:
            self._tell(database)

    def _tally(self, *of: Any) -> _Tally:
        self._tallies.append(_Tally(*of))
        return self._tallies[-1]

    def _tell(self, database: Watched) -> None:
        for tally in self._tallies:
            tally.hand_over()
        for gauge, value in self._gauges.items():
            gauge.set(value(database))


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
            stack.callback(os.environ.pop, DIRECTORY)
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
