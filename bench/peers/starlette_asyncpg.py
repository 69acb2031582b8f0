"""Written by hand for speed: Starlette's routes, constant SQL on an asyncpg pool, orjson, and no layer in between."""

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

import asyncpg
import jwt
import orjson
from pydantic import BaseModel, StringConstraints, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

SECRET, ISSUER = os.environ["BETTER_AUTH_SECRET"], os.environ["BETTER_AUTH_URL"]
CACHE_LIMIT = 10_000 if os.environ.get("TOKEN_CACHE") == "1" else 0
KEEP_CONNECTIONS = os.environ.get("NO_RESET") == "1"
MAX_ID = 2**63 - 1

COLUMNS = "id, user_id, title, description, completed, created_at, updated_at"
LIST = f"SELECT {COLUMNS} FROM task WHERE user_id = $1 ORDER BY created_at DESC, id DESC"
GET = f"SELECT {COLUMNS} FROM task WHERE id = $1 AND user_id = $2"
CREATE = f"INSERT INTO task (user_id, title, description, completed) VALUES ($1, $2, $3, $4) RETURNING {COLUMNS}"
UPDATE = f"""UPDATE task SET title = coalesce($3, title), completed = coalesce($4, completed),
    description = CASE WHEN $5 THEN $6 ELSE description END, updated_at = now()
    WHERE id = $1 AND user_id = $2 RETURNING {COLUMNS}"""
TOGGLE = f"""UPDATE task SET completed = NOT completed, updated_at = now()
    WHERE id = $1 AND user_id = $2 RETURNING {COLUMNS}"""
DELETE = "DELETE FROM task WHERE id = $1 AND user_id = $2 RETURNING id"

Title = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"\S")]
Description = Annotated[str, StringConstraints(max_length=1000)]


class TaskCreate(BaseModel):
    title: Title
    description: Description | None = None
    completed: bool = False


class TaskUpdate(BaseModel):
    title: Title = None
    description: Description | None = None
    completed: bool = None


class JSON(JSONResponse):
    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_UTC_Z)


verified: dict[str, tuple[str, float]] = {}


def verify(token: str) -> str:
    user, expires = verified.get(token, ("", 0))
    if expires > time.time():
        return user
    try:
        claims = jwt.decode(token, SECRET, ["HS256"], {"require": ["exp", "sub"]}, audience=ISSUER, issuer=ISSUER)
    except jwt.InvalidTokenError as error:
        raise HTTPException(401, "Invalid token", {"WWW-Authenticate": "Bearer"}) from error
    if CACHE_LIMIT:
        if len(verified) >= CACHE_LIMIT:
            del verified[next(iter(verified))]
        verified[token] = claims["sub"], claims["exp"]
    return claims["sub"]


def owner(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise HTTPException(401, "Not authenticated", {"WWW-Authenticate": "Bearer"})
    user = verify(token)
    if user != request.path_params["user_id"]:
        raise HTTPException(403, "Not your tasks")
    return user


Shape = TypeVar("Shape", bound=BaseModel)


async def body(request: Request, shape: type[Shape]) -> Shape:
    try:
        return shape.model_validate_json(await request.body())
    except ValidationError as error:
        raise HTTPException(422, str(error)) from error


def task_id(request: Request) -> int:
    if request.path_params["id"] > MAX_ID:
        raise HTTPException(404, "Task not found")
    return request.path_params["id"]


async def row(request: Request, sql: str, *arguments: Any) -> dict[str, Any]:
    found = await request.state.pool.fetchrow(sql, *arguments)
    if found is None:
        raise HTTPException(404, "Task not found")
    return dict(found)


async def list_tasks(request: Request) -> Response:
    return JSON([dict(task) for task in await request.state.pool.fetch(LIST, owner(request))])


async def create_task(request: Request) -> Response:
    user = owner(request)
    new = await body(request, TaskCreate)
    return JSON(await row(request, CREATE, user, new.title, new.description, new.completed), 201)


async def read_task(request: Request) -> Response:
    user = owner(request)
    return JSON(await row(request, GET, task_id(request), user))


async def update_task(request: Request) -> Response:
    user = owner(request)
    new = await body(request, TaskUpdate)
    described = "description" in new.model_fields_set
    values = (new.title, new.completed, described, new.description)
    return JSON(await row(request, UPDATE, task_id(request), user, *values))


async def toggle_task(request: Request) -> Response:
    user = owner(request)
    return JSON(await row(request, TOGGLE, task_id(request), user))


async def delete_task(request: Request) -> Response:
    user = owner(request)
    await row(request, DELETE, task_id(request), user)
    return Response(status_code=204)


async def refuse(_: Request, error: HTTPException) -> Response:
    return JSON({"detail": error.detail}, error.status_code, error.headers)


async def keep(_: asyncpg.Connection) -> None:
    """No statement here changes a connection's state: asyncpg's reset would be a round trip for nothing."""


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
    size = int(os.environ["POOL_SIZE"])
    reset = keep if KEEP_CONNECTIONS else None
    async with asyncpg.create_pool(os.environ["NEON_DATABASE_URL"], min_size=size, max_size=size, reset=reset) as pool:
        yield {"pool": pool}


app = Starlette(
    routes=[
        Route("/api/{user_id}/tasks", list_tasks, methods=["GET"]),
        Route("/api/{user_id}/tasks", create_task, methods=["POST"]),
        Route("/api/{user_id}/tasks/{id:int}", read_task, methods=["GET"]),
        Route("/api/{user_id}/tasks/{id:int}", update_task, methods=["PUT"]),
        Route("/api/{user_id}/tasks/{id:int}", delete_task, methods=["DELETE"]),
        Route("/api/{user_id}/tasks/{id:int}/complete", toggle_task, methods=["PATCH"]),
    ],
    exception_handlers={HTTPException: refuse},
    lifespan=lifespan,
)
