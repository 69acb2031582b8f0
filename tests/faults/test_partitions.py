"""What does a request cost whose table is in partitions, beside one whose table is not?"""

import http.client
import os
from contextlib import ExitStack

import psutil
import pytest
from databases import ask, execute
from people import lasting
from servers import application, debian_postgres

from backend.schema.migrate import upgrade
from bench.service import tree_cpu

# Short turns, one after another: whatever else the machine does falls on both.
ROUNDS, TURNS = int(os.environ.get("ROUNDS", "100")), 100
USERS = {f"user-{number}": lasting(f"user-{number}") for number in range(TURNS)}
FILL = """INSERT INTO task (user_id, title, description)
    SELECT 'user-' || n % 10000, 'Buy milk, number ' || n, 'Two bottles of milk, and ask for the ripe cheese'
    FROM generate_series(0, 99999) n"""
REQUESTS = {"get": "GET /{}", "list of 10": "GET ", "toggle": "PATCH /{}/complete", "create": "POST "}


class Service:
    """The application on one of the tables, and its database."""

    def __init__(self, address: tuple[str, int], pids: list[int], tasks: dict[str, int]) -> None:
        self._line = http.client.HTTPConnection(*address)
        self._processes = [psutil.Process(pid) for pid in pids]
        self._tasks = tasks

    def cost(self, request: str) -> list[float]:
        """Return the seconds of CPU time that such a request of each user takes in application and database."""
        before = [tree_cpu(process) for process in self._processes]
        for user, token in USERS.items():
            method, _, end = request.format(self._tasks[user]).partition(" ")
            body = '{"title": "Buy bread"}' if method == "POST" else None
            self._line.request(method, f"/api/{user}/tasks{end}", body, {"Authorization": f"Bearer {token}"})
            answer = self._line.getresponse()
            assert answer.read()
            assert answer.status < 300
        return [tree_cpu(process) - was for process, was in zip(self._processes, before, strict=True)]

    def close(self) -> None:
        self._line.close()


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.spec("FR-036")
def test_a_request_costs_little_more_where_the_table_is_in_partitions() -> None:
    with debian_postgres(autovacuum="off") as server, ExitStack() as stack:
        services = []
        for name, partitions in (("plain", 0), ("parts", 16)):
            server.ask(f"CREATE DATABASE {name}")
            url = server.url(database=name, options="sslmode=disable")
            upgrade(url, partitions=partitions)
            execute(url, FILL, "VACUUM ANALYZE task")
            running = stack.enter_context(application(url))
            tasks = dict(ask(url, "SELECT user_id, min(id) FROM task GROUP BY user_id"))
            assert server.process
            services.append(Service(running.address, [running.process.pid, server.process.pid], tasks))
            stack.callback(services[-1].close)
        costs = {name: [[service.cost(request) for service in services] for _ in range(ROUNDS)]
                 for name, request in REQUESTS.items()}  # fmt: skip

    totals = [0.0, 0.0]
    for name, rounds in costs.items():
        forms = [[sum(part) * 1000 / ROUNDS / TURNS for part in zip(*form, strict=True)]
                 for form in zip(*rounds, strict=True)]  # fmt: skip
        totals = [total + sum(parts) for total, parts in zip(totals, forms, strict=True)]
        plain, partitioned = (f"{application:.3f} + {database:.3f} ms" for application, database in forms)
        print(f"\n{name}, application + PostgreSQL: {plain}, in 16 partitions {partitioned}")
    print(f"\nall four together: {totals[1] / totals[0]:.2f} times")
    assert totals[1] / totals[0] < 1.15
