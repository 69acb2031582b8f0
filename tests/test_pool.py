"""Who gets which connection, and how many are there? The pool alone, with connections that only say that they are."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from asyncpg.exceptions import InvalidPasswordError, TooManyConnectionsError

from backend.database import attempts, availability
from backend.database import pool as pool_module
from backend.database.demand import WINDOW, Demand
from backend.database.pool import Pool
from backend.errors import Departed, Overloaded
from backend.telemetry.metrics import Metrics

LATER = 30.0


class Line:
    """A connection without a server."""

    usable, has_news = True, False

    def __init__(self) -> None:
        self.heard = asyncio.get_running_loop().time()

    def cut(self) -> None:
        self.usable = False


class Server:
    """What connecting meets: `grants` connections, a failure, or a wait until `answers` is set."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.attempts = self.at_once = self.most_at_once = 0
        self.grants = 1_000
        self.failure: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()

    async def connect(self) -> Any:
        self.attempts += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.answers.wait()
            await asyncio.sleep(0)
        finally:
            self.at_once -= 1
        if self.failure:
            raise self.failure
        if sum(line.usable for line in self.lines) >= self.grants:
            raise TooManyConnectionsError("too many connections")
        self.lines.append(Line())
        return self.lines[-1]

    def pool(self, size: int = 1, most: int = 0) -> Pool:
        pool = Pool(
            self.connect,
            size=size,
            deadline=LATER,
            metrics=Metrics(),
        )
        pool.most = most or size
        return pool


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """Nothing is left behind that would go on with it."""
    yield Server()
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = {
        pool_module: {"LONGEST_WAIT": 0.05, "LOOK_AFTER": 0.01, "SILENCE": 0.03, "FULL_PAUSE": 0.01, "UNUSED": 0.05},
        attempts: {"FIRST_PAUSE": 0.001, "LONGEST_PAUSE": 0.004},
        availability: {"SILENCE": 0.03},
    }
    for module, constants in changed.items():
        for name, seconds in constants.items():
            monkeypatch.setattr(module, name, seconds)


def now() -> float:
    return asyncio.get_running_loop().time()


def asking(pool: Pool, owner: str = "", seconds: float = LATER, gone: Any = None) -> asyncio.Task[Any]:
    return asyncio.create_task(pool.acquire(owner, now() + seconds, gone))


def answered(pool: Pool, line: Any, took: float = 0.001) -> None:
    """Give the line back as after a statement that was answered just now."""
    line.heard = now()
    pool.release(line, line.heard - took)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nobody would set an event
            await asyncio.sleep(0.001)


async def outcome(task: Awaitable[Any]) -> Any:
    try:
        return await asyncio.wait_for(task, 10)
    except Exception as error:  # noqa: BLE001 - it is what the test asks for
        return type(error)


async def test_users_take_turns_and_each_is_served_in_order(server: Server) -> None:
    pool, served = server.pool(), list[str]()

    async def request(owner: str, name: str) -> None:
        line = await pool.acquire(owner, now() + LATER)
        served.append(name)
        answered(pool, line)

    held = await pool.acquire("x", now() + LATER)
    many = [asyncio.create_task(request("greedy", f"g{number}")) for number in range(4)]
    await settled()
    others = [asyncio.create_task(request(name, name)) for name in ("a", "b")]
    await settled()
    answered(pool, held)
    await asyncio.gather(*many, *others)

    assert served == ["g0", "a", "b", "g1", "g2", "g3"]


async def test_whose_client_has_gone_leaves_the_queue_without_a_connection(server: Server) -> None:
    pool = server.pool()
    held = await pool.acquire("", now() + LATER)
    departed, stays = asking(pool, gone=lambda: True), asking(pool)
    await until(lambda: pool.waiting == 2)

    assert await outcome(departed) is Departed
    assert pool.waiting == 1
    answered(pool, held)
    assert await outcome(stays) is held


async def test_whose_client_has_gone_since_it_was_looked_for_gets_no_connection(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "LONGEST_WAIT", LATER)
    monkeypatch.setattr(pool_module, "SILENCE", LATER)
    pool, gone = server.pool(), asyncio.Event()
    held = await pool.acquire("", now() + LATER)
    departed, *stay = asking(pool, gone=gone.is_set), asking(pool), asking(pool)
    await asyncio.sleep(0.05)

    gone.set()
    answered(pool, held)

    assert await outcome(departed) is Departed
    assert await outcome(stay[0]) is held


async def test_who_waits_too_long_for_a_database_that_answers_is_told_so(server: Server) -> None:
    pool = server.pool()
    line = await pool.acquire("", now() + LATER)
    waiting = [asking(pool, f"user {number}") for number in range(40)]
    outcomes = []

    for each in waiting:
        await asyncio.sleep(0.01)
        if pool.waiting:
            answered(pool, line)
        outcomes.append(await outcome(each))

    assert outcomes[0] is line
    assert set(outcomes) == {line, Overloaded}


async def test_who_waits_for_a_database_that_is_away_may_wait_until_the_deadline(server: Server) -> None:
    pool = server.pool()
    held = await pool.acquire("", now() + LATER)
    patient, hasty = asking(pool), asking(pool, seconds=0.2)

    assert await outcome(hasty) is TimeoutError
    answered(pool, held)
    assert await outcome(patient) is held


async def test_after_an_absence_those_who_came_meanwhile_are_served(server: Server) -> None:
    pool = server.pool()
    held = await pool.acquire("", now() + LATER)
    waiting = [asking(pool, f"user {number}") for number in range(10)]
    await asyncio.sleep(0.3)

    outcomes = []
    answered(pool, held, took=0.3)
    for each in waiting:  # the last of them waits longer than the longest wait after the return
        outcomes.append(await outcome(each))
        await asyncio.sleep(0.01)
        answered(pool, outcomes[-1])

    assert outcomes == [held] * 10


async def test_more_than_may_wait_are_refused_at_once_the_greediest_first(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "MOST_WAITING", 3)
    pool = server.pool()
    held = await pool.acquire("", now() + LATER)
    greedy = [asking(pool, "greedy") for _ in range(3)]
    await settled()

    one_more, another = asking(pool, "greedy"), asking(pool, "another")
    await settled()

    assert await outcome(one_more) is Overloaded
    assert await outcome(greedy[2]) is Overloaded
    assert pool.waiting == 3
    for each in (greedy[0], another, greedy[1]):
        answered(pool, held)
        assert await outcome(each) is held


async def test_as_many_may_wait_as_are_served_in_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "ALWAYS_WAITING", 1)
    pool = server.pool()
    line = await pool.acquire("", now() + LATER)
    waiting = [asking(pool, f"user {number}") for number in range(3)]
    await settled()
    pool._demand.rate = 133.0  # noqa: SLF001 - measuring it would take a second
    answered(pool, line)

    outcomes = [await outcome(asking(pool, f"new {number}")) for number in range(5) if pool.waiting >= 5]
    more = [asking(pool, f"more {number}") for number in range(4)]
    await settled()

    assert outcomes == []
    assert [each.done() for each in more] == [False, False, False, True]  # 133/s serve 5 in 0.75 of that time
    assert await outcome(more[3]) is Overloaded
    assert waiting[0].done()


async def test_those_after_a_request_without_room_are_refused_unseen_for_a_moment(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "MOST_WAITING", 1)
    pool = server.pool()
    await pool.acquire("", now() + LATER)
    waits, refused = asking(pool, "a"), asking(pool, "b")

    assert await outcome(refused) is Overloaded
    assert pool.crowded
    await until(lambda: not pool.crowded)
    # A stall would have begun meanwhile: nobody's leaving tells that there is room.
    assert not waits.done()


async def test_nobody_gets_a_connection_without_time_for_a_statement(server: Server) -> None:
    pool = server.pool()
    held = await pool.acquire("", now() + LATER)
    late, early = asking(pool, "late", seconds=1), asking(pool, "early")
    await settled()
    pool._demand.shortest = 0.6  # noqa: SLF001 - a database that is so far away would take its time

    answered(pool, held)

    assert await outcome(late) is TimeoutError
    assert await outcome(early) is held


async def test_where_few_wait_a_client_that_closed_its_side_is_answered(server: Server) -> None:
    pool = server.pool(2)
    held = [await outcome(asking(pool)) for _ in range(2)]
    half_closed = asking(pool, gone=lambda: True)
    await asyncio.sleep(0.05)
    answered(pool, held[0])

    assert await outcome(half_closed) is held[0]


async def test_an_attempt_that_outlasts_its_request_serves_the_next(server: Server) -> None:
    pool = server.pool()
    server.answers.clear()

    assert await outcome(asking(pool, seconds=0.02)) is TimeoutError
    later = asking(pool)
    server.answers.set()

    assert await outcome(later) is server.lines[0]


async def test_connections_that_were_silent_while_another_died_are_closed(server: Server) -> None:
    pool = server.pool(3)
    for line in [await outcome(asking(pool)) for _ in range(3)]:
        answered(pool, line)
    sent = now()
    heard = await outcome(asking(pool))
    answered(pool, heard, took=0)

    pool.suspect(sent)

    assert [line for line in server.lines if line.usable] == [heard]


async def test_a_connection_that_the_server_has_closed_meanwhile_is_not_used(server: Server) -> None:
    pool = server.pool()
    answered(pool, await outcome(asking(pool)))
    server.lines[0].has_news = True

    assert await outcome(asking(pool)) is server.lines[1]


async def test_in_trouble_there_is_one_attempt_at_a_time_whoever_waits(server: Server) -> None:
    pool = server.pool(10)
    server.failure = OSError("away")
    waiting = [asking(pool, f"user {number}") for number in range(50)]
    await until(lambda: server.attempts >= 5)
    most = server.most_at_once

    server.failure = None
    lines = [await outcome(each) for each in waiting[:10]]

    assert most == 1
    assert len({id(line) for line in lines}) == 10


async def test_beside_an_attempt_that_hangs_others_begin_but_never_more_than_the_size(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "HANGING", 0.005)
    pool = server.pool(3)
    server.answers.clear()
    waiting = asking(pool)
    await until(lambda: server.attempts == 3)
    await asyncio.sleep(0.1)

    assert server.attempts == 3
    server.answers.set()
    assert await outcome(waiting) in server.lines


@pytest.mark.parametrize("failure", [InvalidPasswordError("no"), ZeroDivisionError()], ids=str)
async def test_what_another_try_cannot_mend_is_told_to_all_at_once(server: Server, failure: Exception) -> None:
    pool = server.pool()
    server.failure = failure
    waiting = [asking(pool) for _ in range(5)]

    outcomes = [await outcome(each) for each in waiting]
    again = await outcome(asking(pool))

    assert set(outcomes) == {type(failure)}
    assert again is type(failure)
    assert server.attempts <= 2


async def test_a_server_with_few_connections_is_not_asked_for_ever(server: Server) -> None:
    server.grants = 3
    pool = server.pool(10)
    lines = [await outcome(asking(pool)) for _ in range(3)]
    waiting = [asking(pool, f"user {number}") for number in range(20)]
    await asyncio.sleep(0.02)
    attempts = server.attempts

    assert pool.open == pool.size == 3
    assert attempts <= 3 + 10
    for each in waiting:
        answered(pool, lines[0])
        lines[0] = await outcome(each)


async def test_connections_of_no_use_are_given_back_and_nothing_else_is_touched(server: Server) -> None:
    pool = server.pool(2, most=8)
    pool.size = 8
    lines = [await outcome(asking(pool)) for _ in range(8)]
    pool._raise_size()  # noqa: SLF001 - as when the demand rose
    for line in lines:
        answered(pool, line)

    await until(lambda: pool.open == 2)
    await asyncio.sleep(0.1)

    assert (pool.open, pool.size, server.attempts) == (2, 2, 8)
    assert [line.usable for line in lines].count(True) == 2


async def test_a_lower_limit_is_kept_as_connections_come_back(server: Server) -> None:
    pool = server.pool(5)
    lines = [await outcome(asking(pool)) for _ in range(5)]

    pool.limit(2)
    for line in lines:
        answered(pool, line)

    assert (pool.open, pool.size) == (2, 2)


async def test_the_pool_grows_with_a_database_that_is_far_away(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LONGEST_WAIT", "UNUSED"):
        monkeypatch.setattr(pool_module, name, LATER)
    pool = server.pool(2, most=16)
    working = True

    async def client(number: int) -> None:
        while working:
            line = await pool.acquire(f"user {number}", now() + LATER)
            since = now()
            await asyncio.sleep(0.02)
            line.heard = now()
            pool.release(line, since)

    clients = [asyncio.create_task(client(number)) for number in range(30)]
    await until(lambda: pool.open == 16)
    working = False
    await asyncio.gather(*clients, return_exceptions=True)

    assert server.attempts == 16


@pytest.mark.parametrize(
    ("statements", "seconds", "more"),
    [(50, 0.1, True), (370, 0.0102, True), (1_600, 0.0006, False), (20, 0.1, False), (0, 0.1, False)],
)
def test_more_connections_are_of_use_where_the_database_alone_keeps_them_busy(
    statements: int, seconds: float, more: bool  # noqa: FBT001  pytest passes it by name
) -> None:  # fmt: skip
    demand = Demand()
    demand.measure(0)
    for _ in range(statements):
        demand.answered(seconds)

    assert demand.measure(WINDOW)
    assert demand.exceeds(10) == more


def test_a_stall_does_not_make_the_shortest_statement_longer() -> None:
    demand = Demand()
    demand.answered(0.1)
    demand.measure(0)
    for stalled in (1, 2, 3):
        demand.measure(stalled * WINDOW)
    demand.answered(4 * WINDOW)

    demand.measure(4 * WINDOW)

    assert demand.shortest == 0.1
    assert demand.rate == 1 / WINDOW


def test_a_window_without_an_answer_is_no_pace() -> None:
    demand = Demand()
    demand.answered(0.1)
    demand.measure(0)

    demand.measure(WINDOW)

    assert demand.rate is None


def test_a_rate_counts_only_while_requests_wait() -> None:
    demand = Demand()
    demand.measure(0)
    demand.answered(1)

    assert not demand.measure(10)
    assert demand.rate is None
    assert not demand.measure(10 + WINDOW / 2)
