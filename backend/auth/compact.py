"""What is written in a token, before anything of it is verified?"""

import base64
import binascii
import re
from typing import Any

import orjson

from backend.errors import Unauthorized

MAX_TOKEN_LENGTH = 8_192

_COMPACT_FORM = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")


def unverified_parts(token: str) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Return header, claims and signature, all unverified; raise Unauthorized if it is not a JWT in compact form."""
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
    # One token, one spelling: the unused bits of the last character must be zero (RFC 4648, section 3.5).
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != part.encode():
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
