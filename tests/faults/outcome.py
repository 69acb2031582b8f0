"""What did a crowd get? Before, during and after its trouble, and what happened at the database meanwhile."""

from collections import Counter
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any, NamedTuple

from faults.offer import GAVE_UP


class Phase(NamedTuple):
    """So many requests per second, or as many as so many clients make that ask one after the other."""

    seconds: float
    rate: float = 0
    clients: int = 0


@dataclass(frozen=True)
class Scenario:
    """Times in seconds. The trouble is the stall or, where there is none, the second phase.

    `pool` None is the pool's size by default; the recovery is the time that everything may take to be well again.
    """

    name: str
    round_trip: float
    phases: tuple[Phase, ...]
    capacity: float  # requests per second
    stall: tuple[float, float] = (0, 0)  # begins, lasts
    patience: float | None = None
    pool: int | None = None
    deadline: float = 10
    recovery: float = 5

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases)

    @property
    def settings(self) -> dict[str, Any]:
        """The application's environment."""
        size = {"DATABASE_POOL_SIZE": str(self.pool)} if self.pool else {}
        return {"REQUEST_DEADLINE": str(self.deadline), **size}

    @property
    def trouble(self) -> tuple[float, float]:
        """When it begins and ends."""
        if self.stall[1]:
            return self.stall[0], sum(self.stall)
        return self.phases[0].seconds, self.phases[0].seconds + self.phases[1].seconds


class Request(NamedTuple):
    """One request; times in seconds since the load began."""

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

    requests: list[Request] = field(repr=False)
    goodput: float

    @property
    def share(self) -> float:
        return len(self.times(served=True)) / len(self.requests) if self.requests else 0

    def times(self, *, served: bool) -> list[float]:
        """Return the times that the answers took, the good ones or the others."""
        return sorted(each.took for each in self.requests if each.served == served and each.status > 0)

    def percentile(self, percent: int, *, served: bool = True) -> float:
        times = self.times(served=served)
        return quantiles(times, n=100, method="inclusive")[percent - 1] if len(times) > 1 else sum(times)

    def count(self, status: int) -> int:
        return sum(each.status == status for each in self.requests)

    def __str__(self) -> str:
        rejected = self.times(served=False)
        return (
            f"{len(self.requests):6,} requests, {self.share:6.1%} served, {self.goodput:7.1f}/s, "
            f"p50 {self.percentile(50):.3f} p99 {self.percentile(99):.3f}; {len(rejected):,} rejected, "
            f"p99 {self.percentile(99, served=False):.2f} max {max(rejected, default=0):.2f}; "
            f"{self.count(GAVE_UP):,} gave up"
        )


def window(requests: list[Request], begin: float, end: float) -> Window:
    answered = sum(each.served and begin <= each.ended < end for each in requests)
    return Window([each for each in requests if begin <= each.began < end], answered / max(end - begin, 0.001))


@dataclass(frozen=True)
class Result:
    """The requests, and what happened on the way to the database meanwhile."""

    scenario: Scenario
    requests: list[Request] = field(repr=False)
    opened: int
    cancels: int
    most_open: int
    most_at_server: int
    statements: int

    @property
    def before(self) -> Window:
        return window(self.requests, 0, self.scenario.trouble[0])

    @property
    def during(self) -> Window:
        return window(self.requests, *self.scenario.trouble)

    @property
    def after(self) -> Window:
        return window(self.requests, self.scenario.trouble[1] + self.scenario.recovery, self.scenario.seconds)

    @property
    def goodput(self) -> float:
        """What was served during the trouble, as a share of the capacity."""
        return self.during.goodput / self.scenario.capacity

    @property
    def wasted(self) -> int:
        """Statements beyond one for each request that was served: for clients that had gone, or tried again."""
        return self.statements - sum(each.served for each in self.requests)

    @property
    def unclear(self) -> int:
        """Answers 503 that do not say that nothing was changed."""
        return sum(each.status == 503 and not each.unchanged for each in self.requests)

    def __str__(self) -> str:
        """Return the line of the document's table."""
        during, rejected = self.during, self.during.times(served=False)
        cells = [
            self.scenario.name, f"{len(during.requests):,}", f"{during.share:.0%}",
            "-" if self.scenario.stall[1] else f"{self.goodput:.0%}",
            f"{during.percentile(50):.2f} s", f"{during.percentile(99):.2f} s", f"{len(rejected):,}",
            f"{max(rejected, default=0):.2f} s", f"{during.count(GAVE_UP):,}",
            f"{self.after.share:.1%}" if self.after.requests else "-",
            f"{self.opened:,}", str(self.most_at_server), f"{self.wasted:,}",
        ]  # fmt: skip
        return f"| {' | '.join(cells)} |\n"

    def told(self) -> str:
        """Return all of it, for those who look for the reason."""
        return (
            f"\n{self.scenario.name} (capacity {self.scenario.capacity:.0f}/s)\n"
            f"  before {self.before}\n  during {self.during}, {self.goodput:.0%} of capacity\n  after  {self.after}\n"
            f"  {self.opened} connections opened and {self.cancels} to cancel, at most {self.most_open} open, "
            f"{self.most_at_server} at the server; {self.wasted:,} statements for nobody; "
            f"statuses {dict(Counter(each.status for each in self.requests))}, {self.unclear} unclear"
        )
