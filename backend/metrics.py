"""What is counted, for Prometheus?

Off unless METRICS_PORT is set. All workers write into files of one directory, which the first process serves.
"""

import os
from tempfile import mkdtemp

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


class NoMetrics:
    """What happens while nobody counts, and the list of what can be counted."""

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

    def pool(self, busy: int, connections: int) -> None:
        """Tell how many connections there are, and how many of them are busy."""

    def key_set_age(self, seconds: float) -> None:
        """Tell how old the key set is that a token was verified with."""


class Prometheus(NoMetrics):
    """The counters of this process; `publish` must have been called in it, or in the one that started it."""

    def __init__(self) -> None:
        from prometheus_client import Counter, Gauge, Histogram

        self._requests = Counter("todo_requests", "Requests answered.", ["method", "status"])
        self._latency = Histogram("todo_request_seconds", "From the request's head to the answer's.", ["method"])
        self._refusals = Counter("todo_refusals", "Requests refused with 401 or 403.", ["reason"])
        self._statements = Counter("todo_statements", "Round trips to the database.")
        self._retries = Counter("todo_retries", "Statements sent again after their connection broke.")
        self._unavailable = Counter("todo_unavailable", "Requests that the database could not serve.")
        self._connections = Gauge("todo_pool_connections", "Open connections.", multiprocess_mode="livesum")
        self._busy = Gauge("todo_pool_busy", "Connections that run a statement.", multiprocess_mode="livesum")
        self._key_set_age = Gauge("todo_key_set_age_seconds", "Age of the key set.", multiprocess_mode="livemax")

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

    def pool(self, busy: int, connections: int) -> None:
        self._busy.set(busy)
        self._connections.set(connections)

    def key_set_age(self, seconds: float) -> None:
        self._key_set_age.set(seconds)


def publish(host: str, port: int) -> None:
    """Serve the sum of all processes at http://host:port/metrics; to be called before any of them starts."""
    os.environ.setdefault(DIRECTORY, mkdtemp(prefix="todo-metrics-"))
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    start_http_server(port, host, registry)
