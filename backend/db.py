"""How is a statement run?

On a connection of the pool, in one round trip, before a deadline; once more if the connection breaks and it is safe.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Any
from weakref import WeakValueDictionary

from asyncpg import Record
from asyncpg import exceptions as postgres
from opentelemetry.trace import Tracer

from backend.database import failures
from backend.database.attempts import CONNECT_LIMIT
from backend.database.connection import APPLICATION_NAME, TIME_LIMIT, Connection
from backend.database.pool import Pool
from backend.database.readiness import Readiness
from backend.database.spans import traced
from backend.database.statements import Again, Statement
from backend.database.url import connect_arguments, direct
from backend.database.waiters import HasLeft
from backend.errors import InternalError, OutcomeUnknown, Overloaded, Unavailable
from backend.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

# Connections at the start, where no number is set; the pool grows from there as it is of use.
FIRST_POOL_SIZE = 10
# Connections often break together. A statement that breaks the server itself must not do so without end.
MOST_SENT = 3
# What did not leave this process harms nobody, and many idle connections may have been ended together.
MOST_UNSENT = 10

ABANDONED: failures.Errors = (*failures.BROKEN, asyncio.CancelledError)
NO_SERVICE: failures.Errors = (Overloaded, *failures.UNREACHABLE)
ALREADY_DONE: list[Any] = [{}]


class Database:
    """Runs statements; its users know nothing of connections, retries and the driver.

    `pool_size` None begins with ten connections and takes what is of use; both that and a number are at most this
    process's share of what the server grants. `workers` is how many processes share it at least.
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
        metrics: Metrics,
        tracer: Tracer | None = None,
    ) -> None:
        fetch = metrics.timed(Connection.fetch)
        self._fetch = traced(fetch, tracer, url) if tracer else fetch
        self._arguments = {"timeout": CONNECT_LIMIT, "statement_cache_size": 0} | connect_arguments(url)
        # The name is this process's own, so that the processes can be counted.
        settings = {"application_name": f"{APPLICATION_NAME} {token_hex(4)}"}
        self._arguments["server_settings"] = settings | _time_limit(url, deadline)
        self._statements = statements if prepare else ()
        self._deadline = deadline
        self._metrics = metrics
        self.pool = Pool(
            self._connect,
            size=pool_size or FIRST_POOL_SIZE,
            deadline=deadline,
            metrics=metrics,
        )
        self.readiness = Readiness(self.pool, fixed_size=pool_size, workers=workers, deadline=deadline)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._watching: asyncio.Task[None] | None = None

    async def fetch(self, statement: Statement, has_left: HasLeft | None = None, **values: object) -> list[Record]:
        """Return the rows of one statement; one empty row where a second try found the work done.

        Raises Departed where the client has left a long queue, Unavailable when the database cannot serve before the
        deadline and has done nothing, and OutcomeUnknown when it may have.
        """
        deadline = asyncio.get_running_loop().time() + self._deadline
        attempt = _Attempt(statement, statement.arguments(values), deadline, str(values.get("user_id", "")), has_left)
        while True:
            try:
                rows = await self._try(attempt)
            except NO_SERVICE as error:
                if attempt.goes_on_after(error) and asyncio.get_running_loop().time() < deadline:
                    logger.warning("Sending again: %s", failures.describe(error), extra={"event": "retry"})
                    self._metrics.retry()
                    continue
                raise self._refusal(attempt, error) from error
            except postgres.PostgresError as error:
                error.detail = None  # It quotes the row, which is the client's text and nothing for the log.
                raise
            except OverflowError as error:
                logger.error("%s", failures.unreadable_date(), extra={"event": "unreadable-date"})
                raise InternalError("unreadable-date") from error
            return rows or (ALREADY_DONE if attempt.in_doubt and statement.again is Again.GONE_IS_DONE else rows)

    def turn(self, owner: str) -> asyncio.Lock:
        """Return the lock that lets one long list of a user at a time occupy the event loop."""
        return self._turns.setdefault(owner, asyncio.Lock())

    def open(self) -> None:
        """Fill the pool in the background; the database need not be there yet."""
        self.readiness.look()
        self._watching = asyncio.create_task(self._metrics.watch(self))

    async def close(self) -> None:
        if self._watching:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self.readiness.close()
        await self.pool.close()

    async def _try(self, attempt: "_Attempt") -> list[Record]:
        """Send the statement once; `attempt.sending` tells how far it came."""
        loop = asyncio.get_running_loop()
        attempt.sending = False
        connection = await self.pool.acquire(attempt.owner, attempt.deadline, attempt.has_left)
        attempt.sending, since = True, loop.time()
        try:
            return await self._fetch(connection, attempt.statement, attempt.arguments, attempt.deadline - since)
        except ABANDONED as error:
            if isinstance(error, TimeoutError | asyncio.CancelledError):
                self._metrics.given_up()
            # Others may be dead, too: a new connection is safer than one from which nothing was heard meanwhile.
            self.pool.suspect(since)
            raise
        finally:
            self.pool.release(connection, since)

    def _refusal(self, attempt: "_Attempt", error: BaseException) -> Unavailable:
        """Tell log, metrics and readiness of a request that cannot be served, and return what its client is told."""
        if not isinstance(error, Overloaded):
            self._metrics.unavailable()
            cause = error if attempt.sending else self.pool.failure or error
            failures.log_failure(cause)
            if attempt.sending or self.pool.failure:
                self.readiness.failed(cause)
        if attempt.in_doubt and not attempt.statement.reads:
            return OutcomeUnknown("database", try_again=attempt.statement.client_again)
        return error if isinstance(error, Overloaded) else Unavailable("database")

    async def _connect(self) -> Connection:
        connection = await Connection.open(self._arguments, self._statements)
        await self.readiness.check(connection)
        return connection


@dataclass
class _Attempt:
    """A statement on its way; `in_doubt` from when it was sent and nobody can tell whether it was done."""

    statement: Statement
    arguments: list[Any]
    deadline: float
    owner: str
    has_left: HasLeft | None
    sent: int = 0
    unsent: int = 0
    sending: bool = False
    in_doubt: bool = False

    def goes_on_after(self, error: BaseException) -> bool:
        """Whether it may be sent again; keeps in mind what may have been done."""
        if not self.sending or not isinstance(error, failures.BROKEN):
            return False
        if isinstance(error, failures.UNSENT):
            self.unsent += 1
            return self.unsent < MOST_UNSENT
        self.in_doubt = True
        self.sent += 1
        return self.sent < MOST_SENT and self.statement.again is not Again.NOT_REPEATABLE


def _time_limit(url: str, seconds: float) -> dict[str, str]:
    """Let the server itself end what nobody waits for; a pooler refuses the setting, so there it is cancelled by us."""
    return {TIME_LIMIT: str(int(seconds * 1000))} if direct(url) == url else {}
