"""Does everybody get a share, of the server's connections and of the application's time?"""

from contextlib import ExitStack
from typing import Any

import pytest
from databases import upgrade
from faults.crowd import crowd, far, head, mixture, settle_down
from faults.outcome import Phase, Window, window
from faults.report import SHARES
from servers import Postgres, application, debian_postgres

FILL = """\
INSERT INTO task (user_id, title, completed)
SELECT '{}', 'Buy milk and bread', false FROM generate_series(1, {}) RETURNING id"""


def note(who: str, seen: Window) -> Window:
    line = f"| {who} | {seen.goodput:,.0f} | {seen.share:.1%} | "
    line += f"{seen.percentile(50) * 1000:.1f} ms | {seen.percentile(99) * 1000:.1f} ms |\n"
    SHARES.rows.append(line)
    print(f"\n{line}", end="")
    return seen


@pytest.mark.long
@pytest.mark.parametrize("pool", [None, "10"])
def test_two_instances_share_a_server_that_has_half_of_what_they_would_like(pool: str | None) -> None:
    """Ten connections at 50 ms carry 200 requests/s, which each of the two is asked for; there are ten for both."""
    settings: dict[str, Any] = {"DATABASE_POOL_SIZE": pool} if pool else {}
    with ExitStack() as stack:
        server = stack.enter_context(
            debian_postgres(max_connections="10", superuser_reserved_connections="0", fsync="off")
        )
        upgrade(server.url())
        asked = mixture(server)
        _, url = stack.enter_context(far(server, 0.05))
        apps = [stack.enter_context(application(url, **settings)) for _ in range(2)]
        settle_down(0.05)
        loads = [stack.enter_context(crowd(app, asked, Phase(20, 200), patience=2)) for app in apps]

    size = f"DATABASE_POOL_SIZE={pool}" if pool else "the pool's size by default"
    names = [f"{which} of two instances, {size}" for which in ("first", "second")]
    seen = [note(name, window(requests, 2, 20)) for name, requests in zip(names, loads, strict=True)]
    assert min(each.share for each in seen) >= 0.4


@pytest.mark.long
def test_a_user_with_20_connections_leaves_the_others_their_pace(server: Postgres) -> None:
    server.ask("TRUNCATE task", FILL.format("greedy", 10_000))
    task = server.ask(FILL.format("victim", 1))
    lists = [f"GET /api/greedy/tasks {head('greedy')}\r\n"]
    reads = [f"GET /api/victim/tasks/{task} {head('victim')}\r\n"]
    with application(server.url(options="sslmode=disable")) as app:
        settle_down(0)
        with crowd(app, reads, Phase(6, clients=1)) as alone:
            pass
        with crowd(app, lists, Phase(12, clients=20)) as greedy, crowd(app, reads, Phase(11, clients=1)) as beside:
            pass

    quiet = note("one user, alone", window(alone, 1, 6))
    noisy = note("the same, beside 20 connections that list 10,000 tasks", window(beside, 2, 11))
    note("the 20 connections", window(greedy, 2, 11))
    assert noisy.percentile(99) <= 3 * quiet.percentile(99)
