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

from backend.errors import TokenExpired, TokenMissing, Unauthorized

MAX_TOKEN_LENGTH = 8_192
MAX_USER_ID_LENGTH = 255
CLOCK_TOLERANCE = 60

_COMPACT_FORM = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_CONTROL_OR_SURROGATE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_IDENTITY_CLAIMS = ("sub", "id", "user_id", "userId")


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


@dataclass(frozen=True)
class _Verified:
    user_id: str
    expires: float


class TokenVerifier:
    """Verifies HS256 tokens with the secret shared with Better Auth, and remembers those that passed.

    `secret` is used as it is, its raw UTF-8 bytes being the key. `issuers` and `audiences` hold for the tokens that
    carry the claim.
    """

    def __init__(
        self,
        secret: bytes,
        *,
        issuers: Collection[str],
        audiences: Collection[str],
        clock: Callable[[], float] = time.time,
        capacity: int = 10_000,
    ) -> None:
        self._secret = secret
        self._issuers = frozenset(issuers)
        self._audiences = frozenset(audiences)
        self._clock = clock
        self._capacity = capacity
        self._verified: dict[str, _Verified] = {}
        self._hs256 = jwt.get_algorithm_by_name("HS256")

    async def user_id(self, token: str) -> str:
        """Return the id of the token's user; raise Unauthorized with the reason, TokenExpired for an honest old one."""
        verified = self._verified.get(token) or self._verify(token)
        if verified.expires <= self._clock():
            self._verified.pop(token, None)
            raise TokenExpired("expired")
        self._remember(token, verified)
        return verified.user_id

    def _verify(self, token: str) -> _Verified:
        header, claims, signature = _parts(token)
        _check_header(header)
        if header.get("alg") != "HS256":
            raise Unauthorized("algorithm")
        signed = token.rpartition(".")[0].encode()
        if not self._hs256.verify(signed, self._secret, signature):
            raise Unauthorized("signature")
        return self._checked(claims)

    def _checked(self, claims: dict[str, Any]) -> _Verified:
        expires = _moment(claims, "exp")
        if expires is None:
            raise Unauthorized("no-expiry")
        for claim in ("nbf", "iat"):
            if (moment := _moment(claims, claim)) is not None and moment > self._clock() + CLOCK_TOLERANCE:
                raise Unauthorized(f"{claim}-in-future")
        if "iss" in claims and not _known(claims["iss"], self._issuers):
            raise Unauthorized("issuer")
        if "aud" in claims and not _known_audience(claims["aud"], self._audiences):
            raise Unauthorized("audience")
        return _Verified(_identity(claims), expires)

    def _remember(self, token: str, verified: _Verified) -> None:
        if token not in self._verified and len(self._verified) >= self._capacity:
            del self._verified[next(iter(self._verified))]
        self._verified[token] = verified


def _parts(token: str) -> tuple[dict[str, Any], dict[str, Any], bytes]:
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


def _identity(claims: dict[str, Any]) -> str:
    """Return the user's id: of the known claims the first that is there decides, whatever it holds; never the e-mail
    address, which Better Auth's verification links carry, signed with the same secret."""
    for name in _IDENTITY_CLAIMS:
        if name in claims:
            return _user_id(claims[name])
    # Better Auth's cookie cache, strategy "jwt".
    user, session = claims.get("user"), claims.get("session")
    if isinstance(user, dict) and isinstance(session, dict) and user.get("id") == session.get("userId"):
        return _user_id(user.get("id"))
    raise Unauthorized("no-identity")


def _user_id(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_USER_ID_LENGTH or _CONTROL_OR_SURROGATE.search(value):
        raise Unauthorized("identity")
    return value
