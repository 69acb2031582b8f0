"""How many clients may there be, and how long may each of them take?"""

import asyncio
import logging
import resource
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from itertools import chain
from typing import Protocol

from backend.errors import OperatorError

logger = logging.getLogger(__name__)

# Files that are neither clients nor connections to the database: the log, the event loop, the key set, the metrics.
OTHER_FILES = 32
SECONDS_BETWEEN_LINES = 60
BEGUN_IN_ONE_TURN = 16


@dataclass(frozen=True)
class Limits:
    """What a client may take of one process; docs/operations.md lists each value with its reason."""

    connections: int = 1_000
    keep_alive: float = 130
    head_bytes: int = 65_536
    head_seconds: int = 30
    body_seconds: int = 30
    body_bytes_per_second: int = 500
    body_most_seconds: int = 150
    stalled_seconds: int = 30
    linger_seconds: int = 2
    linger_bytes: int = 2_097_152


def most_connections(wanted: int | None, pool_size: int) -> int:
    """Return how many clients the limit of open files leaves room for; raises OperatorError if that is too few."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return wanted or Limits.connections
    # A connection to the database that is being cancelled needs a second one for a moment.
    room = files - OTHER_FILES - 2 * pool_size
    if room < (wanted or 1):
        raise OperatorError(
            f"{files} open files are too few for {wanted or 1} clients: the database and other things need "
            f"{files - room}. Raise the limit (ulimit -n), or lower MAX_CONNECTIONS or DATABASE_POOL_SIZE."
        )
    return wanted or min(room, Limits.connections)


class Client(Protocol):
    """A connection, as seen from here."""

    def drop(self) -> None:
        """Close it at once."""

    def look(self, now: int) -> None:
        """Close it if it has taken too long."""


class Door:
    """Begins so many requests in one turn of the event loop.

    In a turn each connection to the database brings one answer at most. Where every request that has come is begun at
    once, a crowd makes the turns long, and the answers few.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Callable[[], None]] = deque()
        self._begun = 0
        self._turning = False

    def enter(self, begin: Callable[[], None]) -> None:
        """Call it in this turn, or as soon as its turn has come."""
        if not self._turning:
            self._turning, self._begun = True, 0
            self._loop.call_soon(self._turn)
        if self._begun < BEGUN_IN_ONE_TURN:
            self._begun += 1
            begin()
        else:
            self._waiting.append(begin)

    def _turn(self) -> None:
        self._turning, waiting = False, self._waiting
        for _ in range(min(BEGUN_IN_ONE_TURN, len(waiting))):
            self.enter(waiting.popleft())


class Crowd:
    """All who are connected to this process; once a second each of them is looked at.

    Time is counted in these looks, and not by a clock: while the process stands still, nobody is late.
    """

    def __init__(self, limits: Limits, everybody: set[Client]) -> None:
        self.limits = limits
        self.door = Door()
        self.loop = asyncio.get_running_loop()
        self.draining = False
        self.leaving = False  # draining comes soon
        self.now = 0
        self.date = b""
        self._everybody = everybody
        # Both in the order in which they came, so that the oldest is the first.
        self._strangers: dict[Client, None] = {}  # have not sent a whole head yet
        self._awaited: dict[Client, None] = {}  # they are to send the rest of a body, or a request, or to go
        self._closed = 0
        self._silent_until = 0
        self._ticking = False

    def admit(self, client: Client) -> bool:
        """Count a new client in, or tell that there is no room. Whoever has not sent a whole head goes first."""
        if len(self._everybody) >= self.limits.connections:
            self._closed += 1
            first = next(chain(self._strangers, self._awaited), None)
            if first is None:
                return False
            self.leave(first)
            first.drop()
        self._everybody.add(client)
        self._strangers[client] = None
        if not self._ticking:
            self._tick()
        return True

    def busy(self, client: Client) -> None:
        """It is not the client that is waited for."""
        self._strangers.pop(client, None)
        self._awaited.pop(client, None)

    def awaited(self, client: Client) -> None:
        """It is the client that is waited for."""
        self._awaited[client] = None

    def leave(self, client: Client) -> None:
        self.busy(client)
        self._everybody.discard(client)

    def _tick(self) -> None:
        self.now += 1
        self.date = formatdate(usegmt=True).encode()
        self._ticking = bool(self._everybody or self._closed)
        if self._ticking:
            self.loop.call_later(1, self._tick)
        for client in tuple(self._everybody):
            client.look(self.now)
        if self._closed and self.now >= self._silent_until:
            self._tell()

    def _tell(self) -> None:
        logger.warning(
            "%d connections were closed to make room: there were more than %d; those without a whole head went first",
            self._closed, self.limits.connections, extra={"event": "connections-closed"},
        )  # fmt: skip
        self._closed, self._silent_until = 0, self.now + SECONDS_BETWEEN_LINES
