"""What is the database asked? One statement per request, none for a refusal, and none beyond the owner.

The lists that are longer than a page are in test_long_lists.py.
"""

import json
from collections.abc import Iterator
from typing import Any

import asyncpg
import httpx
import pytest
from databases import execute, own_database
from people import User
from running import StatementLog, unscoped

from backend.database.statements import ALL, LIST, LIST_AFTER, Statement
from backend.schema.migrate import upgrade
from backend.web.answers import PAGE

MISSING = 2**53
TITLE = {"title": "Buy bread"}


@pytest.mark.spec("FR-013", "SC-004")
@pytest.mark.parametrize(
    ("request_line", "body", "status"),
    [
        ("GET ", None, 200),
        ("HEAD ", None, 200),
        ("POST ", TITLE, 201),
        ("GET /{task}", None, 200),
        ("PUT /{task}", TITLE, 200),
        ("PUT /{task}", {}, 200),
        ("PUT /{task}", {"no_such_field": "high"}, 200),
        ("DELETE /{task}", None, 204),
        ("PATCH /{task}/complete", None, 200),
        ("GET /{missing}", None, 404),
        ("PUT /{missing}", TITLE, 404),
        ("PUT /{missing}", {}, 404),
        ("DELETE /{missing}", None, 404),
        ("PATCH /{missing}/complete", None, 404),
    ],
)
def test_a_request_is_one_statement(
    alice: User, statement_log: StatementLog, request_line: str, body: object, status: int
) -> None:
    method, _, end = request_line.format(task=alice.add()["id"], missing=MISSING).partition(" ")
    statement_log.new()

    response = alice.http.request(method, alice.tasks + end, json=body)

    statements = statement_log.new()
    assert response.status_code == status
    assert len(statements) == 1
    assert unscoped(statements) == []


@pytest.mark.spec("FR-015")
@pytest.mark.parametrize(
    ("request_line", "sent", "status"),
    [
        ("GET ", {"headers": {"Authorization": ""}}, 401),
        ("POST ", {"content": b'{"title": "x"}', "headers": {"Authorization": "Bearer x"}}, 401),
        ("GET x", {}, 404),
        ("GET /1/2", {}, 404),
        ("DELETE ", {}, 405),
        ("POST /1", {"content": b'{"title": "x"}'}, 405),
        ("GET /1/complete", {}, 405),
        ("POST ", {"content": b'{"title": "%s"}' % (b"x" * 65_536)}, 413),
        ("PUT /1", {"content": b'{"title": "%s"}' % (b"x" * 65_536)}, 413),
        ("POST ", {"content": b'{"title": "x"}', "headers": {"Content-Type": "text/plain"}}, 415),
        ("PUT /1", {"content": b'{"title": "x"}', "headers": {"Content-Type": "text/plain"}}, 415),
        ("POST ", {"content": b"{}"}, 422),
        ("PUT /1", {"content": b'{"title": null}'}, 422),
        ("GET /x", {}, 422),
        ("DELETE /0", {}, 422),
        ("PATCH /0/complete", {}, 422),
        ("POST ", {"content": b"{"}, 400),
        ("PUT /1", {"content": b""}, 400),
    ],
)
def test_a_refused_request_asks_the_database_nothing(
    alice: User, statement_log: StatementLog, request_line: str, sent: dict[str, Any], status: int
) -> None:
    method, _, end = request_line.partition(" ")
    statement_log.new()

    response = alice.http.request(method, alice.tasks + end, **sent)

    assert response.status_code == status
    assert statement_log.new() == []


@pytest.mark.spec("FR-005", "FR-015")
def test_another_users_url_asks_the_database_nothing(alice: User, bob: User, statement_log: StatementLog) -> None:
    statement_log.new()

    response = alice.http.get(bob.tasks)

    assert response.status_code == 403
    assert statement_log.new() == []


@pytest.mark.spec("FR-014", "FR-019")
def test_health_and_preflights_ask_the_database_nothing(
    alice: User, anonymous: httpx.Client, statement_log: StatementLog
) -> None:
    preflight = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
    statement_log.new()

    answers = [anonymous.get("/health"), anonymous.options(alice.tasks, headers=preflight)]

    assert [response.status_code for response in answers] == [200, 200]
    assert statement_log.new() == []


@pytest.mark.spec("FR-013", "SC-002")
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT task.id, task.title FROM task",
        "SELECT task.id, task.user_id FROM task WHERE task.id = $1::BIGINT",
        "SELECT task.id FROM task ORDER BY task.user_id",
        "UPDATE task SET completed=$1 WHERE task.id = $2::BIGINT RETURNING task.user_id",
        "UPDATE task SET user_id=$1 WHERE task.id = $2",
        "DELETE FROM task",
        "DELETE FROM task WHERE task.id = $1::BIGINT RETURNING task.id",
        "DELETE FROM task WHERE task.user_id = task.user_id",
        "INSERT INTO task (title) VALUES ($1)",
        "INSERT INTO task SELECT * FROM task",
        "TRUNCATE task",
    ],
)
def test_a_statement_beyond_the_owner_would_be_seen(statement: str) -> None:
    scoped = LIST.sql.replace("\n", " ")

    found = unscoped([scoped, statement, "SELECT 1"])

    assert found == [statement]


# Every function and operator in a statement, from the tree that PostgreSQL has made of it.
CALLED = """
    SELECT DISTINCT called.oid::regprocedure::text, provolatile::text, pronargs::int
    FROM (SELECT prosqlbody::text AS tree FROM pg_proc WHERE proname = 'probe') probe,
         regexp_matches(tree, ':(?:opfuncid|funcid) (\\d+)', 'g') number
    JOIN pg_proc called ON called.oid = number[1]::oid
"""


@pytest.mark.spec("FR-036")
@pytest.mark.parametrize("statement", ALL, ids=lambda each: " ".join(each.sql.split()[:2]))
async def test_a_statement_has_no_function_that_citus_refuses(database_url: str, statement: Statement) -> None:
    """It refuses a volatile one in an UPDATE, and a stable one on a column."""
    connection = await asyncpg.connect(database_url)
    transaction = connection.transaction()
    await transaction.start()
    types = [each.name for each in (await connection.prepare(statement.sql)).get_parameters()]
    body = f"BEGIN ATOMIC {statement.sql}; END"
    await connection.execute(f"CREATE FUNCTION probe({', '.join(types)}) RETURNS SETOF record LANGUAGE sql {body}")
    called = await connection.fetch(CALLED)
    await transaction.rollback()
    await connection.close()

    refused = [name for name, kind, arguments in called if kind == "v" or (kind == "s" and arguments > 0)]
    assert called
    assert refused == []


@pytest.fixture(scope="module", params=["n / 100", "n % 2000"], ids=["in a row", "in turns"])
def crowded_url(database_url: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of its own: two thousand users with a hundred tasks each, the n-th being whose the parameter says."""
    owner = f"'user ' || {request.param}"
    with own_database(database_url) as url:
        upgrade(url)
        execute(
            url,
            f"""
            INSERT INTO task (user_id, title, created_at)
            SELECT {owner}, 'Buy milk', now() - (200000 - n) * interval '1 second' FROM generate_series(1, 200000) n
            """,
            "ANALYZE task",
        )
        yield url


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


@pytest.mark.spec("FR-018")
@pytest.mark.parametrize("plan_cache_mode", ["force_custom_plan", "force_generic_plan"])
async def test_a_list_among_many_tasks_is_an_index_scan(crowded_url: str, plan_cache_mode: str) -> None:
    connection = await asyncpg.connect(crowded_url)
    await connection.execute(f"SET plan_cache_mode = {plan_cache_mode}")
    await connection.execute(f"PREPARE list (text, bigint) AS {LIST.sql}")

    explained = await connection.fetchval("EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE list ('user 500', 1000)")
    await connection.close()

    plan = json.loads(explained)[0]["Plan"]
    scans = [node for node in nodes(plan) if "Scan" in node["Node Type"]]
    assert plan["Actual Rows"] == 100
    assert {node["Node Type"] for node in scans} <= {"Index Scan", "Bitmap Heap Scan", "Bitmap Index Scan"}
    assert [node["Index Name"] for node in scans if "Index Name" in node] == ["task_owner_newest_first"]
    # A page for each task, and the way down the index; the whole table has more than two thousand.
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 200


@pytest.fixture(scope="module")
def uneven_url(database_url: str) -> Iterator[str]:
    """A database of its own: a thousand users with few tasks, and one with many, of whom the planner may not know."""
    with own_database(database_url) as url:
        upgrade(url)
        insert = """
            INSERT INTO task (user_id, title, created_at)
            SELECT {}, 'Buy milk', now() - n * 7919 % 50000 * interval '1 second' FROM generate_series(1, {}) n
        """
        execute(
            url,
            "ALTER TABLE task SET (autovacuum_enabled = false)",
            insert.format("'user ' || n % 1000", 100_000),
            "ANALYZE task",
            insert.format("'Alice'", 50_000),
        )
        yield url


@pytest.mark.spec("FR-018", "SC-011")
@pytest.mark.parametrize(("statement", "after"), [(LIST, ""), (LIST_AFTER, "now() - interval '25000 seconds', 1, ")])
@pytest.mark.parametrize("known", [False, True], ids=["unknown to the planner", "known to the planner"])
async def test_a_page_of_a_long_list_costs_a_page_however_long_the_list_is(
    uneven_url: str, statement: Statement, after: str, *, known: bool
) -> None:
    """The plan is that of a connection that serves everybody: PostgreSQL settles on it after five executions."""
    types = "text, timestamptz, bigint, bigint" if after else "text, bigint"
    connection = await asyncpg.connect(uneven_url, statement_cache_size=0)
    if known:
        await connection.execute("ANALYZE task")
    await connection.execute(f"PREPARE list ({types}) AS {statement.sql}")
    for _ in range(5):
        await connection.execute(f"EXECUTE list ('user 500', {after}{PAGE})")

    explained = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE list ('Alice', {after}{PAGE})")
    await connection.close()

    plan = json.loads(explained)[0]["Plan"]
    assert plan["Actual Rows"] == PAGE
    assert [node["Node Type"] for node in nodes(plan)] == ["Limit", "Index Scan"]
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 2 * PAGE
