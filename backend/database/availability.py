"""Does the database answer, or is it away?"""

import math

# Without an answer for so many seconds, it counts as away.
SILENCE = 0.5


class Availability:
    """Times are of the event loop, in seconds. `away_since` is None while the database answers; it is away at first."""

    def __init__(self, now: float, deadline: float) -> None:
        self.away_since: float | None = now
        self._deadline = deadline
        self._answered = self._lenient_until = -math.inf

    def answers(self, now: float) -> bool:
        """Whether it answers, and has done so for long enough to serve those who came while it was away."""
        return now - self._answered <= SILENCE and now >= self._lenient_until

    def lost(self, since: float) -> None:
        """Note that what was begun at `since` failed."""
        if self.away_since is None:
            self.away_since = max(since, self._answered)

    def answered(self, sent: float, heard: float) -> bool:
        """Note the answer to what was sent at `sent`; return whether it ends a time of trouble."""
        if heard - sent > SILENCE:
            self._was_away(min(heard - sent, heard - self._answered), heard)
        ended = self.away_since is not None and sent > self.away_since
        if ended:
            self._back(heard)
        self._answered = heard
        return ended

    def connected(self, now: float) -> None:
        self._back(now)
        self._answered = now

    def _back(self, now: float) -> None:
        if self.away_since is not None:
            self._was_away(now - self.away_since, now)
            self.away_since = None

    def _was_away(self, seconds: float, now: float) -> None:
        """Who came meanwhile may wait longer: in twice the time that the database was away, the queue empties."""
        if seconds > SILENCE:
            self._lenient_until = now + 2 * min(seconds, self._deadline)
