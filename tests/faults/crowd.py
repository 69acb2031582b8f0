"""How is a crowd let loose? A load from a process of its own, through a relay that delays and stalls."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
from faults.outcome import Phase, Request, Result, Scenario
from faults.report import CROWDS
from people import lasting
from relay import Relay
from servers import Application, Postgres, application, uncovered

# How long the load waits at its end for what it has asked; nothing may take longer.
AFTERWARDS = 25.0
# What the relay and the server take of a round trip themselves.
OWN = 0.001
# A new pool is full after so many round trips, and so many seconds.
ROUND_TRIPS_TO_FILL, SECONDS_TO_FILL = 30, 0.5
CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'todo-backend %'"
FILL = """\
INSERT INTO task (user_id, title, completed)
SELECT 'crowd-' || owner, 'Buy milk and bread', false FROM generate_series(1, 20) AS owner, generate_series(1, 10)
RETURNING user_id, id"""


def head(user: str) -> str:
    return f"HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {lasting(user)}\r\n"


def mixture(server: Postgres) -> list[str]:
    """Fill the table, and return what the crowd may ask: mostly one task, sometimes a list, a change, a new task."""
    made = []
    heads = {f"crowd-{number}": head(f"crowd-{number}") for number in range(1, 21)}
    body = '{"title": "Buy bread"}'
    tail = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    for line in server.ask("TRUNCATE task", FILL).splitlines():
        user, task = line.split("|")
        path = f"/api/{user}/tasks"
        made += [f"GET {path}/{task} {heads[user]}\r\n"] * 16
        made += [f"GET {path} {heads[user]}\r\n"] * 2
        made += [f"PUT {path}/{task} {heads[user]}{tail}", f"POST {path} {heads[user]}{tail}"]
    return made


@contextmanager
def beside(script: str, order: object) -> Iterator[list[Any]]:
    """Run a script of this folder as a process; what it has said is in the list after the block."""
    said: list[Any] = []
    command = [sys.executable, str(Path(__file__).with_name(script))]
    with subprocess.Popen(command, env=uncovered(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(order).encode())
        process.stdin.close()
        try:
            yield said
            said += json.load(process.stdout)
        finally:
            process.kill()


@contextmanager
def crowd(
    app: Application, asked: list[str], *phases: Phase, patience: float | None = None
) -> Iterator[list[Request]]:  # fmt: skip
    """Offer the load from a process of its own; its requests are in the list after the block."""
    order = {"address": app.address, "requests": asked, "phases": phases, "patience": patience,
             "afterwards": AFTERWARDS}  # fmt: skip
    requests: list[Request] = []
    with beside("offer.py", order) as outcomes:
        yield requests
    first = min(outcome[0] for outcome in outcomes)
    requests += (Request(began - first, ended - first, *rest) for began, ended, *rest in outcomes)


class Watcher:
    """Stalls the relay when it is time, and looks how many connections there are meanwhile."""

    def __init__(self, server: Postgres, relay: Relay) -> None:
        self._url = server.url(options="sslmode=disable")
        self._relay = relay
        self.most_open = self.most_at_server = 0

    async def watch(self, seconds: float, stall: tuple[float, float]) -> None:
        connection = await asyncpg.connect(self._url)
        began = time.monotonic()
        try:
            while (now := time.monotonic() - began) < seconds:
                self._relay.frozen = stall[0] <= now < sum(stall)
                self.most_open = max(self.most_open, self._relay.open)
                self.most_at_server = max(self.most_at_server, await connection.fetchval(CONNECTIONS))
                await asyncio.sleep(0.05)
        finally:
            self._relay.frozen = False
            await connection.close()


@contextmanager
def far(server: Postgres, round_trip: float) -> Iterator[tuple[Relay, str]]:
    """Put the server so many seconds away; yields the relay and the URL through it."""
    with Relay(("127.0.0.1", server.port)).running() as relay:
        relay.delay = max(0, round_trip - OWN) / 2
        # Without TLS the relay can tell the statements.
        yield relay, server.url(relay.port, options="sslmode=disable")


def settle_down(round_trip: float) -> None:
    """Give a pool the time to fill."""
    time.sleep(SECONDS_TO_FILL + ROUND_TRIPS_TO_FILL * round_trip)


def capacity(server: Postgres, round_trip: float, pool: int) -> float:
    """Measure how many requests per second are served when there are twice as many clients as connections."""
    asked = mixture(server)
    with far(server, round_trip) as (_, url), application(url, DATABASE_POOL_SIZE=str(pool)) as app:
        settle_down(round_trip)
        with crowd(app, asked, Phase(5, clients=2 * pool)) as requests:
            pass
    # Not the first second, when all of it is new.
    return sum(each.served and 1 <= each.ended < 5 for each in requests) / 4


def run(scenario: Scenario, server: Postgres) -> Result:
    """Serve with the scenario's settings through a relay that delays, and offer what it says."""
    asked = mixture(server)
    with far(server, scenario.round_trip) as (relay, url), application(url, **scenario.settings) as app:
        settle_down(scenario.round_trip)
        watcher = Watcher(server, relay)
        with crowd(app, asked, *scenario.phases, patience=scenario.patience) as requests:
            asyncio.run(watcher.watch(scenario.seconds + 1, scenario.stall))
    result = Result(
        scenario, requests, relay.connections - relay.cancels, relay.cancels, watcher.most_open,
        watcher.most_at_server, relay.statements,
    )  # fmt: skip
    CROWDS.rows.append(result)
    print(result.told())
    return result
