"""How does an answer reach its client: in one piece, or piece by piece?"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import date, datetime
from types import NoneType
from typing import Any, get_args

import orjson
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from backend.tasks import Pages, Row
from backend.web.headers import CONTENT_TYPE, PRIVATE, described

# A list is read until it does not fill a page. The first one is as many tasks as usually make a piece: nobody knows yet
# how long they are, and a task of the longest kind takes 5 kB. The others are as many as make AHEAD pieces.
PAGE = 256
AHEAD = 8
# Bytes that are handed to the server at once, at most and usually. It lets 64 KiB wait before it makes us wait.
PIECE, USUAL_PIECE = 65_536, 49_152
# Seconds after which what was read ahead is let go, because the client does not take what comes before it.
PATIENCE = 0.05

_PLAIN = {bool, int, str, date, datetime, NoneType}


def encoded(answer: object) -> bytes:
    """Return rows as JSON; they were checked when they came in, and tests hold the bytes against `TaskRead`."""
    # `dict(row)` alone would ask the row for its keys, and then for each value by name.
    rows = [dict(row.items()) for row in answer] if isinstance(answer, list) else answer
    return orjson.dumps(rows, default=dict, option=orjson.OPT_UTC_Z)


def private(response: Response) -> Response:
    """Return the response with the headers that every answer has, unless it has its own."""
    for name, value in PRIVATE:
        response.headers.setdefault(name.decode(), value.decode())
    return response


async def send_json(send: Send, status: int, body: bytes) -> None:
    """Send one whole answer; an empty `body` is none at all, as 204 wants it."""
    await send({"type": "http.response.start", "status": status, "headers": described(body)})
    await send({"type": "http.response.body", "body": body})


def is_plain(model: type[BaseModel]) -> bool:
    """Whether the model would leave a row as it is: no rule, name or type of its own that JSON does not have."""
    fields, rules = model.model_fields.values(), model.__pydantic_decorators__
    parts = [part for each in fields for part in get_args(each.annotation) or [each.annotation]]
    return (
        rules == type(rules)()
        and not model.model_config
        and not any(each.metadata or each.serialization_alias or each.exclude or each.exclude_if for each in fields)
        and {part if isinstance(part, type) else type(part) for part in parts} <= _PLAIN
    )


async def readable(answer: Any) -> Any:
    """Return an answer as pydantic can read it, of whose types rows are none."""
    if isinstance(answer, Pages):
        answer = await _all(answer)
    if isinstance(answer, list):
        return [dict(each.items()) if isinstance(each, Row) else each for each in answer]
    return dict(answer.items()) if isinstance(answer, Row) else answer


async def _all(pages: Pages) -> list[Row]:
    rows = page = await pages.read(None, PAGE)
    while len(page) == PAGE:
        page = await pages.read(page[-1], PAGE)
        rows = rows + page
    return rows


class ListResponse(Response):
    """A list, for FastAPI to send: it goes piece by piece all the same."""

    def __init__(self, pages: Pages, status: int) -> None:
        super().__init__(status_code=status)
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_list(scope, receive, send, self._pages, self.status_code)
        if self.background:
            await self.background()


class Listing:
    """What is still to be sent of a list: rows that were read ahead, and more where `pages` has more."""

    def __init__(self, rows: list[Any], pages: Pages) -> None:
        self._rows = rows
        self._pages = pages
        self._turn = pages.turn()
        self._unread = len(rows) == PAGE
        self._last: Any = None
        self._fitting = PAGE // 2  # likely to fit: what does not is encoded in vain
        self._ahead = AHEAD

    async def pieces(self) -> AsyncGenerator[bytes]:
        """Yield the array without its end, as many tasks at once as fit, and read on when none are in hand."""
        opening = b"["
        while self._rows:
            async with self._turn:
                piece = self._piece()
            yield opening + piece[1:-1]
            opening = b","
            if self._unread and not self._rows:
                async with self._turn:
                    await self._read_on()

    def forget(self) -> None:
        """Let go of what was read ahead, and read less of it next time."""
        self._unread = self._unread or bool(self._rows)
        self._rows.clear()
        self._ahead = 1

    def _piece(self) -> bytes:
        """Take the next rows, as many as fit, and return them as JSON; learn from their size how many fit next."""
        while True:
            rows = self._rows[: self._fitting]
            piece = encoded(rows)
            self._fitting = len(rows) * USUAL_PIECE // len(piece)
            if len(piece) <= PIECE:
                break
        self._last = rows[-1]
        del self._rows[: len(rows)]
        return piece

    async def _read_on(self) -> None:
        size = min(PAGE, self._ahead * self._fitting)
        self._rows = await self._pages.read(self._last, size)
        self._unread = len(self._rows) == size
        self._ahead = min(AHEAD, 2 * self._ahead)


async def send_list(scope: Scope, receive: Receive, send: Send, pages: Pages, status: int) -> None:
    """Send one array of all that is on the pages: in one piece if it fits, otherwise piece by piece as the client takes
    it, without a length.

    Only the last piece closes the array, so that what was broken off is never taken for a whole one. Raises
    ClientDisconnect when nobody is there to read on.
    """
    rows = await pages.read(None, PAGE)
    if len(rows) < PAGE:
        body = encoded(rows)
        if len(body) <= PIECE:
            await send_json(send, status, body)
            return
        del body  # it must not wait for the client
    await send({"type": "http.response.start", "status": status, "headers": [CONTENT_TYPE, *PRIVATE]})
    if scope["method"] != "HEAD":
        await _send_pieces(receive, send, Listing(rows, pages))
    await send({"type": "http.response.body", "body": b"]"})


async def _send_pieces(receive: Receive, send: Send, listing: Listing) -> None:
    later = asyncio.get_running_loop().call_later
    async with _departure(receive) as departure, aclosing(listing.pieces()) as pieces:
        async for piece in pieces:
            waiting = later(PATIENCE, listing.forget)
            try:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            finally:
                waiting.cancel()
            if departure.done():
                raise ClientDisconnect
            await asyncio.sleep(0)  # others have a turn between two pieces


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
