"""Which connection does a request get, when, and how many are there?

Requests that find no idle connection wait, users taking turns. Reasons and figures: decisions 0016 and 0017.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from weakref import WeakSet

from backend.database import failures
from backend.database.attempts import Attempts
from backend.database.availability import SILENCE, Availability
from backend.database.connection import Connection
from backend.database.demand import Demand
from backend.database.waiters import FairQueue, HasLeft, Waiter
from backend.errors import Departed, Overloaded
from backend.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

# All times are in seconds. While the database answers, a request waits no longer than this; while it is away, until its
# deadline.
LONGEST_WAIT = 1.0
# The part of what is served in that time that may wait: of more, some would wait in vain, since the pace varies.
SURE = 0.75
# The bound on waiting requests follows the database's pace, between these two numbers.
ALWAYS_WAITING, MOST_WAITING = 128, 4_096
# For so long after a request found no room the next ones are refused unseen.
CROWDED = 0.05
# After so long in a queue that is longer than the pool is large, a request whose client has left gives up its place.
LOOK_AFTER = 0.1

# Where the server has no connection left, the next one is asked for after so long.
FULL_PAUSE = 0.5
SECONDS_BETWEEN_LINES = 5.0
# A connection that nobody needed for so long is given back, down to the number at the start.
UNUSED = 60.0


class Pool:
    """Connections for requests that take turns; the one used last is the first to be used again.

    Connecting is the pool's own work: an attempt that outlasts the request that began it serves the next. In trouble
    there is one attempt at a time. Between its size at the start and `most` the pool finds its size by itself. It never
    touches an idle database: there is no ping, and the only timer for idle connections closes them.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        *,
        size: int,
        deadline: float,
        metrics: Metrics,
    ) -> None:
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._idle: list[Connection] = []
        self._living: WeakSet[Connection] = WeakSet()  # also those that are cut later
        self._queue = FairQueue()
        self._demand = Demand()
        # Until the first connection is there, one attempt at a time: it may tell how many there may be.
        self._availability = Availability(self._loop.time(), deadline)
        self._attempts = Attempts(connect, self._opened, self._failed)
        self._full_until = self._told_at = -math.inf
        self._trimming: asyncio.TimerHandle | None = None
        self._closed = False
        self._first_size = self.size = self.most = size
        self.busy = 0
        # Called where more connections than `most` would be of use.
        self.want_more: Callable[[], None] = lambda: None
        # Whether the queue was full just now; the outermost layer then refuses requests itself, at less cost.
        self.crowded = False

    @property
    def open(self) -> int:
        """How many connections there are, as far as the operating system has told."""
        return self.busy + sum(connection.usable for connection in self._idle)

    @property
    def failure(self) -> Exception | None:
        """Why connecting fails at present."""
        return self._attempts.failure

    @property
    def waiting(self) -> int:
        """How many requests wait for a connection."""
        return self._queue.waiting

    async def acquire(self, owner: str, deadline: float, has_left: HasLeft | None = None) -> Connection:
        """Return a connection before `deadline`, a time of the event loop.

        Raises TimeoutError at the deadline, Overloaded where too many wait, Departed where the client has gone, and
        what `connect` raised where that lasts.
        """
        if not self._queue.waiting and (connection := self._pop()):
            self.busy += 1
            return connection
        waiter = Waiter(owner, self._loop.time(), deadline, has_left)
        self._admit(waiter)
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled() and not waiter.granted.exception():
                self.busy -= 1
                self._give(waiter.granted.result())
            raise
        finally:
            self._queue.leave(waiter)
            waiter.settle()
            self._metrics.waited(self._loop.time() - waiter.since)

    def release(self, connection: Connection, since: float) -> None:
        """Take a connection back whose statement was sent at `since`."""
        self.busy -= 1
        if connection.heard > since:
            self._demand.answered(connection.heard - since)
            if self._availability.answered(since, connection.heard):
                self._attempts.succeeded()
        self._give(connection)

    def suspect(self, since: float) -> None:
        """Close the idle connections from which nothing was heard since then: another one has just proved dead."""
        self._availability.lost(since)
        silent = [connection for connection in self._idle if connection.heard < since]
        self._idle = [connection for connection in self._idle if connection.heard >= since]
        for connection in silent:
            connection.cut()

    def limit(self, most: int) -> None:
        """Have no more than `most` connections; idle ones are closed now, busy ones when they are released."""
        self.most = most
        self.size = min(self.size, most)
        for connection in self._idle[: max(0, self.busy + len(self._idle) - self.size)]:
            self._idle.remove(connection)
            connection.cut()

    async def close(self) -> None:
        self._closed = True
        if self._trimming:
            self._trimming.cancel()
        await self._attempts.close()
        for connection in list(self._living):
            connection.cut()

    # Whose turn is it?

    def _admit(self, waiter: Waiter) -> None:
        if (failure := self._attempts.recent_failure(waiter.since)) and not failures.may_pass(failure):
            raise failure.with_traceback(None)
        if self._queue.waiting >= self._room(waiter.since):
            if not (gives_way := self._queue.last_of_longest(waiter.owner)):
                self._refuse_unseen()
                raise self._overloaded("too many requests wait")
            gives_way.refuse(self._overloaded("too many requests of one user wait"))
            self._queue.leave(gives_way)
        self._queue.add(waiter)
        waiter.timer = self._loop.call_at(min(waiter.since + LOOK_AFTER, waiter.deadline), self._look_after, waiter)
        self._grow()

    def _refuse_unseen(self) -> None:
        """Have requests refused for a moment; the next finds out whether there is room again, or a stall has begun."""
        if not self.crowded:
            self.crowded = True
            self._loop.call_later(CROWDED, self._look_again)

    def _look_again(self) -> None:
        self.crowded = False

    def _room(self, now: float) -> float:
        """How many may wait: while the database answers as many as it serves in time."""
        if self._demand.rate is None or not self._availability.answers(now):
            return MOST_WAITING
        return min(max(self._demand.rate * LONGEST_WAIT * SURE, 2 * self.size, ALWAYS_WAITING), MOST_WAITING)

    def _look_after(self, waiter: Waiter) -> None:
        """Refuse a request that has waited too long, or whose client has left; otherwise look again later."""
        now = self._loop.time()
        if waiter.granted.done():
            return
        if now >= waiter.deadline:
            waiter.refuse(TimeoutError("no connection before the deadline"))
        elif now - waiter.since >= LONGEST_WAIT and self._availability.answers(now):
            waiter.refuse(self._overloaded("waited too long"))
        elif self._gone(waiter, now):
            waiter.refuse(Departed())
        else:
            again = max(waiter.since + LONGEST_WAIT, now + SILENCE)
            waiter.timer = self._loop.call_at(min(again, waiter.deadline), self._look_after, waiter)

    def _overloaded(self, reason: str) -> Overloaded:
        """Count a request that is turned away. A line in the log for each would cost more than the request itself."""
        self._metrics.shed()
        now = self._loop.time()
        if now - self._told_at > SECONDS_BETWEEN_LINES:
            self._told_at = now
            text = "More requests than the database can serve: %s; %d wait, with %d connections"
            logger.warning(text, reason, self.waiting, self.size, extra={"event": "overloaded"})
        return Overloaded(reason)

    def _next(self) -> Waiter | None:
        """Return whose turn it is, if there is time left for a statement."""
        now = self._loop.time()
        while waiter := self._queue.next():
            if waiter.deadline < now + 2 * self._demand.shortest:
                waiter.refuse(TimeoutError("too late for a statement"))
            elif self._gone(waiter, now):
                waiter.refuse(Departed())
            else:
                return waiter
        return None

    def _gone(self, waiter: Waiter, now: float) -> bool:
        """Whether its client has left a long queue. In a short one it gets its answer: one that has only closed its
        side of the connection looks the same, and may want it (RFC 9112, 9.6)."""
        long = self.waiting > self.size and now - waiter.since >= LOOK_AFTER
        return long and waiter.has_left is not None and waiter.has_left()

    def _pop(self) -> Connection | None:
        while self._idle:
            if (connection := self._idle.pop()).usable and not connection.has_news:
                return connection
            connection.cut()
        return None

    def _give(self, connection: Connection) -> None:
        """Hand a connection that nobody has to whose turn it is, or keep it."""
        if not connection.usable:
            self._grow()
        # `open` asks each idle connection whether it is usable; most of the time the sum shows that there is room.
        elif self.busy + len(self._idle) >= self.size and self.open >= self.size:
            connection.cut()
        elif waiter := self._next():
            self.busy += 1
            waiter.granted.set_result(connection)
        else:
            self._idle.append(connection)

    # How many connections are there?

    def fill(self) -> None:
        """Open what is missing to the size at the start."""
        self._begin(min(self._first_size, self.size) - self._alive)

    @property
    def _alive(self) -> int:
        return self.busy + len(self._idle) + len(self._attempts)

    def _grow(self) -> None:
        """Begin to connect where somebody waits for it, and let the size follow the demand."""
        if self._queue.waiting and self._demand.measure(self._loop.time()) and self._demand.exceeds(self.size):
            self._raise_size()
        # While the database is away there is one attempt at a time, so those under way serve nobody for sure.
        served = len(self._attempts) if self._availability.away_since is None else 0
        self._begin(min(self._queue.waiting - served, self.size - self._alive))

    def _raise_size(self) -> None:
        now = self._loop.time()
        if self.size >= self.most:
            self.want_more()
        elif now - self._full_until > 2 * FULL_PAUSE:
            self.size = min(2 * self.size, self.most)
        elif now > self._full_until:
            self.size += 1
        if not self._trimming:
            self._trimming = self._loop.call_later(UNUSED, self._trim)

    def _trim(self) -> None:
        """Close connections that were not used for a while, down to the size at the start."""
        self._trimming = None
        unused = self._loop.time() - UNUSED
        for connection in [each for each in self._idle if each.heard < unused]:
            if self.open > self._first_size:
                self._idle.remove(connection)
                connection.cut()
        if self.open > self._first_size:
            self._trimming = self._loop.call_later(UNUSED, self._trim)
        self.size = max(self.open, min(self._first_size, self.most))

    def _begin(self, count: int) -> None:
        """Begin so many attempts to connect; in trouble one, when it is time for it."""
        if count <= 0 or self._closed:
            return
        if self._availability.away_since is None:
            self._attempts.begin(count)
        else:
            self._attempts.begin_when_due(self._grow)

    def _opened(self, connection: Connection) -> None:
        self._living.add(connection)
        self._availability.connected(self._loop.time())
        self._give(connection)
        self.fill()
        self._grow()

    def _failed(self, error: Exception, began: float) -> None:
        if failures.is_full(error) and self._alive:
            self.size, self._full_until = self._alive, self._loop.time() + FULL_PAUSE
            return
        self._availability.lost(began)
        self._attempts.back_off()
        if not failures.may_pass(error):
            while waiter := self._queue.next():
                waiter.refuse(error)
        self._grow()
