"""What does somebody's very long list cost the others?"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from statistics import median

import psutil
from databases import ask, execute

from bench.dataset import Owner, owner
from bench.measure import load
from bench.service import MIB, Service
from bench.workloads import chosen, request

LONG, LONGER = owner(1_000_001, 10_000), owner(1_000_002, 100_000)
OTHERS = 10
GLANCE = 0.02
ADD = """\
INSERT INTO task (user_id, title, description, completed)
SELECT $1, 'Buy milk and bread, number ' || number, 'Two bottles of milk and the ripe cheese', false
FROM generate_series(1, $2::int) AS number
"""


def add(url: str) -> None:
    """Give two users 10,000 and 100,000 tasks."""
    for each, count in ((LONG, 10_000), (LONGER, 100_000)):
        ask(url, ADD, each.id, count)
    execute(url, "VACUUM (ANALYZE) task")


def measured(url: str, service: Service, rounds: int, seconds: int) -> dict[str, float]:
    """Return milliseconds, of lists and of others while the longest is read over and over, and MiB that it adds."""
    add(url)
    alone, beside, grown = [], [], []
    (reads,) = chosen("get one")
    others = reads.requests
    with ThreadPoolExecutor() as pool:
        load(service, others, OTHERS, seconds)
        for _ in range(rounds):
            alone.append(load(service, others, OTHERS, seconds)["p99"])
            before = _resident(service)
            with _watched(service) as seen:
                reading = pool.submit(load, service, _list(LONGER), 1, seconds + 1)
                beside.append(load(service, others, OTHERS, seconds)["p99"])
                reading.result()
            grown.append((max(seen) - before) / MIB)
    return {
        "list of 10,000": load(service, _list(LONG), 1, seconds)["p50"],
        "list of 100,000": load(service, _list(LONGER), 1, max(seconds, 5))["p50"],
        "p99 of others, alone": median(alone),
        "p99 of others, beside": median(beside),
        "rise of their p99": median(late - usual for late, usual in zip(beside, alone, strict=True)),
        "memory added": max(grown),
    }


def _list(whose: Owner) -> list[bytes]:
    return [request("GET", whose)]


def _resident(service: Service) -> int:
    return int(psutil.Process(service.process.pid).memory_info().rss)


@contextmanager
def _watched(service: Service) -> Iterator[list[int]]:
    """Look at the memory every few milliseconds; yields what was seen."""
    seen, over = [_resident(service)], threading.Event()

    def watch() -> None:
        while not over.wait(GLANCE):
            seen.append(_resident(service))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield seen
    finally:
        over.set()
        watching.join()
