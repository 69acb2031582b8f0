"""Which connection does a request get, and when?"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Literal
from weakref import WeakSet

from backend.connection import Connection

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.8


class Pool:
    """Up to `size` connections, handed out first come first served, the one used last first.

    `connect` opens one; `transient` tells of an error whether another try may do better. There is no timer and no ping:
    an idle database is left to sleep.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        *,
        size: int,
        patience: float,
        transient: Callable[[BaseException], bool],
    ) -> None:
        self._connect = connect
        self._transient = transient
        self._patience = patience
        self._gate = asyncio.Semaphore(size)
        self._idle: list[Connection] = []
        self._living: WeakSet[Connection] = WeakSet()  # retired ones included, which are cut later
        self._opening = 0
        self._warming: asyncio.Task[None] | None = None
        self._withheld: list[asyncio.Task[Literal[True]]] = []
        self._hopeful: deque[asyncio.Future[Connection]] = deque()
        self.size = size
        self.busy = 0

    @property
    def open(self) -> int:
        """How many connections there are, as far as the operating system has told."""
        return self.busy + sum(connection.usable for connection in self._idle)

    async def acquire(self, deadline: float) -> Connection:
        """Return a connection before `deadline`, a time of the event loop; raise TimeoutError, or as `connect` does."""
        if self._gate.locked():
            async with asyncio.timeout_at(deadline):
                await self._gate.acquire()
        else:
            await self._gate.acquire()
        try:
            connection = self._pop() or await self._open_or_wait(deadline)
        except BaseException:
            self._gate.release()
            raise
        self.busy += 1
        return connection

    def release(self, connection: Connection) -> None:
        self.busy -= 1
        self._take_back(connection)
        self._gate.release()

    def suspect(self, since: float) -> None:
        """Part with the idle connections that have not been heard since then: the line of another one is dead."""
        silent = [connection for connection in self._idle if connection.heard < since]
        self._idle = [connection for connection in self._idle if connection.heard >= since]
        for connection in silent:
            connection.cut()

    def warm(self) -> None:
        """Open what is missing in the background: at the start, and when a request has woken a sleeping database."""
        if not self._warming or self._warming.done():
            # A context of its own: in the log this is not the work of the request that began it.
            self._warming = asyncio.create_task(self._fill(), context=Context())

    def shrink(self, size: int) -> None:
        """Hand out no more than `size` connections from now on, as those that are busy come back."""
        self._withheld += [asyncio.create_task(self._gate.acquire()) for _ in range(self.size - size)]
        self.size = min(self.size, size)

    async def close(self) -> None:
        pending = [task for task in (self._warming, *self._withheld) if task and not task.done()]
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for connection in list(self._living):
            connection.cut()

    def _pop(self) -> Connection | None:
        while self._idle:
            if (connection := self._idle.pop()).usable and not connection.has_news:
                return connection
            connection.cut()
        return None

    def _take_back(self, connection: Connection) -> None:
        # The sum is at least `open`, which looks at each idle connection; mostly it need not.
        if self.busy + len(self._idle) >= self.size and self.open >= self.size:
            connection.cut()
        if not connection.usable:
            return
        while self._hopeful:
            if not (waiting := self._hopeful.popleft()).done():
                waiting.set_result(connection)
                return
        self._idle.append(connection)

    async def _open_or_wait(self, deadline: float) -> Connection:
        """Connect, or take what comes back meanwhile. Nothing has been sent yet, so that for every statement it may be
        tried again until the deadline."""
        loop, pause, connection = asyncio.get_running_loop(), FIRST_PAUSE, None
        while not connection:
            try:
                connection = await self._open(deadline)
            except Exception as error:
                if not self._transient(error) or loop.time() + pause >= deadline:
                    raise
                spread = random.uniform(0.5, 1)  # noqa: S311 - keeps no secret
                connection = self._pop() or await self._returned(pause * spread)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                self.warm()
        if pause > FIRST_PAUSE:
            logger.info("There is a connection again", extra={"event": "connected-again"})
        return connection

    async def _returned(self, seconds: float) -> Connection | None:
        """Return the next connection that comes back, or None after so many seconds."""
        waiting: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._hopeful.append(waiting)
        try:
            await asyncio.wait([waiting], timeout=seconds)
        except asyncio.CancelledError:
            if waiting.done():
                self._take_back(waiting.result())
            waiting.cancel()
            raise
        if waiting.done() and waiting.result().usable:
            return waiting.result()
        waiting.cancel()
        return None

    async def _open(self, deadline: float) -> Connection:
        self._opening += 1
        try:
            async with asyncio.timeout_at(deadline):
                self._living.add(connection := await self._connect())
                return connection
        finally:
            self._opening -= 1

    async def _fill(self) -> None:
        """Open one first: it tells how many there may be, and wakes the database."""
        first = await asyncio.gather(self._add_one(), return_exceptions=True)
        missing = self.size - self.open - self._opening
        others = await asyncio.gather(*(self._add_one() for _ in range(missing)), return_exceptions=True)
        if failures := [outcome for outcome in (*first, *others) if outcome is not None]:
            failure = f"{type(failures[0]).__name__}: {failures[0]}"
            logger.warning("The pool could not be filled: %s", failure, extra={"event": "pool-not-filled"})

    async def _add_one(self) -> None:
        async with self._gate:
            if self.open + self._opening < self.size:
                deadline = asyncio.get_running_loop().time() + self._patience
                self._take_back(await self._open_or_wait(deadline))
