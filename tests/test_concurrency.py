"""What happens when many requests come at once?"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from itertools import chain, pairwise
from typing import Any
from uuid import uuid4

import httpx
import pytest
from databases import ask, own_database, upgrade, using
from people import User, signed
from running import serving

from backend.settings import Settings

TOGGLES = 500
CLIENTS = 64
CONNECTIONS = """
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'todo-backend %'
"""


@asynccontextmanager
async def clients(base_url: str, *users: str) -> AsyncIterator[list[httpx.AsyncClient]]:
    """One client for each user named, each with a connection of its own."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                httpx.AsyncClient(
                    base_url=base_url,
                    headers={"Authorization": f"Bearer {signed(user)}"},
                    timeout=60,
                    verify=False,  # there is no TLS, and loading the root certificates takes long
                )
            )
            for user in users
        ]


def changed(task: dict[str, Any]) -> datetime:
    """Not compared as text: whole seconds are written without a fraction."""
    return datetime.fromisoformat(task["updated_at"])


def newest_first(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(tasks, key=lambda task: (datetime.fromisoformat(task["created_at"]), task["id"]), reverse=True)


@pytest.mark.spec("EC-6", "US4.8", "FR-011", "SC-004")
async def test_every_toggle_of_64_clients_is_one_flip(alice: User, base_url: str) -> None:
    task = alice.add()
    path = f"{alice.tasks}/{task['id']}/complete"
    numbers = iter(range(TOGGLES))

    async def toggle(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await client.patch(path) for _ in numbers]

    async with clients(base_url, *[alice.id] * CLIENTS) as everyone:
        answers = list(chain.from_iterable(await asyncio.gather(*map(toggle, everyone))))

    assert [answer.status_code for answer in answers] == [200] * TOGGLES
    flips = sorted((answer.json() for answer in answers), key=changed)
    assert all(changed(earlier) < changed(later) for earlier, later in pairwise([task, *flips]))
    assert [flipped["completed"] for flipped in flips] == [True, False] * (TOGGLES // 2)
    assert alice.list() == [flips[-1]]


@pytest.mark.spec("EC-6", "US3.12", "US3.6", "FR-011")
async def test_puts_of_different_fields_at_once_all_survive(alice: User, base_url: str) -> None:
    path = f"{alice.tasks}/{alice.add()['id']}"
    async with clients(base_url, *[alice.id] * 3) as everyone:
        for number in range(40):
            edits: list[dict[str, object]] = [
                {"title": f"Title {number}"},
                {"description": f"Description {number}"},
                {"completed": number % 2 == 0},
            ]

            answers = await asyncio.gather(
                *(client.put(path, json=edit) for client, edit in zip(everyone, edits, strict=True))
            )

            task = (await everyone[0].get(path)).json()
            shown = [answer.json() for answer in answers]
            assert [answer.status_code for answer in answers] == [200] * 3
            assert all(each | edit == each for each, edit in zip(shown, edits, strict=True))
            assert task | edits[0] | edits[1] | edits[2] == task
            assert len({each["updated_at"] for each in shown}) == 3
            assert task in shown


@pytest.mark.spec("US5.8", "SC-004")
async def test_of_many_deletes_at_once_one_succeeds(alice: User, base_url: str) -> None:
    paths = [f"{alice.tasks}/{alice.add()['id']}" for _ in range(5)]

    async with clients(base_url, *[alice.id] * 20) as everyone:
        answers = [await asyncio.gather(*(client.delete(path) for client in everyone)) for path in paths]

    statuses = [sorted(answer.status_code for answer in each) for each in answers]
    assert statuses == [[204, *[404] * 19]] * 5
    assert alice.list() == []


@pytest.mark.spec("US2.5", "FR-009", "SC-001")
async def test_tasks_created_at_once_get_ids_of_their_own_and_a_stable_order(alice: User, base_url: str) -> None:
    # Not more than may wait however slow the machine is just now.
    async with clients(base_url, *[alice.id] * 20) as everyone:
        answers = await asyncio.gather(
            *(client.post(alice.tasks, json={"title": f"Task {n}"}) for n in range(5) for client in everyone)
        )
        lists = [(await client.get(alice.tasks)).json() for client in everyone]

    created = [answer.json() for answer in answers]
    assert [answer.status_code for answer in answers] == [201] * 100
    assert len({task["id"] for task in created}) == 100
    assert lists == [newest_first(created)] * 20


@pytest.mark.spec("SC-007", "SC-013", "SC-002")
def test_more_users_at_once_than_connections_are_all_served(settings: Settings, database_url: str) -> None:
    users = [uuid4().hex for _ in range(100)]

    async def live(client: httpx.AsyncClient, user: str) -> list[int]:
        tasks = f"/api/{user}/tasks"
        created = await client.post(tasks, json={"title": user})
        listed = await client.get(tasks)
        assert listed.json() == [created.json()]
        task = f"{tasks}/{created.json()['id']}"
        others = [await client.patch(f"{task}/complete"), await client.put(task, json={}), await client.delete(task)]
        return [answer.status_code for answer in (created, listed, *others)]

    async def live_all(base_url: str) -> list[list[int]]:
        async with clients(base_url, *users) as everyone:
            return await asyncio.gather(*map(live, everyone, users))

    with own_database(database_url) as url:
        upgrade(url)
        with serving(using(settings, url, database_pool_size=2)) as base_url:
            answers = asyncio.run(live_all(base_url))
            connections = ask(url, CONNECTIONS)

    assert answers == [[201, 200, 200, 200, 204]] * 100
    assert connections == [(2,)]
