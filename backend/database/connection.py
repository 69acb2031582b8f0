"""What is one connection to the database?"""

import asyncio
import select
import socket
from collections.abc import Sequence
from typing import Any

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from backend.database import failures
from backend.database.statements import Statement

APPLICATION_NAME = "todo-backend"
# How long the server may take to confirm that it has cancelled a statement which nobody waits for any more.
CANCEL_SECONDS = 2.0
# Seconds of silence, seconds between probes, and probes, after which the system gives a peer up.
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}

SYNC = "SELECT 1"
TIME_LIMIT = "statement_timeout"
UNSUPPORTED = "unsupported startup parameter"


class Connection:
    """An asyncpg connection on which every statement is prepared under the statement's own name.

    `heard` is when the server last answered, in the event loop's time.
    """

    def __init__(self, raw: asyncpg.Connection, prepared: dict[str, PreparedStatement], *, limited: bool) -> None:
        self._raw = raw
        self._prepared = prepared
        self._limited = limited
        self._retired = False
        self._loop = asyncio.get_running_loop()
        self.heard = self._loop.time()
        self._news = select.poll()
        self._news.register(_line(raw).fileno(), select.POLLIN)

    @classmethod
    async def open(cls, arguments: dict[str, Any], statements: Sequence[Statement]) -> "Connection":
        """Connect and prepare; the caller sets the time limit."""
        raw = await _connected(arguments)
        try:
            _keep_alive(_line(raw))
            prepared = {each.name: await raw.prepare(each.sql, name=each.name) for each in statements}
            # asyncpg prepares without a Sync, and the server keeps an implicit transaction open until one comes: now()
            # would stand still at this moment, and a pooler could not share the server's connection. This query syncs.
            await raw.execute(SYNC)
            return cls(raw, prepared, limited=TIME_LIMIT in arguments["server_settings"])
        except BaseException:
            raw.terminate()
            raise

    async def fetch(self, statement: Statement, arguments: list[Any], seconds: float) -> list[asyncpg.Record]:
        """Run the statement; raise TimeoutError after `seconds`, whatever the link does, and give the connection up.

        asyncpg's own limit does so. A timeout around the await would wait for the server to confirm.
        """
        try:
            if prepared := self._prepared.get(statement.name):
                rows = await prepared.fetch(*arguments, timeout=seconds)
            else:
                rows = await self._raw.fetch(statement.sql, *arguments, timeout=seconds)
        except (TimeoutError, asyncio.CancelledError):
            self._retire()
            raise
        except failures.UNSENT:
            # The server has ended the session, or a column's type has changed since the statement was prepared.
            self.cut()
            raise
        self.heard = self._loop.time()
        return rows

    async def ask(self, sql: str, *arguments: object, seconds: float) -> asyncpg.Record:
        """Return the one row of a query that is not prepared; where it fails the connection is closed."""
        try:
            rows = await self._raw.fetch(sql, *arguments, timeout=seconds)
        except BaseException:
            self.cut()
            raise
        self.heard = self._loop.time()
        return rows[0]

    @property
    def usable(self) -> bool:
        """Whether the socket is still open, as far as the operating system has told; costs no round trip."""
        return not (self._retired or self._raw.is_closed())

    @property
    def has_news(self) -> bool:
        """Whether the socket is readable. An idle server sends nothing, so it has closed the connection."""
        return bool(self._news.poll(0))

    def cut(self) -> None:
        self._raw.terminate()

    def _retire(self) -> None:
        """Take no more statements. The server ends the running one by statement_timeout. Where a pooler refused that
        setting, asyncpg has sent a cancel request, and the connection stays open until that has had time to arrive."""
        self._retired = True
        if self._limited:
            self.cut()
        else:
            self._loop.call_later(CANCEL_SECONDS, self.cut)


async def _connected(arguments: dict[str, Any]) -> asyncpg.Connection:
    try:
        return await asyncpg.connect(**arguments)
    except asyncpg.ProtocolViolationError as error:
        if UNSUPPORTED not in str(error):
            raise
    # A pooler. It is remembered for the next connections; from now on our deadline alone ends a statement.
    arguments["server_settings"].pop(TIME_LIMIT, None)
    return await asyncpg.connect(**arguments)


def _line(raw: asyncpg.Connection) -> socket.socket:
    # asyncpg offers no other way to its socket.
    line: socket.socket = raw._transport.get_extra_info("socket")  # type: ignore[attr-defined]  # noqa: SLF001
    return line


def _keep_alive(line: socket.socket) -> None:
    if line.family != socket.AF_UNIX:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):  # macOS has not all of them
                line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
