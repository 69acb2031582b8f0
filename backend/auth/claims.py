"""Which claims must a token have, and which user do they name? Each function raises Unauthorized with the reason."""

import math
import re
from typing import Any

from backend.errors import TokenExpired, Unauthorized

MAX_USER_ID_LENGTH = 255
CLOCK_TOLERANCE = 60

_CONTROL_OR_SURROGATE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_IDENTITY_CLAIMS = ("sub", "id", "user_id")


def moment(claims: dict[str, Any], name: str) -> float | None:
    """Return a NumericDate (RFC 7519, section 2), or None if the claim is absent."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Unauthorized(name)
    return float(value)


def expiry(claims: dict[str, Any], now: float) -> float:
    """Check all times, and return when the token expires; raises TokenExpired if that is over."""
    expires = moment(claims, "exp")
    if expires is None:
        raise Unauthorized("no-expiry")
    for name in ("nbf", "iat"):
        if (moment(claims, name) or 0) > now + CLOCK_TOLERANCE:
            raise Unauthorized(f"{name}-in-future")
    if expires <= now:
        raise TokenExpired("expired")
    return expires


def has_known_issuer(claims: dict[str, Any], accepted: frozenset[str]) -> bool:
    return _any_known([claims.get("iss")], accepted)


def has_known_audience(claims: dict[str, Any], accepted: frozenset[str]) -> bool:
    audience = claims.get("aud")
    return _any_known(audience if isinstance(audience, list) else [audience], accepted)


def _any_known(values: list[Any], accepted: frozenset[str]) -> bool:
    return all(isinstance(each, str) for each in values) and not accepted.isdisjoint(values)


def identity(claims: dict[str, Any], *, nested: bool) -> str:
    """Return the user's id: the first of the known claims that is present decides, even if its value is invalid.

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
