"""What does a stranger get from each operation of the API document? Generated from the document that is served."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from people import User, signed
from running import StatementLog

MISSING = 2**53


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    takes_a_body: bool

    @property
    def names_a_task(self) -> bool:
        return "{id}" in self.path

    def call(self, client: httpx.Client, user_id: str, task_id: int) -> httpx.Response:
        body = {"title": "Mine"} if self.takes_a_body else None
        return client.request(self.method, self.path.format(user_id=user_id, id=task_id), json=body)

    def says(self, detail: str) -> dict[str, str] | None:
        """Return the body to expect of a refusal: HEAD has none."""
        return None if self.method == "HEAD" else {"detail": detail}


def task_operations(document: dict[str, Any]) -> Iterator[Operation]:
    """Yield every operation that wants a token, with a body that its owner could send; HEAD beside each GET."""
    for path, operations in document["paths"].items():
        for method, described in operations.items():
            if "security" in described:
                yield Operation(method.upper(), path, takes_a_body="requestBody" in described)
                if method == "get":
                    yield Operation("HEAD", path, takes_a_body=False)


@dataclass(frozen=True)
class BadToken:
    """How a token for this user is made, and what its bearer is told."""

    made: Callable[[str], str]
    detail: str = "The access token is invalid."
    challenge: str = 'Bearer realm="todo", error="invalid_token"'

    def credentials(self, user_id: str) -> dict[str, str]:
        token = self.made(user_id)
        return {"Authorization": f"Bearer {token}"} if token else {}


BAD_TOKENS = {
    "none": BadToken(lambda _: "", "An access token is required.", 'Bearer realm="todo"'),
    "forged": BadToken(lambda name: signed(name, secret="another secret of thirty-two bytes")),
    "tampered": BadToken(lambda name: f"{signed(name).rpartition('.')[0]}.{signed('another').rpartition('.')[2]}"),
    "nameless": BadToken(lambda name: signed(name, sub=None, email=f"{name}@example.com")),
    "expired": BadToken(
        lambda name: signed(name, exp=1),
        "The access token has expired.",
        'Bearer realm="todo", error="invalid_token", error_description="The access token expired"',
    ),
}


@pytest.fixture
def document(anonymous: httpx.Client) -> dict[str, Any]:
    document: dict[str, Any] = anonymous.get("/openapi.json").json()
    return document


@pytest.fixture
def operations(document: dict[str, Any]) -> list[Operation]:
    return list(task_operations(document))


def told(response: httpx.Response) -> tuple[int, str | None, object]:
    """Return what a refusal tells: its status, the challenge and the body."""
    return response.status_code, response.headers.get("WWW-Authenticate"), response.json() if response.content else None


def headers_of(response: httpx.Response) -> dict[str, str]:
    """Return the headers without those that no two answers have in common."""
    return {name: value for name, value in response.headers.items() if name not in {"date", "x-request-id"}}


@pytest.mark.spec("SC-002", "SC-003", "FR-001")
def test_every_operation_but_the_checks_wants_a_token(document: dict[str, Any]) -> None:
    described = [operation for path in document["paths"].values() for operation in path.values()]

    wanted = {operation["operationId"]: operation.get("security") for operation in described}

    assert [wanted.pop(check) for check in ("healthCheck", "livenessCheck", "readinessCheck")] == [None] * 3
    assert list(wanted.values()) == [[{"BearerAuth": []}]] * 6


@pytest.mark.spec("SC-002", "SC-003", "FR-001", "FR-002", "FR-004", "EC-5")
@pytest.mark.parametrize("bad", BAD_TOKENS.values(), ids=BAD_TOKENS)
def test_without_a_good_token_nothing_can_be_done(
    alice: User, anonymous: httpx.Client, operations: list[Operation], statement_log: StatementLog, bad: BadToken
) -> None:
    task = alice.add("Secret", description="Secret")
    anonymous.headers.update(bad.credentials(alice.id))
    statement_log.new()

    refusals = {operation: told(operation.call(anonymous, alice.id, task["id"])) for operation in operations}

    assert refusals == {operation: (401, bad.challenge, operation.says(bad.detail)) for operation in operations}
    assert statement_log.new() == []
    assert alice.list() == [task]


@pytest.mark.spec("SC-002", "FR-003", "FR-005", "FR-013", "EC-7")
@pytest.mark.parametrize("whose", ["the owner's", "the caller's own", "nobody's"])
def test_at_another_users_url_nothing_can_be_done(
    alice: User, bob: User, operations: list[Operation], statement_log: StatementLog, whose: str
) -> None:
    hers, his = alice.add("Hers"), bob.add("Secret", description="Secret")
    task_id = {"the owner's": his["id"], "the caller's own": hers["id"], "nobody's": MISSING}[whose]
    statement_log.new()

    refusals = {operation: told(operation.call(alice.http, bob.id, task_id)) for operation in operations}

    detail = "These tasks belong to another user."
    assert refusals == {operation: (403, None, operation.says(detail)) for operation in operations}
    assert statement_log.new() == []
    assert (alice.list(), bob.list()) == ([hers], [his])


@pytest.mark.spec("SC-002", "FR-003", "EC-7")
@pytest.mark.parametrize(
    "almost",
    [
        str.upper,
        lambda name: name[:-1],
        lambda name: f"{name}%20",
        lambda name: f"{name}%00",
        lambda name: f"%25{name}",
    ],
)
def test_a_user_id_that_is_almost_right_is_another_users(
    alice: User, operations: list[Operation], statement_log: StatementLog, almost: Callable[[str], str]
) -> None:
    task = alice.add()
    statement_log.new()

    statuses = {
        operation: operation.call(alice.http, almost(alice.id), task["id"]).status_code for operation in operations
    }

    assert statuses == dict.fromkeys(operations, 403)
    assert statement_log.new() == []
    assert alice.list() == [task]


@pytest.mark.spec("SC-002", "FR-013", "FR-015")
def test_a_foreign_task_looks_like_one_that_does_not_exist(
    alice: User, bob: User, operations: list[Operation], statement_log: StatementLog
) -> None:
    hers, his = alice.add("Hers"), bob.add("Secret", description="Secret")
    on_one_task = [operation for operation in operations if operation.names_a_task]
    statement_log.new()

    foreign = {operation: operation.call(alice.http, alice.id, his["id"]) for operation in on_one_task}
    unknown = {operation: operation.call(alice.http, alice.id, MISSING) for operation in on_one_task}

    assert {operation: told(response) for operation, response in foreign.items()} == {
        operation: (404, None, operation.says("Task not found.")) for operation in on_one_task
    }
    for operation in on_one_task:
        assert foreign[operation].status_code == unknown[operation].status_code
        assert foreign[operation].content == unknown[operation].content
        assert headers_of(foreign[operation]) == headers_of(unknown[operation])
    assert len(statement_log.new()) == 2 * len(on_one_task)
    assert (alice.list(), bob.list()) == ([hers], [his])


@pytest.mark.spec("SC-002", "FR-014")
def test_the_owner_can_do_all_of_it(alice: User, operations: list[Operation]) -> None:
    """Were the requests of this module not good ones, their refusal would prove nothing."""
    task_ids = [alice.add()["id"] for _ in operations]

    statuses = [
        operation.call(alice.http, alice.id, task_id).status_code
        for operation, task_id in zip(operations, task_ids, strict=True)
    ]

    assert sorted(statuses) == [200, 200, 200, 200, 200, 200, 201, 204]
