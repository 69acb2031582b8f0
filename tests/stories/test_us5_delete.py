"""US5: as a signed-in person I remove a task for good."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from people import User, signed

UNKNOWN = 2**53


@pytest.mark.spec("US5.1", "FR-014")
def test_us5_1_a_task_is_deleted(alice: User) -> None:
    task, other = alice.add(), alice.add()

    response = alice.http.delete(f"{alice.tasks}/{task['id']}")

    assert response.status_code == 204
    assert response.content == b""
    assert alice.list() == [other]


@pytest.mark.spec("US5.2", "FR-003", "FR-005")
def test_us5_2_another_users_task_cannot_be_deleted(alice: User, bob: User) -> None:
    his = bob.add()

    response = alice.http.delete(f"{bob.tasks}/{his['id']}")

    assert response.status_code == 403
    assert response.json() == {"detail": "These tasks belong to another user."}
    assert bob.list() == [his]


@pytest.mark.spec("US5.3", "FR-004")
def test_us5_3_without_a_token_nothing_is_deleted(alice: User, anonymous: httpx.Client) -> None:
    task = alice.add()

    response = anonymous.delete(f"{alice.tasks}/{task['id']}")

    assert response.status_code == 401
    assert response.json() == {"detail": "An access token is required."}
    assert alice.list() == [task]


@pytest.mark.spec("US5.4", "FR-001", "FR-004")
def test_us5_4_with_a_bad_token_nothing_is_deleted(alice: User, anonymous: httpx.Client) -> None:
    task = alice.add()
    forged = {"Authorization": f"Bearer {signed(alice.id, secret='another secret of thirty-two bytes')}"}

    response = anonymous.delete(f"{alice.tasks}/{task['id']}", headers=forged)

    assert response.status_code == 401
    assert response.json() == {"detail": "The access token is invalid."}
    assert alice.list() == [task]


@pytest.mark.spec("US5.5", "FR-013", "SC-002")
@pytest.mark.parametrize("whose", ["Bob's", "unknown"])
def test_us5_5_a_foreign_task_is_not_found(alice: User, bob: User, whose: str) -> None:
    his = bob.add()
    task_id = his["id"] if whose == "Bob's" else UNKNOWN

    response = alice.http.delete(f"{alice.tasks}/{task_id}")

    assert response.status_code == 404
    assert response.json() == {"detail": "Task not found."}
    assert bob.list() == [his]


@pytest.mark.spec("US5.6")
@pytest.mark.parametrize(("method", "end"), [("GET", ""), ("PUT", ""), ("PATCH", "/complete")])
def test_us5_6_a_deleted_task_is_gone(alice: User, method: str, end: str) -> None:
    task = alice.add()
    alice.http.delete(f"{alice.tasks}/{task['id']}")

    response = alice.http.request(method, f"{alice.tasks}/{task['id']}{end}", json={"title": "Back again"})

    assert response.status_code == 404
    assert response.json() == {"detail": "Task not found."}
    assert alice.list() == []


@pytest.mark.spec("US5.7")
def test_us5_7_a_second_deletion_finds_nothing(alice: User) -> None:
    task = alice.add()
    alice.http.delete(f"{alice.tasks}/{task['id']}")

    response = alice.http.delete(f"{alice.tasks}/{task['id']}")

    assert response.status_code == 404
    assert response.json() == {"detail": "Task not found."}


@pytest.mark.spec("US5.7", "FR-009")
def test_us5_7_an_id_is_never_given_out_again(alice: User) -> None:
    task = alice.add()
    alice.http.delete(f"{alice.tasks}/{task['id']}")

    later = [alice.add()["id"] for _ in range(3)]

    assert task["id"] < min(later)
    assert len(set(later)) == 3


@pytest.mark.spec("US5.8")
def test_us5_8_of_several_deletions_one_succeeds(alice: User) -> None:
    path = f"{alice.tasks}/{alice.add()['id']}"

    with ThreadPoolExecutor(8) as clients:
        statuses = list(clients.map(lambda _: alice.http.delete(path).status_code, range(8)))

    assert sorted(statuses) == [204, *[404] * 7]


@pytest.mark.spec("US5.9", "SC-005")
@pytest.mark.parametrize(
    "body",
    [
        {"headers": {"Content-Type": "application/json"}},
        {"headers": {"Content-Type": "application/json"}, "content": b"{"},
        {"headers": {"Content-Type": "text/plain"}, "content": b"\xff\x00"},
        {"json": {"id": 1}},
        {"content": b"x" * 100_000},
    ],
    ids=["empty JSON", "half JSON", "bytes", "an id", "large"],
)
def test_us5_9_a_body_is_ignored(alice: User, body: dict[str, Any]) -> None:
    task = alice.add()

    response = alice.http.request("DELETE", f"{alice.tasks}/{task['id']}", **body)

    assert response.status_code == 204
    assert alice.list() == []
