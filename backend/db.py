"""How is a statement run?

On a connection of the pool, in one round trip, before a deadline; once more if the connection breaks and it is safe.
"""

import asyncio
import logging
import math
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass
from secrets import token_hex
from typing import Any
from weakref import WeakValueDictionary

from asyncpg import Record
from asyncpg import exceptions as postgres

from backend.database import failures
from backend.database.connection import APPLICATION_NAME, TIME_LIMIT, Connection
from backend.database.pool import CONNECT_LIMIT, Pool
from backend.database.statements import Again, Statement
from backend.database.url import connect_arguments, direct
from backend.database.waiters import Departure
from backend.errors import InternalError, OutcomeUnknown, Overloaded, Unavailable
from backend.telemetry.metrics import NoMetrics

logger = logging.getLogger(__name__)

# Connections at the start, where no number is set; the pool grows from there as it is of use.
FIRST_POOL_SIZE = 10
# Better Auth, migrations and other services need some of the server's connections, too.
OUR_SHARE = 0.9

# Connections often break together. A statement that breaks the server itself must not do so without end.
MOST_SENT = 3
# Seconds between two looks at the server while something is wrong, and while more connections would be of use.
FIRST_LOOK, LAST_LOOK = 0.1, 5.0
LOOK_FOR_MORE = 2.0

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
        metrics: NoMetrics,
    ) -> None:
        self._arguments = {"timeout": CONNECT_LIMIT, "statement_cache_size": 0} | connect_arguments(url)
        # The name is this process's own, so that the processes can be counted.
        settings = {"application_name": f"{APPLICATION_NAME} {token_hex(4)}"}
        self._arguments["server_settings"] = settings | _time_limit(url, deadline)
        self._statements = statements if prepare else ()
        self._deadline = deadline
        self._workers = workers
        self._metrics = metrics
        self._set_size = pool_size
        self.pool = Pool(
            self._connect,
            size=pool_size or FIRST_POOL_SIZE,
            patience=deadline,
            transient=failures.may_pass,
            full=failures.is_full,
            metrics=metrics,
            want_more=self._look_for_more,
        )
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._looking: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._looked_at = self._shed_at = -math.inf
        self.obstacle: str | None = "starting"

    async def fetch(self, statement: Statement, departure: Departure | None = None, **values: object) -> list[Record]:
        """Return the rows of one statement; one empty row where a second try found the work done.

        `departure` ends when the client has gone: it then waits no longer, and Departed is raised. Raises Unavailable
        when the database cannot serve before the deadline and has done nothing, and OutcomeUnknown when it may have.
        """
        deadline = asyncio.get_running_loop().time() + self._deadline
        attempt = _Attempt(statement, statement.arguments(values), deadline, str(values.get("user_id", "")), departure)
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
                failures.log_unreadable_date(attempt.owner)
                raise InternalError("unreadable-date") from error
            return rows or (ALREADY_DONE if attempt.in_doubt and statement.again is Again.GONE else rows)

    def turn(self, owner: str) -> asyncio.Lock:
        """Return what this user's long lists take turns with."""
        return self._turns.setdefault(owner, asyncio.Lock())

    def open(self) -> None:
        """Fill the pool in the background; the database need not be there yet."""
        self._look()
        self._watching = asyncio.create_task(self._metrics.watch(self.pool))

    async def close(self) -> None:
        background = [task for task in (self._looking, self._watching) if task]
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await self.pool.close()

    async def _try(self, attempt: "_Attempt") -> list[Record]:
        """Send the statement once; `attempt.sending` tells how far it came."""
        loop = asyncio.get_running_loop()
        attempt.sending = False
        connection = await self.pool.acquire(attempt.owner, attempt.deadline, attempt.departure)
        attempt.sending, attempt.sent, since = True, attempt.sent + 1, loop.time()
        self._metrics.statement()
        try:
            return await connection.fetch(attempt.statement, attempt.arguments, attempt.deadline - since)
        except ABANDONED as error:
            if isinstance(error, TimeoutError | asyncio.CancelledError):
                self._metrics.given_up()
            # The others may be no better: rather a new connection than one that was silent all the while.
            self.pool.suspect(since)
            raise
        finally:
            self.pool.release(connection, since)

    def _refusal(self, attempt: "_Attempt", error: BaseException) -> Unavailable:
        """Tell log, metrics and readiness of a request that cannot be served, and return what its client is told."""
        if isinstance(error, Overloaded):
            self._metrics.shed()
            self._log_overload(error)
        else:
            self._metrics.unavailable()
            cause = error if attempt.sending else self.pool.failure or error
            failures.log_failure(cause)
            if attempt.sending or self.pool.failure:
                self.obstacle = failures.obstacle(cause)
                self._look()
        if attempt.in_doubt and not attempt.statement.reads:
            return OutcomeUnknown("database", try_again=attempt.statement.client_again)
        return error if isinstance(error, Overloaded) else Unavailable("database")

    def _log_overload(self, error: Overloaded) -> None:
        """Say it once in five seconds: a line for each request would cost more than the request."""
        now = asyncio.get_running_loop().time()
        if now - self._shed_at > LAST_LOOK:
            self._shed_at = now
            text = "More requests than the database can serve: %s; %d wait, with %d connections"
            logger.warning(text, error.reason, self.pool.waiting, self.pool.size, extra={"event": "overloaded"})

    async def _connect(self) -> Connection:
        connection = await Connection.open(self._arguments, self._statements)
        if self._looked_at == -math.inf:
            await self._examine(connection)
        return connection

    async def _examine(self, connection: Connection) -> None:
        found = await connection.examine(self._deadline)
        # A process without any connection could not be counted: where the size is set, one is left for it.
        ours = found.granted - 1 if self._set_size else found.granted * OUR_SHARE
        share = max(1, int(ours / max(found.instances, self._workers) + 0.5))
        self.pool.limit(min(share, self._set_size or share))
        self._looked_at, self.obstacle = connection.heard, found.obstacle

    def _look(self) -> None:
        """Look at the server in the background; again and again while something is wrong, until it is not."""
        if not self._looking or self._looking.done():
            self._looking = asyncio.create_task(self._look_until_ready(), context=Context())

    def _look_for_more(self) -> None:
        """See whether more connections are to be had than last time."""
        if asyncio.get_running_loop().time() - self._looked_at > LOOK_FOR_MORE:
            self._look()

    async def _look_until_ready(self) -> None:
        pause = FIRST_LOOK
        while not await self._look_once():
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_LOOK)

    async def _look_once(self) -> bool:
        loop = asyncio.get_running_loop()
        try:
            connection = await self.pool.acquire("", loop.time() + self._deadline)
            since = loop.time()
            try:
                await self._examine(connection)
            finally:
                self.pool.release(connection, since)
        except Overloaded:
            pass
        except failures.NOT_CONNECTED as error:
            self.obstacle = failures.obstacle(self.pool.failure or error)
        return not self.obstacle


@dataclass
class _Attempt:
    """A statement on its way; `in_doubt` from when it was sent and nobody can tell whether it was done."""

    statement: Statement
    arguments: list[Any]
    deadline: float
    owner: str
    departure: Departure | None
    sent: int = 0
    sending: bool = False
    in_doubt: bool = False

    def goes_on_after(self, error: BaseException) -> bool:
        """Whether it may be sent again; keeps in mind what may have been done."""
        if not self.sending or not isinstance(error, failures.BROKEN):
            return False
        unsent = isinstance(error, failures.UNSENT)
        self.in_doubt |= not unsent
        return self.sent < MOST_SENT and (unsent or self.statement.again is not Again.OTHER)


def _time_limit(url: str, seconds: float) -> dict[str, str]:
    """Let the server itself end what nobody waits for; a pooler refuses the setting, so there it is cancelled by us."""
    return {TIME_LIMIT: str(int(seconds * 1000))} if direct(url) == url else {}
