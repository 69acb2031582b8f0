"""What can be done with one owner's tasks?"""

import asyncio
from collections.abc import Awaitable, Callable
from hashlib import sha256
from secrets import token_hex
from typing import Any, NamedTuple

import orjson
from asyncpg import Record

from backend.database import statements
from backend.database.waiters import HasLeft
from backend.db import Database
from backend.errors import KeyReused, TaskNotFound
from backend.models import TaskCreate, TaskUpdate

Row = Record

# What an update does with the fields that were not sent: nothing.
UNSENT: dict[str, Any] = dict.fromkeys(key for name in TaskUpdate.model_fields for key in (name, f"set_{name}"))
# The fields that have come since a creation's hash was made first, with their defaults.
LATER_FIELDS = [
    (name, field.get_default(call_default_factory=True))
    for name, field in sorted(TaskCreate.model_fields.items())
    if name not in {"title", "description", "completed"}
]


class Pages(NamedTuple):
    """Where a list comes from: `read` returns the rows that come after this one, or the first ones, at most so many.

    `turn` is what the long lists of one user take turns with: each piece of them holds the event loop up.
    """

    read: Callable[[Any | None, int], Awaitable[list[Any]]]
    turn: Callable[[], asyncio.Lock]


class Tasks:
    """The tasks of one verified owner: each method is one statement, and answers that owner's rows alone.

    A list is read page by page, as its client takes it; most have one.

    Raises TaskNotFound where the owner has no such task, and Unavailable when the database cannot serve. `expires` is
    when the owner's token does.
    """

    def __init__(self, database: Database, owner: str, expires: float, has_left: HasLeft | None) -> None:
        self._database = database
        self._owner = owner
        self._has_left = has_left
        self.expires = expires

    def all(self) -> Pages:
        """Return every task, newest first, page by page."""
        return self._pages(statements.LIST, statements.LIST_AFTER)

    async def get(self, task_id: int) -> Record:
        return await self._one(statements.GET, id=task_id)

    async def add(self, task: TaskCreate, key: str | None) -> Record:
        """Create the task, or return the one that was created with this key; raise KeyReused for another body."""
        rows = await self._database.fetch(
            statements.CREATE_ONCE if key else statements.CREATE,
            self._has_left,
            user_id=self._owner,
            **vars(task),
            creation_key=key or token_hex(16),
            creation_hash=creation_hash(task),
        )
        if not rows:
            raise KeyReused("key-reused")
        return rows[0]

    async def change(self, task_id: int, changes: TaskUpdate) -> Record:
        """Change the fields that were sent. Nothing sent is a plain read: `updated_at` must stay."""
        sent = changes.model_fields_set
        if not sent:
            return await self.get(task_id)
        values = UNSENT.copy()
        for name in sent:
            values[name] = getattr(changes, name)
            values[f"set_{name}"] = True
        return await self._one(statements.UPDATE, id=task_id, **values)

    async def toggle(self, task_id: int) -> Record:
        return await self._one(statements.TOGGLE, id=task_id)

    async def delete(self, task_id: int) -> None:
        await self._one(statements.DELETE, id=task_id)

    async def _one(self, statement: statements.Statement, **values: object) -> Record:
        rows = await self._database.fetch(statement, self._has_left, user_id=self._owner, **values)
        if not rows:
            raise TaskNotFound("no-such-task")
        return rows[0]

    def _pages(self, first: statements.Statement, after: statements.Statement, **values: object) -> Pages:
        async def read(last: Record | None, size: int) -> list[Record]:
            statement, place = (after, {"created_at": last["created_at"], "id": last["id"]}) if last else (first, {})
            every = {"user_id": self._owner, "page_size": size, **place, **values}
            return await self._database.fetch(statement, self._has_left, **every)

        return Pages(read, self._turn)

    def _turn(self) -> asyncio.Lock:
        return self._database.turn(self._owner)


def creation_hash(task: TaskCreate) -> bytes:
    """Return what tells one body from another. A later field counts only where it is not at its default: a retry may
    come when a new version has taken over, and must be known by the hash that the old one made."""
    later = [(name, value) for name, default in LATER_FIELDS if (value := getattr(task, name)) != default]
    return sha256(orjson.dumps([task.title, task.description, task.completed, *later], default=str)).digest()
