"""The table of docs/reliability.md: what each fault has cost, written by the runs that made it."""

import os
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs/reliability.md"
BEGIN, END = "<!-- written by make faults: begin -->", "<!-- written by make faults: end -->"
HEAD = """\
| fault | requests | failed | saved by retry | lost writes | slowest | time to recover |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
"""


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


rows: list[Row] = []


def publish() -> None:
    """Print the table, and with UPDATE_DOCS=1 put it into the document."""
    table = HEAD + "".join(map(str, rows))
    print(f"\n{table}")
    if os.environ.get("UPDATE_DOCS") == "1":
        text = DOCUMENT.read_text()
        before, rest = text.split(BEGIN)
        DOCUMENT.write_text(f"{before}{BEGIN}\n{table}{END}{rest.split(END)[1]}")
