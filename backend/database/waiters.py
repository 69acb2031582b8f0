"""Which request is next, where there are fewer connections than requests?"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from backend.database.connection import Connection

HasLeft = Callable[[], bool]


@dataclass(slots=True, eq=False)
class Waiter:
    """A request that waits until `granted` has a connection, or the reason why it gets none.

    Times are of the event loop.
    """

    owner: str
    since: float
    deadline: float
    has_left: HasLeft | None
    granted: asyncio.Future[Connection] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    timer: asyncio.TimerHandle | None = None

    def refuse(self, error: BaseException) -> None:
        if not self.granted.done():
            self.granted.set_exception(error)

    def settle(self) -> None:
        if self.timer:
            self.timer.cancel()


class FairQueue:
    """Waiting requests, in rounds: one of each user, each user's in the order in which they came."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, OrderedDict[Waiter, None]] = OrderedDict()
        self._longest: OrderedDict[Waiter, None] = OrderedDict()
        self.waiting = 0

    def add(self, waiter: Waiter) -> None:
        queue = self._of.setdefault(waiter.owner, OrderedDict())
        queue[waiter] = None
        self.waiting += 1
        if len(queue) > len(self._longest):
            self._longest = queue

    def leave(self, waiter: Waiter) -> None:
        """Take out a request that no longer waits; does nothing for one that `next` has taken out."""
        if (queue := self._of.get(waiter.owner)) is not None and queue.pop(waiter, waiter) is None:
            self.waiting -= 1
            if not queue:
                del self._of[waiter.owner]

    def next(self) -> Waiter | None:
        """Take out whose turn it is, or return None where nobody waits."""
        while self._of:
            owner, queue = self._of.popitem(last=False)
            waiter, _ = queue.popitem(last=False)
            self.waiting -= 1
            if queue:
                self._of[owner] = queue
            if not waiter.granted.done():
                return waiter
        return None

    def last_of_longest(self, owner: str) -> Waiter | None:
        """Return the request to refuse instead of a new one of `owner`: the newest of the user with the most, if that
        user has at least two more waiting than `owner`."""
        if len(self._longest) < len(self._of.get(owner, ())) + 2:
            return None
        return next(reversed(self._longest))
