"""How are the pieces joined?"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypedDict

from fastapi import FastAPI
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.auth.jwt import TokenVerifier
from backend.auth.key_set import KeySet
from backend.auth.source import HttpSource
from backend.database import statements
from backend.db import Database
from backend.errors import MethodNotAllowed, NotFound, Problem
from backend.routes import health, tasks
from backend.settings import Settings, SettingsError, load_settings
from backend.telemetry import logs
from backend.telemetry.metrics import Metrics
from backend.web.docs_page import show_docs
from backend.web.middleware import Envelope
from backend.web.routing import Route

DESCRIPTION = """\
The backend of a multi-user Todo application whose frontend signs people in with [Better Auth](https://better-auth.com).

Send the JWT that Better Auth hands out as `Authorization: Bearer …`. Each user sees their own tasks only.
"""


class State(TypedDict):
    """What the lifespan makes and a request finds at `request.state`."""

    database: Database
    verifier: TokenVerifier


class TodoAPI(FastAPI):
    """FastAPI with one layer of our own around its routes: errors, too, get CORS headers, an id and an access line.

    It stands instead of FastAPI's, which has five that these routes do not need; `add_middleware` does nothing.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        super().__init__(
            title="Todo API",
            version="1.0.0",
            description=DESCRIPTION,
            routes=[*tasks.router.routes, *health.router.routes],
            lifespan=_lifespan(settings, metrics),
            openapi_url="/openapi.json" if settings.api_docs else None,
            docs_url=None,
            redoc_url=None,
            telemetry={"tracing": False, "metrics": False, "logs": False},
        )
        self._metrics = metrics
        self._origins = [settings.better_auth_url, *settings.cors_origins]
        if settings.api_docs:
            show_docs(self)

    def build_middleware_stack(self) -> ASGIApp:
        return Envelope(self._dispatch, self._metrics, self._origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request by our own layer at once; FastAPI looks for telemetry first, each time."""
        scope["app"] = self
        serve = self.middleware_stack if scope["type"] == "http" else None
        await (serve or super().__call__)(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """Return the API document without the 422 that FastAPI adds to every path with a parameter."""
        document = super().openapi()
        for operation in (each for path in document["paths"].values() for each in path.values()):
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
        for unused in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(unused, None)
        return document

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request to the route that it matches; FastAPI's router notes each step for telemetry meanwhile."""
        if scope["type"] != "http":
            await self.router(scope, receive, send)
            return
        for route in self.routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope.update(found)
                await route.handle(scope, receive, send)
                return
        raise self._unmatched(scope)

    def _unmatched(self, scope: Scope) -> Problem:
        routes = [route for route in self.routes if isinstance(route, Route) and route.found(scope)]
        if routes:
            return MethodNotAllowed(sorted({method for route in routes for method in route.served_methods}))
        return NotFound("path")


def create_app(settings: Settings) -> FastAPI:
    """Return the application; it opens and closes what it needs in its lifespan."""
    return TodoAPI(settings, Metrics(counting=bool(settings.metrics_port)))


def token_verifier(settings: Settings, key_set: KeySet) -> TokenVerifier:
    """Return the verifier that the settings ask for; issuer and audience are the frontend's origin by default."""
    return TokenVerifier(
        secrets=() if settings.better_auth_mode == "jwks" else settings.secrets,
        key_set=None if settings.better_auth_mode == "secret" else key_set,
        issuers=settings.better_auth_issuers or [settings.better_auth_url],
        audiences=settings.better_auth_audiences or [settings.better_auth_url],
    )


def _lifespan(settings: Settings, metrics: Metrics) -> Callable[[FastAPI], AbstractAsyncContextManager[State]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[State]:
        database = Database(
            settings.database_url,
            statements.ALL,
            pool_size=settings.database_pool_size,
            workers=settings.workers,
            deadline=settings.request_deadline,
            prepare=settings.database_prepared_statements,
            metrics=metrics,
        )
        source = HttpSource(settings.key_set_url)

        async def fetch() -> bytes | None:
            body = await source()
            metrics.key_set_fetched()
            return body

        key_set = KeySet(fetch)
        database.open()
        with logs.watched(metrics.log_line_dropped):
            yield {"database": database, "verifier": token_verifier(settings, key_set)}
        await key_set.close()
        await source.close()
        await database.close()

    return lifespan


def __getattr__(name: str) -> FastAPI:
    """Make `app` when a server asks for it (PEP 562): `uvicorn backend.main:app` is production."""
    if name != "app":
        raise AttributeError(name)
    try:
        settings = load_settings()
        logs.configure(as_json=settings.log_format == "json")
        return create_app(settings)
    except SettingsError as error:
        raise SystemExit(str(error)) from None
