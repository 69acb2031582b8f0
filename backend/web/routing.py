"""How does a request reach its endpoint?

Identity before body: a stranger is turned away before a byte of the body is read. FastAPI's own handler reads first.
"""

import re
from collections.abc import Callable
from time import time
from typing import Any
from urllib.parse import unquote

import orjson
from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from backend.dependencies import header_values, owned_tasks
from backend.errors import BadKey, FieldError, Invalid, Malformed, TokenExpired, TooLarge, UnsupportedMediaType
from backend.models import MAX_ID
from backend.tasks import Pages
from backend.web.answers import encoded, send_json, send_list

BODY_LIMIT = 65_536

_KEY = re.compile(r"[!-~]{1,255}")
_TASK_ID = re.compile(r"[1-9][0-9]{0,18}")


class Route(APIRoute):
    """A FastAPI route that is matched by path and method alone, with or without a trailing slash, HEAD as GET."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        # Not `$`, which also matches before a line feed at the end.
        self.path_regex = re.compile(self.path_regex.pattern.removesuffix("$") + r"/?\Z")
        methods = self.methods or set()
        self.served_methods = methods | {"HEAD"} if "GET" in methods else methods

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope.get("method") not in self.served_methods:
            return Match.NONE, {}
        if not (found := self.found(scope)):
            return Match.NONE, {}
        parameters = found.groupdict()
        if "%" in found.string:
            # Bytes that are no text become surrogates, which no user's id holds; U+FFFD would be some user's good name.
            parameters = {name: unquote(value, errors="surrogateescape") for name, value in parameters.items()}
        return Match.FULL, {"path_params": parameters, "route": self, "endpoint": self.endpoint}

    def found(self, scope: Scope) -> re.Match[str] | None:
        """Match the path as it came on the wire, so that an encoded slash separates nothing."""
        return self.path_regex.match(scope["raw_path"].decode("latin-1"))

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self.endpoint(**await self.arguments(Request(scope, receive)))
        if isinstance(answer, Pages):
            await send_list(scope, receive, send, answer)
        else:
            await send_json(send, self.status_code or 200, b"" if answer is None else encoded(answer))

    async def arguments(self, request: Request) -> dict[str, Any]:
        """Return what the endpoint is called with; raise a Problem for a request that must not reach it."""
        name = self.dependant.request_param_name
        return {name: request} if name else {}


class OwnedRoute(Route):
    """A route on one owner's tasks: first who (401, 403), then what (415, 413, 400, 422)."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self._body_model: Any = self.body_field.field_info.annotation if self.body_field else None

    async def arguments(self, request: Request) -> dict[str, Any]:
        path = request.path_params
        tasks = await owned_tasks(request, path["user_id"])
        arguments: dict[str, Any] = {"tasks": tasks}
        body = b""
        if self._body_model:
            body = await _read_json_body(request)
            if tasks.expires <= time():  # The client decides how long that took.
                raise TokenExpired("expired")
        if "id" in path:
            arguments["task_id"] = _task_id(path["id"])
        if self.dependant.header_params:
            arguments["key"] = _idempotency_key(request)
        if self._body_model:
            arguments["task"] = _parsed(body, self._body_model)
        return arguments


async def _read_json_body(request: Request) -> bytes:
    media_type = [*header_values(request, b"content-type"), "application/json"][0].partition(";")[0]
    if media_type.strip().lower() != "application/json":
        raise UnsupportedMediaType("content-type")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_LIMIT:
            raise TooLarge("body")
    return bytes(body)


def _idempotency_key(request: Request) -> str | None:
    keys = header_values(request, b"idempotency-key")
    if keys and (len(keys) > 1 or not _KEY.fullmatch(keys[0])):
        raise BadKey("idempotency-key")
    return keys[0] if keys else None


def _task_id(text: str) -> int:
    if not _TASK_ID.fullmatch(text) or int(text) > MAX_ID:
        message = f"id should be a whole number from 1 to {MAX_ID}"
        raise Invalid([FieldError(loc=["path", "id"], msg=message, type="task_id")])
    return int(text)


def _parsed(body: bytes, model: type[BaseModel]) -> BaseModel:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(str(error)) from None
    if not isinstance(value, dict):
        raise Invalid([FieldError(loc=["body"], msg="The request body should be a JSON object", type="dict_type")])
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise Invalid([_field_error(problem) for problem in error.errors(include_url=False)]) from None


def _field_error(problem: Any) -> FieldError:
    """Return pydantic's error without the input, as a sentence that names the field."""
    message = problem["msg"].replace("Field required", "Field is required")
    sentence = re.sub("^(Field|Input|String)", str(problem["loc"][0]), message)
    return FieldError(loc=["body", *problem["loc"]], msg=sentence, type=problem["type"])
