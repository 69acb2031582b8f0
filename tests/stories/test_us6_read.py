"""US6: as a signed-in person I open one task, from a link or a detail page."""

import httpx
import pytest
from people import User, signed

UNKNOWN = 2**53


@pytest.mark.spec("US6.1", "FR-014")
def test_us6_1_a_task_is_read_whole(alice: User) -> None:
    task = alice.add(description="Two bottles")
    alice.add("Another")

    response = alice.http.get(f"{alice.tasks}/{task['id']}")

    assert response.status_code == 200
    assert response.json() == task
    assert response.json() in alice.list()


@pytest.mark.spec("US6.2", "FR-003", "FR-005")
def test_us6_2_another_users_task_cannot_be_read(alice: User, bob: User) -> None:
    his = bob.add("Secret")

    response = alice.http.get(f"{bob.tasks}/{his['id']}")

    assert response.status_code == 403
    assert response.json() == {"detail": "These tasks belong to another user."}


@pytest.mark.spec("US6.3", "FR-004")
def test_us6_3_without_a_token_nothing_is_read(alice: User, anonymous: httpx.Client) -> None:
    task = alice.add("Secret")

    response = anonymous.get(f"{alice.tasks}/{task['id']}")

    assert response.status_code == 401
    assert response.json() == {"detail": "An access token is required."}


@pytest.mark.spec("US6.4", "FR-001", "FR-004")
def test_us6_4_with_a_bad_token_nothing_is_read(alice: User, anonymous: httpx.Client) -> None:
    task = alice.add("Secret")
    forged = {"Authorization": f"Bearer {signed(alice.id, secret='another secret of thirty-two bytes')}"}

    response = anonymous.get(f"{alice.tasks}/{task['id']}", headers=forged)

    assert response.status_code == 401
    assert response.json() == {"detail": "The access token is invalid."}


@pytest.mark.spec("US6.5", "FR-013", "SC-002")
@pytest.mark.parametrize("whose", ["Bob's", "unknown"])
def test_us6_5_a_foreign_task_is_not_found(alice: User, bob: User, whose: str) -> None:
    task_id = bob.add("Secret")["id"] if whose == "Bob's" else UNKNOWN

    response = alice.http.get(f"{alice.tasks}/{task_id}")

    assert response.status_code == 404
    assert response.json() == {"detail": "Task not found."}


@pytest.mark.spec("US6.6", "FR-015", "SC-008")
@pytest.mark.parametrize(
    "task_id",
    ["0", "-1", "1.5", "1.0", "abc", "1_000", "+1", "%2B1", "%201", "1%20", "007", "1e3", "0x1", "%EF%BC%91", "%D9%A1"],
)
def test_us6_6_an_id_is_a_plain_positive_number(alice: User, task_id: str) -> None:
    response = alice.http.get(f"{alice.tasks}/{task_id}")

    sentence = "id should be a whole number from 1 to 9223372036854775807"
    assert response.status_code == 422
    assert response.json() == {
        "detail": f"{sentence.capitalize()}.",
        "errors": [{"loc": ["path", "id"], "msg": sentence, "type": "task_id"}],
    }


@pytest.mark.spec("US6.7", "FR-009")
@pytest.mark.parametrize("task_id", [2**31 - 1, 2**31, 2**32, 2**53 - 1, 2**53, 2**63 - 1])
def test_us6_7_a_large_id_is_not_found(alice: User, task_id: int) -> None:
    response = alice.http.get(f"{alice.tasks}/{task_id}")

    assert response.status_code == 404
    assert response.json() == {"detail": "Task not found."}


@pytest.mark.spec("US6.7", "FR-009")
@pytest.mark.parametrize("task_id", [2**63, 2**64 + 1, 10**100, 10**4_000], ids=["2^63", "2^64+1", "10^100", "10^4000"])
def test_us6_7_an_id_beyond_64_bits_is_refused(alice: User, task_id: int) -> None:
    response = alice.http.get(f"{alice.tasks}/{task_id}")

    assert response.status_code in {404, 422}
