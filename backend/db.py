"""How is a statement run?

On a connection of a small first-come-first-served pool, prepared beforehand, in one round trip, before a deadline.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import asyncpg
from asyncpg import exceptions as postgres
from asyncpg.prepared_stmt import PreparedStatement

from backend.database_url import connect_arguments
from backend.errors import Unavailable
from backend.statements import Statement

APPLICATION_NAME = "todo-backend"
SYNC = "SELECT 1"

logger = logging.getLogger(__name__)

# asyncpg lets OSError, TimeoutError and InternalClientError through as they are.
UNREACHABLE = (
    OSError,
    TimeoutError,
    postgres.InterfaceError,
    postgres.InternalClientError,
    postgres.PostgresConnectionError,  # class 08
    postgres.InvalidAuthorizationSpecificationError,  # 28, wrong credentials included
    postgres.InvalidCatalogNameError,  # 3D000
    postgres.ReadOnlySQLTransactionError,  # 25006
    postgres.InsufficientPrivilegeError,  # 42501
    postgres.InsufficientResourcesError,  # 53: too many connections, disk full
    postgres.OperatorInterventionError,  # 57: shutdown, cannot connect now, cancelled
    postgres.PostgresSystemError,  # 58
)
# What was prepared on the connection does not hold any more: after a change of the schema, or behind a pooler that
# shares server connections without knowing of prepared statements.
_UNPREPARED = (
    postgres.InvalidCachedStatementError,
    postgres.InvalidSQLStatementNameError,
    postgres.DuplicatePreparedStatementError,
)
_SCHEMA_BEHIND = (postgres.UndefinedTableError, postgres.UndefinedColumnError)


class Connection:
    """An asyncpg connection on which every statement is prepared under the statement's own name."""

    def __init__(self, raw: asyncpg.Connection, prepared: dict[str, PreparedStatement]) -> None:
        self._raw = raw
        self._prepared = prepared

    @classmethod
    async def open(cls, arguments: dict[str, Any], statements: Sequence[Statement]) -> "Connection":
        raw = await asyncpg.connect(**arguments)
        try:
            prepared = {each.name: await raw.prepare(each.sql, name=each.name) for each in statements}
            # asyncpg prepares without a Sync, and the server keeps an implicit transaction open until one comes: now()
            # would stand still at this moment, and a pooler could not share the server's connection.
            await raw.execute(SYNC)
            return cls(raw, prepared)
        except BaseException:
            raw.terminate()
            raise

    async def fetch(self, statement: Statement, arguments: list[Any], deadline: float) -> list[asyncpg.Record]:
        """Run the statement; a connection that is still busy at `deadline`, a time of the event loop, is cut.

        A timeout around the await would wait for a cancellation that the server may never confirm.
        """
        alarm = asyncio.get_running_loop().call_at(deadline, self.cut)
        try:
            if prepared := self._prepared.get(statement.name):
                return await prepared.fetch(*arguments)
            return await self._raw.fetch(statement.sql, *arguments)
        except (asyncio.CancelledError, *_UNPREPARED):
            self.cut()
            raise
        finally:
            alarm.cancel()

    @property
    def usable(self) -> bool:
        """Whether the socket is still open as far as the operating system has told; costs no round trip."""
        return not self._raw.is_closed()

    def cut(self) -> None:
        self._raw.terminate()


class Database:
    """The pool. `size` connections at most, waiting requests served in the order in which they came."""

    def __init__(self, url: str, statements: Sequence[Statement], *, size: int, deadline: float, prepare: bool) -> None:
        self._arguments = {"timeout": deadline, "statement_cache_size": 0} | connect_arguments(url)
        self._arguments["server_settings"] = {"application_name": APPLICATION_NAME}
        self._statements = statements if prepare else ()
        self._patience = deadline
        self._size = size
        self._gate = asyncio.Semaphore(size)
        self._idle: list[Connection] = []
        self._warming: asyncio.Task[None] | None = None

    async def fetch(self, statement: Statement, **values: object) -> list[asyncpg.Record]:
        """Return the rows of one statement; raise Unavailable when the database cannot answer before the deadline."""
        deadline = asyncio.get_running_loop().time() + self._patience
        try:
            connection = await self._acquire(deadline)
            try:
                return await connection.fetch(statement, statement.arguments(values), deadline)
            finally:
                self._release(connection)
        except _SCHEMA_BEHIND as error:
            logger.error("The database schema is missing or behind: run `python -m backend migrate`. (%s)", error)
            raise Unavailable("schema") from error
        except (*UNREACHABLE, *_UNPREPARED) as error:
            logger.error("The database cannot serve: %s", describe(error))
            raise Unavailable("database") from error
        except postgres.PostgresError as error:
            error.detail = None  # It quotes the row, which is the client's text and nothing for the log.
            raise

    def start_warming(self) -> None:
        """Open the whole pool in the background, so that neither the start nor a request waits for it."""
        self._warming = asyncio.create_task(self._warm())

    async def close(self) -> None:
        if self._warming:
            self._warming.cancel()
            await asyncio.wait([self._warming])
        while self._idle:
            self._idle.pop().cut()

    async def _warm(self) -> None:
        deadline = asyncio.get_running_loop().time() + self._patience

        async def open_one() -> None:
            self._release(await self._acquire(deadline))

        # All of them have passed the gate before the first is there, so that none meets another's idle connection.
        outcomes = await asyncio.gather(*(open_one() for _ in range(self._size)), return_exceptions=True)
        if failures := [outcome for outcome in outcomes if outcome is not None]:
            logger.warning("The database is not there yet: %s", describe(failures[0]))

    async def _acquire(self, deadline: float) -> Connection:
        if self._gate.locked():
            async with asyncio.timeout_at(deadline):
                await self._gate.acquire()
        else:
            await self._gate.acquire()
        try:
            while self._idle:
                if (connection := self._idle.pop()).usable:
                    return connection
            async with asyncio.timeout_at(deadline):
                return await Connection.open(self._arguments, self._statements)
        except BaseException:
            self._gate.release()
            raise

    def _release(self, connection: Connection) -> None:
        if connection.usable:
            self._idle.append(connection)
        self._gate.release()


def describe(error: BaseException) -> str:
    """Return the error in one line for the log; drivers' words never reach a client."""
    return f"{type(error).__name__}: {error}".replace("\n", " ")
