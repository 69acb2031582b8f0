"""Is a task created exactly once, however often its creation is sent?"""

import asyncio
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from people import User, signed
from running import StatementLog
from servers import ROOT, Postgres, application, debian_postgres, program

from backend.schema.migrate import upgrade


def create(user: User, key: str | None = "key", **body: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key is not None else {}
    return user.http.post(user.tasks, json={"title": "Milk"} | body, headers=headers)


@pytest.mark.parametrize("key", ["a", "!~", "x" * 255, '"quoted"', "8e03978e-40d5-43e8-bc93-6894a57f9324"])
def test_a_key_has_1_to_255_visible_characters(alice: User, key: str) -> None:
    answers = [create(alice, key) for _ in range(2)]

    assert [each.status_code for each in answers] == [201, 201]
    assert answers[0].json() == answers[1].json() == alice.list()[0]


@pytest.mark.parametrize("key", [b"", b"a b", b"x" * 256, b"a\tb", b"\xe9", b"caf\xc3\xa9"])
def test_a_malformed_key_is_400_and_creates_nothing(alice: User, key: bytes) -> None:
    headers = [(b"Idempotency-Key", key)]
    answer = alice.http.post(alice.tasks, json={"title": "Milk"}, headers=headers)

    detail = "The Idempotency-Key should be 1 to 255 visible characters."
    error = {"loc": ["header", "Idempotency-Key"], "msg": detail, "type": "idempotency_key"}
    assert answer.status_code == 400
    assert answer.json() == {"detail": detail, "errors": [error]}
    assert alice.list() == []


def test_two_keys_are_400_and_create_nothing(alice: User) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "a")]
    answer = alice.http.post(alice.tasks, json={"title": "Milk"}, headers=headers)

    assert answer.status_code == 400
    assert alice.list() == []


def test_a_stranger_learns_nothing_about_a_key(alice: User, anonymous: httpx.Client) -> None:
    answer = anonymous.post(alice.tasks, json={"title": "Milk"}, headers={"Idempotency-Key": "a b"})

    assert answer.status_code == 401


def test_a_retry_answers_the_task_as_it_is_now(alice: User) -> None:
    task = create(alice).json()
    path = f"{alice.tasks}/{task['id']}"
    alice.http.put(path, json={"title": "Bread", "description": "brown"})
    now = alice.http.patch(f"{path}/complete").json()

    again = create(alice)

    assert (again.status_code, again.json()) == (201, now)
    assert alice.list() == [now]


def test_what_the_body_means_counts_and_not_its_form(alice: User) -> None:
    task = create(alice).json()

    spelled_out = create(alice, description=None, completed=False, ignored="x").json()

    assert spelled_out == task


@pytest.mark.parametrize("body", [{"title": "milk"}, {"description": ""}, {"completed": True}])
def test_the_same_key_with_another_body_is_422_and_changes_nothing(alice: User, body: dict[str, Any]) -> None:
    task = create(alice).json()

    answer = create(alice, **body)

    detail = "This Idempotency-Key was used with another body."
    error = {"loc": ["header", "Idempotency-Key"], "msg": detail, "type": "idempotency_key_reused"}
    assert (answer.status_code, answer.json()) == (422, {"detail": detail, "errors": [error]})
    assert alice.list() == [task]


def test_a_key_is_its_owners(alice: User, bob: User) -> None:
    hers, his = create(alice).json(), create(bob, title="Beer").json()

    assert hers["id"] != his["id"]
    assert (alice.list(), bob.list()) == ([hers], [his])


def test_a_key_ends_with_its_task(alice: User) -> None:
    first = create(alice).json()
    alice.http.delete(f"{alice.tasks}/{first['id']}")

    second = create(alice, title="Bread")

    assert second.status_code == 201
    assert second.json()["id"] != first["id"]


def test_without_a_key_every_create_adds_a_task(alice: User) -> None:
    ids = {create(alice, None).json()["id"] for _ in range(3)}

    assert len(ids) == len(alice.list()) == 3


def test_the_key_is_never_shown(alice: User) -> None:
    answer = create(alice, "my-secret-key")

    assert set(answer.json()) == {"id", "user_id", "title", "description", "completed", "created_at", "updated_at"}


def test_64_equal_keys_at_once_give_one_task_and_equal_answers(alice: User, base_url: str) -> None:
    async def all_at_once() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=base_url, headers=alice.http.headers, timeout=60, limits=limits) as http:
            call = {"json": {"title": "Once"}, "headers": {"Idempotency-Key": "k"}}
            return await asyncio.gather(*(http.post(alice.tasks, **call) for _ in range(64)))  # type: ignore[arg-type]

    answers = asyncio.run(all_at_once())

    assert {each.status_code for each in answers} == {201}
    assert len({each.content for each in answers}) == 1
    assert alice.list() == [answers[0].json()]


def test_a_create_its_retry_and_its_refusal_are_one_statement_each(alice: User, statement_log: StatementLog) -> None:
    statement_log.new()

    answers = [create(alice, key, title=title) for key, title in (("k", "a"), ("k", "a"), ("k", "b"), (None, "a"))]

    assert [each.status_code for each in answers] == [201, 201, 422, 201]
    assert len([each for each in statement_log.new() if "INTO task " in each]) == 4


# --- What does it cost those who send no key? ---------------------------------------------------------------------

PLAIN = """
from backend import dependencies
from backend.server import run as server
from backend.database import statements
from sqlalchemy import bindparam
from sqlalchemy.dialects.postgresql import insert
from backend.models import Task

names = ("user_id", "title", "description", "completed")
new = insert(Task).values({name: bindparam(name) for name in names}).returning(*statements._columns)
statements.CREATE = statements._compiled(new)
statements.ALL = (statements.CREATE,)

async def add(self, task, key):
    values = {"title": task.title, "description": task.description, "completed": task.completed}
    return (await self._database.fetch(statements.CREATE, user_id=self._owner, **values))[0]

dependencies.Tasks.add = add
from backend.commands.cli import run
run()
"""
ROUNDS, REQUESTS = 5, 1_000
TICKS = os.sysconf("SC_CLK_TCK")


def cpu(pid: int) -> float:
    """Return the CPU seconds of a process and its children, those included that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sum(map(int, fields[11:15])) / TICKS + sum(cpu(int(child)) for child in children)


@pytest.mark.long
def test_a_plain_create_costs_less_than_a_tenth_more() -> None:
    """Application and database together, against the same application without key, hash and index."""
    program("postgres")
    with debian_postgres() as kept, debian_postgres() as plain:
        for server in (kept, plain):
            upgrade(server.url())
        plain.ask("ALTER TABLE task DROP COLUMN creation_key, DROP COLUMN creation_hash")
        with (
            application(kept.url(), DATABASE_POOL_SIZE="2") as ours,
            application(plain.url(), program=("-c", PLAIN), DATABASE_POOL_SIZE="2") as other,
        ):
            costs: list[list[tuple[float, float]]] = [[], []]
            for _ in range(ROUNDS + 1):
                for each, app, server in zip(costs, (ours, other), (kept, plain), strict=True):
                    each.append(cost(app.base_url, app.process.pid, server))

    (app, database), (plain_app, plain_database) = (
        [statistics.median(part) * 1_000_000 / REQUESTS for part in zip(*each[1:], strict=True)] for each in costs
    )
    more = (app + database) / (plain_app + plain_database) - 1
    print(f"with keys {app:.0f} + {database:.0f} µs, without {plain_app:.0f} + {plain_database:.0f} µs: {more:+.1%}")
    assert more < 0.1


def cost(base_url: str, pid: int, server: Postgres) -> tuple[float, float]:
    """Return what many creates cost the application and the database, in CPU seconds."""
    assert server.process
    before = cpu(pid), cpu(server.process.pid)
    user = User(base_url)
    script = ROOT / "tests/creates.py"
    subprocess.run([sys.executable, script, base_url, user.tasks, signed(user.id), str(REQUESTS)], check=True)
    return cpu(pid) - before[0], cpu(server.process.pid) - before[1]
