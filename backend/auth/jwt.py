"""Whose token is this?

Pure: no web framework, no database. A bearer token goes in, its user's id comes out, or Unauthorized is raised.
"""

import base64
import binascii
import math
import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import jwt
import orjson

from backend.auth.jwks import ALGORITHMS, KeySet, NeverReachedError, PublicKey
from backend.errors import IssuerUnavailable, Problem, TokenExpired, TokenMissing, Unauthorized

MAX_TOKEN_LENGTH = 8_192
MAX_USER_ID_LENGTH = 255
CLOCK_TOLERANCE = 60
REMEMBERED = 60
# A longer token, which Better Auth makes where somebody's name or picture is one, is verified each time.
LONGEST_REMEMBERED = 2_048

_COMPACT_FORM = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_CONTROL_OR_SURROGATE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_IDENTITY_CLAIMS = ("sub", "id", "user_id")


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
    """What a token has proven: whose it is, and when it expires; remembered until a moment not later than that."""

    user_id: str
    expires: float
    until: float
    key: PublicKey | None


class TokenVerifier:
    """Verifies tokens with the secrets shared with Better Auth and with its key set, and remembers those that passed.

    The header's algorithm picks a family and the family picks the source: HS256 the secrets, whose raw UTF-8 bytes are
    the keys, everything else the key set. Without secrets, or without a key set, that family is refused.
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
        self._remembered: dict[str, Verified] = {}
        self._hs256 = jwt.get_algorithm_by_name("HS256")

    async def verified(self, token: str) -> Verified:
        """Return what the token proves.

        Raises Unauthorized with the reason, TokenExpired for an honest old token, and IssuerUnavailable when the key
        set is needed and cannot be had.
        """
        verified = self._remembered.get(token)
        if verified is None or verified.until <= self._clock() or not self._still_published(verified.key):
            self._remembered.pop(token, None)
            verified = await self._verify(token)
            self._remember(token, verified)
        return verified

    def _still_published(self, key: PublicKey | None) -> bool:
        return key is None or (self._key_set is not None and self._key_set.published(key.kid) == key)

    async def _verify(self, token: str) -> Verified:
        header, claims, signature = unverified_parts(token)
        _check_header(header)
        signed = token.rpartition(".")[0].encode()
        algorithm = header.get("alg")
        if algorithm == "HS256" and self._secrets:
            if not any(self._hs256.verify(signed, secret, signature) for secret in self._secrets):
                raise Unauthorized("signature")
            key = None
        elif isinstance(algorithm, str) and algorithm in ALGORITHMS and self._key_set:
            try:
                key = await self._signing_key(self._key_set, header.get("kid"), algorithm, signed, signature)
            except NeverReachedError:
                raise self._key_set_never_reached(claims) from None
        else:
            raise Unauthorized("algorithm")
        self._check_times(claims)
        self._check_parties(claims, required=key is not None)
        user_id = _identity(claims, nested=key is None)
        expires = claims["exp"]
        return Verified(user_id, expires, min(expires, self._clock() + REMEMBERED), key)

    async def _signing_key(
        self, key_set: KeySet, kid: object, algorithm: str, signed: bytes, signature: bytes
    ) -> PublicKey:
        if not isinstance(kid, str):
            raise Unauthorized("kid")
        key = await key_set.find(kid)
        if key and not key.verifies(algorithm, signed, signature):
            stranger, key = key, await key_set.replacement(key)
            if not key or not key.verifies(algorithm, signed, signature):
                raise Unauthorized("signature" if algorithm in stranger.algorithms else "algorithm-of-key")
        if not key:
            raise Unauthorized("unknown-key")
        return key

    def _key_set_never_reached(self, claims: dict[str, Any]) -> Problem:
        """Return 503 where the claims, which nobody could check, name our issuer and have not expired: a 401 would sign
        people out because the frontend starts later than this process. With a shared secret perhaps there is no key set
        at all, and any other token is a bad one."""
        try:
            may_be_ours = _known(claims.get("iss"), self._issuers) and (_moment(claims, "exp") or 0) > self._clock()
        except Unauthorized:
            may_be_ours = False
        kind = IssuerUnavailable if may_be_ours or not self._secrets else Unauthorized
        return kind("key-set-unreachable")

    def _check_times(self, claims: dict[str, Any]) -> None:
        now = self._clock()
        expires = _moment(claims, "exp")
        if expires is None:
            raise Unauthorized("no-expiry")
        for claim in ("nbf", "iat"):
            if (moment := _moment(claims, claim)) is not None and moment > now + CLOCK_TOLERANCE:
                raise Unauthorized(f"{claim}-in-future")
        if expires <= now:
            raise TokenExpired("expired")

    def _check_parties(self, claims: dict[str, Any], *, required: bool) -> None:
        if (required or "iss" in claims) and not _known(claims.get("iss"), self._issuers):
            raise Unauthorized("issuer")
        if (required or "aud" in claims) and not _known_audience(claims.get("aud"), self._audiences):
            raise Unauthorized("audience")

    def _remember(self, token: str, verified: Verified) -> None:
        if len(token) > LONGEST_REMEMBERED:
            return
        if len(self._remembered) >= self._capacity:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[token] = verified


def unverified_parts(token: str) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Return header, claims and signature of a token that nobody has checked yet; raise Unauthorized for its form."""
    if len(token) > MAX_TOKEN_LENGTH:
        raise Unauthorized("too-long")
    if not (compact := _COMPACT_FORM.fullmatch(token)):
        raise Unauthorized("not-a-jwt")
    header, claims, signature = (_decoded(part) for part in compact.groups())
    return _object(header), _object(claims), signature


def _decoded(part: str) -> bytes:
    try:
        decoded = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except binascii.Error:
        raise Unauthorized("base64url") from None
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != part.encode():
        # Spare bits at the end would give one token several spellings (RFC 4648, section 3.5).
        raise Unauthorized("base64url")
    return decoded


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise Unauthorized("json") from None
    if not isinstance(value, dict):
        raise Unauthorized("json")
    return value


def _check_header(header: dict[str, Any]) -> None:
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in {"jwt", "application/jwt"}:
        raise Unauthorized("type")
    if "crit" in header:
        raise Unauthorized("crit")


def _moment(claims: dict[str, Any], name: str) -> float | None:
    """Return a NumericDate (RFC 7519, section 2), or None where the claim is absent."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Unauthorized(name)
    return float(value)


def _known(value: object, accepted: frozenset[str]) -> bool:
    return isinstance(value, str) and value in accepted


def _known_audience(value: object, accepted: frozenset[str]) -> bool:
    if isinstance(value, list):
        return all(isinstance(each, str) for each in value) and not accepted.isdisjoint(value)
    return _known(value, accepted)


def _identity(claims: dict[str, Any], *, nested: bool) -> str:
    """Return the user's id: of the known claims the first that is there decides, whatever it holds.

    Never `email` or `userId`: Better Auth signs the links in its mails with the same secret, with these two claims.
    """
    for name in _IDENTITY_CLAIMS:
        if name in claims:
            return _user_id(claims[name])
    # Better Auth's cookie cache, strategy "jwt".
    user, session = claims.get("user"), claims.get("session")
    if nested and isinstance(user, dict) and isinstance(session, dict) and user.get("id") == session.get("userId"):
        return _user_id(user.get("id"))
    raise Unauthorized("no-identity")


def _user_id(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_USER_ID_LENGTH or _CONTROL_OR_SURROGATE.search(value):
        raise Unauthorized("identity")
    return value
