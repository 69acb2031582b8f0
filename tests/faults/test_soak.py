"""Does anybody notice one rude client of each kind, and does the server forget them? `make soak` looks for long."""

import os
import time
from statistics import mean

import psutil
import pytest
from databases import upgrade
from faults.crowd import beside, crowd, mixture, settle_down
from faults.load import Load
from faults.outcome import Phase, Window, window
from faults.report import SOAK
from people import lasting
from servers import Application, application, debian_postgres

LONG = "SOAK_SECONDS" in os.environ
SECONDS = int(os.environ.get("SOAK_SECONDS", "6"))
ALONE = max(2, SECONDS // 10)
RATE = 100  # requests per second, beside those of the clients that check what they get
COUNT = 5_000
# More than the system keeps for who does not read.
LIST = f"""\
INSERT INTO task (user_id, title, description, completed)
SELECT 'rude', 'Buy milk', repeat('x', 1000), false FROM generate_series(1, {COUNT})"""


def watch(app: Application, seconds: float) -> list[float]:
    """Return the memory of all its processes, in MiB, as it was again and again in so many seconds."""
    parent, seen, until = psutil.Process(app.process.pid), [], time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.25)
        seen.append(sum(each.memory_info().rss for each in (parent, *parent.children(recursive=True))) / 2**20)
    return seen


def note(who: str, seen: Window, memory: list[float]) -> None:
    times = " | ".join(f"{seen.percentile(percent) * 1000:.1f} ms" for percent in (50, 99))
    failed = len(seen.requests) - len(seen.times(served=True))
    line = f"| {who} | {len(seen.requests):,} | {failed} | {times} | {mean(memory):.1f} MiB |\n"
    print(line, end="")
    if LONG:
        SOAK.rows.append(line)


@pytest.mark.spec("FR-022")
@pytest.mark.timeout(300 + 2 * SECONDS)
def test_rude_clients_cost_the_others_nothing() -> None:
    with debian_postgres(fsync="off") as server:
        upgrade(server.url())
        # Nothing is added, so that the lists cost the same at the end.
        asked = [each for each in mixture(server) if not each.startswith("POST")]
        server.ask(LIST)
        with application(server.url()) as app:
            order = {"address": app.address, "path": "/api/rude/tasks", "token": lasting("rude"), "count": COUNT,
                     "seconds": ALONE + SECONDS}  # fmt: skip
            settle_down(0)
            load = Load(app.address, 5, 0.1)
            with load.running(), crowd(app, asked, Phase(2 * ALONE + SECONDS, RATE)) as requests:
                quiet = watch(app, ALONE)
                with beside("rude.py", order) as said:
                    watch(app, ALONE)  # until each of them has been there once
                    memory = watch(app, SECONDS)
            tally = load.verify()
            errors = [line for line in app.events() if line["level"] == "ERROR"]

    came, wrong = said
    alone, crowded = window(requests, 1, 0.9 * ALONE), window(requests, ALONE, 2 * ALONE + SECONDS)
    quarter, looks = SECONDS / 4, len(memory) // 4
    quarters = [memory[looks * n : looks * (n + 1)] for n in range(4)]
    print(f"\n{came}, {tally.requests:,} checked")
    note(f"alone, {ALONE} s", alone, quiet)
    for n, used in enumerate(quarters, 1):
        seen = window(requests, 2 * ALONE + quarter * (n - 1), 2 * ALONE + quarter * n)
        note(f"beside the rude, quarter {n} of {SECONDS} s", seen, used)
    assert (wrong, errors) == ([], [])
    assert (tally.failures, tally.wrong, crowded.share) == ({}, {}, 1)
    assert min(came.values()) > SECONDS // 150  # who says nothing is heard for 130 s
    assert mean(quarters[-1]) < mean(quarters[0]) + 20
    if LONG:
        assert mean(quarters[-1]) <= 1.02 * mean(quarters[0])
        assert crowded.percentile(99) <= 2 * alone.percentile(99)
