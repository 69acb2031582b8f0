"""How many connections would be of use? Little's law: busy connections = requests/s x time of a statement."""

import math

WINDOW = 0.5
# More connections help where those there are spend at least this part of their time waiting for the database. The time
# of the shortest statement counts: where a processor is the limit, only the others take longer, and more connections
# would be of no use.
USEFUL = 0.5


class Demand:
    """Counts answers, while requests wait, in windows of half a second.

    `rate` is answers per second, or None where it is not known; `shortest` the least time in seconds that a statement
    took in the last two windows that had answers.
    """

    def __init__(self) -> None:
        self.shortest = 0.0
        self.rate: float | None = None
        self._began = -math.inf
        self._answers = 0
        self._least = self._least_before = math.inf

    def answered(self, seconds: float) -> None:
        """Count a statement that took so long."""
        self._answers += 1
        self._least = min(self._least, seconds)

    def measure(self, now: float) -> bool:
        """Call it while requests wait; return whether a window has just ended."""
        passed = now - self._began
        if passed < WINDOW:
            return False
        # A window that is much longer had a time in which nobody waited, and one without an answer is a stall: its rate
        # is not the database's pace.
        full = passed < 2 * WINDOW
        self.rate = self._answers / passed if full and self._answers else None
        if self._answers:
            self.shortest = min(self._least, self._least_before)
            self._least, self._least_before = math.inf, self._least
        self._began, self._answers = now, 0
        return full

    def exceeds(self, size: int) -> bool:
        """Whether more than `size` connections would be of use."""
        return self.rate is not None and self.rate * self.shortest > USEFUL * size
