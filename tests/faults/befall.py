"""What does a fault cost? It befalls the application while clients are at work, and the counts are kept."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from faults.load import Load, Tally
from faults.report import FAULTS, Row
from servers import Application, until

# What only tells that something hangs; no promise.
GUARD = 30


@dataclass(frozen=True)
class Outcome:
    """The counts, and the line of the table."""

    tally: Tally
    row: Row


def befall(
    name: str, app: Application, fault: Callable[[], None], *, clients: int = 10, pause: float = 0.02, calm: float = 0.7
) -> Outcome:
    """Let the fault happen under load; it returns when everything is there again. No answer may have been wrong."""
    load, seen = Load(app.address, clients, pause), len(app.events())
    with load.running():
        time.sleep(calm)
        fault()
        returned = time.monotonic()
        until(lambda: any(each > returned for each in load.tally.answered_at), "nobody is served again", GUARD)
        time.sleep(calm)
    return settle(name, app, load, seen, returned)


def settle(name: str, app: Application, load: Load, seen: int, returned: float | None = None) -> Outcome:
    """Compare, and put the line into the table."""
    tally = load.verify()
    row = Row(
        name, tally.requests, tally.failed, _saved(app, seen), tally.wrong["lost"], tally.slowest,
        _recovery(tally, returned) if returned else None,
    )  # fmt: skip
    FAULTS.rows.append(row)
    reasons = Counter(line["message"] for line in app.events()[seen:] if line["event"] == "unavailable")
    print(f"\n{row}{dict(tally.failures)} {dict(reasons)}")
    assert tally.wrong == {}, tally.examples[:5]
    assert tally.slowest < GUARD
    return Outcome(tally, row)


def _saved(app: Application, seen: int) -> int:
    """Count the requests that needed a second try, or a second connection, and were answered well."""
    lines = app.events()[seen:]
    helped = {line["request_id"] for line in lines if line["event"] in {"retry", "connected-again"}}
    return len(helped & {line["request_id"] for line in lines if line["event"] == "request" and line["status"] < 500})


def _recovery(tally: Tally, returned: float) -> float:
    """Return the seconds from the database's return to the first good answer, and to the last bad one."""
    first = min(each for each in tally.answered_at if each > returned)
    return max([first, *(each for each in tally.failed_at if each > returned)]) - returned
