"""Whose token is this?

Knows no web framework and no database: takes a bearer token, returns its user's id, or raises Unauthorized.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import jwt

from backend.auth.claims import expiry, has_known_audience, has_known_issuer, identity, moment
from backend.auth.compact import unverified_parts
from backend.auth.jwks import ALGORITHMS, PublicKey
from backend.auth.key_set import KeySet, NeverReachedError
from backend.errors import IssuerUnavailable, Problem, TokenMissing, Unauthorized

CACHE_SECONDS = 60
# Longer tokens, as Better Auth makes them when somebody's name or picture is long, are not cached, to bound the memory.
MAX_CACHED_LENGTH = 2_048


def bearer_token(authorization: Sequence[str]) -> str:
    """Return the token of the request's Authorization headers, of which there must be exactly one (RFC 6750, 2.1)."""
    if not authorization:
        raise TokenMissing("no-authorization-header")
    if len(authorization) > 1:
        raise Unauthorized("several-authorization-headers")
    scheme, _, token = authorization[0].partition(" ")
    if scheme.lower() != "bearer" or not token.strip(" "):
        raise TokenMissing("no-bearer-token")
    return token.strip(" ")


@dataclass(frozen=True, slots=True)
class Verified:
    """What a token has proven. `key` is None for a token that is signed with a shared secret."""

    user_id: str
    expires: float
    cached_until: float  # not later than `expires`
    key: PublicKey | None


class TokenVerifier:
    """Verifies tokens with the secrets shared with Better Auth or with its key set, and caches those that passed.

    The algorithm in the header decides: HS256 means the secrets (their UTF-8 bytes are the keys), every other one the
    key set. Without secrets, or without a key set, those algorithms are refused.
    """

    def __init__(
        self,
        *,
        secrets: Sequence[bytes],
        key_set: KeySet | None,
        issuers: Collection[str],
        audiences: Collection[str],
        clock: Callable[[], float] = time.time,
        capacity: int = 10_000,
    ) -> None:
        self._secrets = secrets
        self._key_set = key_set
        self._issuers = frozenset(issuers)
        self._audiences = frozenset(audiences)
        self._clock = clock
        self._capacity = capacity
        self._cache: dict[str, Verified] = {}
        self._hs256 = jwt.get_algorithm_by_name("HS256")

    async def verified(self, token: str) -> Verified:
        """Return what the token proves.

        Raises Unauthorized with the reason, TokenExpired for a well signed token whose time is over, and
        IssuerUnavailable if the key set is needed and not available.
        """
        verified = self._cache.get(token)
        if verified is None or verified.cached_until <= self._clock() or not self._still_published(verified.key):
            self._cache.pop(token, None)
            verified = await self._verify(token)
            if len(token) <= MAX_CACHED_LENGTH:
                self._store(token, verified)
        return verified

    def _still_published(self, key: PublicKey | None) -> bool:
        return key is None or (self._key_set is not None and self._key_set.published(key.kid) == key)

    def _store(self, token: str, verified: Verified) -> None:
        if len(self._cache) >= self._capacity:
            del self._cache[next(iter(self._cache))]
        self._cache[token] = verified

    async def _verify(self, token: str) -> Verified:
        header, claims, signature = unverified_parts(token)
        _check_header(header)
        key = await self._verify_signature(token.rpartition(".")[0].encode(), signature, header, claims)
        expires = expiry(claims, self._clock())
        if (key or "iss" in claims) and not has_known_issuer(claims, self._issuers):
            raise Unauthorized("issuer")
        if (key or "aud" in claims) and not has_known_audience(claims, self._audiences):
            raise Unauthorized("audience")
        user_id = identity(claims, nested=key is None)
        return Verified(user_id, expires, min(expires, self._clock() + CACHE_SECONDS), key)

    async def _verify_signature(
        self, signed: bytes, signature: bytes, header: dict[str, Any], claims: dict[str, Any]
    ) -> PublicKey | None:
        """Return the public key that has verified it, or None if a shared secret has."""
        algorithm = header.get("alg")
        if algorithm == "HS256" and self._secrets:
            if not any(self._hs256.verify(signed, secret, signature) for secret in self._secrets):
                raise Unauthorized("signature")
            return None
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS or self._key_set is None:
            raise Unauthorized("algorithm")
        try:
            return await _signing_key(self._key_set, header.get("kid"), algorithm, signed, signature)
        except NeverReachedError:
            raise self._key_set_never_reached(claims) from None

    def _key_set_never_reached(self, claims: dict[str, Any]) -> Problem:
        """Return 503 for a token that may be valid: a 401 would sign people out if the frontend starts after us.

        With a shared secret there may be no key set at all. Then only the unverified claims can tell: 503 if they name
        our issuer and have not expired, otherwise 401.
        """
        try:
            may_be_ours = has_known_issuer(claims, self._issuers) and (moment(claims, "exp") or 0) > self._clock()
        except Unauthorized:
            may_be_ours = False
        kind = IssuerUnavailable if may_be_ours or not self._secrets else Unauthorized
        return kind("key-set-unreachable")


def _check_header(header: dict[str, Any]) -> None:
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in {"jwt", "application/jwt"}:
        raise Unauthorized("type")
    if "crit" in header:
        raise Unauthorized("crit")


async def _signing_key(key_set: KeySet, kid: object, algorithm: str, signed: bytes, signature: bytes) -> PublicKey:
    if not isinstance(kid, str):
        raise Unauthorized("kid")
    key = await key_set.find(kid)
    if not key:
        raise Unauthorized("unknown-key")
    if key.verifies(algorithm, signed, signature):
        return key
    replacement = await key_set.replacement(key)
    if replacement and replacement.verifies(algorithm, signed, signature):
        return replacement
    raise Unauthorized("signature" if algorithm in key.algorithms else "algorithm-of-key")
