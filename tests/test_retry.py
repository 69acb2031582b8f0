"""What is sent again when the line breaks, and what is a client told? A relay breaks it at the worst moment."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import pytest
from people import User
from relay import Relay, error_response, executes, first
from running import serving
from servers import ROOT, until

from backend.database import statements
from backend.database.pool import Pool
from backend.db import Database
from backend.settings import Settings
from backend.telemetry.metrics import Metrics

UNCHANGED = "The service is temporarily unavailable, and nothing was changed. Please try again."
SAFE = "The service became unavailable, and the change may have been made or not. It is safe to try again."
LOOK = "The service became unavailable, and the change may have been made or not. Look before you try again."
SHUTDOWN = error_response("57P01", "terminating connection due to administrator command")
READ_ONLY = error_response("25006", "cannot execute INSERT in a read-only transaction")


@pytest.fixture(scope="module")
def through(line: tuple[Relay, str], settings: Settings) -> Iterator[str]:
    changes = {"neon_database_url": line[1], "database_pool_size": 2}
    with serving(Settings.model_validate(settings.model_dump() | changes)) as base_url:
        yield base_url


@pytest.fixture
def relay(line: tuple[Relay, str]) -> Iterator[Relay]:
    relay, _ = line
    until(lambda: relay.open > 0, "there is no connection")
    relay.refused = 0
    yield relay
    relay.refuse = relay.lose_answer = None


@pytest.fixture
def user(through: str) -> Iterator[User]:
    user = User(through)
    with user.http:
        yield user


def test_what_is_safe_is_sent_again_when_its_answer_got_lost(user: User, relay: Relay) -> None:
    task = user.add()
    path = f"{user.tasks}/{task['id']}"
    calls: dict[str, Callable[[], Any]] = {
        "list": lambda: user.http.get(user.tasks),
        "get": lambda: user.http.get(path),
        "put": lambda: user.http.put(path, json={"title": "Bread"}),
        "post": lambda: user.http.post(user.tasks, json={"title": "One"}),
        "keyed": lambda: user.http.post(user.tasks, json={"title": "Two"}, headers={"Idempotency-Key": "k"}),
        "delete": lambda: user.http.delete(path),
    }

    statuses = {}
    for name, call in calls.items():
        relay.lose_answer = first(1)
        statuses[name] = call().status_code

    assert statuses == {"list": 200, "get": 200, "put": 200, "post": 201, "keyed": 201, "delete": 204}
    assert relay.refused == len(calls)
    assert sorted(each["title"] for each in user.list()) == ["One", "Two"]


def test_a_toggle_is_never_sent_again(user: User, relay: Relay) -> None:
    task = user.add()
    path = f"{user.tasks}/{task['id']}"
    relay.lose_answer = first(1)

    answer = user.http.patch(f"{path}/complete")

    assert (answer.status_code, answer.json(), answer.headers["retry-after"]) == (503, {"detail": LOOK}, "2")
    assert relay.refused == 1
    assert user.http.get(path).json()["completed"] is True


@pytest.mark.parametrize(
    ("method", "key", "detail"),
    [("PUT", None, SAFE), ("DELETE", None, SAFE), ("POST", "k", SAFE), ("POST", None, LOOK), ("GET", None, UNCHANGED)],
)
def test_who_tried_often_enough_says_that_the_outcome_is_unknown(
    user: User, relay: Relay, method: str, key: str | None, detail: str
) -> None:
    task = user.add()
    path = user.tasks if method == "POST" else f"{user.tasks}/{task['id']}"
    relay.refuse = lambda sent: SHUTDOWN if executes(sent) else None

    headers = {"Idempotency-Key": key} if key else {}
    body = {"title": "x"} if method in {"PUT", "POST"} else None
    answer = user.http.request(method, path, json=body, headers=headers)

    assert (answer.status_code, answer.json()) == (503, {"detail": detail})
    assert relay.refused == 3


def test_a_refusal_of_the_second_try_does_not_deny_the_first(user: User, relay: Relay) -> None:
    task = user.add()
    answers = iter([SHUTDOWN, READ_ONLY])
    relay.refuse = lambda sent: next(answers, None) if executes(sent) else None

    answer = user.http.put(f"{user.tasks}/{task['id']}", json={"title": "x"})

    assert (answer.status_code, answer.json()["detail"]) == (503, SAFE)


@pytest.mark.parametrize("state", ["25006", "53100", "53300", "57014", "58030"])
def test_a_refusal_is_not_sent_again_and_says_that_nothing_was_changed(user: User, relay: Relay, state: str) -> None:
    relay.refuse = lambda sent: error_response(state, "no") if executes(sent) else None

    answer = user.http.post(user.tasks, json={"title": "x"})

    assert (answer.status_code, answer.json()["detail"], relay.refused) == (503, UNCHANGED, 1)


async def test_a_bug_of_ours_is_no_trouble_of_the_database(database_url: str) -> None:
    database = Database(database_url, statements.ALL, pool_size=1, deadline=5, metrics=Metrics())
    await database.fetch(statements.GET, id=1, user_id="u")

    with pytest.raises(asyncpg.DataError, match="invalid input"):
        await database.fetch(statements.GET, id="not a number", user_id="u")

    assert database.readiness.obstacle is None
    await database.close()


async def test_a_request_that_is_cancelled_gives_its_connection_back(database_url: str) -> None:
    database = Database(database_url, statements.ALL, pool_size=2, deadline=5, metrics=Metrics())
    for wait in (0.0, 0.001, 0.003, 0.01, 0.03, 0.1):
        many = [asyncio.create_task(database.fetch(statements.GET, user_id="u", id=1)) for _ in range(20)]
        await asyncio.sleep(wait)
        for each in many:
            each.cancel()
        await asyncio.gather(*many, return_exceptions=True)

        assert database.pool.busy == 0
        assert await database.fetch(statements.GET, user_id="u", id=1) == []

    await database.close()


async def test_a_connection_that_comes_back_to_somebody_gone_goes_to_the_next() -> None:
    """The server grants one; who waits for it is cancelled in the moment in which it is handed over."""
    opened: list[Any] = []

    class Granted:
        usable, has_news, heard = True, False, 0.0

        def cut(self) -> None:
            self.usable = False

    async def connect() -> Any:
        if opened:
            raise ConnectionError("too many connections")
        opened.append(Granted())
        return opened[0]

    pool = Pool(connect, size=3, deadline=0.1, metrics=Metrics())
    deadline = asyncio.get_running_loop().time() + 10
    held = await pool.acquire("", deadline)
    gone, stays = (asyncio.create_task(pool.acquire("", deadline)) for _ in range(2))
    await asyncio.sleep(0.3)
    pool.release(held, 0)
    gone.cancel()

    assert await stays is held
    assert pool.busy == 1
    pool.release(held, 0)
    await pool.close()


@pytest.mark.parametrize(("number", "said"), [("77", "There is no socket under number 77"), ("0", "does not listen")])
def test_a_number_that_is_no_listening_socket_is_said_in_a_sentence(number: str, said: str, settings: Settings) -> None:
    with socket.socket() as deaf:
        environment = {
            "PYTHONPATH": str(ROOT), "NEON_DATABASE_URL": settings.database_url,
            "BETTER_AUTH_URL": settings.better_auth_url,
            "BETTER_AUTH_SECRET": settings.better_auth_secret.get_secret_value(),
        }  # fmt: skip
        number = number if number != "0" else str(deaf.fileno())
        command = [sys.executable, "-m", "backend", "serve", "--fd", number]
        result = subprocess.run(
            command, env=environment, pass_fds=[deaf.fileno()], capture_output=True, text=True, check=False
        )  # fmt: skip

    assert result.returncode == 1
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
