"""US3: as a signed-in person I correct a task without losing the rest of it."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from people import User, signed

UNKNOWN = 2**53


@pytest.mark.spec("US3.1", "FR-014")
def test_us3_1_a_task_is_changed(alice: User) -> None:
    task = alice.add("Buy milk")
    changes = {"title": "Buy bread", "description": "One loaf", "completed": True}

    response = alice.http.put(f"{alice.tasks}/{task['id']}", json=changes)

    assert response.status_code == 200
    assert response.json() == task | changes | {"updated_at": response.json()["updated_at"]}
    assert alice.http.get(f"{alice.tasks}/{task['id']}").json() == response.json()


@pytest.mark.spec("US3.2", "FR-003", "FR-005")
def test_us3_2_another_users_task_cannot_be_changed(alice: User, bob: User) -> None:
    his = bob.add()

    response = alice.http.put(f"{bob.tasks}/{his['id']}", json={"title": "Mine"})

    assert response.status_code == 403
    assert response.json() == {"detail": "These tasks belong to another user."}
    assert bob.list() == [his]


@pytest.mark.spec("US3.3", "FR-004")
def test_us3_3_without_a_token_nothing_is_changed(alice: User, anonymous: httpx.Client) -> None:
    task = alice.add()

    response = anonymous.put(f"{alice.tasks}/{task['id']}", json={"title": "Mine"})

    assert response.status_code == 401
    assert response.json() == {"detail": "An access token is required."}
    assert alice.list() == [task]


@pytest.mark.spec("US3.4", "FR-001", "FR-004")
def test_us3_4_with_a_bad_token_nothing_is_changed(alice: User, anonymous: httpx.Client) -> None:
    task = alice.add()
    forged = {"Authorization": f"Bearer {signed(alice.id, secret='another secret of thirty-two bytes')}"}

    response = anonymous.put(f"{alice.tasks}/{task['id']}", json={"title": "Mine"}, headers=forged)

    assert response.status_code == 401
    assert response.json() == {"detail": "The access token is invalid."}
    assert alice.list() == [task]


@pytest.mark.spec("US3.5", "FR-013", "SC-002")
@pytest.mark.parametrize("whose", ["Bob's", "unknown"])
def test_us3_5_a_foreign_task_is_not_found(alice: User, bob: User, whose: str) -> None:
    his = bob.add()
    task_id = his["id"] if whose == "Bob's" else UNKNOWN

    response = alice.http.put(f"{alice.tasks}/{task_id}", json={"title": "Mine"})

    assert response.status_code == 404
    assert response.json() == {"detail": "Task not found."}
    assert bob.list() == [his]


@pytest.mark.spec("US3.6", "FR-014", "SC-005")
@pytest.mark.parametrize(
    "changes",
    [
        {"title": "New"},
        {"description": "New"},
        {"completed": True},
        {"title": "New", "description": "New"},
        {"title": "New", "completed": True},
        {"description": "New", "completed": True},
    ],
)
def test_us3_6_what_is_left_out_stays(alice: User, changes: dict[str, Any]) -> None:
    task = alice.add("Old", description="Old", completed=False)

    response = alice.http.put(f"{alice.tasks}/{task['id']}", json=changes)

    assert response.status_code == 200
    assert response.json() == task | changes | {"updated_at": response.json()["updated_at"]}
    assert alice.list() == [response.json()]


@pytest.mark.spec("US3.6")
def test_us3_6_a_done_task_is_opened_again(alice: User) -> None:
    task = alice.add(completed=True)

    response = alice.http.put(f"{alice.tasks}/{task['id']}", json={"completed": False})

    assert response.json()["completed"] is False


@pytest.mark.spec("US3.7", "FR-011")
def test_us3_7_nothing_sent_changes_nothing(alice: User) -> None:
    task = alice.add(description="Two bottles")

    response = alice.http.put(f"{alice.tasks}/{task['id']}", json={})

    assert response.status_code == 200
    assert response.json() == task
    assert alice.list() == [task]


@pytest.mark.spec("US3.8", "FR-009", "FR-010", "FR-011", "FR-013", "FR-014")
@pytest.mark.parametrize(
    "ignored",
    [
        {"id": 1},
        {"user_id": "somebody-else"},
        {"created_at": "2000-01-01T00:00:00Z"},
        {"updated_at": None},
        {"no_such_field": "high", "no_such_list": []},
    ],
)
def test_us3_8_fields_that_are_not_the_clients_change_nothing(alice: User, ignored: dict[str, Any]) -> None:
    task = alice.add()

    response = alice.http.put(f"{alice.tasks}/{task['id']}", json=ignored)

    assert response.status_code == 200
    assert response.json() == task
    assert alice.list() == [task]


@pytest.mark.spec("US3.8", "FR-014", "SC-005")
def test_us3_8_of_a_whole_task_only_the_edit_is_taken(alice: User) -> None:
    task = alice.add("Buy milk", description="Two bottles")
    stale = {"user_id": "somebody-else", "created_at": "2000-01-01T00:00:00Z", "updated_at": "2000-01-01T00:00:00Z"}

    response = alice.http.put(f"{alice.tasks}/{task['id']}", json=task | stale | {"title": "Buy oat milk"})

    assert response.status_code == 200
    assert response.json() == task | {"title": "Buy oat milk", "updated_at": response.json()["updated_at"]}
    assert response.json()["updated_at"] > task["updated_at"]


@pytest.mark.spec("US3.9", "FR-008")
@pytest.mark.parametrize("description", [None, ""])
def test_us3_9_a_description_is_cleared(alice: User, description: str | None) -> None:
    task = alice.add(description="Two bottles")

    response = alice.http.put(f"{alice.tasks}/{task['id']}", json={"description": description})

    assert response.status_code == 200
    assert response.json()["description"] == description
    assert alice.list() == [response.json()]


@pytest.mark.spec("US3.10", "FR-007", "FR-008", "SC-008", "EC-3")
@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("title", None, "title should be a valid string"),
        ("title", 7, "title should be a valid string"),
        ("title", "", "title should have at least 1 character"),
        ("title", " \u2003", "title should not be blank"),
        ("title", "x" * 201, "title should have at most 200 characters"),
        ("description", "x" * 1_001, "description should have at most 1000 characters"),
        ("description", [], "description should be a valid string"),
        ("completed", None, "completed should be a valid boolean"),
        ("completed", "true", "completed should be a valid boolean"),
        ("completed", 0, "completed should be a valid boolean"),
    ],
)
def test_us3_10_a_broken_rule_names_its_field(alice: User, field: str, value: object, sentence: str) -> None:
    task = alice.add(description="Two bottles")
    good = {"title": "Buy bread", "description": "One loaf", "completed": True}

    response = alice.http.put(f"{alice.tasks}/{task['id']}", json=good | {field: value})

    assert response.status_code == 422
    assert response.json()["detail"] == f"{sentence.capitalize()}."
    assert [error["loc"] for error in response.json()["errors"]] == [["body", field]]
    assert alice.list() == [task]


@pytest.mark.spec("US3.11", "FR-010", "FR-011")
@pytest.mark.parametrize("field", ["title", "description", "completed"])
def test_us3_11_an_old_value_makes_a_task_newer_too(alice: User, field: str) -> None:
    task = alice.add(description="Two bottles")

    answers = [alice.http.put(f"{alice.tasks}/{task['id']}", json={field: task[field]}).json() for _ in range(3)]

    times = [task["updated_at"], *(answer["updated_at"] for answer in answers)]
    assert times == sorted(set(times))
    assert [answer | {"updated_at": task["updated_at"]} for answer in answers] == [task] * 3


@pytest.mark.spec("US3.12", "EC-6")
def test_us3_12_edits_of_different_fields_both_survive(alice: User) -> None:
    tasks = [alice.add("Old", description="Old") for _ in range(25)]
    edits = [(f"{alice.tasks}/{task['id']}", edit) for task in tasks for edit in ({"title": "A"}, {"description": "B"})]

    with ThreadPoolExecutor(10) as clients:
        answers = list(clients.map(lambda request: alice.http.put(request[0], json=request[1]).json(), edits))

    assert all(edit.items() <= answer.items() for (_, edit), answer in zip(edits, answers, strict=True))
    assert [(task["title"], task["description"]) for task in alice.list()] == [("A", "B")] * 25
