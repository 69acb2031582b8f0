"""Do the probes tell who restarts and who sends requests what is so, without waking a database that sleeps?"""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory

import pytest
from databases import upgrade
from people import User
from relay import Relay, relayed
from running import serving
from servers import Postgres, certificates, debian_postgres, program, until

from backend.database import readiness
from backend.database.failures import OBSTACLES
from backend.schema.migrate import BASE, move
from backend.settings import Settings


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


def test_ready_follows_a_failure_and_comes_back_by_itself(user: User, line: tuple[Relay, str]) -> None:
    relay, _ = line
    user.add()
    vanish(relay)
    failed = user.http.get(user.tasks).status_code
    unready, alive = user.http.get("/readyz"), probe(user, "/livez")[0]
    relay.hole = False

    until(lambda: probe(user, "/readyz")[0] == 200, "nobody looks whether the database is back")

    assert (failed, unready.status_code, alive) == (503, 503, 200)
    assert unready.json() == {"detail": "Not ready: unreachable."}
    assert unready.headers["retry-after"] == "2"


def test_who_is_ready_and_idle_leaves_the_database_alone(
    user: User, line: tuple[Relay, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "LONGEST_PAUSE", 0.1)
    relay, _ = line
    until(lambda: probe(user, "/readyz") == (200, {"status": "ok", "connections": 2}), "it is not ready")
    before = relay.bytes, relay.connections

    time.sleep(1)

    assert probe(user, "/readyz")[0] == 200
    assert (relay.bytes, relay.connections) == before


# What a deployment forgot, and what it says then.


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with debian_postgres(fsync="off") as server:
        access = server.data / "pg_hba.conf"
        access.write_text(f"hostssl all guest 127.0.0.1/32 scram-sha-256\n{access.read_text()}")
        server.ask("SELECT pg_reload_conf()")
        yield server


@dataclass
class Deployment:
    """A database of its own on the server, and the URL that the application is given."""

    server: Postgres
    name: str
    url: str

    def ask(self, *statements: str) -> None:
        command = [program("psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", self.server.url(database=self.name)]
        subprocess.run([*command, *(part for each in statements for part in ("-c", each))], check=True)

    def as_guest(self, password: str, *rights: str) -> None:
        self.server.ask("DROP ROLE IF EXISTS guest", f"CREATE ROLE guest LOGIN PASSWORD '{password}'")
        self.ask(f"GRANT {', '.join(rights)} ON task TO guest")
        self.url = self.url.replace("//app@", "//guest:right@")


@pytest.fixture
def deployment(server: Postgres) -> Iterator[Deployment]:
    name = f"todo_{token_hex(4)}"
    server.ask(f"CREATE DATABASE {name}")
    deployment = Deployment(server, name, server.url(database=name))
    upgrade(deployment.url)
    yield deployment
    server.ask(f"DROP DATABASE {name} (FORCE)")
    server.ask("DROP ROLE IF EXISTS guest")


def stopped(of: Deployment) -> Callable[[], object]:
    of.server.stop()
    return of.server.start


def wrong_password(of: Deployment) -> Callable[[], object]:
    of.as_guest("wrong", "ALL")
    return lambda: of.server.ask("ALTER ROLE guest PASSWORD 'right'")


def no_database(of: Deployment) -> Callable[[], object]:
    of.server.ask(f"ALTER DATABASE {of.name} RENAME TO {of.name}_elsewhere")
    return lambda: of.server.ask(f"ALTER DATABASE {of.name}_elsewhere RENAME TO {of.name}")


def no_schema(of: Deployment) -> Callable[[], object]:
    move(of.url, BASE)
    return lambda: upgrade(of.url)


def schema_behind(of: Deployment) -> Callable[[], object]:
    of.ask("ALTER TABLE task RENAME description TO text")
    return lambda: of.ask("ALTER TABLE task RENAME text TO description")


def missing_grant(of: Deployment) -> Callable[[], object]:
    of.as_guest("right", "SELECT", "INSERT", "UPDATE")
    return lambda: of.ask("GRANT DELETE ON task TO guest")


def read_only(of: Deployment) -> Callable[[], object]:
    of.server.ask("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
    return lambda: of.server.ask("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")


def unknown_certificate(of: Deployment) -> Callable[[], object]:
    roots = of.server.home / "roots.crt"
    with TemporaryDirectory() as other:
        shutil.copy(certificates(Path(other)), roots)
    of.url = of.url.replace("sslmode=require", f"sslmode=verify-full&sslrootcert={roots}")
    return lambda: shutil.copy(of.server.authority, roots)


FORGOTTEN = {
    "unreachable": [stopped],
    "credentials": [wrong_password],
    "database": [no_database],
    "schema": [no_schema, schema_behind],
    "rights": [missing_grant],
    "read-only": [read_only],
    "certificate": [unknown_certificate],
}


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"  # asyncpg leaves a line open whose password was refused
)
@pytest.mark.parametrize(
    ("word", "forget", "prepare"),
    [
        *((word, each, True) for word, several in FORGOTTEN.items() for each in several),
        *(("schema", each, False) for each in FORGOTTEN["schema"]),
    ],
)
def test_a_process_is_not_ready_until_it_has_all_that_it_needs(
    settings: Settings,
    deployment: Deployment,
    word: str,
    forget: Callable[[Deployment], Callable[[], object]],
    prepare: bool,  # noqa: FBT001  pytest passes it by name
) -> None:
    mend = forget(deployment)
    changes = {"neon_database_url": deployment.url, "request_deadline": 2, "database_prepared_statements": prepare}
    seen = set()
    with serving(Settings.model_validate(settings.model_dump() | changes)) as base_url:
        user = User(base_url)
        with user.http:
            expected = (503, {"detail": f"Not ready: {word}."})
            while (answer := probe(user, "/readyz")) != expected:
                seen.add(answer[0])
                time.sleep(0.01)
            time.sleep(0.3)
            seen.add(probe(user, "/readyz")[0])
            mend()
            until(lambda: probe(user, "/readyz")[0] == 200, "it is never ready")
            user.add()

    assert seen == {503}
    assert word in OBSTACLES
