"""The tables of docs/reliability.md: what each fault and each crowd has cost, written by the runs that made them."""

import os
from dataclasses import dataclass, field
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs/reliability.md"


@dataclass(frozen=True)
class Row:
    """What one fault has cost; times in seconds."""

    fault: str
    requests: int
    failed: int
    saved: int
    lost: int
    slowest: float
    recovery: float | None

    def __str__(self) -> str:
        recovery = "-" if self.recovery is None else f"{self.recovery:.2f} s"
        counts = f"{self.requests:,} | {self.failed:,} | {self.saved:,} | {self.lost:,}"
        return f"| {self.fault} | {counts} | {self.slowest:.2f} s | {recovery} |\n"


@dataclass(frozen=True)
class Alarm:
    """When an alert fired after the fault began, and ended after it was over; times in seconds."""

    fault: str
    alert: str
    fired: float
    ended: float

    def __str__(self) -> str:
        return f"| {self.fault.replace('_', ' ')} | {self.alert} | {self.fired:.0f} s | {self.ended:.0f} s |\n"


@dataclass(frozen=True)
class Table:
    """What stands between two marks in the document."""

    name: str
    head: str
    rows: list[object] = field(default_factory=list)

    def publish(self) -> None:
        """Print the table, and with UPDATE_DOCS=1 put it into the document."""
        table = self.head + "".join(map(str, self.rows))
        print(f"\n{table}")
        if os.environ.get("UPDATE_DOCS") == "1":
            begin, end = (f"<!-- {self.name}: {which} -->" for which in ("begin", "end"))
            text = DOCUMENT.read_text()
            before, rest = text.split(begin)
            DOCUMENT.write_text(f"{before}{begin}\n{table}{end}{rest.split(end)[1]}")


FAULTS = Table(
    "written by make faults",
    """\
| fault | requests | failed | saved by retry | lost writes | slowest | time to recover |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
""",
)
CROWDS = Table(
    "crowds, written by make faults",
    """\
| crowd or stall | requests | served | goodput / capacity | p50 | p99 | rejected | slowest 503 | gave up \
| served from 5 s after | connections opened | most at the server | statements for nobody |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
""",
)
SHARES = Table(
    "shares, written by make faults",
    """\
| who | requests per second | served | p50 | p99 |
| --- | ---: | ---: | ---: | ---: |
""",
)
ALERTS = Table(
    "alerts, written by make faults",
    """\
| fault | alert | fires after | ends after |
| --- | --- | ---: | ---: |
""",
)
SLOW = Table(
    "slowhttptest, written by make faults",
    """\
| slowhttptest | most connected | honest requests | failed | slowest | memory |
| --- | ---: | ---: | ---: | ---: | ---: |
""",
)
SOAK = Table(
    "written by make soak",
    """\
| honest clients | requests | failed | p50 | p99 | memory |
| --- | ---: | ---: | ---: | ---: | ---: |
""",
)


def publish() -> None:
    for table in (FAULTS, CROWDS, SHARES, ALERTS, SLOW, SOAK):
        if table.rows:
            table.publish()
