"""What 32 real frontends were seen doing, on the wire: the ten habits, one section each."""

import time
from typing import Any

import httpx
import jwt
import pytest
from foreign_origin import eddsa
from people import SECRET, User


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def hs256(user_id: str, **claims: Any) -> str:
    return jwt.encode({"sub": user_id, "exp": int(time.time()) + 900, **claims}, SECRET, algorithm="HS256")


# 1. Both ways of signing work at once; ids are opaque and case-sensitive.


def test_1_a_key_set_token_and_a_shared_secret_token_open_the_same_list(person: User, api: str, origin: str) -> None:
    task = person.add("Signed with the secret")

    answer = httpx.get(f"{api}{person.tasks}", headers=bearer(eddsa(person.id, iss=origin, aud=origin)))

    assert answer.json() == [task]


@pytest.mark.parametrize("user_id", ["aBcDeFgHiJkLmNoPqRsTuVwXyZ012345", "0f9b6d1e-6a5b-4c8a-9a70-2f6f3f1f2d11", "1"])
def test_1_an_id_is_any_text(api: str, user_id: str) -> None:
    assert httpx.get(f"{api}/api/{user_id}/tasks", headers=bearer(hs256(user_id))).status_code == 200


def test_1_an_id_in_another_case_is_another_person(api: str) -> None:
    assert httpx.get(f"{api}/api/ABC/tasks", headers=bearer(hs256("abc"))).status_code == 403


# 2. Half carry iss and aud; one names the API as its audience.


def test_2_a_shared_secret_token_needs_neither_issuer_nor_audience(api: str) -> None:
    assert httpx.get(f"{api}/api/someone/tasks", headers=bearer(hs256("someone"))).status_code == 200


def test_2_the_audience_may_be_the_api(api: str, origin: str) -> None:
    token = eddsa("someone", iss=origin, aud="https://api.example.com")

    assert httpx.get(f"{api}/api/someone/tasks", headers=bearer(token)).status_code == 200


@pytest.mark.parametrize("path", ["get-session", "token", "jwks", "sign-in/email"])
def test_2_nobody_is_signed_in_here(api: str, origin: str, path: str) -> None:
    """A frontend whose `createAuthClient` names the API is told so in a way that its page can read."""
    for method in ("GET", "POST"):
        answer = httpx.request(method, f"{api}/api/auth/{path}", headers={"Origin": origin})

        assert (answer.status_code, answer.json()) == (404, {"detail": "Not found."})
        assert answer.headers["access-control-allow-origin"] == origin


# 3. Preflights, credentials, and CORS headers on every answer.


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_3_a_preflight_is_allowed(api: str, origin: str, method: str) -> None:
    answer = httpx.options(
        f"{api}/api/someone/tasks/1",
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": "authorization,content-type",
        },
    )

    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert method in answer.headers["Access-Control-Allow-Methods"]
    allowed = {name.strip() for name in answer.headers["Access-Control-Allow-Headers"].lower().split(",")}
    assert {"authorization", "content-type", "idempotency-key", "x-request-id"} <= allowed
    assert int(answer.headers["Access-Control-Max-Age"]) >= 600


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/api/someone/tasks", {}, 401),
        ("/api/someone/tasks", bearer(hs256("another")), 403),
        ("/api/someone/tasks/9", bearer(hs256("someone")), 404),
        ("/api/someone/tasks/x", bearer(hs256("someone")), 422),
        ("/nowhere", {}, 404),
    ],
)
def test_3_an_error_can_be_read_from_the_page(
    api: str, origin: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = httpx.get(f"{api}{path}", headers={"Origin": origin, "Cookie": "theme=dark", **headers})

    assert answer.status_code == status
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    exposed = answer.headers["Access-Control-Expose-Headers"]
    assert {"WWW-Authenticate", "Retry-After", "X-Request-Id"} <= set(exposed.split(", "))


def test_3_a_foreign_origin_is_not_allowed(person: User) -> None:
    answer = person.http.get(person.tasks, headers={"Origin": "https://elsewhere.example"})

    assert "Access-Control-Allow-Origin" not in answer.headers


# 4. Edits send title and description; a description may be "", null or absent.


@pytest.mark.parametrize("description", ["", None, "Two bottles"])
def test_4_an_edit_sends_title_and_description_alone(person: User, description: str | None) -> None:
    task = person.add("Buy milk", description="One bottle", completed=True)

    answer = person.http.put(f"{person.tasks}/{task['id']}", json={"title": "Buy oat milk", "description": description})

    changed = answer.json()
    assert answer.status_code == 200
    assert (changed["title"], changed["description"], changed["completed"]) == ("Buy oat milk", description, True)


def test_4_a_description_that_is_absent_stays(person: User) -> None:
    task = person.add("Buy milk", description="One bottle")

    answer = person.http.put(f"{person.tasks}/{task['id']}", json={"title": "Buy oat milk"})

    assert answer.json()["description"] == "One bottle"


# 5. PATCH and DELETE declare JSON and send nothing.


def test_5_a_toggle_and_a_deletion_declare_json_and_send_nothing(person: User) -> None:
    task = f"{person.tasks}/{person.add()['id']}"
    declared = {"Content-Type": "application/json", "Content-Length": "0"}

    toggled = person.http.patch(f"{task}/complete", headers=declared)
    deleted = person.http.request("DELETE", task, headers=declared)

    assert (toggled.status_code, toggled.json()["completed"]) == (200, True)
    assert (deleted.status_code, deleted.content) == (204, b"")


def test_5_a_toggle_with_a_body_toggles(person: User) -> None:
    task = person.add()

    answer = person.http.patch(f"{person.tasks}/{task['id']}/complete", json={"completed": False})

    assert answer.json()["completed"] is True


# 6. Fields and parameters that we do not know; whole tasks sent back.


def test_6_unknown_fields_are_ignored(person: User) -> None:
    extras = {
        "no_such_field": "high",
        "no_such_list": ["home"],
        "no_such_date": None,
        "userId": "somebody-else",
        "id": 7,
    }

    task = person.add("Buy milk", **extras)

    assert set(task) == {"id", "user_id", "title", "description", "completed", "created_at", "updated_at"}
    assert task["user_id"] == person.id


def test_6_a_whole_task_is_sent_back(person: User) -> None:
    task = person.add("Buy milk")

    answer = person.http.put(f"{person.tasks}/{task['id']}", json={**task, "completed": True, "user_id": "another"})

    assert answer.status_code == 200
    assert answer.json() == {**task, "completed": True, "updated_at": answer.json()["updated_at"]}


@pytest.mark.parametrize("query", ["status=all", "status=pending&sort=created", "skip=0&limit=1", "_=1763638385"])
def test_6_unknown_parameters_are_ignored(person: User, query: str) -> None:
    milk, bread = person.add("Buy milk"), person.add("Buy bread", completed=True)

    assert person.http.get(f"{person.tasks}?{query}").json() == [bread, milk]


# 7. Answers replace the entry of the list, new tasks come first.


def test_7_every_change_answers_the_whole_task_as_the_list_shows_it(person: User) -> None:
    person.add("Buy bread")
    added = person.add("Buy milk")
    task = f"{person.tasks}/{added['id']}"

    changed = person.http.put(task, json={"description": "Two"}).json()
    assert person.list()[0] == changed
    toggled = person.http.patch(f"{task}/complete").json()
    assert person.list()[0] == toggled


# 8. A 401 signs people out, so it is never said for trouble of our own; errors are rendered as text.


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b"[]", 422), (b'{"title": ""}', 422), (b'{"title": "x", "description": 7}', 422), (b"null", 422)],
)
def test_8_detail_is_a_sentence(person: User, body: bytes, status: int) -> None:
    answer = person.http.post(person.tasks, content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == status
    assert isinstance(answer.json()["detail"], str)
    assert " " in answer.json()["detail"]


def test_8_a_session_that_has_ended_is_told_apart(person: User) -> None:
    answer = person.http.get(person.tasks, headers=bearer(hs256(person.id, exp=int(time.time()) - 1)))

    assert answer.status_code == 401
    assert "expired" in answer.json()["detail"]
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")


# 9. Session tokens and cookie values are sent as bearers.


@pytest.mark.parametrize(
    "token",
    [
        "Wl7Wm6ICvC5zWYVcfGqAuOeLBQoAvTqi",
        "Wl7Wm6ICvC5zWYVcfGqAuOeLBQoAvTqi.Kx2a%2BqBv0lE7gO9Nn0mD5Q3l2m1kQ%3D",
        "undefined",
        "null",
        "[object Object]",
    ],
)
def test_9_what_is_no_jwt_is_a_clean_401(person: User, token: str) -> None:
    answer = person.http.get(person.tasks, headers=bearer(token))

    assert answer.status_code == 401
    assert isinstance(answer.json()["detail"], str)


# 10. Two call with a trailing slash.


def test_10_a_trailing_slash_is_answered_directly(person: User) -> None:
    created = person.http.post(f"{person.tasks}/", json={"title": "Buy milk"})
    listed = person.http.get(f"{person.tasks}/")
    changed = person.http.put(f"{person.tasks}/{created.json()['id']}/", json={"completed": True})

    assert [each.status_code for each in (created, listed, changed)] == [201, 200, 200]
    assert listed.json() == [created.json()]


# And beside the ten: callers on a server send no Origin.


def test_a_server_that_calls_sends_no_origin(person: User) -> None:
    answer = person.http.get(person.tasks, headers={"User-Agent": "node", "Accept": "*/*", "Sec-Fetch-Mode": "cors"})

    assert answer.status_code == 200
    assert "Access-Control-Allow-Origin" not in answer.headers
