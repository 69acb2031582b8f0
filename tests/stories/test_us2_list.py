"""US2: as a signed-in person I see all my tasks, the newest on top."""

import httpx
import pytest
from databases import execute
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


@pytest.mark.spec("US2.5", "FR-010")
def test_us2_5_the_order_is_always_the_same(alice: User, database_url: str) -> None:
    first, second, third, fourth = [alice.add(title)["id"] for title in ("first", "second", "third", "fourth")]
    execute(
        database_url,
        f"UPDATE task SET created_at = now() WHERE id IN ({second}, {third})",
        f"UPDATE task SET created_at = now() - interval '1 day' WHERE id = {fourth}",
    )
    alice.http.patch(f"{alice.tasks}/{fourth}/complete")
    alice.http.put(f"{alice.tasks}/{second}", json={"title": "changed"})

    orders = [[task["id"] for task in alice.list()] for _ in range(5)]

    assert orders == [[third, second, first, fourth]] * 5


@pytest.mark.spec("US2.6")
def test_us2_6_no_tasks_are_an_empty_array(alice: User) -> None:
    response = alice.http.get(alice.tasks)

    assert response.status_code == 200
    assert response.content == b"[]"


@pytest.mark.spec("US2.7", "FR-013", "SC-002")
def test_us2_7_each_sees_their_own_tasks(alice: User, bob: User) -> None:
    hers, his = alice.add("Hers"), bob.add("His")

    lists = alice.list(), bob.list()

    assert lists == ([hers], [his])


@pytest.mark.spec("US2.8", "FR-014")
@pytest.mark.parametrize(
    "query", ["status=all", "status=completed&limit=1&sort=title", "user_id=somebody-else", "token=x", "%00=%ff&&=&;"]
)
def test_us2_8_a_query_is_ignored(alice: User, query: str) -> None:
    task = alice.add()

    response = alice.http.get(f"{alice.tasks}?{query}")

    assert response.status_code == 200
    assert response.json() == [task]
