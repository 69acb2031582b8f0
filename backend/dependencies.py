"""What may a route ask for?"""

from typing import Annotated, Any

from fastapi import Depends, Header, Path, Request, Security
from fastapi.security import HTTPBearer
from starlette.types import Scope

from backend.auth.jwt import TokenVerifier, bearer_token
from backend.database.waiters import Departure
from backend.db import Database
from backend.errors import Forbidden, NotReady
from backend.models import MAX_ID
from backend.tasks import Tasks

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


def open_connections(request: Request) -> int:
    """Return how many connections to the database are open; raise NotReady while it cannot serve."""
    database: Database = request.state.database
    if obstacle := "stopping" if request.scope.get("extensions", {}).get("leaving") else database.readiness.obstacle:
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
