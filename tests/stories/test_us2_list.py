"""US2: as a signed-in person I see all my tasks, the newest on top."""

import httpx
import pytest
from people import User, signed


@pytest.mark.spec("US2.1", "FR-013", "SC-001")
def test_us2_1_my_tasks_are_listed_whole(alice: User) -> None:
    milk = alice.add("Buy milk", description="Two bottles")
    bread = alice.add("Buy bread", completed=True)

    response = alice.http.get(alice.tasks)

    assert response.status_code == 200
    assert response.json() == [bread, milk]


@pytest.mark.spec("US2.2", "FR-003", "FR-005")
def test_us2_2_another_users_list_is_forbidden(alice: User, bob: User) -> None:
    bob.add("Secret")

    response = alice.http.get(bob.tasks)

    assert response.status_code == 403
    assert response.json() == {"detail": "These tasks belong to another user."}


@pytest.mark.spec("US2.3", "FR-004")
def test_us2_3_without_a_token_nothing_is_listed(alice: User, anonymous: httpx.Client) -> None:
    alice.add("Secret")

    response = anonymous.get(alice.tasks)

    assert response.status_code == 401
    assert response.json() == {"detail": "An access token is required."}
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="todo"'


@pytest.mark.spec("US2.4", "FR-001", "FR-004")
def test_us2_4_with_a_bad_token_nothing_is_listed(alice: User, anonymous: httpx.Client) -> None:
    forged = signed(alice.id, secret="another secret of thirty-two bytes")

    response = anonymous.get(alice.tasks, headers={"Authorization": f"Bearer {forged}"})

    assert response.status_code == 401
    assert response.json() == {"detail": "The access token is invalid."}
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="todo", error="invalid_token"'
