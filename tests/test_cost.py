"""Does a request still cost no more than it did?

Counted in bytecode instructions, which neither a slow nor a busy machine changes, and compared with those of a bare
Starlette route, which a newer Python changes alike. What compiled code does is not seen here, but by `make bench`.
"""

import subprocess
import sys
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any, Self
from uuid import uuid4

import orjson
import pytest
import uvloop
from people import ORIGIN, SECRET, signed
from servers import uncovered
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from backend.main import create_app
from backend.settings import Settings, load_settings
from backend.telemetry import logs

MOST_DEARER = 1.15
# Instructions for each of a bare Starlette route. Who makes a request cheaper writes the new figure down.
KNOWN = {"get one": 1.606, "list 10": 1.622, "create": 2.189, "PUT": 2.210, "toggle": 1.673, "delete": 1.618}
TRIES = 5


class Instructions:
    """Counts the bytecode instructions of what is called in this thread meanwhile."""

    def __enter__(self) -> Self:
        self.count = 0
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _argument: object) -> Callable[..., Any]:
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        self.count += event == "opcode"
        return self._trace


async def reference(_request: Request) -> Response:
    return Response(orjson.dumps({"id": 1}), media_type="application/json")


BARE = Starlette(routes=[Route("/api/{user_id}/tasks/{id:int}", reference)])


class Client:
    """Calls an application as a server does, without one."""

    def __init__(self, app: ASGIApp, state: dict[str, Any]) -> None:
        self._app = app
        self._state = state
        self._user = uuid4().hex
        self._headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {signed(self._user)}".encode())]
        self.instructions = 0

    async def __call__(self, method: str, suffix: str = "", body: object = None) -> Any:
        """Return what the answer's body says; `instructions` is what it took."""
        path = f"/api/{self._user}/tasks{suffix}"
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "http",
            "root_path": "",
        }
        scope |= {"method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "state": self._state}
        scope |= {"headers": list(self._headers), "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)}
        answer: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"" if body is None else orjson.dumps(body), "more_body": False}

        async def send(message: Message) -> None:
            answer.append(message)

        with Instructions() as counted:
            await self._app(scope, receive, send)
        self.instructions = counted.count
        assert answer[0]["status"] in {200, 201, 204}
        return orjson.loads(answer[1]["body"] or b"null")


async def counted(settings: Settings) -> dict[str, float]:
    app = create_app(settings)
    async with app.router.lifespan_context(app) as state:
        bare, ours = Client(BARE, {}), Client(app, dict(state or {}))
        ids = [(await ours("POST", body={"title": "Buy milk"}))["id"] for _ in range(10)]
        requests: dict[str, Callable[[int], Awaitable[Any]]] = {
            "get one": lambda turn: ours("GET", f"/{ids[turn]}"),
            "list 10": lambda _: ours("GET"),
            "PUT": lambda turn: ours("PUT", f"/{ids[turn]}", {"title": "Buy bread"}),
            "toggle": lambda turn: ours("PATCH", f"/{ids[turn]}/complete"),
            "create": lambda _: ours("POST", body={"title": "Buy milk"}),
            "delete": lambda turn: ours("DELETE", f"/{ids[turn]}"),
        }
        least = {}
        for name, request in requests.items():
            counts = []
            for turn in range(TRIES):
                await request(turn)
                counts.append(ours.instructions)
            least[name] = min(counts)
        await bare("GET", "/1")
        return {name: count / bare.instructions for name, count in least.items()}


@pytest.fixture(scope="module")
def cost(database_url: str) -> dict[str, float]:
    """What each request costs; in a process of its own, as coverage looks at the instructions of this one, too."""
    command = [sys.executable, __file__, database_url]
    output = subprocess.run(command, env=uncovered(), stdout=subprocess.PIPE, check=True).stdout
    found: dict[str, float] = orjson.loads(output)
    return found


@pytest.mark.spec("SC-012")
@pytest.mark.parametrize("request_kind", KNOWN)
def test_a_request_is_not_dearer_than_it_was(cost: dict[str, float], request_kind: str) -> None:
    print(f"{request_kind}: {cost[request_kind]:.3f} times a bare route")

    assert cost[request_kind] <= KNOWN[request_kind] * MOST_DEARER


def main() -> None:
    settings = load_settings(
        _env_file=None,
        better_auth_secret=SECRET,
        better_auth_url=ORIGIN,
        better_auth_mode="secret",
        neon_database_url=sys.argv[1],
        database_pool_size=1,
    )
    logs.configure(as_json=True)
    print(orjson.dumps(uvloop.run(counted(settings))).decode())


if __name__ == "__main__":
    main()
