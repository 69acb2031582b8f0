"""How does an answer reach its client: in one piece, or slice by slice?"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import orjson
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

Headers = list[tuple[bytes, bytes]]

# Personal data: no cache may keep it, and no browser may take it for anything but JSON.
PRIVATE = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
CONTENT_TYPE = (b"content-type", b"application/json")


def encoded(answer: object) -> bytes:
    """Return rows as JSON; they were checked when they came in, and tests hold the bytes against `TaskRead`."""
    # `dict(row)` alone would ask the row for its keys, and then for each value by name.
    rows = [dict(row.items()) for row in answer] if isinstance(answer, list) else answer
    return orjson.dumps(rows, default=dict, option=orjson.OPT_UTC_Z)


async def send_json(send: Send, status: int, body: bytes, headers: Headers | None = None) -> None:
    """Send one whole answer; an empty `body` is none at all, as 204 wants it."""
    described = [CONTENT_TYPE, (b"content-length", b"%d" % len(body))] if body else []
    await send({"type": "http.response.start", "status": status, "headers": [*described, *PRIVATE, *(headers or ())]})
    await send({"type": "http.response.body", "body": body})


async def send_array(scope: Scope, receive: Receive, send: Send, pages: AsyncGenerator[list[Any]]) -> None:
    """Send one array of all that is on the pages, and ask for the next page only when the client has room for it.

    Only the last slice closes the array, so that what was broken off is never taken for a whole one. Raises
    ClientDisconnect when nobody is there to read on.
    """
    if scope["http_version"] == "1.0" and scope["method"] != "HEAD":
        # It knows no chunks; with a length it can tell a whole answer from a broken one.
        await send_json(send, 200, b"".join([piece async for piece in _slices(pages)]))
        return
    await send({"type": "http.response.start", "status": 200, "headers": [CONTENT_TYPE, *PRIVATE]})
    if scope["method"] != "HEAD":
        async with _departure(receive) as departure, aclosing(_slices(pages)) as slices:
            async for piece in slices:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                if departure.done():
                    raise ClientDisconnect
    await send({"type": "http.response.body"})


async def _slices(pages: AsyncGenerator[list[Any]]) -> AsyncGenerator[bytes]:
    opening = b"["
    async with aclosing(pages):
        async for page in pages:
            yield opening + encoded(page)[1:-1]
            opening = b","
    yield b"]"


@asynccontextmanager
async def _departure(receive: Receive) -> AsyncIterator[asyncio.Task[None]]:
    """Yield a task that is done when the client has gone; a server tells it to nobody else than who waits for it."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    watching = asyncio.create_task(watch())
    try:
        yield watching
    finally:
        watching.cancel()
