"""What does each contestant need for each workload?"""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson
import psutil

from backend.development.embedded import embedded_postgres
from backend.schema.migrate import upgrade
from bench import dataset
from bench.check import check
from bench.contestants import POOL_SIZE, Contestant
from bench.service import Service, running, tree_cpu
from bench.workloads import BIG, DELETE, SMALL, Workload, deletions

# Over TCP, as Neon is reached; a loopback address where a PostgreSQL of this machine hardly listens on the same port.
ADDRESS = "127.0.0.54"
URL = f"postgresql://app@{ADDRESS}:5432/todo?sslmode=disable"
CONNECTIONS, MANY = 50, 256
LOAD = Path(__file__).parent / "load.lua"
WARM_UP = 1
# More than the fastest deletes while it is measured.
DELETIONS_A_SECOND = 15_000


@dataclass(frozen=True)
class Sample:
    """One contestant under one workload, once; CPU in seconds a request, latencies in milliseconds."""

    contestant: str
    workload: str
    cpu: float
    database_cpu: float
    throughput: float
    p50: float
    p95: float
    p99: float
    failed: int


@contextmanager
def database() -> Iterator[str]:
    """Run the embedded PostgreSQL as it comes, durable, with the schema; yields its URL, a TCP address."""
    with tempfile.TemporaryDirectory(prefix="todo-bench-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        settings = {"autovacuum": "off", "max_connections": "200"}
        with embedded_postgres(Path(folder, "database"), settings=settings, address=ADDRESS) as url:
            upgrade(url)
            yield url


def through(port: int) -> str:
    """Return the URL of the database behind a relay at this port."""
    return URL.replace(f"{ADDRESS}:5432", f"127.0.0.1:{port}")


def started(contestant: Contestant, url: str) -> AbstractContextManager[Service]:
    """Run one until the block ends."""
    environment = {
        "NEON_DATABASE_URL": url,
        "BETTER_AUTH_SECRET": dataset.SECRET,
        "BETTER_AUTH_URL": dataset.ORIGIN,
        "BETTER_AUTH_MODE": "secret",
        "POOL_SIZE": str(POOL_SIZE),
    }
    probe = (f"/api/{SMALL[0].id}/tasks", SMALL[0].token)
    return running(contestant.command, environment | contestant.environment, probe)


@contextmanager
def serving(contestants: list[Contestant], url: str) -> Iterator[dict[Contestant, Service]]:
    """Start all of them one after another, and check that they do their work; yields what runs."""
    with ExitStack() as stack:
        services = {}
        for each in contestants:
            services[each] = stack.enter_context(started(each, url))
            check(services[each].url, SMALL[0], BIG[0])
        yield services


class Bench:
    """Runs workloads against running contestants."""

    def __init__(self, url: str, services: dict[Contestant, Service], seconds: int) -> None:
        self._url = url
        self._services = services
        self._seconds = seconds
        self._postgres = next(each for each in psutil.Process().children() if each.name() == "postgres")

    def rounds(
        self, contestants: list[Contestant], workloads: list[Workload], *, connections: int, count: int
    ) -> Iterator[Sample]:
        """Let all of them do each workload in every round; who comes first changes from round to round."""
        for turn in range(count):
            order = contestants[turn % len(contestants) :] + contestants[: turn % len(contestants)]
            for workload in workloads:
                for contestant in order:
                    yield self._sample(contestant, workload, min(connections, contestant.most), warm=turn > 0)

    def _sample(self, contestant: Contestant, workload: Workload, connections: int, *, warm: bool) -> Sample:
        service, requests = self._services[contestant], self._requests(workload)
        if not (warm or workload is DELETE):
            load(service, requests, connections, WARM_UP)
        before, before_database = service.cpu, tree_cpu(self._postgres)
        seen = load(service, requests, connections, self._seconds)
        cpu, database_cpu = service.cpu - before, tree_cpu(self._postgres) - before_database
        if workload.writes:
            dataset.restore(self._url)
        count = max(seen["requests"], 1)
        return Sample(
            contestant.name,
            workload.name,
            cpu / count,
            database_cpu / count,
            count / seen["seconds"],
            seen["p50"],
            seen["p95"],
            seen["p99"],
            int(seen["refused"] + seen["broken"]),
        )

    def _requests(self, workload: Workload) -> list[bytes]:
        if workload is DELETE:
            return deletions(dataset.spare(self._url, self._seconds * DELETIONS_A_SECOND, BIG))
        return workload.requests


def load(service: Service, requests: list[bytes], connections: int, seconds: int) -> dict[str, float]:
    """Send the requests over and over for so long; returns what load.lua tells, with latencies in milliseconds."""
    with tempfile.NamedTemporaryFile(prefix="todo-requests-") as file:
        file.write(b"\0".join(requests))
        file.flush()
        options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "-s", str(LOAD)]
        command = ["wrk", *options, service.url, "--", file.name]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seen: dict[str, float] = orjson.loads(output[output.rindex("{") :])
    return seen
