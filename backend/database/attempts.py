"""How are connections opened?"""

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable
from contextvars import Context

from backend.database.connection import Connection

logger = logging.getLogger(__name__)

# In seconds. An attempt is given up after this time.
CONNECT_LIMIT = 10.0
# The back-off between attempts while they fail.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.8
# Beside an attempt that hangs others begin, after twice, four times, eight times so long.
HANGING = 1.0


class Attempts:
    """Attempts to connect, each a task of its own: one goes on when the request that began it has given up.

    `opened` takes a new connection; `failed` an error, and when its attempt began. `failure` is the error of the last
    attempt, None once there is a connection.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        opened: Callable[[Connection], None],
        failed: Callable[[Exception, float], None],
    ) -> None:
        self._connect = connect
        self._opened = opened
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._next: asyncio.TimerHandle | None = None
        self._began = -math.inf
        self._pause = FIRST_PAUSE
        self.failure: Exception | None = None

    def __len__(self) -> int:
        return len(self._tasks)

    def begin(self, count: int) -> None:
        self._began = self._loop.time()
        for _ in range(count):
            # A context of its own: in the log this is not the work of the request that began it.
            self._tasks.add(asyncio.create_task(self._attempt(), context=Context()))

    def begin_when_due(self, again: Callable[[], None]) -> None:
        """Begin one if the last is long enough ago, and call `again` when the next may begin."""
        if self._due <= self._loop.time():
            self.begin(1)
        if self._next:
            self._next.cancel()
        self._next = self._loop.call_at(self._due, again)

    def back_off(self) -> None:
        """Wait longer before the next attempt, by chance not as long as other processes do."""
        self._pause = min(2 * self._pause, LONGEST_PAUSE) * random.uniform(0.75, 1)  # noqa: S311 - keeps no secret

    def recent_failure(self, now: float) -> Exception | None:
        """Return the error of the last attempt, as long as it is too early for another."""
        return self.failure if now < self._began + self._pause else None

    def succeeded(self) -> None:
        if self.failure:
            logger.info("There is a connection again", extra={"event": "connected-again"})
        self.failure, self._pause = None, FIRST_PAUSE

    async def close(self) -> None:
        for each in (self._next, *self._tasks):
            if each:
                each.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def _due(self) -> float:
        return self._began + (HANGING * 2 ** len(self._tasks) if self._tasks else self._pause)

    async def _attempt(self) -> None:
        this, began = asyncio.current_task(), self._loop.time()
        try:
            async with asyncio.timeout(CONNECT_LIMIT):
                connection = await self._connect()
        except Exception as error:  # noqa: BLE001 - whoever waits is told, as if they had connected themselves
            self._tasks.discard(this)
            self._note(error)
            self._failed(error, began)
        else:
            self._tasks.discard(this)
            self.succeeded()
            self._opened(connection)

    def _note(self, error: Exception) -> None:
        """Log what is new: the same error comes back with each attempt."""
        if type(error) is not type(self.failure):
            words = f"{type(error).__name__}: {error}"
            logger.warning("No connection to the database: %s", words, extra={"event": "not-connected"})
        self.failure = error
