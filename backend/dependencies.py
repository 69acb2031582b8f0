"""What may a route ask for?"""

import re
from typing import Annotated, Any

from fastapi import Depends, Header, Path, Request, Security
from fastapi.security import HTTPBearer
from pydantic import BeforeValidator, Field
from starlette.types import Scope

from backend.auth.jwt import TokenVerifier, bearer_token
from backend.database.waiters import HasLeft
from backend.db import Database
from backend.errors import BadKey, FieldError, Forbidden, Invalid, NotReady
from backend.models import MAX_ID
from backend.tasks import Tasks

_KEY = re.compile("^[!-~]{1,255}$")
_TASK_ID = re.compile("[1-9][0-9]{0,18}")

UserId = Annotated[
    str,
    Path(description="The user's id as Better Auth knows it, the `sub` of the token.", examples=["demo-user"]),
]
BearerAuth = HTTPBearer(
    scheme_name="BearerAuth",
    bearerFormat="JWT",
    description="A JWT from Better Auth: HS256 with the shared secret, or any other algorithm with its key set.",
    auto_error=False,
)


def open_connections(request: Request) -> int:
    """Return how many connections to the database are open; raise NotReady while it cannot serve."""
    database: Database = request.state.database
    if obstacle := "stopping" if request.scope.get("extensions", {}).get("leaving") else database.readiness.obstacle:
        raise NotReady(obstacle)
    return database.pool.open


def header_values(request: Request, name: bytes) -> list[str]:
    """Return the values of the header of this name, in lower case; Starlette would decode all the others first."""
    return [value.decode("latin-1") for each, value in request.scope["headers"] if each == name]


def task_id(text: str) -> int:
    """Return the id that a path names; raise Invalid where it is none that the database could have made."""
    if not _TASK_ID.fullmatch(text) or int(text) > MAX_ID:
        message = f"id should be a whole number from 1 to {MAX_ID}"
        raise Invalid([FieldError(loc=["path", "id"], msg=message, type="task_id")])
    return int(text)


async def idempotency_key(
    request: Request,
    _documented: Annotated[
        Annotated[str, Field(json_schema_extra={"pattern": _KEY.pattern})] | None,
        Header(
            alias="Idempotency-Key",
            description="Any text of visible characters. A retry with the same key and body answers the same task.",
        ),
    ] = None,
) -> str | None:
    """Return the key of a creation, or None; raise BadKey for one that is malformed or comes twice."""
    keys = header_values(request, b"idempotency-key")
    if keys and (len(keys) > 1 or not _KEY.fullmatch(keys[0])):
        raise BadKey("idempotency-key")
    return keys[0] if keys else None


async def owned_tasks(request: Request, user_id: UserId, _token: Annotated[Any, Security(BearerAuth)] = None) -> Tasks:
    """Return the tasks of the token's user; raise Unauthorized, or Forbidden where the URL names another user."""
    state = request.scope["state"]  # `request.state` would wrap it anew in each request
    verifier: TokenVerifier = state["verifier"]
    verified = await verifier.verified(bearer_token(header_values(request, b"authorization")))
    owner = request.scope["owner"] = verified.user_id  # for the log
    if owner != user_id:
        raise Forbidden("foreign-path")
    return Tasks(state["database"], owner, verified.expires, _has_left(request.scope))


def _has_left(scope: Scope) -> HasLeft | None:
    """Return what tells whether the client has left; only our own server knows."""
    extensions = scope.get("extensions")
    return extensions and extensions.get("client_left")


OwnedTasks = Annotated[Tasks, Depends(owned_tasks)]
TaskId = Annotated[
    int,
    BeforeValidator(task_id),
    Path(alias="id", json_schema_extra={"format": "int64", "minimum": 1, "maximum": MAX_ID}),
]
IdempotencyKey = Annotated[str | None, Depends(idempotency_key)]
