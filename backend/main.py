"""How are the pieces joined?"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NoReturn, TypedDict

from fastapi import APIRouter, FastAPI
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.routing import iter_route_contexts
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.auth.jwt import TokenVerifier
from backend.auth.key_set import KeySet
from backend.auth.source import HttpSource
from backend.database import statements
from backend.db import Database
from backend.errors import MethodNotAllowed, NotFound
from backend.routes import health, tasks
from backend.settings import Settings, SettingsError, load_settings
from backend.telemetry import logs, traces
from backend.telemetry.metrics import Metrics
from backend.web.docs_page import show_docs
from backend.web.middleware import Envelope
from backend.web.openapi import with_our_422
from backend.web.request_log import RequestLog
from backend.web.routing import Route, copied
from backend.web.spans import Traced

DESCRIPTION = """\
The backend of a multi-user Todo application whose frontend signs people in with [Better Auth](https://better-auth.com).

Send the JWT that Better Auth hands out as `Authorization: Bearer …`. Each user sees their own tasks only.
"""


class State(TypedDict):
    """What the lifespan makes and a request finds at `request.state`."""

    database: Database
    verifier: TokenVerifier
    metrics: Metrics


class TodoAPI(FastAPI):
    """FastAPI with one layer of our own around its routes: errors, too, get CORS headers, an id and an access line.

    It stands instead of FastAPI's, which has five that these routes do not need. What is added to it works as in
    FastAPI, or is refused.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        super().__init__(
            title="Todo API",
            version="1.0.0",
            description=DESCRIPTION,
            lifespan=_lifespan(settings, metrics),
            openapi_url="/openapi.json" if settings.api_docs else None,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,  # the address would be made of the `Host` that a client sends
            # It sets OpenTelemetry up where OTEL_… asks for it, unless somebody has; but its spans have the query.
            telemetry={
                "auto_configure": not traces.tracer(),
                "exclude": lambda _scope: True,
                "metrics": False,
                "logs": False,
            },
        )
        # What FastAPI would say itself, `Envelope` does.
        theirs = (http_exception_handler, request_validation_exception_handler)
        self.exception_handlers = {
            kind: handler for kind, handler in self.exception_handlers.items() if handler not in theirs
        }
        self.router.default = self._unmatched
        self._rest = AsyncExitStackMiddleware(self.router)
        self._metrics = metrics
        self._settings = settings
        for router in (tasks.router, health.router):
            self.include_router(router)
        if settings.api_docs:
            show_docs(self)

    def build_middleware_stack(self) -> ASGIApp:
        settings = self._settings
        user_key = settings.secrets[0] if settings.log_users == "hashed" else None
        log = RequestLog(probes=settings.log_probes, user_key=user_key)
        envelope = Envelope(
            self._dispatch,
            metrics=self._metrics,
            log=log,
            origins=[settings.better_auth_url, *settings.cors_origins],
            handlers=self.exception_handlers,
            middleware=self.user_middleware,
        )
        tracer = traces.tracer()
        return Traced(envelope, tracer, log) if tracer else envelope

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request by our own layer at once; FastAPI looks for telemetry first, each time."""
        scope["app"] = self
        serve = self.middleware_stack if scope["type"] == "http" and not self.root_path else None
        await (serve or super().__call__)(scope, receive, send)

    def add_middleware(self, middleware_class: Any, *args: Any, **options: Any) -> None:
        if middleware_class is CORSMiddleware:
            raise TypeError("CORSMiddleware: preflights are answered before it; set CORS_ORIGINS")
        super().add_middleware(middleware_class, *args, **options)

    def add_api_websocket_route(self, path: str, *_: Any, **_options: Any) -> NoReturn:
        raise TypeError(f"websocket at {path!r}: `serve` speaks no WebSocket")

    websocket_route = add_api_websocket_route

    def on_event(self, event_type: str) -> NoReturn:
        raise TypeError(f"on_event({event_type!r}): the lifespan in backend/main.py is run instead")

    def openapi(self) -> dict[str, Any]:
        self.openapi_schema = self.openapi_schema or with_our_422(super().openapi())
        return self.openapi_schema

    def include_router(self, router: APIRouter, **options: Any) -> None:
        """Include a router, and put its routes of our classes before it: FastAPI looks through it twice for each
        request, which costs more than all of ours."""
        before = len(self.routes)
        super().include_router(router, **options)
        included = [*iter_route_contexts(self.routes[before:])]
        for each in included:
            if isinstance(each.original_route, WebSocketRoute):
                self.add_api_websocket_route(str(each.path))
        if router.on_startup or router.on_shutdown:
            self.on_event("startup")
        self.routes[before:before] = [copied(each) for each in included if isinstance(each.original_route, Route)]

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request to the route that it matches; FastAPI's router notes each step for telemetry meanwhile."""
        if scope["type"] == "http":
            for route in self.routes:
                match, found = route.matches(scope)
                if match is Match.FULL:
                    if not isinstance(route, Route):
                        break
                    scope.update(found)
                    await route.serve(scope, receive, send)
                    return
        await self._rest(scope, receive, send)

    async def _unmatched(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.router.not_found(scope, receive, send)
            return
        routes = [route for route in self.routes if isinstance(route, Route) and route.found(scope)]
        if routes:
            raise MethodNotAllowed(sorted({method for route in routes for method in route.served_methods}))
        raise NotFound("path")


def create_app(settings: Settings) -> FastAPI:
    """Return the application; it opens and closes what it needs in its lifespan."""
    return TodoAPI(settings, Metrics(counting=bool(settings.metrics_port)))


def token_verifier(settings: Settings, key_set: KeySet) -> TokenVerifier:
    """Return the verifier that the settings ask for."""
    return TokenVerifier(
        secrets=() if settings.better_auth_mode == "jwks" else settings.secrets,
        key_set=None if settings.better_auth_mode == "secret" else key_set,
        issuers=settings.issuers,
        audiences=settings.audiences,
    )


def _lifespan(settings: Settings, metrics: Metrics) -> Callable[[FastAPI], AbstractAsyncContextManager[State]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[State]:
        if tracer := traces.tracer():
            app.middleware_stack = app.build_middleware_stack()  # again: now the spans are wanted
        database = Database(
            settings.database_url,
            statements.ALL,
            pool_size=settings.database_pool_size,
            workers=settings.workers,
            deadline=settings.request_deadline,
            prepare=settings.database_prepared_statements,
            metrics=metrics,
            tracer=tracer,
        )
        source = HttpSource(settings.key_set_url)

        async def fetch() -> bytes | None:
            body = await source()
            metrics.key_set_fetched()
            return body

        key_set = KeySet(fetch)
        database.open()
        with logs.watched(metrics.log_line_dropped):
            yield {"database": database, "verifier": token_verifier(settings, key_set), "metrics": metrics}
        await key_set.close()
        await source.close()
        await database.close()
        if tracer:
            await traces.finish()

    return lifespan


def __getattr__(name: str) -> FastAPI:
    """Make `app` when a server asks for it (PEP 562): `uvicorn backend.main:app` is production."""
    if name != "app":
        raise AttributeError(name)
    try:
        settings = load_settings()
        logs.configure(as_json=settings.log_format == "json", level=settings.log_level)
        return create_app(settings)
    except SettingsError as error:
        raise SystemExit(str(error)) from None
