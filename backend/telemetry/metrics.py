"""What is counted, for Prometheus?

Off unless METRICS_PORT is set. All workers write into files of one directory, which the first process serves.
"""

import asyncio
import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, Self

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

    def __init__(self, *, counting: bool = False) -> None:
        self._counting = counting
        library: Any = importlib.import_module("prometheus_client") if counting else _Nothing()
        of = library.CollectorRegistry()
        counter, histogram = partial(library.Counter, registry=of), partial(library.Histogram, registry=of)
        gauge = partial(library.Gauge, registry=of, multiprocess_mode="livesum")
        self._requests = counter("todo_requests", "Requests answered.", ["method", "status"])
        self._latency = histogram("todo_request_seconds", "From the request's head to the answer's.", ["method"])
        self._refusals = counter("todo_refusals", "Requests refused with 401 or 403.", ["reason"])
        self.statement = counter("todo_statements", "Round trips to the database.").inc
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
        self._gauges: dict[Any, Callable[[Connections], float]] = {
            gauge("todo_requests_in_flight", "Requests under way."): lambda _: self.in_flight,
            gauge("todo_pool_connections", "Open connections."): lambda pool: pool.open,
            gauge("todo_pool_busy", "Connections that run a statement."): lambda pool: pool.busy,
            gauge("todo_pool_maximum", "How many connections there may be."): lambda pool: pool.most,
            gauge("todo_pool_waiting", "Requests that wait for a connection."): lambda pool: pool.waiting,
        }

    def request(self, method: str, status: int, seconds: float) -> None:
        """Count a request that was answered after so many seconds."""
        if self._counting:
            self._requests.labels(method, status).inc()
            self._latency.labels(method).observe(seconds)

    def refusal(self, reason: str) -> None:
        """Count a token or a path that was refused."""
        self._refusals.labels(reason).inc()

    async def watch(self, pool: Connections) -> None:
        """Tell again and again how many requests are under way, and how the pool is."""
        while self._counting:
            for gauge, value in self._gauges.items():
                gauge.set(value(pool))
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
