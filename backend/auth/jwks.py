"""Which public keys does the issuer publish, and how do we know?

The key set is fetched when a token first needs it, kept while it is good, and fetched again when a token hints that it
has changed. The clock and the fetch are passed in.
"""

import asyncio
import logging
import math
import os
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import Algorithm

from backend.certificates import verifying_context
from backend.errors import IssuerUnavailable

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

FRESH = 300
STALE = 24 * 3_600
NO_KEYS = 60
UNKNOWN_KEY_BUDGET = 2
BAD_SIGNATURE_BUDGET = 30
BACK_OFF = (2, 60)

CONNECT_TIMEOUT = 2
TOTAL_TIMEOUT = 5
MAX_BYTES = 65_536
MAX_KEYS = 32
MIN_RSA_BITS = 2_048

_OF_CURVE = {
    ("OKP", "Ed25519"): ("EdDSA", "Ed25519"),  # RFC 8037, and the fully specified name of RFC 9864
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
}
_OF_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
ALGORITHMS = frozenset(_OF_RSA).union(*_OF_CURVE.values())
_PRIVATE_MEMBERS = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}


class FetchError(Exception):
    """The key set could not be fetched, or is none; the message is for the log."""


class NeverReachedError(Exception):
    """The issuer has not answered once since the start, so perhaps there is no key set at all."""


@dataclass(frozen=True)
class PublicKey:
    """A published key with the spellings of the one algorithm that it may verify; equal when it is the same key."""

    kid: str
    algorithms: tuple[str, ...]
    members: tuple[str, ...]
    _algorithm: Algorithm = field(compare=False, repr=False)
    _key: Any = field(compare=False, repr=False)

    def verifies(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        return algorithm in self.algorithms and self._algorithm.verify(signed, self._key, signature)


def parse_key_set(body: bytes) -> dict[str, PublicKey]:
    """Return the usable keys of a JWK Set (RFC 7517) by their kid; raise FetchError where it is none.

    Symmetric and private keys are dropped, and so are RSA keys that are too short. The algorithm is derived from the
    key, since Better Auth can publish a wrong `alg`; only for RSA, which leaves it open, does `alg` decide.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise FetchError("it is not JSON") from None
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        raise FetchError("it is not a key set")
    if len(keys) > MAX_KEYS:
        raise FetchError(f"it has more than {MAX_KEYS} keys")
    return {key.kid: key for each in keys if (key := _public_key(each))}


def _public_key(jwk: dict[str, Any]) -> PublicKey | None:
    kid, algorithms = jwk.get("kid"), _algorithms(jwk)
    if not isinstance(kid, str) or not algorithms or not _PRIVATE_MEMBERS.isdisjoint(jwk):
        return None
    algorithm = jwt.get_algorithm_by_name(algorithms[0])
    try:
        key = algorithm.from_jwk(jwk)
    except (jwt.InvalidKeyError, ValueError, TypeError):
        return None
    if isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        return None
    members = tuple(str(jwk.get(name)) for name in ("kty", "crv", "x", "y", "n", "e"))
    return PublicKey(kid, algorithms, members, algorithm, key)


def _algorithms(jwk: dict[str, Any]) -> tuple[str, ...]:
    if jwk.get("kty") == "RSA":
        return (jwk["alg"],) if jwk.get("alg") in _OF_RSA else ("RS256",)
    return _OF_CURVE.get((str(jwk.get("kty")), str(jwk.get("crv"))), ())


class KeySet:
    """The issuer's key set: fresh for five minutes, then refreshed beside the requests, good for a day if that fails.

    `fetch` returns the body, or None where there is no key set (404), and raises FetchError; never two at once.
    """

    def __init__(
        self, fetch: Callable[[], Awaitable[bytes | None]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str, PublicKey] = {}
        self._answered = -math.inf
        self._none_until = -math.inf
        self._failures = 0
        self._back_off_until = -math.inf
        self._asked_for_unknown = -math.inf
        self._asked_for_doubt = -math.inf
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, kid: str) -> PublicKey | None:
        """Return the key of this name, or None where the issuer publishes none.

        Raises NeverReachedError, or IssuerUnavailable where the set is too old or may have changed, and the issuer does
        not answer.
        """
        if key := self.published(kid):
            if self._age >= FRESH and not self._backing_off:
                self._start()
            return key
        # A fetch that was under way before may miss what has changed since, so it does not count as asking.
        if self._fetching:
            await self._refreshed()
        if not self.published(kid) and (self._fetching or self._may_ask_for_unknown()):
            await self._refreshed()
        if key := self.published(kid):
            return key
        if self._answered == -math.inf:
            raise NeverReachedError
        if self._failures or self._age >= STALE:
            raise IssuerUnavailable("key-set-unreachable")
        return None

    async def replacement(self, key: PublicKey) -> PublicKey | None:
        """Return the key that now has this one's name, or None; asked for when a signature is bad under a known key.

        A reset database can give an old name to a new key.
        """
        if self._fetching:
            await self._refreshed()
        if self.published(key.kid) == key and (self._fetching or self._may_ask_for_doubt()):
            await self._refreshed()
        current = self.published(key.kid)
        return None if current == key else current

    def published(self, kid: str) -> PublicKey | None:
        """Return the key as far as is known now, without asking anyone."""
        return self._keys.get(kid) if self._age < STALE else None

    async def close(self) -> None:
        if self._fetching:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    @property
    def _age(self) -> float:
        return self._clock() - self._answered

    @property
    def _backing_off(self) -> bool:
        return self._clock() < self._back_off_until

    def _may_ask_for_unknown(self) -> bool:
        now = self._clock()
        if self._backing_off or now < self._none_until or now - self._asked_for_unknown < UNKNOWN_KEY_BUDGET:
            return False
        self._asked_for_unknown = now
        return True

    def _may_ask_for_doubt(self) -> bool:
        now = self._clock()
        if self._backing_off or now - self._asked_for_doubt < BAD_SIGNATURE_BUDGET:
            return False
        self._asked_for_doubt = now
        return True

    def _start(self) -> asyncio.Task[None]:
        if not self._fetching:
            self._fetching = asyncio.create_task(self._fetch_once())
        return self._fetching

    async def _refreshed(self) -> None:
        # A request that is cancelled must not take the fetch with it that others wait for.
        await asyncio.shield(self._start())

    async def _fetch_once(self) -> None:
        try:
            body = await self._fetch()
            self._take({} if body is None else parse_key_set(body), exists=body is not None)
        except FetchError as error:
            self._failures += 1
            first, longest = BACK_OFF
            pause = min(first * 2 ** (self._failures - 1), longest)
            self._back_off_until = self._clock() + pause
            text = "The key set cannot be used: %s. Next try in %d s at the earliest."
            logger.warning(text, error, pause, extra={"event": "key-set"})
        finally:
            self._fetching = None

    def _take(self, keys: dict[str, PublicKey], *, exists: bool) -> None:
        if self._keys and self._age < STALE and not keys:
            raise FetchError("it is empty, and it was not before")
        self._keys = keys
        self._answered = self._clock()
        self._none_until = -math.inf if exists else self._answered + NO_KEYS
        self._failures = 0


def shown_address(url: str) -> str:
    """Return the URL without the parts that may be secret: user name, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class HttpSource:
    """Fetches the body of the key set; raises FetchError for anything but a plain answer of a sensible size."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._where = shown_address(url)
        self._client: httpx.AsyncClient | None = None

    async def __call__(self) -> bytes | None:
        if not self._client:
            # Only where there is a key set, and beside the event loop: loading httpx and the root certificates takes
            # some 100 ms and 10 MiB.
            try:
                self._client = await asyncio.to_thread(http_client, self._url)
            except OSError as error:
                raise FetchError(f"{type(error).__name__} with the certificates that SSL_CERT_FILE names") from error
        import httpx

        try:
            async with asyncio.timeout(TOTAL_TIMEOUT):
                return await self._body(self._client)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise FetchError(f"{type(error).__name__} at {self._where}") from error

    async def close(self) -> None:
        if self._client:
            await self._client.aclose()

    async def _body(self, client: "httpx.AsyncClient") -> bytes | None:
        # Uncompressed, so that the bytes counted are the bytes kept. On a connection of its own, since the other side
        # may close one that was kept alive just when it is used again, and that would be a failure.
        headers = {"Accept-Encoding": "identity", "Connection": "close"}
        async with client.stream("GET", self._url, headers=headers) as response:
            if response.status_code == HTTPStatus.NOT_FOUND:
                return None
            if response.status_code != HTTPStatus.OK:
                raise FetchError(f"status {response.status_code} at {self._where}")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise FetchError(f"more than {MAX_BYTES} bytes at {self._where}")
            return bytes(body)


def http_client(url: str) -> "httpx.AsyncClient":
    """Return a client that goes straight to this address; raise OSError where SSL_CERT_FILE is needed and is wrong.

    Proxies and .netrc of the environment do not count: they are a shell's, and would be used for localhost, too.
    """
    import httpx

    secure = url.startswith("https:")
    # Without TLS nobody needs to vouch for anything: this context trusts no one, and takes no time to make.
    context = verifying_context(os.environ.get("SSL_CERT_FILE")) if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    timeout = httpx.Timeout(TOTAL_TIMEOUT, connect=CONNECT_TIMEOUT)
    return httpx.AsyncClient(timeout=timeout, verify=context, trust_env=False)
