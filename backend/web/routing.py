"""How does a request reach its endpoint?

Identity before body: a stranger is turned away before a byte of the body is read. FastAPI's own handler reads first.
What routes on tasks usually declare is done here, for a sixth of what FastAPI's handler costs; it does all the rest.
"""

import re
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isfunction, isgeneratorfunction, signature
from time import time
from types import NoneType
from typing import Any
from urllib.parse import unquote

import orjson
from fastapi import Depends, Request, Response, params
from fastapi._compat import ModelField
from fastapi.datastructures import DefaultPlaceholder
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_flat_params, get_typed_return_annotation, get_typed_signature
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.routing import APIRoute, RouteContext
from fastapi.utils import is_body_allowed_for_status_code
from starlette.concurrency import run_in_threadpool
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from backend.dependencies import (
    IdempotencyKey,
    OwnedTasks,
    TaskId,
    header_values,
    idempotency_key,
    owned_tasks,
    task_id,
)
from backend.errors import FieldError, Invalid, Malformed, Problem, TokenExpired, TooLarge, UnsupportedMediaType
from backend.models import TaskRead
from backend.tasks import Pages, Row, Tasks
from backend.web.answers import ListResponse, encoded, is_plain, private, readable, send_json, send_list

# What an endpoint says that it returns, and the response model of that.
_PLAIN_ANSWERS = ([Row, TaskRead], [Pages, list[TaskRead]], [NoneType, None])

Endpoint = Callable[..., Any]
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Route(APIRoute):
    """A FastAPI route that is matched by path and method alone, with or without a trailing slash, HEAD as GET."""

    def __init__(self, path: str, endpoint: Endpoint, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        flat = get_flat_params(self.dependant)
        named = {field.alias for field in flat if isinstance(field.field_info, params.Path)}
        if missing := named - self.param_convertors.keys():
            raise TypeError(f"{self.name} at {path!r}: the path has no parameter {{{min(missing)}}}")
        self.declared = endpoint
        # Not `$`, which also matches before a line feed at the end.
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + r"/?\Z")
        methods = self.methods or set()
        self.served_methods = methods | {"HEAD"} if "GET" in methods else methods
        self._handled = AsyncExitStackMiddleware(self.app)

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()

        async def handle_admitted(request: Request) -> Response:
            await self.admit(request)
            return private(await handle(request))

        return handle_admitted

    async def admit(self, request: Request) -> None:
        """Turn away who must not be answered by FastAPI's handler, before it reads the body."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope.get("method") not in self.served_methods or not (found := self.found(scope)):
            return Match.NONE, {}
        parameters = found.groupdict()
        if "%" in found.string:
            # Bytes that are no text become surrogates, which no user's id holds; U+FFFD would be some user's good name.
            parameters = {name: unquote(value, errors="surrogateescape") for name, value in parameters.items()}
        return Match.FULL, {"path_params": parameters, "route": self, "endpoint": self.endpoint}

    def found(self, scope: Scope) -> re.Match[str] | None:
        """Match the path as it came on the wire, so that an encoded slash separates nothing."""
        route = self
        if "fastapi" in scope:  # it is looking through a router that was included, perhaps with a prefix
            route = scope["fastapi"].get("effective_route_context", self)
        return route.path_regex.match(scope["raw_path"].decode("latin-1"))

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that matches."""
        await self._handled(scope, receive, send)


class OwnedRoute(Route):
    """A route on one owner's tasks: first who (401, 403), then what (415, 413, 400, 422).

    Whatever it declares works as FastAPI says, after who. Arguments are bound by annotation; their names are free.
    """

    def __init__(
        self,
        path: str,
        endpoint: Endpoint,
        *,
        dependencies: Any = None,
        max_body_size: int | None = None,
        **options: Any,
    ) -> None:
        first = [Depends(owned_tasks)]
        # Without `max_body_size`, for which FastAPI would look before it is known who asks.
        super().__init__(path, _readable(endpoint), dependencies=first + list(dependencies or ()), **options)
        self.max_body_size = max_body_size
        self.declared = endpoint
        own = self.dependant
        body = self.body_field
        self._takes_json = getattr(body and body.field_info, "media_type", None) == "application/json"
        self._status = self.status_code or 200
        self._answers = get_typed_return_annotation(endpoint) or NoneType
        plain = self._is_plain()
        if plain and self._answers is Pages and not _sets_headers(own):
            own.call = _readable(endpoint, self._status)
        # Who asks for what: `_usual` is where nobody asks for more than `_arguments` gives.
        asked = {each.name: each.annotation for each in get_typed_signature(endpoint).parameters.values()}
        self._tasks, self._id, self._key = (
            next((name for name, annotation in asked.items() if annotation == kind), None)
            for kind in (OwnedTasks, TaskId, IdempotencyKey)
        )
        alone = body if [body] == own.body_params and self._takes_json else None
        self._body = alone if alone and alone.field_info.is_required() else None
        self._defaults = {each.name: each.default for each in own.query_params if _has_plain_default(each)}
        known = {self._tasks, self._id, self._key, self._body and self._body.name, *self._defaults}
        self._usual = (
            plain
            and iscoroutinefunction(endpoint)
            and asked.keys() <= known
            and all(each.dependency is owned_tasks for each in self.dependencies)
        )

    async def admit(self, request: Request) -> None:
        if owned_tasks in request.app.dependency_overrides:  # a test's, in the place of ours
            return
        tasks = await owned_tasks(request, request.path_params["user_id"])
        if self.body_field:
            # Where Starlette looks for what was read already.
            request._body = body = await self._read_body(request, tasks)  # noqa: SLF001
            if self._takes_json and (body or self.body_field.field_info.is_required()):
                request._json = _json(body)  # noqa: SLF001

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._usual or (self._defaults and scope["query_string"]) or scope["app"].dependency_overrides:
            await super().serve(scope, receive, send)
            return
        answer: Any = await self.declared(**await self._arguments(Request(scope, receive)))
        if type(answer) is not self._answers:
            raise TypeError(f"{self.name} says that it returns {self._answers}, and returned {type(answer)}")
        if isinstance(answer, Pages):
            await send_list(scope, receive, send, answer, self._status)
        else:
            await send_json(send, self._status, b"" if answer is None else encoded(answer))

    def _is_plain(self) -> bool:
        """Whether the response model, which the endpoint's return type tells, would change nothing of its answer."""
        shape = (self.response_model_include, self.response_model_exclude, not self.response_model_by_alias)
        left_out = (self.response_model_exclude_unset, self.response_model_exclude_defaults)
        return (
            [self._answers, self.response_model] in _PLAIN_ANSWERS
            and isinstance(self.response_class, DefaultPlaceholder)
            and not any([*shape, *left_out, self.response_model_exclude_none])
            and is_plain(TaskRead)
            and (self._answers is not NoneType) == is_body_allowed_for_status_code(self._status)
        )

    async def _arguments(self, request: Request) -> dict[str, Any]:
        """Return what the endpoint is called with; raise a Problem for a request that must not reach it."""
        path = request.scope["path_params"]
        tasks = await owned_tasks(request, path["user_id"])
        arguments = {**self._defaults}
        if self._tasks:
            arguments[self._tasks] = tasks
        body = await self._read_body(request, tasks) if self._body else b""
        if self._id:
            arguments[self._id] = task_id(path["id"])
        if self._key:
            arguments[self._key] = await idempotency_key(request)
        if self._body:
            arguments[self._body.name], errors = self._body.validate(_json(body), loc=("body",))
            if errors:
                raise invalid(errors)
        return arguments

    async def _read_body(self, request: Request, tasks: Tasks) -> bytes:
        named = header_values(request, b"content-type")
        if self._takes_json and named and named[0].partition(";")[0].strip().lower() != "application/json":
            raise UnsupportedMediaType("content-type")
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > (TooLarge.limit if self.max_body_size is None else self.max_body_size):
                raise TooLarge("body")
        if self._takes_json and body and not named and self.strict_content_type is not False:
            raise UnsupportedMediaType("content-type")
        if tasks.expires <= time():  # The client decides how long that took.
            raise TokenExpired("expired")
        return bytes(body)


def template(scope: Scope) -> str:
    """Return the path of the route that was matched as it is declared (`/api/{user_id}/tasks`); "" where none was.

    For the outermost layer, once the answer begins: `scope["route"]` is there from when a route matches.
    """
    route = scope.get("route")
    if "fastapi" in scope:  # it was found in a router that was included, perhaps with a prefix
        route = scope["fastapi"].get("effective_route_context", route)
    return getattr(route, "path_format", "")


def copied(included: RouteContext) -> Route:
    """Return a route of an included router as one of the application, with all that the inclusion has added to it.

    The document shows it where FastAPI keeps it.
    """
    route: Any = included.original_route
    names = signature(APIRoute).parameters.keys() - {"path", "endpoint"}
    options = {name: getattr(included, name, getattr(route, name, None)) for name in names}
    copy: Route = type(route)(included.path, route.declared, **options | {"include_in_schema": False})
    return copy


def invalid(errors: Sequence[Any]) -> Problem:
    """Return what a client is told about pydantic's errors, without the input."""
    if errors[0]["type"] == "json_invalid":
        return Malformed(errors[0]["msg"])
    return Invalid([_field_error(each) for each in errors])


def _field_error(error: Any) -> FieldError:
    """Return the error as a sentence that names the field."""
    loc = list(error["loc"])
    if loc == ["body"] and error["type"] == "model_attributes_type":
        return FieldError(loc=loc, msg="The request body should be a JSON object", type="dict_type")
    name = next(each for each in reversed(loc) if isinstance(each, str))
    message = error["msg"].replace("Field required", "Field is required")
    return FieldError(loc=loc, msg=re.sub("^(Field|Input|String)", name, message), type=error["type"])


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(str(error)) from None


def _readable(endpoint: Endpoint, list_status: int | None = None) -> Endpoint:
    """Return the endpoint with answers that FastAPI understands; with a status, a list is sent as it is."""
    if not isfunction(endpoint) or isgeneratorfunction(endpoint) or isasyncgenfunction(endpoint):
        return endpoint

    @wraps(endpoint)
    async def called(**arguments: Any) -> Any:
        in_thread = not iscoroutinefunction(endpoint)
        answer = await (run_in_threadpool(endpoint, **arguments) if in_thread else endpoint(**arguments))
        if list_status and isinstance(answer, Pages):
            return ListResponse(answer, list_status)
        return await readable(answer)

    return called


def _has_plain_default(field: ModelField) -> bool:
    info = field.field_info
    plain = isinstance(info.default, str | int | float | None)
    return plain and not (info.is_required() or info.default_factory or info.validate_default)


def _sets_headers(dependant: Dependant) -> bool:
    return bool(dependant.response_param_name) or any(map(_sets_headers, dependant.dependencies))
