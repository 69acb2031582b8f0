"""Which connection does a request get, and when?"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

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
        self._opening = 0
        self._warming: asyncio.Task[None] | None = None
        self._withheld: list[asyncio.Task[bool]] = []
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
            connection = self._pop()
            if connection is None:
                connection = await self._open(deadline)
                self.warm()
        except BaseException:
            self._gate.release()
            raise
        self.busy += 1
        return connection

    def release(self, connection: Connection) -> None:
        self.busy -= 1
        if connection.usable:
            self._idle.append(connection)
        self._gate.release()

    def warm(self) -> None:
        """Open what is missing in the background: at the start, and when a request has woken a sleeping database."""
        if not self._warming or self._warming.done():
            self._warming = asyncio.create_task(self._fill())

    def shrink(self, size: int) -> None:
        """Hand out no more than `size` connections from now on, as those that are busy come back."""
        self._withheld += [asyncio.create_task(self._withhold()) for _ in range(self.size - size)]
        self.size = min(self.size, size)

    async def close(self) -> None:
        pending = [task for task in (self._warming, *self._withheld) if task and not task.done()]
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        while self._idle:
            self._idle.pop().cut()

    async def _withhold(self) -> bool:
        return await self._gate.acquire()

    def _pop(self) -> Connection | None:
        while self._idle:
            if (connection := self._idle.pop()).usable:
                return connection
        return None

    async def _open(self, deadline: float) -> Connection:
        """Connect. Nothing has been sent yet, so for every statement it may be tried again until the deadline."""
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE
        self._opening += 1
        try:
            while True:
                try:
                    async with asyncio.timeout_at(deadline):
                        return await self._connect()
                except Exception as error:
                    if not self._transient(error) or loop.time() + pause >= deadline:
                        raise
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - spreads the tries, keeps no secret
                pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            self._opening -= 1

    async def _fill(self) -> None:
        missing = self.size - self.open - self._opening
        outcomes = await asyncio.gather(*(self._add_one() for _ in range(missing)), return_exceptions=True)
        if failures := [outcome for outcome in outcomes if outcome is not None]:
            logger.warning("The pool could not be filled: %s: %s", type(failures[0]).__name__, failures[0])

    async def _add_one(self) -> None:
        await self._gate.acquire()
        try:
            if self.open + self._opening < self.size:
                deadline = asyncio.get_running_loop().time() + self._patience
                self._idle.append(await self._open(deadline))
        finally:
            self._gate.release()
