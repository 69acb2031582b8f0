"""What do clients get when more of them come than can be served, or when the database stands still for a while?

A scenario is data. `run` lets it happen and says what came of it, before, during and after the trouble.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import quantiles
from time import monotonic
from typing import Any, NamedTuple

import asyncpg
from faults.offer import GAVE_UP
from people import signed
from relay import Relay
from servers import Application, Postgres, application

RECOVERY = 5.0
# How long the load waits at its end for what it has asked; nothing may take longer.
AFTERWARDS = 25.0
CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'todo-backend'"
FILL = """\
INSERT INTO task (user_id, title, completed)
SELECT 'crowd-' || owner, 'Buy milk and bread', false FROM generate_series(1, 20) AS owner, generate_series(1, 10)
RETURNING user_id, id"""


class Phase(NamedTuple):
    """So many requests per second, or as many as so many clients make that ask one after the other."""

    seconds: float
    rate: float = 0
    clients: int = 0


@dataclass(frozen=True)
class Scenario:
    """Times in seconds. The trouble begins with phase number `trouble`, or with the stall at its time."""

    name: str
    round_trip: float
    phases: tuple[Phase, ...]
    capacity: float  # requests per second
    stall: tuple[float, float] = (0, 0)  # begins, lasts
    patience: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases)

    @property
    def trouble(self) -> tuple[float, float]:
        """When it begins and ends: the stall, or the second phase."""
        if self.stall[1]:
            return self.stall[0], sum(self.stall)
        return self.phases[0].seconds, self.phases[0].seconds + self.phases[1].seconds


class Request(NamedTuple):
    """One request; times in seconds since the first one."""

    began: float
    ended: float
    status: int
    unchanged: bool

    @property
    def served(self) -> bool:
        return 200 <= self.status < 300

    @property
    def took(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True)
class Window:
    """What became of the requests that began in this time; goodput is by when they were answered."""

    requests: list[Request]
    goodput: float

    @property
    def share(self) -> float:
        return len(self.times(served=True)) / len(self.requests) if self.requests else 0

    def times(self, *, served: bool) -> list[float]:
        return sorted(each.took for each in self.requests if each.served == served and each.status > 0)

    def count(self, status: int) -> int:
        return sum(each.status == status for each in self.requests)

    def __str__(self) -> str:
        well, rejected = self.times(served=True), self.times(served=False)
        return (
            f"{len(self.requests):6,} requests, {self.share:6.1%} served, {self.goodput:7.1f}/s, "
            f"p50 {percentile(well, 50):.3f} p99 {percentile(well, 99):.3f}; "
            f"{len(rejected):,} rejected, p99 {percentile(rejected, 99):.2f} max {max(rejected, default=0):.2f}; "
            f"{self.count(GAVE_UP):,} gave up"
        )


def percentile(times: list[float], percent: int) -> float:
    return quantiles(times, n=100, method="inclusive")[percent - 1] if len(times) > 1 else sum(times)


@dataclass(frozen=True)
class Result:
    """The requests, and what happened on the way to the database meanwhile."""

    scenario: Scenario
    requests: list[Request]
    opened: int
    cancels: int
    most_open: int
    most_at_server: int
    statements: int

    def window(self, begin: float, end: float) -> Window:
        answered = sum(each.served and begin <= each.ended < end for each in self.requests)
        inside = [each for each in self.requests if begin <= each.began < end]
        return Window(inside, answered / max(end - begin, 0.001))

    @property
    def before(self) -> Window:
        return self.window(0, self.scenario.trouble[0])

    @property
    def during(self) -> Window:
        return self.window(*self.scenario.trouble)

    @property
    def after(self) -> Window:
        return self.window(self.scenario.trouble[1] + RECOVERY, self.scenario.seconds)

    @property
    def wasted(self) -> int:
        """Statements that were sent beyond one for each request that was served: tried again, or for nobody."""
        return self.statements - sum(each.served for each in self.requests)

    @property
    def statuses(self) -> dict[int, int]:
        return {status: len(list(group)) for status, group in groupby(sorted(each.status for each in self.requests))}

    @property
    def unclear(self) -> int:
        """Answers 503 that do not say that nothing was changed."""
        return sum(each.status == 503 and not each.unchanged for each in self.requests)

    def __str__(self) -> str:
        capacity = self.scenario.capacity
        return (
            f"\n{self.scenario.name} (capacity {capacity:.0f}/s)\n"
            f"  before {self.before}\n  during {self.during}, {self.during.goodput / capacity:.0%} of capacity\n"
            f"  after  {self.after}\n"
            f"  {self.opened} connections opened and {self.cancels} to cancel, at most {self.most_open} open, "
            f"{self.most_at_server} at the server; {self.wasted:,} statements for nobody; statuses {self.statuses}, "
            f"{self.unclear} unclear"
        )


def requests(server: Postgres) -> list[str]:
    """Fill the table, and return what the crowd may ask: mostly one task, sometimes a list, a change, a new task."""
    made = []
    for line in server.ask("TRUNCATE task", FILL).splitlines():
        user, task = line.split("|")
        head = f"HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {signed(user)}\r\n"
        body = '{"title": "Buy bread"}'
        tail = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        path = f"/api/{user}/tasks"
        made += [f"GET {path}/{task} {head}\r\n"] * 16
        made += [f"GET {path} {head}\r\n"] * 2
        made += [f"PUT {path}/{task} {head}{tail}", f"POST {path} {head}{tail}"]
    return made


@contextmanager
def load(app: Application, asked: list[str], phases: tuple[Phase, ...], patience: float | None) -> Iterator[list[Any]]:
    """Offer the load from a process of its own; the outcomes are there after the block."""
    order = {"address": app.address, "requests": asked, "phases": phases, "patience": patience,
             "afterwards": AFTERWARDS}  # fmt: skip
    outcomes: list[Any] = []
    command = [sys.executable, str(Path(__file__).with_name("offer.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(order).encode())
        process.stdin.close()
        try:
            yield outcomes
            outcomes += json.load(process.stdout)
        finally:
            process.kill()


class Watcher:
    """Stalls the relay when it is time, and looks how many connections there are meanwhile."""

    def __init__(self, server: Postgres, relay: Relay) -> None:
        self._url = server.url(options="sslmode=disable")
        self._relay = relay
        self.most_open = self.most_at_server = 0

    async def watch(self, seconds: float, stall: tuple[float, float]) -> None:
        connection = await asyncpg.connect(self._url)
        began = monotonic()
        try:
            while (now := monotonic() - began) < seconds:
                self._relay.frozen = stall[0] <= now < sum(stall)
                self.most_open = max(self.most_open, self._relay.open)
                self.most_at_server = max(self.most_at_server, await connection.fetchval(CONNECTIONS))
                await asyncio.sleep(0.05)
        finally:
            self._relay.frozen = False
            await connection.close()


def run(scenario: Scenario, server: Postgres) -> Result:
    """Serve with the scenario's settings through a relay that delays, and offer what it says."""
    asked = requests(server)
    with Relay(("127.0.0.1", server.port)).running() as relay:
        relay.delay = scenario.round_trip / 2
        url = server.url(relay.port, options="sslmode=disable")
        with application(url, **scenario.settings) as app:
            watcher = Watcher(server, relay)
            with load(app, asked, scenario.phases, scenario.patience) as outcomes:
                asyncio.run(watcher.watch(scenario.seconds + 1, scenario.stall))
        result = Result(
            scenario, [], relay.connections - relay.cancels, relay.cancels, watcher.most_open,
            watcher.most_at_server, relay.statements,
        )  # fmt: skip
    first = min(outcome[0] for outcome in outcomes)
    result.requests.extend(Request(began - first, ended - first, *rest) for began, ended, *rest in outcomes)
    print(result)
    return result
