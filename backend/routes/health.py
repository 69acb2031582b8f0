"""The three checks, which need no token and never ask the database."""

from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from backend.dependencies import open_connections
from backend.web.openapi import problems
from backend.web.routing import Route

router = APIRouter(tags=["health"], route_class=Route)


class Health(BaseModel):
    """The process answers; `timestamp` is its clock, in UTC."""

    status: Literal["healthy"] = "healthy"
    timestamp: datetime


class Probe(BaseModel):
    """The answer of a probe; `connections` are those that are open to the database."""

    status: Literal["ok"] = "ok"
    connections: int | None = None


@router.get("/health", operation_id="healthCheck", response_model=Health)
async def health() -> Any:
    """Whether the process answers. The database is not asked."""
    return {"status": "healthy", "timestamp": datetime.now(UTC)}


@router.get("/livez", operation_id="livenessCheck", response_model=Probe, response_model_exclude_none=True)
async def livez() -> Any:
    """Whether the process answers; for whatever restarts it."""
    return {"status": "ok"}


@router.get("/readyz", operation_id="readinessCheck", response_model=Probe, responses=problems(503))
async def readyz(request: Request) -> Any:
    """Whether the database answered when it was last needed, without asking it; for whatever sends requests here."""
    return {"status": "ok", "connections": open_connections(request)}
