"""Do the probes tell who restarts and who sends requests what is so, without waking a database that sleeps?"""

import time
from collections.abc import Iterator

import pytest
from people import User
from relay import Relay, relayed
from running import serving
from servers import until

from backend import db
from backend.settings import Settings

BUSY = {"detail": "The service is temporarily unavailable, and nothing was changed. Please try again."}


@pytest.fixture
def line(database_url: str) -> Iterator[tuple[Relay, str]]:
    with relayed(database_url) as line:
        yield line


@pytest.fixture
def user(line: tuple[Relay, str], settings: Settings) -> Iterator[User]:
    """Somebody whose application reaches its database through the relay, and waits a second for it at most."""
    changes = {"neon_database_url": line[1], "request_deadline": 1.0, "database_pool_size": 2}
    with serving(Settings.model_validate(settings.model_dump() | changes)) as base_url:
        user = User(base_url)
        with user.http:
            yield user


def probe(user: User, path: str) -> tuple[int, object]:
    answer = user.http.get(path, headers={"Authorization": ""})
    return answer.status_code, answer.json()


def vanish(relay: Relay) -> None:
    relay.hole = True
    relay.lose()


def test_probes_of_a_healthy_process(user: User, line: tuple[Relay, str]) -> None:
    until(lambda: line[0].open == 2, "the pool does not fill")
    user.add()
    until(lambda: probe(user, "/readyz") == (200, {"status": "ok", "connections": 2}), "it is not ready")

    assert probe(user, "/livez") == (200, {"status": "ok"})
    assert probe(user, "/health")[0] == 200
    for path in ("/livez", "/readyz", "/health"):
        assert user.http.head(path).status_code == 200
        assert user.http.post(path).status_code == 405


def test_ready_follows_the_last_outcome_and_never_asks(user: User, line: tuple[Relay, str]) -> None:
    relay, _ = line
    user.add()
    vanish(relay)
    failed = user.http.get(user.tasks).status_code
    before = relay.bytes
    unready, alive = user.http.get("/readyz"), probe(user, "/livez")[0]
    asked = relay.bytes - before
    relay.hole = False
    until(lambda: user.http.get(user.tasks).status_code == 200, "the database does not come back")
    again = probe(user, "/readyz")[0]

    assert (failed, unready.status_code, unready.json(), alive, again) == (503, 503, BUSY, 200, 200)
    assert unready.headers["retry-after"] == "2"
    assert asked <= 10  # the farewells of two connections that were given up, 5 bytes each; a statement is longer


def test_a_failure_is_forgotten_or_nobody_would_ever_ask_again(
    user: User, line: tuple[Relay, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "FAILURE_COUNTS", 1.0)
    user.add()
    vanish(line[0])
    assert user.http.get(user.tasks).status_code == 503
    assert probe(user, "/readyz")[0] == 503

    time.sleep(1)

    until(lambda: probe(user, "/readyz")[0] == 200, "it is never ready again")
