"""Which of the keys that an issuer publishes can be used, and for which algorithm?"""

from dataclasses import dataclass, field
from typing import Any

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

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
    """The key set could not be fetched, or it is invalid; the message is for the log."""


@dataclass(frozen=True)
class PublicKey:
    """A published key, and the names of the one algorithm that it may verify. Equal if all of that is equal."""

    kid: str
    algorithms: tuple[str, ...]
    _key: Any = field(repr=False)

    def verifies(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        if algorithm not in self.algorithms:
            return False
        return jwt.get_algorithm_by_name(self.algorithms[0]).verify(signed, self._key, signature)


def parse_key_set(body: bytes) -> dict[str, PublicKey]:
    """Return the usable keys of a JWK Set (RFC 7517) by their kid; raise FetchError if it is none.

    Symmetric keys, private keys and short RSA keys are dropped. The algorithm is derived from the key's curve, because
    Better Auth can publish a wrong `alg`; only an RSA key, which could have several, takes it from `alg`.
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
    try:
        key = jwt.PyJWK(jwk, algorithms[0]).key
    except jwt.InvalidKeyError:
        return None
    if isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        return None
    return PublicKey(kid, algorithms, key)


def _algorithms(jwk: dict[str, Any]) -> tuple[str, ...]:
    if jwk.get("kty") == "RSA":
        return (jwk["alg"],) if jwk.get("alg") in _OF_RSA else ("RS256",)
    return _OF_CURVE.get((str(jwk.get("kty")), str(jwk.get("crv"))), ())
