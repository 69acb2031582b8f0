"""How is a statement run?

On a connection of the pool, in one round trip, before a deadline; once more if the connection breaks and it is safe.
"""

import asyncio
import logging
import math
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from asyncpg import Record
from asyncpg import exceptions as postgres

from backend.connection import APPLICATION_NAME, TIME_LIMIT, Connection
from backend.database_url import connect_arguments, direct
from backend.errors import OutcomeUnknown, Unavailable
from backend.metrics import NoMetrics
from backend.pool import Pool
from backend.statements import Again, Statement

logger = logging.getLogger(__name__)

DEFAULT_POOL_SIZE = 10
# Better Auth, migrations and other services need some of the server's connections, too.
OUR_SHARE = 0.75

BEHIND = "is missing or behind: run `python -m backend migrate`"
POOLER = "a pooler mixes prepared statements up: set DATABASE_PREPARED_STATEMENTS=false"

# The line broke, or nobody answered: what was sent may have been done. asyncpg lets the first four through as they are.
BROKEN = (
    OSError,
    TimeoutError,
    postgres.InterfaceError,
    postgres.InternalClientError,
    postgres.PostgresConnectionError,  # class 08
    postgres.AdminShutdownError,
    postgres.CrashShutdownError,
    postgres.IdleSessionTimeoutError,
    postgres.InvalidCachedStatementError,
)
# asyncpg or the server has noticed before anything was done that the connection is of no use.
UNSENT = (postgres.InterfaceError, postgres.InternalClientError, postgres.InvalidCachedStatementError)
# The server has said that it did nothing, and may do it later.
REFUSED = (
    postgres.CannotConnectNowError,
    postgres.InsufficientResourcesError,  # class 53: too many connections, disk full
    postgres.OperatorInterventionError,  # class 57: cancelled
    postgres.ReadOnlySQLTransactionError,
    postgres.PostgresSystemError,  # class 58
)
# The server, or the library for TLS, has said that it does nothing until somebody changes something. Other errors of
# TLS are a line that broke during the handshake.
LASTING = (
    ssl.SSLCertVerificationError,
    postgres.InvalidAuthorizationSpecificationError,  # class 28
    postgres.InvalidCatalogNameError,
    postgres.InsufficientPrivilegeError,
)
# Whatever is tried, the same comes back until somebody follows the hint.
MISTAKEN: dict[type[BaseException], tuple[str, str]] = {
    postgres.UndefinedTableError: ("schema-behind", f"the schema {BEHIND}"),
    postgres.UndefinedColumnError: ("schema-behind", f"the schema {BEHIND}"),
    postgres.DuplicatePreparedStatementError: ("prepared-statements", POOLER),
    postgres.InvalidSQLStatementNameError: ("prepared-statements", POOLER),
}
UNREACHABLE = BROKEN + REFUSED + LASTING + tuple(MISTAKEN)

# Connections often break together. A statement that breaks the server itself must not do so without end.
MOST_SENT = 3
FAILURE_COUNTS = 10.0

ALREADY_DONE: list[Any] = [{}]


class Database:
    """Runs statements; its users know nothing of connections, retries and the driver.

    `pool_size` None takes ten, or less where the server grants less; `workers` is how many processes share it.
    """

    def __init__(
        self,
        url: str,
        statements: Sequence[Statement],
        *,
        pool_size: int | None = None,
        workers: int = 1,
        deadline: float,
        prepare: bool = True,
        metrics: NoMetrics,
    ) -> None:
        self._arguments = {"timeout": deadline, "statement_cache_size": 0} | connect_arguments(url)
        self._arguments["server_settings"] = {"application_name": APPLICATION_NAME} | _time_limit(url, deadline)
        self._statements = statements if prepare else ()
        self._deadline = deadline
        self._workers = workers
        self._metrics = metrics
        self._size_is_known = pool_size is not None
        self.pool = Pool(self._connect, size=pool_size or DEFAULT_POOL_SIZE, patience=deadline, transient=_is_transient)
        self._failed_at = -math.inf

    async def fetch(self, statement: Statement, **values: object) -> list[Record]:
        """Return the rows of one statement; one empty row where a second try found the work done.

        Raises Unavailable when the database cannot serve before the deadline and has done nothing, and OutcomeUnknown
        when it may have.
        """
        deadline = asyncio.get_running_loop().time() + self._deadline
        attempt = _Attempt(statement, statement.arguments(values), deadline)
        while True:
            try:
                rows = await self._try(attempt)
            except UNREACHABLE as error:
                self._failed_at = asyncio.get_running_loop().time()
                if attempt.goes_on_after(error) and self._failed_at < deadline:
                    logger.warning("Sending again: %s", describe(error), extra={"event": "retry"})
                    self._metrics.retry()
                    continue
                self._metrics.unavailable()
                _log_failure(error)
                if attempt.in_doubt and not statement.reads:
                    raise OutcomeUnknown("database", try_again=statement.client_again) from error
                raise Unavailable("database") from error
            except postgres.PostgresError as error:
                error.detail = None  # It quotes the row, which is the client's text and nothing for the log.
                raise
            self._failed_at = -math.inf
            return rows or (ALREADY_DONE if attempt.in_doubt and statement.again is Again.GONE else rows)

    @property
    def ready(self) -> bool:
        """Whether the last statement was answered, or none has failed lately; asks nobody.

        An old failure counts no more: without requests nobody would ever find out that the database is back.
        """
        return asyncio.get_running_loop().time() - self._failed_at > FAILURE_COUNTS

    def open(self) -> None:
        """Fill the pool in the background; the database need not be there yet."""
        self.pool.warm()

    async def close(self) -> None:
        await self.pool.close()

    async def _try(self, attempt: "_Attempt") -> list[Record]:
        """Send the statement once; `attempt.sending` tells how far it came."""
        loop = asyncio.get_running_loop()
        attempt.sending = False
        connection = await self.pool.acquire(attempt.deadline)
        attempt.sending, attempt.sent, since = True, attempt.sent + 1, loop.time()
        self._metrics.statement()
        try:
            return await connection.fetch(attempt.statement, attempt.arguments, attempt.deadline - since)
        except BROKEN:
            # The others may be no better: rather a new connection than one that was silent all the while.
            self.pool.suspect(since)
            raise
        finally:
            self.pool.release(connection)
            self._metrics.pool(self.pool)

    async def _connect(self) -> Connection:
        connection = await Connection.open(self._arguments, self._statements)
        if not self._size_is_known:
            limit = await connection.server_limit()
            self.pool.shrink(max(1, int(limit * OUR_SHARE) // self._workers))
            self._size_is_known = True
        return connection


@dataclass
class _Attempt:
    """A statement on its way; `in_doubt` from when it was sent and nobody can tell whether it was done."""

    statement: Statement
    arguments: list[Any]
    deadline: float
    sent: int = 0
    sending: bool = False
    in_doubt: bool = False

    def goes_on_after(self, error: BaseException) -> bool:
        """Whether it may be sent again; keeps in mind what may have been done."""
        if not self.sending or not isinstance(error, BROKEN):
            return False
        unsent = isinstance(error, UNSENT)
        self.in_doubt |= not unsent
        return self.sent < MOST_SENT and (unsent or self.statement.again is not Again.OTHER)


def _time_limit(url: str, seconds: float) -> dict[str, str]:
    """Let the server itself end what nobody waits for; a pooler refuses the setting, so there it is cancelled by us."""
    return {TIME_LIMIT: str(int(seconds * 1000))} if direct(url) == url else {}


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, BROKEN + REFUSED) and not isinstance(error, LASTING)


def _log_failure(error: BaseException) -> None:
    event, hint = MISTAKEN.get(type(error), ("unavailable", ""))
    logger.error("The database cannot serve%s: %s", hint and f", {hint}", describe(error), extra={"event": event})


def describe(error: BaseException) -> str:
    """Return the error in one line for the log; a driver's words never reach a client."""
    return f"{type(error).__name__}: {error}".replace("\n", " ")
