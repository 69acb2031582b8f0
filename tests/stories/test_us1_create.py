"""US1: as a signed-in person I write down a task, so that I find it again on any device."""

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from people import User, signed
from running import StatementLog

JSON = {"Content-Type": "application/json"}
LIMIT = 65_536


def in_chunks(body: bytes) -> Iterator[bytes]:
    """Hand the body over in pieces, so that its length is not announced."""
    yield from (body[start : start + 8_192] for start in range(0, len(body), 8_192))


def of_size(size: int) -> bytes:
    """Return a good body of exactly this many bytes."""
    return b'{"title": "Buy milk", "notes": "%s"}' % (b"x" * (size - len(b'{"title": "Buy milk", "notes": ""}')))


def answer_to_the_head(client: httpx.Client, path: str, framing: str) -> bytes:
    """Announce a body, send none, and return what the server says: 100 when it wants to read (RFC 9110, 10.1.1)."""
    token = client.headers.get("Authorization")
    head = [f"POST {path} HTTP/1.1", "Host: todo", "Expect: 100-continue", framing]
    head += [f"Authorization: {token}"] if token else []
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=10) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode())
        return connection.recv(65_536)


@dataclass(frozen=True)
class Stranger:
    """Someone who may not reach Alice's tasks, and what they are told."""

    http: httpx.Client
    status: int
    detail: str


@pytest.fixture(params=["anonymous", "another user"])
def stranger(request: pytest.FixtureRequest, anonymous: httpx.Client, bob: User) -> Stranger:
    if request.param == "anonymous":
        return Stranger(anonymous, 401, "An access token is required.")
    return Stranger(bob.http, 403, "These tasks belong to another user.")


@pytest.mark.spec("US1.1", "FR-009", "FR-010", "FR-011", "FR-012", "FR-014")
def test_us1_1_a_task_is_created(alice: User) -> None:
    response = alice.http.post(alice.tasks, json={"title": "Buy milk", "description": "Two bottles"})

    task = response.json()
    assert response.status_code == 201
    assert task == {
        "id": task["id"],
        "user_id": alice.id,
        "title": "Buy milk",
        "description": "Two bottles",
        "completed": False,
        "created_at": task["created_at"],
        "updated_at": task["created_at"],
    }
    assert type(task["id"]) is int
    assert task["created_at"].endswith("Z")
    assert abs(datetime.now(UTC) - datetime.fromisoformat(task["created_at"])) < timedelta(minutes=1)
    assert alice.list() == [task]


@pytest.mark.spec("US1.2", "FR-003", "FR-005")
def test_us1_2_another_users_list_takes_no_task(alice: User, bob: User) -> None:
    response = alice.http.post(bob.tasks, json={"title": "Buy milk"})

    assert response.status_code == 403
    assert response.json() == {"detail": "These tasks belong to another user."}
    assert (alice.list(), bob.list()) == ([], [])


@pytest.mark.spec("US1.3", "FR-004")
def test_us1_3_without_a_token_nothing_is_created(alice: User, anonymous: httpx.Client) -> None:
    response = anonymous.post(alice.tasks, json={"title": "Buy milk"})

    assert response.status_code == 401
    assert response.json() == {"detail": "An access token is required."}
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="todo"'
    assert alice.list() == []


@pytest.mark.spec("US1.4", "FR-001", "FR-004")
def test_us1_4_with_a_bad_token_nothing_is_created(alice: User, anonymous: httpx.Client) -> None:
    forged = signed(alice.id, secret="another secret of thirty-two bytes")

    response = anonymous.post(alice.tasks, json={"title": "x"}, headers={"Authorization": f"Bearer {forged}"})

    assert response.status_code == 401
    assert response.json() == {"detail": "The access token is invalid."}
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="todo", error="invalid_token"'
    assert alice.list() == []


@pytest.mark.spec("US1.5", "FR-007", "FR-008", "FR-015", "SC-008", "EC-2", "EC-3")
@pytest.mark.parametrize(
    ("body", "field", "kind", "sentence"),
    [
        ({}, "title", "missing", "title is required"),
        ({"title": None}, "title", "string_type", "title should be a valid string"),
        ({"title": 7}, "title", "string_type", "title should be a valid string"),
        ({"title": ["x"]}, "title", "string_type", "title should be a valid string"),
        ({"title": ""}, "title", "string_too_short", "title should have at least 1 character"),
        ({"title": " \t\n\u00a0\u3000"}, "title", "blank", "title should not be blank"),
        ({"title": "x" * 201}, "title", "string_too_long", "title should have at most 200 characters"),
        (
            {"title": "x", "description": "x" * 1_001},
            "description",
            "string_too_long",
            "description should have at most 1000 characters",
        ),
        ({"title": "x", "description": 7}, "description", "string_type", "description should be a valid string"),
        ({"title": "x", "completed": "yes"}, "completed", "bool_type", "completed should be a valid boolean"),
        ({"title": "x", "completed": 1}, "completed", "bool_type", "completed should be a valid boolean"),
        ({"title": "x", "completed": None}, "completed", "bool_type", "completed should be a valid boolean"),
    ],
)
def test_us1_5_a_broken_rule_names_its_field(
    alice: User, body: dict[str, Any], field: str, kind: str, sentence: str
) -> None:
    response = alice.http.post(alice.tasks, json=body)

    assert response.status_code == 422
    assert response.json() == {
        "detail": f"{sentence.capitalize()}.",
        "errors": [{"loc": ["body", field], "msg": sentence, "type": kind}],
    }
    assert alice.list() == []


@pytest.mark.spec("US1.5", "FR-007", "FR-008")
@pytest.mark.parametrize("character", ["x", "ß", "\N{PILE OF POO}"])
def test_us1_5_the_longest_texts_are_counted_in_code_points(alice: User, character: str) -> None:
    longest = {"title": character * 200, "description": character * 1_000}

    response = alice.http.post(alice.tasks, json=longest)

    assert response.status_code == 201
    assert longest.items() <= response.json().items()


@pytest.mark.spec("US1.6", "FR-009", "FR-010", "FR-013", "FR-014")
@pytest.mark.parametrize("value", [-7, 1.5, "mine", "2000-01-01T00:00:00Z", None, False, {"a": []}])
@pytest.mark.parametrize("field", ["id", "user_id", "created_at", "updated_at"])
def test_us1_6_fields_of_the_server_are_ignored(alice: User, field: str, value: object) -> None:
    response = alice.http.post(alice.tasks, json={"title": "Buy milk", field: value})

    task = response.json()
    assert response.status_code == 201
    assert task["user_id"] == alice.id
    assert task[field] != value
    assert task["created_at"] == task["updated_at"]
    assert alice.list() == [task]


@pytest.mark.spec("US1.6", "FR-013", "SC-002")
def test_us1_6_nobody_can_create_a_task_for_another_user(alice: User, bob: User) -> None:
    response = alice.http.post(alice.tasks, json={"title": "Buy milk", "user_id": bob.id})

    assert response.json()["user_id"] == alice.id
    assert bob.list() == []


@pytest.mark.spec("US1.7", "FR-014")
def test_us1_7_unknown_fields_are_neither_stored_nor_returned(alice: User) -> None:
    unknown: dict[str, Any] = {
        "no_such_field": "high",
        "no_such_list": ["home"],
        "no_such_date": None,
        "__proto__": {},
        "": 1,
    }

    response = alice.http.post(alice.tasks, json={"title": "Buy milk", **unknown})

    assert response.status_code == 201
    assert response.json().keys().isdisjoint(unknown)
    assert alice.list() == [response.json()]


@pytest.mark.spec("US1.8", "FR-012")
@pytest.mark.parametrize(
    ("sent", "description", "completed"),
    [
        ({}, None, False),
        ({"description": None}, None, False),
        ({"description": ""}, "", False),
        ({"completed": True}, None, True),
    ],
)
def test_us1_8_what_is_left_out_has_a_default(
    alice: User, sent: dict[str, Any], description: str | None, *, completed: bool
) -> None:
    response = alice.http.post(alice.tasks, json={"title": "Buy milk", **sent})

    assert response.status_code == 201
    assert (response.json()["description"], response.json()["completed"]) == (description, completed)
    assert alice.list() == [response.json()]


@pytest.mark.spec("US1.9", "FR-007", "FR-008")
@pytest.mark.parametrize(
    "text",
    [
        "  blanks at both ends \t",
        "\x01\x1b[31m\x7f\x85 controls \r\n and lines",
        "\N{FAMILY} \N{WAVING HAND SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-4} \ufeff",
        "e\u0301 is not \u00e9",
        "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd",
        "'; DROP TABLE task; --",
        "<script>alert('&amp;')</script>",
        '%s {} $1 \\ \\u0000 "quoted"',
    ],
)
def test_us1_9_text_is_kept_exactly_as_sent(alice: User, text: str) -> None:
    response = alice.http.post(alice.tasks, json={"title": text, "description": text})

    assert response.status_code == 201
    assert (response.json()["title"], response.json()["description"]) == (text, text)
    assert alice.list() == [response.json()]


@pytest.mark.spec("US1.10", "FR-015")
@pytest.mark.parametrize("body", [b"", b"{", b"title=Buy+milk", b"{'title': 'x'}", b'{"title": NaN}', b'"\xff"'])
def test_us1_10_a_body_that_is_not_json_is_refused(alice: User, body: bytes) -> None:
    response = alice.http.post(alice.tasks, content=body, headers=JSON)

    sentence = "The request body is not valid JSON."
    assert response.status_code == 400
    assert response.json() == {
        "detail": sentence,
        "errors": [{"loc": ["body"], "msg": sentence, "type": "json_invalid"}],
    }
    assert alice.list() == []


@pytest.mark.spec("US1.10", "FR-015")
@pytest.mark.parametrize("body", [[], [{"title": "x"}], "x", 7, True, None])
def test_us1_10_json_of_another_kind_is_refused(alice: User, body: object) -> None:
    response = alice.http.post(alice.tasks, content=json.dumps(body), headers=JSON)

    sentence = "The request body should be a JSON object"
    assert response.status_code == 422
    assert response.json() == {
        "detail": f"{sentence}.",
        "errors": [{"loc": ["body"], "msg": sentence, "type": "dict_type"}],
    }
    assert alice.list() == []


@pytest.mark.spec("US1.11")
@pytest.mark.parametrize("announced", [True, False])
def test_us1_11_the_largest_body_is_read(alice: User, *, announced: bool) -> None:
    body = of_size(LIMIT)

    response = alice.http.post(alice.tasks, content=body if announced else in_chunks(body), headers=JSON)

    assert response.status_code == 201
    assert alice.list() == [response.json()]


@pytest.mark.spec("US1.11", "FR-015", "EC-3")
@pytest.mark.parametrize("announced", [True, False])
def test_us1_11_one_byte_more_is_too_large(alice: User, *, announced: bool) -> None:
    body = of_size(LIMIT + 1)

    response = alice.http.post(alice.tasks, content=body if announced else in_chunks(body), headers=JSON)

    assert response.status_code == 413
    assert response.json() == {"detail": "The request body is too large."}
    assert alice.list() == []


@pytest.mark.spec("US1.12")
@pytest.mark.parametrize("media_type", [None, "application/json", "Application/JSON; charset=utf-8"])
def test_us1_12_json_may_go_without_a_content_type(alice: User, media_type: str | None) -> None:
    headers = {"Content-Type": media_type} if media_type else {}

    response = alice.http.post(alice.tasks, content=b'{"title": "Buy milk"}', headers=headers)

    assert response.request.headers.get("Content-Type") == media_type
    assert response.status_code == 201


@pytest.mark.spec("US1.12", "FR-015")
@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "application/json-patch+json", ""]
)
def test_us1_12_another_content_type_is_refused(alice: User, media_type: str) -> None:
    response = alice.http.post(alice.tasks, content=b'{"title": "x"}', headers={"Content-Type": media_type})

    assert response.status_code == 415
    assert response.json() == {"detail": "The request body must be application/json."}
    assert alice.list() == []


@pytest.mark.spec("US1.13", "FR-015")
@pytest.mark.parametrize("headers", [JSON, {"Content-Type": "text/plain"}])
@pytest.mark.parametrize("body", [b"{", b"[" * 60_000, b"x" * (LIMIT + 1), b'{"title": 7}'])
def test_us1_13_a_strangers_body_does_not_matter(
    alice: User, stranger: Stranger, statement_log: StatementLog, body: bytes, headers: dict[str, str]
) -> None:
    statement_log.new()

    response = stranger.http.post(alice.tasks, content=body, headers=headers)

    assert response.status_code == stranger.status
    assert response.json() == {"detail": stranger.detail}
    assert statement_log.new() == []


@pytest.mark.spec("US1.13", "FR-015")
@pytest.mark.parametrize("framing", ["Content-Length: 1000000000", "Transfer-Encoding: chunked"])
def test_us1_13_a_stranger_is_answered_without_being_asked_for_the_body(
    alice: User, stranger: Stranger, framing: str
) -> None:
    answer = answer_to_the_head(stranger.http, alice.tasks, framing)

    assert answer.startswith(b"HTTP/1.1 %d " % stranger.status)


@pytest.mark.spec("US1.13")
def test_us1_13_the_owner_is_asked_for_the_body(alice: User) -> None:
    answer = answer_to_the_head(alice.http, alice.tasks, "Content-Length: 2")

    assert answer.startswith(b"HTTP/1.1 100 ")
