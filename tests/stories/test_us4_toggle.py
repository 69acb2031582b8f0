"""US4: as a signed-in person I tick a task off, and untick it."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from people import User, signed

UNKNOWN = 2**53


@pytest.mark.spec("US4.1", "FR-014")
def test_us4_1_an_open_task_is_completed(alice: User) -> None:
    task = alice.add(description="Two bottles")

    response = alice.http.patch(f"{alice.tasks}/{task['id']}/complete")

    assert response.status_code == 200
    assert response.json() == task | {"completed": True, "updated_at": response.json()["updated_at"]}
    assert alice.list() == [response.json()]


@pytest.mark.spec("US4.2", "FR-003", "FR-005")
def test_us4_2_another_users_task_cannot_be_toggled(alice: User, bob: User) -> None:
    his = bob.add()

    response = alice.http.patch(f"{bob.tasks}/{his['id']}/complete")

    assert response.status_code == 403
    assert response.json() == {"detail": "These tasks belong to another user."}
    assert bob.list() == [his]


@pytest.mark.spec("US4.3", "FR-004")
def test_us4_3_without_a_token_nothing_is_toggled(alice: User, anonymous: httpx.Client) -> None:
    task = alice.add()

    response = anonymous.patch(f"{alice.tasks}/{task['id']}/complete")

    assert response.status_code == 401
    assert response.json() == {"detail": "An access token is required."}
    assert alice.list() == [task]


@pytest.mark.spec("US4.4", "FR-001", "FR-004")
def test_us4_4_with_a_bad_token_nothing_is_toggled(alice: User, anonymous: httpx.Client) -> None:
    task = alice.add()
    forged = {"Authorization": f"Bearer {signed(alice.id, secret='another secret of thirty-two bytes')}"}

    response = anonymous.patch(f"{alice.tasks}/{task['id']}/complete", headers=forged)

    assert response.status_code == 401
    assert response.json() == {"detail": "The access token is invalid."}
    assert alice.list() == [task]


@pytest.mark.spec("US4.5", "FR-013", "SC-002")
@pytest.mark.parametrize("whose", ["Bob's", "unknown"])
def test_us4_5_a_foreign_task_is_not_found(alice: User, bob: User, whose: str) -> None:
    his = bob.add()
    task_id = his["id"] if whose == "Bob's" else UNKNOWN

    response = alice.http.patch(f"{alice.tasks}/{task_id}/complete")

    assert response.status_code == 404
    assert response.json() == {"detail": "Task not found."}
    assert bob.list() == [his]


@pytest.mark.spec("US4.6", "SC-005")
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"headers": {"Content-Type": "application/json"}},
        {"headers": {"Content-Type": "application/json"}, "content": b"{"},
        {"json": {"completed": False, "title": "Mine"}},
        {"headers": {"Content-Type": "text/plain"}, "content": b"\xff\x00"},
        {"content": b"x" * 100_000},
    ],
    ids=["none", "empty JSON", "half JSON", "a task", "bytes", "large"],
)
def test_us4_6_a_body_is_ignored(alice: User, body: dict[str, Any]) -> None:
    task = alice.add()

    response = alice.http.patch(f"{alice.tasks}/{task['id']}/complete", **body)

    assert response.status_code == 200
    assert response.json() == task | {"completed": True, "updated_at": response.json()["updated_at"]}


@pytest.mark.spec("US4.7", "FR-010", "FR-011")
@pytest.mark.parametrize("completed", [False, True])
def test_us4_7_toggling_twice_leads_back(alice: User, *, completed: bool) -> None:
    task = alice.add(completed=completed)

    once, twice = (alice.http.patch(f"{alice.tasks}/{task['id']}/complete").json() for _ in range(2))

    assert [once["completed"], twice["completed"]] == [not completed, completed]
    assert task["updated_at"] < once["updated_at"] < twice["updated_at"]
    assert twice | {"updated_at": task["updated_at"]} == task


@pytest.mark.spec("US4.8", "FR-011", "EC-6")
def test_us4_8_no_toggle_is_lost(alice: User) -> None:
    task = alice.add()
    path = f"{alice.tasks}/{task['id']}/complete"

    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda _: alice.http.patch(path).json(), range(101)))

    in_order = sorted(answers, key=lambda answer: answer["updated_at"])
    assert [answer["completed"] for answer in in_order] == [True, False] * 50 + [True]
    assert len({answer["updated_at"] for answer in answers}) == 101
    assert alice.list() == [in_order[-1]]
