"""Which keys has the issuer published, as far as we know, and when do we ask it again?"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Literal

from backend.auth.jwks import FetchError, PublicKey, parse_key_set
from backend.errors import IssuerUnavailable

logger = logging.getLogger(__name__)

# Seconds.
FRESH = 300
STALE = 24 * 3_600
NO_KEYS = 60
BACK_OFF = (2, 60)
Cause = Literal["unknown key", "bad signature"]
# How long after a fetch for this cause the next one may follow.
INTERVALS: dict[Cause, int] = {"unknown key": 2, "bad signature": 30}


class NeverReachedError(Exception):
    """The issuer has not answered once since the start, so perhaps there is no key set at all."""


class KeySet:
    """A cache of the issuer's key set: fresh for five minutes, then refreshed in the background, usable for a day.

    `fetch` returns the body, or None if there is no key set (404), and raises FetchError; one fetch runs at a time.
    """

    def __init__(
        self, fetch: Callable[[], Awaitable[bytes | None]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str, PublicKey] = {}
        self._answered = -math.inf
        self._failures = 0
        self._back_off_until = -math.inf
        self._not_before: dict[Cause, float] = dict.fromkeys(INTERVALS, -math.inf)
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, kid: str) -> PublicKey | None:
        """Return the key of this name, or None if the issuer publishes none.

        Raises NeverReachedError; or IssuerUnavailable if the issuer does not answer and the cached set is too old, or
        may lack a new key.
        """
        if key := self.published(kid):
            if self._age >= FRESH and self._clock() >= self._back_off_until:
                self._start()
            return key
        await self._refresh("unknown key", lambda: self.published(kid) is None)
        if key := self.published(kid):
            return key
        if self._answered == -math.inf:
            raise NeverReachedError
        if self._failures or self._age >= STALE:
            raise IssuerUnavailable("key-set-unreachable")
        return None

    async def replacement(self, key: PublicKey) -> PublicKey | None:
        """Return the key that now has this key's name, or None if that is the same one or there is none.

        For a bad signature: after a reset of the issuer's database, a new key can have an old name.
        """
        await self._refresh("bad signature", lambda: self.published(key.kid) == key)
        current = self.published(key.kid)
        return None if current == key else current

    def published(self, kid: str) -> PublicKey | None:
        """Return the key from the cache alone."""
        return self._keys.get(kid) if self._age < STALE else None

    async def close(self) -> None:
        if self._fetching:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    @property
    def _age(self) -> float:
        return self._clock() - self._answered

    async def _refresh(self, cause: Cause, unchanged: Callable[[], bool]) -> None:
        """Wait for the newest key set, if one is being fetched, or may be fetched for this cause."""
        if self._fetching:
            await self._fetched()
        # The fetch that was already running may have missed the change, so wait for another one.
        if unchanged() and (self._fetching or self._may_fetch(cause)):
            await self._fetched()

    def _may_fetch(self, cause: Cause) -> bool:
        now = self._clock()
        if now < max(self._back_off_until, self._not_before[cause]):
            return False
        self._not_before[cause] = now + INTERVALS[cause]
        return True

    async def _fetched(self) -> None:
        # The fetch is shared: cancelling one of the requests that wait for it must not cancel it.
        await asyncio.shield(self._start())

    def _start(self) -> asyncio.Task[None]:
        if not self._fetching:
            self._fetching = asyncio.create_task(self._fetch_once())
        return self._fetching

    async def _fetch_once(self) -> None:
        try:
            self._take(await self._fetch())
        except FetchError as error:
            self._failures += 1
            first, longest = BACK_OFF
            pause = min(first * 2 ** (self._failures - 1), longest)
            self._back_off_until = self._clock() + pause
            text = "The key set cannot be used: %s. Next try in %d s at the earliest."
            logger.warning(text, error, pause, extra={"event": "key-set"})
        finally:
            self._fetching = None

    def _take(self, body: bytes | None) -> None:
        keys = {} if body is None else parse_key_set(body)
        if not keys and self._keys and self._age < STALE:
            raise FetchError("it is empty, and it was not before")
        self._keys = keys
        self._answered = self._clock()
        self._failures = 0
        if body is None:
            self._not_before["unknown key"] = self._answered + NO_KEYS
