"""Who is connected to this process, and who is disconnected when there are too many?"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from itertools import chain
from typing import TYPE_CHECKING

from backend.server.limits import Limits

if TYPE_CHECKING:
    from backend.server.protocol import HttpConnection

logger = logging.getLogger(__name__)

LOG_INTERVAL = 60
STARTS_PER_ITERATION = 16


class StartQueue:
    """Starts at most 16 requests in one iteration of the event loop.

    In one iteration each database connection returns at most one result. Starting all requests that have arrived would
    make the iterations long, and so leave the database idle.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Callable[[], None]] = deque()
        self._started = 0
        self._scheduled = False

    def add(self, start: Callable[[], None]) -> None:
        """Call `start` now, or in one of the next iterations."""
        if not self._scheduled:
            self._scheduled, self._started = True, 0
            self._loop.call_soon(self._next_iteration)
        if self._started < STARTS_PER_ITERATION:
            self._started += 1
            start()
        else:
            self._waiting.append(start)

    def _next_iteration(self) -> None:
        self._scheduled, waiting = False, self._waiting
        for _ in range(min(STARTS_PER_ITERATION, len(waiting))):
            self.add(waiting.popleft())


class Clients:
    """All clients of this process, and what they share; once a second the timeouts of each are checked.

    `now` counts these checks instead of reading a clock, so that no client times out because the process was suspended.
    """

    def __init__(self, limits: Limits, connected: "set[HttpConnection]") -> None:
        self.limits = limits
        self.start_queue = StartQueue()
        self.loop = asyncio.get_running_loop()
        self.draining = False
        self.stopping_soon = False  # draining begins after STOP_DELAY
        self.now = 0
        self.date = b""
        self._connected = connected
        # Those that may be closed to make room, the oldest first.
        self._without_head: dict[HttpConnection, None] = {}  # have not sent one complete head
        self._idle: dict[HttpConnection, None] = {}
        self._closed = 0
        self._next_log = 0
        self._ticking = False

    def add(self, client: "HttpConnection") -> bool:
        """Return whether there is room for a new client, which a client that is waited for may have to make."""
        if len(self._connected) >= self.limits.connections:
            self._closed += 1
            first = next(chain(self._without_head, self._idle), None)
            if first is None:
                return False
            self.remove(first)
            first.abort()
        self._connected.add(client)
        self._without_head[client] = None
        if not self._ticking:
            self._tick()
        return True

    def mark_busy(self, client: "HttpConnection") -> None:
        """Its request is being served."""
        self._without_head.pop(client, None)
        self._idle.pop(client, None)

    def mark_idle(self, client: "HttpConnection") -> None:
        """It is the client's turn: to send a request or a body, to take a long answer, or to end the connection."""
        self._idle[client] = None

    def remove(self, client: "HttpConnection") -> None:
        self.mark_busy(client)
        self._connected.discard(client)

    def _tick(self) -> None:
        self.now += 1
        self.date = formatdate(usegmt=True).encode()
        self._ticking = bool(self._connected or self._closed)
        if self._ticking:
            self.loop.call_later(1, self._tick)
        for client in tuple(self._connected):
            client.check_timeouts(self.now)
        if self._closed and self.now >= self._next_log:
            self._log_closed()

    def _log_closed(self) -> None:
        logger.warning(
            "%d connections were closed to make room: there were more than %d; those without a whole head went first",
            self._closed, self.limits.connections, extra={"event": "connections-closed"},
        )  # fmt: skip
        self._closed, self._next_log = 0, self.now + LOG_INTERVAL
