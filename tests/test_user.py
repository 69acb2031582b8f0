"""Does an operator get all that is kept of one user, and does none of it stay where they erase it?"""

import json
import sys
import tracemalloc
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from databases import ask, execute, own_database
from people import User
from typer.testing import CliRunner, Result

from backend.commands import user
from backend.commands.cli import cli
from backend.errors import OperatorError
from backend.schema.migrate import upgrade

pytestmark = pytest.mark.spec("FR-034")


@pytest.fixture(autouse=True)
def _nothing_but_the_database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BETTER_AUTH_SECRET", "BETTER_AUTH_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NEON_DATABASE_URL", database_url)


@pytest.fixture
def large(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A database with 4,000 tasks of ann's, about 5 MB."""
    with own_database(database_url) as url:
        upgrade(url)
        execute(
            url,
            """INSERT INTO task (user_id, title, description)
               SELECT 'ann', 'x', repeat('x', 1000) FROM generate_series(1, 4000)""",
        )
        monkeypatch.setenv("NEON_DATABASE_URL", url)
        yield url


def run(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["user", *arguments], input=answer)


def test_an_export_is_the_list_of_the_api(alice: User, bob: User) -> None:
    for title in ("First", "Second \u2028 \U0001f600", "Third"):
        alice.add(title, description='A "quoted" line\n and another')
    bob.add()

    exported = run("export", alice.id)

    assert (exported.exit_code, json.loads(exported.stdout)) == (0, alice.list())
    assert exported.stdout.count("\n") == 5  # a line for each task, and for each bracket


def test_nobodys_export_is_an_empty_list() -> None:
    assert (run("export", "nobody").stdout, run("export", "nobody").exit_code) == ("[]\n", 0)


@pytest.mark.usefixtures("large")
def test_an_export_takes_memory_for_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    output = SimpleNamespace(buffer=SimpleNamespace(write=lambda piece: written.append(len(piece))))
    monkeypatch.setattr(sys, "stdout", output)
    user.export("nobody")  # loads the libraries

    tracemalloc.start()
    user.export("ann")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert sum(written) > 4_000_000
    assert peak < sum(written) / 2


def rows_with(url: str, text: str) -> int:
    """Return how many rows of all tables hold this text."""
    tables = ask(
        url, "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    return sum(
        ask(url, f"SELECT count(*) FROM {name} t WHERE strpos(t::text, $1) > 0", text)[0][0] for (name,) in tables
    )


def test_nothing_of_an_erased_user_stays_and_others_keep_theirs(alice: User, bob: User, database_url: str) -> None:
    kept = bob.add()
    for key in ("one", "two", "three"):
        alice.http.post(alice.tasks, json={"title": "Buy milk"}, headers={"Idempotency-Key": key})
    before = rows_with(database_url, alice.id)

    erased, again = run("erase", alice.id, "--yes"), run("erase", alice.id, "--yes")

    assert (erased.stdout, erased.exit_code) == ("Tasks erased: 3\n", 0)
    assert (again.stdout, again.exit_code) == ("Tasks erased: 0\n", 0)
    assert (before, rows_with(database_url, alice.id)) == (3, 0)
    assert bob.list() == [kept]


@pytest.mark.parametrize(("answer", "left"), [("y\n", 0), ("n\n", 1), ("", 1)])
def test_erasing_asks_before(alice: User, answer: str, left: int) -> None:
    alice.add()

    result = run("erase", alice.id, answer=answer)

    assert f"Erase every task of the user '{alice.id}' at " in result.stderr
    assert len(alice.list()) == left
    assert result.exit_code == int(left > 0)


@pytest.mark.spec("FR-017")
@pytest.mark.parametrize("command", [["export", "ann"], ["erase", "ann", "--yes"]])
def test_a_database_that_is_away_is_one_sentence_without_the_password(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEON_DATABASE_URL", "postgresql://app:swordfish@127.0.0.1:1/todo")

    error = run(*command).exception

    assert isinstance(error, OperatorError)
    assert str(error).startswith("The database could not do it: ConnectionRefusedError")
    assert "swordfish" not in str(error)


def test_a_date_that_python_cannot_hold_is_one_sentence(alice: User, database_url: str) -> None:
    alice.add()
    ask(database_url, "UPDATE task SET created_at = '20000-01-01' WHERE user_id = $1", alice.id)

    error = run("export", alice.id).exception

    assert isinstance(error, OperatorError)
    assert str(error).startswith("A task has a date before the year 1 or after 9999; to find it: SELECT id FROM task")
