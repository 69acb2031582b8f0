"""Does what a FastAPI developer declares on this application work, or is it refused when it is declared?

Each function below declares one thing, as FastAPI's documentation does, and returns what has to be seen of it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal

import httpx
import pytest
from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    FastAPI,
    Form,
    Header,
    HTTPException,
    Path,
    Query,
    Request,
    Response,
    Security,
    UploadFile,
    WebSocket,
)
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.routing import iter_route_contexts
from fastapi.security import APIKeyHeader, SecurityScopes
from people import User
from pydantic import AfterValidator, BaseModel, Field, computed_field, field_serializer
from running import serving
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import Mount, Route

from backend.dependencies import IdempotencyKey, OwnedTasks, TaskId, owned_tasks
from backend.errors import NotFound, TaskNotFound
from backend.main import create_app
from backend.models import TaskCreate, TaskRead, TaskUpdate
from backend.settings import Settings
from backend.tasks import Pages, Row, Tasks
from backend.web import routing
from backend.web.answers import is_plain
from backend.web.routing import OwnedRoute

Check = Callable[[User], None]
Declaration = Callable[[FastAPI], Check]
DONE: list[Declaration] = []
EXTRA = "/api/{user_id}/extra"


def done(declaration: Declaration) -> Declaration:
    DONE.append(declaration)
    return declaration


@contextmanager
def owned(app: FastAPI, **options: Any) -> Iterator[APIRouter]:
    """A router on one owner's tasks, which is included at the end of the block."""
    router = APIRouter(prefix=EXTRA, route_class=OwnedRoute, strict_content_type=False)
    yield router
    app.include_router(router, **options)


def extra(user: User, method: str = "GET", suffix: str = "", **options: Any) -> httpx.Response:
    return user.http.request(method, f"/api/{user.id}/extra{suffix}", **options)


def says(expected: Any, method: str = "GET", suffix: str = "", **options: Any) -> Check:
    """What a declaration usually does: this request has that answer, as JSON or, from 200 on, as its status."""

    def check(user: User) -> None:
        answer = extra(user, method, suffix, **options)
        is_status = isinstance(expected, int) and expected >= httpx.codes.OK
        assert (answer.status_code if is_status else answer.json()) == expected, answer.text

    return check


def both(*checks: Check) -> Check:
    def check(user: User) -> None:
        for each in checks:
            each(user)

    return check


def wrong(sentence: str, loc: list[str | int], kind: str) -> dict[str, Any]:
    return {"detail": f"{sentence[0].upper()}{sentence[1:]}.", "errors": [{"loc": loc, "msg": sentence, "type": kind}]}


# Parameters


@done
def an_optional_query_parameter(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.get("", response_model=list[TaskRead])
        async def some(tasks: OwnedTasks, completed: bool | None = None) -> Any:  # noqa: FBT001 - a query parameter
            rows = await tasks.all().read(None, 100)
            return [row for row in rows if completed in {None, row["completed"]}]

    def check(user: User) -> None:
        todo, ready = user.add("todo"), user.add("done", completed=True)
        assert extra(user).json() == [ready, todo]
        assert extra(user, suffix="?completed=true").json() == [ready]
        assert extra(user, suffix="?completed=false").json() == [todo]
        sentence = "completed should be a valid boolean, unable to interpret input"
        refused = extra(user, suffix="?completed=banana")
        assert (refused.status_code, refused.json()) == (
            422,
            wrong(sentence, ["query", "completed"], "bool_parsing"),
        )

    return check


@done
def a_query_parameter_beside_a_list_in_pages(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.get("", response_model=list[TaskRead])
        async def every(tasks: OwnedTasks, response_delay: float = 0) -> Pages:
            await asyncio.sleep(response_delay)
            return tasks.all()

    def check(user: User) -> None:
        for _ in range(300):  # more than one page, so that it is sent in pieces
            user.add()
        usual = user.http.get(user.tasks)
        for answer in (extra(user), extra(user, suffix="?response_delay=0.001")):
            assert (answer.content, "content-length" in answer.headers) == (usual.content, False)
        assert extra(user, suffix="?response_delay=long").status_code == 422

    return check


@done
def a_required_query_parameter(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.get("")
        async def asked(q: Annotated[str, Query(min_length=2)]) -> str:
            return q

    return both(
        says("ab", suffix="?q=ab"),
        says(wrong("q is required", ["query", "q"], "missing")),
        says(wrong("q should have at least 2 characters", ["query", "q"], "string_too_short"), suffix="?q=a"),
    )


@done
def query_parameters_in_a_model(app: FastAPI) -> Check:
    class Page(BaseModel):
        size: int = 10
        tags: list[str] = []

    with owned(app) as router:

        @router.get("")
        async def page(page: Annotated[Page, Query()]) -> Page:
            return page

    return both(
        says({"size": 10, "tags": []}),
        says({"size": 3, "tags": ["a", "b"]}, suffix="?size=3&tags=a&tags=b"),
    )


@done
def a_header(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.get("")
        async def seen(x_first: Annotated[str, Header()], x_second: Annotated[int | None, Header()] = None) -> Any:
            return [x_first, x_second]

    return both(says(["a", 2], headers={"x-first": "a", "x-second": "2"}), says(422))


@done
def a_header_beside_the_idempotency_key(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.post("")
        async def seen(key: IdempotencyKey, x_second: Annotated[str | None, Header()] = None) -> Any:
            return [key, x_second]

    twice = [("idempotency-key", "a"), ("idempotency-key", "b")]
    return both(
        says(["k", "2"], "POST", headers={"Idempotency-Key": "k", "x-second": "2"}),
        says([None, None], "POST"),
        says(400, "POST", headers={"Idempotency-Key": "a b"}),
        says(400, "POST", headers=twice),
    )


@done
def a_cookie(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.get("", response_model=list[TaskRead])
        async def every(tasks: OwnedTasks, session: Annotated[str | None, Cookie()] = None) -> Pages:
            if session:
                raise HTTPException(418, session)
            return tasks.all()

    return both(says([]), says({"detail": "abc"}, headers={"cookie": "session=abc"}))


@done
def other_path_parameters(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.get("/{year}/{rest:path}")
        async def seen(year: Annotated[int, Path(ge=2000)], rest: str) -> Any:
            return [year, rest]

    return both(
        says([2026, "a/b"], suffix="/2026/a/b"),
        says(
            wrong("year should be greater than or equal to 2000", ["path", "year"], "greater_than_equal"), suffix="/1/a"
        ),
    )


@done
def renamed_arguments(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.put("/{id}", response_model=TaskRead)
        async def renamed(number: TaskId, mine: OwnedTasks, changes: TaskUpdate, once: IdempotencyKey) -> Row:
            assert once == "k"
            return await mine.change(number, changes)

    def check(user: User) -> None:
        suffix, headers = f"/{user.add()['id']}", {"Idempotency-Key": "k"}
        assert extra(user, "PUT", suffix, headers=headers, json={"title": "new"}).json()["title"] == "new"
        sentence = "id should be a whole number from 1 to 9223372036854775807"
        says(wrong(sentence, ["path", "id"], "task_id"), "PUT", "/01", json={"title": "new"})(user)

    return check


@done
def a_task_id_where_fastapi_binds_it(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.get("/{id}")
        async def seen(number: TaskId, q: str) -> Any:
            return [number, q]

    sentence = "id should be a whole number from 1 to 9223372036854775807"
    return both(
        says([7, "a"], suffix="/7?q=a"),
        *(says(wrong(sentence, ["path", "id"], "task_id"), suffix=f"/{bad}?q=a") for bad in ("0", "+1", "1.0", 2**63)),
    )


@done
def the_request(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.get("")
        async def seen(request: Request, connection: HTTPConnection) -> Any:
            return [request.method, connection.url.path]

    return lambda user: says(["GET", f"/api/{user.id}/extra"])(user)


@done
def the_request_alone(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.delete("", status_code=204)
        async def seen(request: Request) -> None:
            assert request.headers["x-so"] == "1"
            assert await request.body() == b"anything"

    return says(204, "DELETE", headers={"x-so": "1"}, content=b"anything")


@done
def an_id_without_tasks(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.delete("/{id}", status_code=204)
        async def nothing(number: TaskId) -> None:
            assert number == 7

    return both(says(204, "DELETE", "/7"), says(422, "DELETE", "/07"))


# Bodies


@done
def two_bodies(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.post("")
        async def seen(task: TaskCreate, note: Annotated[str, Body()]) -> Any:
            return [task.title, note]

    return both(
        says(["a", "b"], "POST", json={"task": {"title": "a"}, "note": "b"}),
        says(
            wrong("title should have at least 1 character", ["body", "task", "title"], "string_too_short"),
            "POST",
            json={"task": {"title": ""}, "note": "b"},
        ),
    )


@done
def an_embedded_body(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.post("")
        async def seen(task: Annotated[TaskCreate, Body(embed=True)]) -> Any:
            return task.title

    return says("a", "POST", json={"task": {"title": "a"}})


@done
def an_optional_body(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.patch("")
        async def seen(task: TaskCreate | None = None) -> Any:
            return task and task.title

    return both(says(None, "PATCH"), says("a", "PATCH", json={"title": "a"}), says(400, "PATCH", content=b"{"))


@done
def a_body_without_a_model(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.post("", response_model=None, status_code=202)
        async def seen(numbers: list[int]) -> Any:
            return numbers

    return both(says([1, 2], "POST", json=[1, 2]), says(202, "POST", json=[]), says(422, "POST", json=["a"]))


@done
def a_body_of_another_kind(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.post("")
        async def seen(text: Annotated[bytes, Body(media_type="text/plain")]) -> Any:
            return text.decode()

    return says("abc", "POST", content=b"abc", headers={"content-type": "text/plain"})


@done
def a_media_type_that_has_to_be_said(app: FastAPI) -> Check:
    router = APIRouter(prefix=EXTRA, route_class=OwnedRoute)

    @router.post("")
    async def seen(task: TaskCreate) -> Any:
        return task.title

    app.include_router(router)
    return both(says(415, "POST", content=b'{"title": "a"}'), says("a", "POST", json={"title": "a"}))


@done
def the_rules_for_bodies_beside_a_dependency(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.post("", dependencies=[Depends(lambda: None)], response_model=TaskRead, status_code=201)
        async def create(tasks: OwnedTasks, task: TaskCreate, key: IdempotencyKey) -> Any:
            return await tasks.add(task, key)

    bodies: list[dict[str, Any]] = [
        {"json": {"title": ""}},
        {"json": {"title": "a", "completed": None}},
        {"json": []},
        {"content": b""},
        {"content": b'{"title": NaN}'},
        {"content": b"{}"},
        {"content": b'{"title": "a"}', "headers": {"content-type": "text/plain"}},
        {"content": b'{"title": "a"}'},
        {"content": b" " * 65_537},
        {"json": {"title": "a"}, "headers": {"idempotency-key": ""}},
    ]

    def check(user: User) -> None:
        for body in bodies:
            usual, here = user.http.post(user.tasks, **body), extra(user, "POST", **body)
            assert here.status_code == usual.status_code, body
            if usual.is_error:
                assert here.json() == usual.json(), body

    return check


# Dependencies


@done
def a_dependency_of_a_route(app: FastAPI) -> Check:
    def limiter() -> None:
        raise HTTPException(429, "Slowly.", {"Retry-After": "7"})

    with owned(app) as router:

        @router.post("", dependencies=[Depends(limiter)], response_model=TaskRead)
        async def create(tasks: OwnedTasks, task: TaskCreate) -> Row:
            return await tasks.add(task, None)

    def check(user: User) -> None:
        answer = extra(user, "POST", json={"title": "a"})
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
        assert answer.json() == {"detail": "Slowly."}
        assert answer.headers["cache-control"] == "no-store"
        assert user.list() == []

    return check


@done
def a_dependency_of_a_router(app: FastAPI) -> Check:
    ran: list[str] = []
    router = APIRouter(prefix=EXTRA, route_class=OwnedRoute, dependencies=[Depends(lambda: ran.append("router"))])

    @router.get("")
    async def seen() -> Any:
        return ran

    app.include_router(router)
    return says(["router"])


@done
def a_dependency_of_an_inclusion(app: FastAPI) -> Check:
    def set_header(response: Response) -> None:
        response.headers["x-included"] = "1"

    with owned(app, dependencies=[Depends(set_header)]) as router:

        @router.get("", response_model=list[TaskRead])
        async def every(tasks: OwnedTasks) -> Any:
            return tasks.all()

    def check(user: User) -> None:
        task = user.add()
        answer = extra(user)
        assert (answer.json(), answer.headers["x-included"]) == ([task], "1")

    return check


@done
def a_dependency_of_the_application(app: FastAPI) -> Check:
    ran: list[str] = []
    app.router.dependencies.append(Depends(lambda: ran.append("application")))

    @app.get("/plain")
    async def plain() -> Any:
        return ran

    with owned(app) as router:

        @router.get("")
        async def seen() -> Any:
            return ran

    def check(user: User) -> None:
        assert user.http.get("/plain").json() == ["application"]
        assert extra(user).json() == ["application", "application"]

    return check


@done
def a_dependency_with_a_default(app: FastAPI) -> Check:
    async def page(size: int = 5) -> int:
        return size

    with owned(app) as router:

        @router.get("")
        async def seen(size: int = Depends(page)) -> Any:
            return size

    return both(says(5), says(8, suffix="?size=8"))


@done
def a_dependency_with_yield(app: FastAPI) -> Check:
    steps: list[str] = []

    async def session() -> AsyncIterator[str]:
        steps.append("open")
        yield "session"
        steps.append("closed")

    with owned(app) as router:

        @router.get("")
        async def seen(session: Annotated[str, Depends(session)]) -> Any:
            return [session, *steps]

    def check(user: User) -> None:
        assert extra(user).json() == ["session", "open"]
        wait_until(lambda: steps == ["open", "closed"])

    return check


@done
def a_dependency_with_yield_that_sees_the_error(app: FastAPI) -> Check:
    async def translated() -> AsyncIterator[None]:
        try:
            yield
        except TaskNotFound:
            raise HTTPException(410, "Gone.") from None

    with owned(app) as router:

        @router.get("/{id}", dependencies=[Depends(translated)])
        async def seen(tasks: OwnedTasks, task_id: TaskId) -> Any:
            return await tasks.get(task_id)

    return both(says(410, suffix="/1"), says({"detail": "Gone."}, suffix="/1"))


@done
def a_security_dependency(app: FastAPI) -> Check:
    def keyed(key: Annotated[str | None, Security(APIKeyHeader(name="x-key", auto_error=False))]) -> str:
        if key != "right":
            raise HTTPException(403, "Wrong key.")
        return key

    with owned(app) as router:

        @router.get("", response_model=list[TaskRead])
        async def every(tasks: OwnedTasks, _key: Annotated[str, Depends(keyed)]) -> Pages:
            return tasks.all()

    return both(says({"detail": "Wrong key."}), says([], headers={"x-key": "right"}))


@done
def security_scopes(app: FastAPI) -> Check:
    async def scoped(scopes: SecurityScopes) -> list[str]:
        return scopes.scopes

    with owned(app) as router:

        @router.get("")
        async def seen(scopes: Annotated[list[str], Security(scoped, scopes=["tasks"])]) -> Any:
            return scopes

    return says(["tasks"])


@done
def a_dependency_on_the_owners_tasks(app: FastAPI) -> Check:
    async def counted(tasks: OwnedTasks) -> int:
        return len(await tasks.all().read(None, 100))

    with owned(app) as router:

        @router.get("")
        async def seen(count: Annotated[int, Depends(counted)]) -> Any:
            return count

    def check(user: User) -> None:
        user.add()
        says(1)(user)

    return check


@done
def an_override_of_a_dependency(app: FastAPI) -> Check:
    async def nobody() -> str:
        return "nobody"

    with owned(app) as router:

        @router.get("")
        async def seen(tasks: OwnedTasks) -> Any:
            return tasks

    app.dependency_overrides[owned_tasks] = nobody

    def check(user: User) -> None:
        anonymous = httpx.get(f"{user.http.base_url}{EXTRA}")
        assert (anonymous.status_code, anonymous.json()) == (200, "nobody")
        assert user.http.get(f"/api/{user.id}/tasks/1").status_code == 500  # `nobody` has no tasks

    return check


# Answers


@done
def a_response_model_with_fewer_fields(app: FastAPI) -> Check:
    class Title(BaseModel):
        title: str

    with owned(app) as router:

        @router.get("/list", response_model=list[Title])
        async def every(tasks: OwnedTasks) -> Pages:
            return tasks.all()

        @router.get("/{id}", response_model=Title)
        async def seen(tasks: OwnedTasks, task_id: TaskId) -> Row:
            return await tasks.get(task_id)

    def check(user: User) -> None:
        tasks = [user.add() for _ in range(300)]  # more than a page
        assert extra(user, suffix=f"/{tasks[0]['id']}").json() == {"title": "Buy milk"}
        assert extra(user, suffix="/list").json() == [{"title": "Buy milk"}] * 300

    return check


@done
def a_response_model_with_more_or_other_fields(app: FastAPI) -> Check:
    class Shown(TaskRead):
        id: str  # type: ignore[assignment]

        @computed_field  # type: ignore[prop-decorator]
        @property
        def short(self) -> str:
            return self.title[:3]

        @field_serializer("title")
        def shout(self, title: str) -> str:
            return title.upper()

    with owned(app) as router:

        @router.get("/{id}", response_model=Annotated[Shown, AfterValidator(lambda shown: shown)])
        async def seen(tasks: OwnedTasks, task_id: TaskId) -> Any:
            row = await tasks.get(task_id)
            return {**dict(row), "id": str(row["id"])}

    def check(user: User) -> None:
        task = user.add()
        shown = extra(user, suffix=f"/{task['id']}").json()
        assert shown == {**task, "id": str(task["id"]), "title": "BUY MILK", "short": "Buy"}

    return check


@done
def a_computed_field(app: FastAPI) -> Check:
    class Shown(TaskRead):
        @computed_field  # type: ignore[prop-decorator]
        @property
        def short(self) -> str:
            return self.title[:3]

    with owned(app) as router:

        @router.get("/{id}", response_model=Shown)
        async def seen(tasks: OwnedTasks, task_id: TaskId) -> Row:
            return await tasks.get(task_id)

    def check(user: User) -> None:
        task = user.add()
        assert extra(user, suffix=f"/{task['id']}").json() == {**task, "short": "Buy"}

    return check


@done
def an_alias(app: FastAPI) -> Check:
    class Shown(BaseModel):
        title: str = Field(serialization_alias="name")

    with owned(app) as router:

        @router.get("/{id}", response_model=Shown)
        async def seen(tasks: OwnedTasks, task_id: TaskId) -> Row:
            return await tasks.get(task_id)

    return lambda user: says({"name": "Buy milk"}, suffix=f"/{user.add()['id']}")(user)


@done
def fields_left_out(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.get("/{id}", response_model=TaskRead, response_model_include={"title", "description"})
        async def some(tasks: OwnedTasks, task_id: TaskId) -> Row:
            return await tasks.get(task_id)

        @router.get("/{id}/known", response_model=TaskRead, response_model_exclude_none=True)
        async def known(tasks: OwnedTasks, task_id: TaskId) -> Row:
            return await tasks.get(task_id)

    def check(user: User) -> None:
        task = user.add()
        assert extra(user, suffix=f"/{task['id']}").json() == {"title": "Buy milk", "description": None}
        assert "description" not in extra(user, suffix=f"/{task['id']}/known").json()

    return check


@done
def a_field_that_the_response_model_does_not_have(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.get("/{id}", response_model=TaskRead)
        async def seen(tasks: OwnedTasks, task_id: TaskId) -> Any:
            return {**dict(await tasks.get(task_id)), "secret": "leaked"}

        @router.get("/{id}/whole", response_model=TaskRead)
        async def whole(tasks: OwnedTasks, task_id: TaskId) -> Any:
            return TaskRead.model_validate(dict(await tasks.get(task_id)))

    def check(user: User) -> None:
        task = user.add()
        assert extra(user, suffix=f"/{task['id']}").json() == extra(user, suffix=f"/{task['id']}/whole").json() == task

    return check


@done
def an_answer_that_breaks_its_response_model(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.get("", response_model=TaskRead)
        async def seen() -> Any:
            return {"title": "a"}

        @router.get("/list", response_model=TaskRead)
        async def every(tasks: OwnedTasks) -> Pages:
            return tasks.all()

        @router.get("/{id}", response_model=TaskRead)
        async def one(tasks: OwnedTasks, task_id: TaskId) -> Row:
            return {**dict(await tasks.get(task_id)), "secret": "leaked"}  # type: ignore[return-value]  # a lie

    return both(says(500), says(500, suffix="/list"), lambda user: says(500, suffix=f"/{user.add()['id']}")(user))


@done
def a_return_type(app: FastAPI) -> Check:
    class Title(BaseModel):
        title: str

    with owned(app) as router:

        @router.get("")
        async def seen() -> Title:
            return Title.model_construct(title="a", secret="leaked")

    return says({"title": "a"})


@done
def a_response_class(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.get("", response_class=PlainTextResponse)
        async def seen() -> Any:
            return "text"

    def check(user: User) -> None:
        answer = extra(user)
        assert (answer.text, answer.headers["content-type"]) == ("text", "text/plain; charset=utf-8")
        assert answer.headers["cache-control"] == "no-store"

    return check


@done
def a_response_of_ones_own(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.get("", response_model=TaskRead)
        async def seen(tasks: OwnedTasks) -> Any:
            return JSONResponse({"user": type(tasks).__name__}, 203, {"x-own": "1", "cache-control": "private"})

    def check(user: User) -> None:
        answer = extra(user)
        assert (answer.status_code, answer.headers["x-own"], answer.json()) == (203, "1", {"user": "Tasks"})
        assert answer.headers["cache-control"] == "private"
        assert "x-request-id" in answer.headers

    return check


@done
def a_stream(app: FastAPI) -> Check:
    async def lines() -> AsyncIterator[str]:
        for each in "ab":
            yield each
            await asyncio.sleep(0)

    with owned(app) as router:

        @router.get("")
        async def seen() -> StreamingResponse:
            return StreamingResponse(lines(), media_type="text/csv")

    return lambda user: equal(extra(user).text, "ab")


@done
def a_generator(app: FastAPI) -> Check:
    class Line(BaseModel):
        number: int

    with owned(app) as router:

        @router.get("")
        async def seen() -> AsyncIterator[Line]:
            for number in (1, 2):
                yield Line(number=number)

    return lambda user: equal(extra(user).text.replace(" ", ""), '{"number":1}\n{"number":2}\n')


@done
def a_status(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.get("", response_model=list[TaskRead], status_code=203)
        async def every(tasks: OwnedTasks) -> Pages:
            return tasks.all()

        @router.post("", response_model=TaskRead, status_code=202)
        async def create(tasks: OwnedTasks, task: TaskCreate) -> Row:
            return await tasks.add(task, None)

    return both(says(203), says(202, "POST", json={"title": "a"}))


@done
def the_response(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.get("", response_model=list[TaskRead])
        async def every(tasks: OwnedTasks, response: Response) -> Pages:
            response.headers["x-set"] = "1"
            response.status_code = 206
            response.set_cookie("seen", "1")
            return tasks.all()

    def check(user: User) -> None:
        task = user.add()
        answer = extra(user)
        assert (answer.status_code, answer.headers["x-set"], answer.json()) == (206, "1", [task])
        assert answer.cookies["seen"] == "1"

    return check


@done
def background_tasks(app: FastAPI) -> Check:
    ran: list[str] = []

    with owned(app) as router:

        @router.get("", response_model=list[TaskRead])
        async def every(tasks: OwnedTasks, background: BackgroundTasks) -> Pages:
            background.add_task(ran.append, "list")
            return tasks.all()

    def check(user: User) -> None:
        says([])(user)
        wait_until(lambda: ran == ["list"])

    return check


@done
def a_sync_endpoint(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.get("", response_model=list[TaskRead])
        def every(tasks: OwnedTasks) -> Pages:
            time.sleep(0.001)
            return tasks.all()

    def check(user: User) -> None:
        task = user.add()
        says([task])(user)

    return check


# Errors


class Teapot(Exception):
    pass


@done
def an_http_exception(app: FastAPI) -> Check:
    with owned(app) as router:

        @router.get("")
        async def seen() -> Any:
            raise HTTPException(418, {"kind": "teapot"}, {"x-tea": "green"})

    def check(user: User) -> None:
        answer = extra(user, headers={"Origin": "http://localhost:3000"})
        assert (answer.status_code, answer.headers["x-tea"]) == (418, "green")
        assert answer.json() == {"detail": {"kind": "teapot"}}
        assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"

    return check


def raising(app: FastAPI, error: Exception) -> None:
    with owned(app) as router:

        @router.get("")
        async def seen() -> Any:
            raise error


@done
def a_handler_of_an_own_exception(app: FastAPI) -> Check:
    raising(app, Teapot("short and stout"))

    @app.exception_handler(Teapot)
    async def answer(_request: Request, error: Teapot) -> Response:
        return JSONResponse({"tea": str(error)}, 418)

    return both(says(418), says({"tea": "short and stout"}))


@done
def a_sync_handler_of_http_exceptions(app: FastAPI) -> Check:
    raising(app, HTTPException(418, "tea"))

    @app.exception_handler(StarletteHTTPException)
    def answer(_request: Request, error: StarletteHTTPException) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code)

    def check(user: User) -> None:
        says({"error": "tea"})(user)
        refused = httpx.get(f"{user.http.base_url}{user.tasks}")
        assert (refused.status_code, refused.json()) == (401, {"error": "An access token is required."})

    return check


@done
def a_handler_of_a_status(app: FastAPI) -> Check:
    @app.exception_handler(404)
    async def answer(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"path": request.url.path, "was": error.detail}, 404)

    def check(user: User) -> None:
        assert user.http.get("/nowhere").json() == {"path": "/nowhere", "was": "Not found."}
        assert user.http.get(f"{user.tasks}/1").json() == {"path": f"{user.tasks}/1", "was": "Task not found."}

    return check


@done
def a_handler_of_an_error_of_ours(app: FastAPI) -> Check:
    @app.exception_handler(NotFound)
    async def answer(_request: Request, error: NotFound) -> Response:
        return PlainTextResponse(type(error).__name__, 410)

    def check(user: User) -> None:
        answer = user.http.get(f"{user.tasks}/1")
        assert (answer.status_code, answer.text) == (410, "TaskNotFound")

    return check


@done
def a_handler_of_validation_errors(app: FastAPI) -> Check:
    @app.exception_handler(RequestValidationError)
    async def answer(_request: Request, error: RequestValidationError) -> Response:
        return JSONResponse({"where": [list(each["loc"]) for each in error.errors()]}, 400)

    with owned(app) as router:

        @router.get("")
        async def seen(q: int) -> Any:
            return q

    def check(user: User) -> None:
        says({"where": [["query", "q"]]}, suffix="?q=a")(user)
        assert user.http.post(user.tasks, json={"title": ""}).json() == {"where": [["body", "title"]]}
        assert user.http.get(f"{user.tasks}/0").json() == {"where": [["path", "id"]]}

    return check


@done
def a_handler_of_whatever_else_is_raised(app: FastAPI) -> Check:
    raising(app, ZeroDivisionError())

    @app.exception_handler(Exception)
    async def answer(_request: Request, error: Exception) -> Response:
        return JSONResponse({"failed": type(error).__name__}, 500)

    def check(user: User) -> None:
        says({"failed": "ZeroDivisionError"})(user)
        assert user.http.get(f"{user.tasks}/1").json() == {"detail": "Task not found."}

    return check


@done
def a_handler_that_fails(app: FastAPI) -> Check:
    raising(app, Teapot())

    @app.exception_handler(Teapot)
    async def answer(_request: Request, error: Teapot) -> Response:
        raise error

    return both(says(500), says({"detail": "Internal server error."}))


# Around the routes


@done
def a_middleware(app: FastAPI) -> Check:
    app.add_middleware(GZipMiddleware, minimum_size=1)

    def check(user: User) -> None:
        task = user.add()
        answer = user.http.get(user.tasks, headers={"accept-encoding": "gzip", "Origin": "http://localhost:3000"})
        assert (answer.headers["content-encoding"], answer.json()) == ("gzip", [task])
        assert {"x-request-id", "access-control-allow-origin"} <= answer.headers.keys()

    return check


@done
def a_middleware_of_a_function(app: FastAPI) -> Check:
    seen: list[int] = []

    @app.middleware("http")
    async def counted(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        request.state.said = "so"
        response = await call_next(request)
        seen.append(response.status_code)
        response.headers["x-counted"] = str(len(seen))
        return response

    with owned(app) as router:

        @router.get("")
        async def said(request: Request) -> Any:
            return request.state.said

        @router.get("/failing")
        async def failing() -> Any:
            raise ZeroDivisionError

    def check(user: User) -> None:
        says("so")(user)
        with httpx.Client(base_url=user.http.base_url) as anonymous:
            answers = [user.http.get(f"{user.tasks}/1"), user.http.get("/nowhere"), anonymous.get(user.tasks)]
        assert [answer.headers["x-counted"] for answer in answers] == ["2", "3", "4"]
        assert seen == [200, 404, 404, 401]
        details = ["Task not found.", "Not found.", "An access token is required."]
        assert [answer.json()["detail"] for answer in answers] == details
        failed = extra(user, suffix="/failing")
        assert (failed.status_code, failed.json()) == (500, {"detail": "Internal server error."})

    return check


@done
def a_middleware_and_a_handler(app: FastAPI) -> Check:
    raising(app, Teapot("short"))
    app.add_middleware(GZipMiddleware, minimum_size=1)

    @app.exception_handler(Teapot)
    async def answer(_request: Request, error: Teapot) -> Response:
        return JSONResponse({"tea": str(error)}, 418)

    def check(user: User) -> None:
        answer = extra(user, headers={"accept-encoding": "gzip"})
        assert (answer.status_code, answer.json(), answer.headers["content-encoding"]) == (
            418,
            {"tea": "short"},
            "gzip",
        )

    return check


@done
def plain_routes(app: FastAPI) -> Check:
    router = APIRouter(prefix="/plain")

    @app.get("/items/{item}")
    async def item(item: int, q: str | None = None) -> Any:
        return [item, q]

    @app.post("/items", status_code=201)
    def create(body: TaskCreate) -> Any:
        return body.title

    @router.get("/nested")
    async def nested() -> Any:
        return "nested"

    app.include_router(router, prefix="/v1")

    def check(user: User) -> None:
        http = user.http
        assert http.get("/items/3?q=a").json() == [3, "a"]
        refused = http.get("/items/a")
        assert (refused.status_code, refused.json()["detail"]) == (
            422,
            "Item should be a valid integer, unable to parse string as an integer.",
        )
        created = http.post("/items", json={"title": "a"})
        assert (created.status_code, created.json()) == (201, "a")
        assert http.post("/items", content=b"{", headers={"content-type": "application/json"}).status_code == 400
        assert http.get("/v1/plain/nested").json() == "nested"
        wrong_method = http.delete("/items")
        assert (wrong_method.status_code, wrong_method.headers["allow"]) == (405, "POST")

    return check


@done
def a_plain_route_on_an_owners_tasks(app: FastAPI) -> Check:
    @app.get(EXTRA)
    async def count(tasks: OwnedTasks) -> int:
        return len(await tasks.all().read(None, 100))

    return says(0)


@done
def routers_in_routers(app: FastAPI) -> Check:
    inner, outer = APIRouter(prefix="/{user_id}", route_class=OwnedRoute), APIRouter(prefix="/api")

    @inner.get("/extra", response_model=list[TaskRead])
    async def every(tasks: OwnedTasks) -> Any:
        return tasks.all()

    outer.include_router(inner)
    app.include_router(outer)

    @inner.get("/extra/late", response_model=list[TaskRead])
    async def late(tasks: OwnedTasks) -> Any:
        return tasks.all()

    def check(user: User) -> None:
        task = user.add()
        for suffix in ("", "/", "/late"):
            answer = extra(user, suffix=suffix)
            assert answer.json() == [task]
            assert answer.headers["cache-control"] == "no-store"
        assert user.http.get(f"/api/{user.id}%2Fextra").status_code == 404
        assert extra(user, "POST").headers["allow"] == "GET, HEAD"

    return check


@done
def a_mount(app: FastAPI) -> Check:
    inside = FastAPI()

    @inside.get("/hello")
    async def hello() -> Any:
        return "hello"

    async def bare(_request: Request) -> Response:
        return PlainTextResponse("bare")

    app.mount("/inside", inside)
    app.router.routes.append(Mount("/bare", routes=[Route("/it", bare)]))

    def check(user: User) -> None:
        assert user.http.get("/inside/hello").json() == "hello"
        assert user.http.get("/bare/it").text == "bare"
        assert user.http.get("/inside/nowhere").status_code == 404

    return check


@done
def a_size_of_the_body(app: FastAPI) -> Check:
    with owned(app, max_body_size=100_000) as router:

        @router.post("", max_body_size=20)
        async def usual(tasks: OwnedTasks, task: TaskCreate) -> None: ...

        @router.post("/large")
        async def large(tags: Annotated[list[int], Body()]) -> int:
            return len(tags)

    def check(user: User) -> None:
        assert extra(user, "POST", content=b" " * 21, headers={"Authorization": "Bearer none"}).status_code == 401
        assert extra(user, "POST", json={"title": 20 * "a"}).status_code == 413
        assert extra(user, "POST", json={"title": "a"}).status_code == 200
        assert extra(user, "POST", "/large", json=[1] * 40_000).json() == 40_000
        assert extra(user, "POST", "/large", json=[1] * 60_000).status_code == 413

    return check


@done
def a_lifespan_of_a_router(app: FastAPI) -> Check:
    @asynccontextmanager
    async def opened(_app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        yield {"word": "opened"}

    router = APIRouter(prefix=EXTRA, route_class=OwnedRoute, lifespan=opened)

    @router.get("")
    async def seen(request: Request) -> Any:
        return request.state.word

    app.include_router(router)
    return says("opened")


@done
def a_root_path(app: FastAPI) -> Check:
    app.root_path = "/behind"

    with owned(app) as router:

        @router.get("")
        async def seen(request: Request) -> Any:
            return request.scope["root_path"]

    return says("/behind")


def equal(found: object, expected: object) -> None:
    assert found == expected


def wait_until(reached: Callable[[], bool]) -> None:
    """Wait for what happens after an answer."""
    until = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < until
        time.sleep(0.01)


def extra_routes(app: FastAPI) -> list[tuple[str, str]]:
    contexts = [each for each in iter_route_contexts(app.routes) if str(each.path).startswith(EXTRA)]
    return sorted({(method, str(each.path)) for each in contexts for method in each.methods or ()})


@pytest.mark.spec("FR-024")
@pytest.mark.parametrize("declaration", DONE, ids=lambda each: each.__name__)
def test_what_is_declared_is_done_and_after_the_owner_is_known(settings: Settings, declaration: Declaration) -> None:
    app = create_app(settings)
    check = declaration(app)

    with serving(None, app=app) as url:
        user, stranger = User(url), User(url)
        with user.http, stranger.http:
            check(user)

            statuses = {
                (method, path): (
                    httpx.request(method, url + path.replace("{user_id}", user.id), content=b"{").status_code,
                    stranger.http.request(method, path.replace("{user_id}", user.id), content=b"{").status_code,
                )
                for method, path in extra_routes(app)
            }
    if declaration is not an_override_of_a_dependency:
        assert {each: found for each, found in statuses.items() if found != (401, 403)} == {}


@pytest.mark.spec("FR-024")
def test_no_dependency_runs_for_a_stranger_and_no_body_is_looked_at(settings: Settings) -> None:
    app, ran = create_app(settings), list[str]()

    with owned(app, dependencies=[Depends(lambda: ran.append("inclusion"))]) as router:

        @router.post("", dependencies=[Depends(lambda: ran.append("route"))])
        async def create(
            _first: Annotated[None, Depends(lambda: ran.append("first"))], tasks: OwnedTasks, task: TaskCreate
        ) -> Any:
            return [type(tasks) is Tasks, task.title]

    with serving(None, app=app) as url:
        user, stranger = User(url), User(url)
        with user.http, stranger.http:
            path = f"/api/{user.id}/extra"
            malformed, large = b"{", b" " * 100_000
            assert [httpx.post(url + path, content=body).status_code for body in (malformed, large)] == [401, 401]
            assert [stranger.http.post(path, content=body).status_code for body in (malformed, large)] == [403, 403]
            assert [user.http.post(path, content=body).status_code for body in (malformed, large)] == [400, 413]
            assert ran == []
            assert user.http.post(path, json={"title": "a"}).json() == [True, "a"]
            assert ran == ["inclusion", "route", "first"]


def without_the_owner(app: FastAPI) -> None:
    router = APIRouter(prefix="/api/notes", route_class=OwnedRoute)

    @router.get("")
    async def notes() -> None: ...

    app.include_router(router)


def a_path_parameter_that_is_not_in_the_path(app: FastAPI) -> None:
    with owned(app) as router:

        @router.get("/{number}")
        async def one(tasks: OwnedTasks, number: TaskId) -> None: ...


def a_websocket(app: FastAPI) -> None:
    @app.websocket("/ws")
    async def listen(websocket: WebSocket) -> None: ...


def a_websocket_of_a_router(app: FastAPI) -> None:
    router = APIRouter(prefix="/live")

    @router.websocket("/ws")
    async def listen(websocket: WebSocket) -> None: ...

    app.include_router(router)


def a_second_cors_middleware(app: FastAPI) -> None:
    app.add_middleware(CORSMiddleware, allow_origins=["https://elsewhere.example"])


def a_form(app: FastAPI) -> None:
    with owned(app) as router:

        @router.post("")
        async def seen(title: Annotated[str, Form()]) -> None: ...


def a_file(app: FastAPI) -> None:
    with owned(app) as router:

        @router.post("")
        async def seen(upload: UploadFile) -> None: ...


def an_event(app: FastAPI) -> None:
    @app.on_event("startup")
    async def start() -> None: ...


def an_event_of_a_router(app: FastAPI) -> None:
    async def start() -> None: ...

    app.include_router(APIRouter(on_startup=[start]))


# Of FastAPI, as long as nobody adds the package that reads them.
FORMS = (
    'Form data requires "python-multipart" to be installed. \nYou can install "python-multipart" with: \n\n'
    "pip install python-multipart"
)


@pytest.mark.spec("FR-024")
@pytest.mark.parametrize(
    ("declaration", "sentence"),
    [
        (without_the_owner, "notes at '/api/notes': the path has no parameter {user_id}"),
        (
            a_path_parameter_that_is_not_in_the_path,
            "one at '/api/{user_id}/extra/{number}': the path has no parameter {id}",
        ),
        (a_websocket, "websocket at '/ws': `serve` speaks no WebSocket"),
        (a_websocket_of_a_router, "websocket at '/live/ws': `serve` speaks no WebSocket"),
        (a_second_cors_middleware, "CORSMiddleware: preflights are answered before it; set CORS_ORIGINS"),
        (a_form, FORMS),
        (a_file, FORMS),
        (an_event, "on_event('startup'): the lifespan in backend/main.py is run instead"),
        (an_event_of_a_router, "on_event('startup'): the lifespan in backend/main.py is run instead"),
    ],
)
def test_what_cannot_be_done_is_refused_when_it_is_declared(
    settings: Settings, declaration: Callable[[FastAPI], None], sentence: str
) -> None:
    app = create_app(settings)

    with pytest.raises((TypeError, RuntimeError)) as refused:
        declaration(app)

    assert str(refused.value).strip() == sentence


class Computed(TaskRead):
    @computed_field  # type: ignore[prop-decorator]
    @property
    def short(self) -> str:
        return self.title[:3]


class Checked(TaskRead):
    title: Annotated[str, AfterValidator(str.upper)]


class Renamed(TaskRead):
    title: str = Field(alias="name")


class Hidden(TaskRead):
    user_id: str = Field(exclude=True)


class Priced(TaskRead):
    price: Decimal  # orjson does not know it


class Configured(TaskRead, str_to_upper=True):
    pass


class Longer(TaskRead):
    priority: Literal["low", "high"] = Field(description="How soon.")
    due: date | None


@pytest.mark.spec("FR-024")
@pytest.mark.parametrize("model", [TaskRead, Longer, Computed, Checked, Renamed, Hidden, Priced, Configured])
def test_rows_are_answered_as_they_are_only_where_the_model_would_leave_them_so(model: type[BaseModel]) -> None:
    assert is_plain(model) == (model in {TaskRead, Longer})


@pytest.mark.spec("FR-024")
def test_a_field_that_is_computed_in_the_shape_of_all_answers_is_answered(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "TaskRead", Computed)
    monkeypatch.setattr(routing, "_PLAIN_ANSWERS", ([Row, Computed],))
    app = create_app(settings)

    with owned(app) as router:

        @router.get("/{id}", response_model=Computed)
        async def seen(tasks: OwnedTasks, task_id: TaskId) -> Row:
            return await tasks.get(task_id)

    with serving(None, app=app) as url:
        user = User(url)
        with user.http:
            task = user.add()
            assert extra(user, suffix=f"/{task['id']}").json() == {**task, "short": "Buy"}


@pytest.mark.spec("FR-024", "FR-015")
def test_the_document_has_a_422_where_one_can_happen_and_as_it_looks(settings: Settings) -> None:
    app = create_app(settings)

    @app.get("/asked")
    async def asked(q: int) -> None: ...

    @app.get("/named/{name}")
    async def named(name: str) -> None: ...

    document = app.openapi()

    responses = document["paths"]["/asked"]["get"]["responses"]
    schema = {"$ref": "#/components/schemas/ValidationProblem"}
    assert responses["422"]["content"]["application/json"]["schema"] == schema
    assert "422" not in document["paths"]["/named/{name}"]["get"]["responses"]
    assert "HTTPValidationError" not in str(document)
    assert "ValidationError" not in document["components"]["schemas"]
    assert app.openapi() is document
