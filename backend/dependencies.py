"""What may a route ask for?"""

import asyncio
from hashlib import sha256
from secrets import token_hex
from typing import Annotated, Any

import orjson
from asyncpg import Record
from fastapi import Depends, Header, Path, Request, Security
from fastapi.security import HTTPBearer
from starlette.types import Scope

from backend import statements
from backend.answers import Pages
from backend.auth.jwt import TokenVerifier, bearer_token
from backend.db import Database
from backend.errors import Forbidden, KeyReused, NotReady, TaskNotFound
from backend.models import MAX_ID, TaskCreate, TaskUpdate
from backend.turns import Departure

UserId = Annotated[
    str,
    Path(description="The user's id as Better Auth knows it, the `sub` of the token.", examples=["demo-user"]),
]
TaskId = Annotated[int, Path(alias="id", ge=1, le=MAX_ID, json_schema_extra={"format": "int64"})]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern="^[!-~]{1,255}$",
        description="Any text of visible characters. A retry with the same key and body answers the same task.",
    ),
]
BearerAuth = HTTPBearer(
    scheme_name="BearerAuth",
    bearerFormat="JWT",
    description="A JWT from Better Auth: HS256 with the shared secret, or any other algorithm with its key set.",
    auto_error=False,
)


class Tasks:
    """The tasks of one verified owner: each method is one statement, and answers that owner's rows alone.

    A list is read page by page, as its client takes it; most have one.

    Raises TaskNotFound where the owner has no such task, and Unavailable when the database cannot serve. `expires` is
    when the owner's token does.
    """

    def __init__(self, database: Database, owner: str, expires: float, departure: Departure | None) -> None:
        self._database = database
        self._owner = owner
        self._departure = departure
        self.expires = expires

    def all(self) -> Pages:
        """Return every task, newest first, page by page."""
        return Pages(self.page, self._turn)

    async def page(self, after: Record | None, size: int) -> list[Record]:
        """Return at most so many tasks, newest first: those that come after this one, be it still there or not."""
        if after is None:
            return await self._database.fetch(statements.LIST, self._departure, user_id=self._owner, page_size=size)
        return await self._database.fetch(
            statements.LIST_AFTER,
            self._departure,
            user_id=self._owner,
            page_size=size,
            created_at=after["created_at"],
            id=after["id"],
        )

    async def get(self, task_id: int) -> Record:
        return await self._one(statements.GET, id=task_id)

    async def add(self, task: TaskCreate, key: str | None) -> Record:
        """Create the task, or return the one that was created with this key; raise KeyReused for another body."""
        body = [task.title, task.description, task.completed]
        rows = await self._database.fetch(
            statements.CREATE_ONCE if key else statements.CREATE,
            self._departure,
            user_id=self._owner,
            title=task.title,
            description=task.description,
            completed=task.completed,
            creation_key=key or token_hex(16),
            creation_hash=sha256(orjson.dumps(body)).digest(),
        )
        if not rows:
            raise KeyReused("key-reused")
        return rows[0]

    async def change(self, task_id: int, changes: TaskUpdate) -> Record:
        """Change the fields that were sent. Nothing sent is a plain read: `updated_at` must stay."""
        sent = changes.model_fields_set
        if not sent:
            return await self.get(task_id)
        return await self._one(
            statements.UPDATE,
            id=task_id,
            title=changes.title if "title" in sent else None,
            set_description="description" in sent,
            description=changes.description,
            completed=changes.completed if "completed" in sent else None,
        )

    async def toggle(self, task_id: int) -> Record:
        return await self._one(statements.TOGGLE, id=task_id)

    async def delete(self, task_id: int) -> None:
        await self._one(statements.DELETE, id=task_id)

    async def _one(self, statement: statements.Statement, **values: object) -> Record:
        rows = await self._database.fetch(statement, self._departure, user_id=self._owner, **values)
        if not rows:
            raise TaskNotFound("no-such-task")
        return rows[0]

    def _turn(self) -> asyncio.Lock:
        return self._database.turn(self._owner)


def open_connections(request: Request) -> int:
    """Return how many connections to the database are open; raise NotReady while it cannot serve."""
    database: Database = request.state.database
    if obstacle := "stopping" if request.scope.get("extensions", {}).get("leaving") else database.obstacle:
        raise NotReady(obstacle)
    return database.pool.open


def header_values(request: Request, name: bytes) -> list[str]:
    """Return the values of the header of this name, in lower case; Starlette would decode all the others first."""
    return [value.decode("latin-1") for each, value in request.scope["headers"] if each == name]


async def owned_tasks(request: Request, user_id: UserId, _token: Annotated[Any, Security(BearerAuth)] = None) -> Tasks:
    """Return the tasks of the token's user; raise Unauthorized, or Forbidden where the URL names another user."""
    state = request.scope["state"]  # `request.state` would wrap it anew in each request
    verifier: TokenVerifier = state["verifier"]
    verified = await verifier.verified(bearer_token(header_values(request, b"authorization")))
    owner = verified.user_id
    if owner != user_id:
        raise Forbidden("foreign-path", owner)
    return Tasks(state["database"], owner, verified.expires, _departure(request.scope))


def _departure(scope: Scope) -> Departure | None:
    """Return what ends when the client has left; only our own server tells."""
    extensions = scope.get("extensions")
    return extensions and extensions.get("client_left")


OwnedTasks = Annotated[Tasks, Depends(owned_tasks)]
