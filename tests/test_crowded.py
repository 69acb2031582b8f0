"""What are those told who come when no more may wait?"""

from typing import Any

import orjson
import pytest
from people import ORIGIN
from starlette.types import Message

from backend.errors import Unavailable
from backend.main import create_app
from backend.settings import Settings


async def asked(app: Any, state: dict[str, Any], method: str, path: str) -> tuple[int, dict[str, str], bytes]:
    """Call the application as a server does, from a page of the frontend."""
    headers = [(b"origin", ORIGIN.encode())]
    headers += [(b"access-control-request-method", b"PUT")] if method == "OPTIONS" else []
    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
    }
    scope |= {"http_version": "1.1", "scheme": "http", "root_path": "", "headers": headers, "state": state}
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    await app(scope, receive, send)
    described = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], described, sent[1]["body"]


@pytest.mark.spec("EC-9")
async def test_they_are_told_so_in_a_form_that_the_frontend_can_read(settings: Settings) -> None:
    app = create_app(settings)
    async with app.router.lifespan_context(app) as found:
        state = dict(found or {})
        state["database"].pool.crowded = True
        status, headers, body = await asked(app, state, "GET", "/api/ann/tasks")
        preflight, _, _ = await asked(app, state, "OPTIONS", "/api/ann/tasks")
        alive, _, _ = await asked(app, state, "GET", "/livez")
        state["database"].pool.crowded = False
        stranger, _, _ = await asked(app, state, "GET", "/api/ann/tasks")

    assert (status, orjson.loads(body)) == (503, {"detail": Unavailable.detail})
    assert headers["access-control-allow-origin"] == ORIGIN
    assert int(headers["retry-after"]) > 0
    assert headers["content-length"] == str(len(body))
    assert headers["x-request-id"]
    assert (preflight, alive, stranger) == (200, 200, 401)
