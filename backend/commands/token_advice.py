"""What is wrong with a token, in plain words, and what should be changed?"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backend.auth.compact import MAX_TOKEN_LENGTH, unverified_parts
from backend.auth.jwks import ALGORITHMS, PublicKey
from backend.auth.source import shown_address
from backend.commands.cure import cure
from backend.commands.finding import shown, span
from backend.settings import Settings

SESSION_TOKEN = (
    "is no JWT: Better Auth's session token (call /api/auth/token with it, and send what that answers), or a code "  # noqa: S105
    "out of one of its mails, which opens nothing here"
)
MAILED_LINK = (
    "is the link out of one of Better Auth's mails (verification, change of address), which opens nothing here: get an "
    "access token from /api/auth/token"
)

_JWT = re.compile(r"(?:^|[^\w.-]|Bearer)(eyJ[\w-]+\.[\w-]+\.[\w-]+)(?=[^\w.-]|$)", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Case:
    """A token, and what its issuer should have signed it with; `keys` is None where there is no key set (404)."""

    settings: Settings
    token: str
    keys: dict[str, PublicKey] | None

    @property
    def header(self) -> dict[str, Any]:
        return unverified_parts(self.token)[0]

    @property
    def claims(self) -> dict[str, Any]:
        return unverified_parts(self.token)[1]

    @property
    def signed(self) -> str:
        algorithm = shown(self.header.get("alg"))
        key = "the shared secret" if algorithm == "HS256" else f"key {shown(self.header.get('kid'))}"
        return f"signed {algorithm} with {key}"

    @property
    def cure(self) -> dict[str, str]:
        """The settings to change so that issuer and audience are right, with their values."""
        at_url = self.settings.better_auth_jwks_url is None
        return cure(self.settings, self.claims, published=at_url and str(self.header.get("kid")) in (self.keys or {}))


def unwrapped(text: str) -> str:
    """Return the token out of JSON, quotes, an Authorization header, or lines that a terminal has broken."""
    found = [] if "://" in text else _JWT.findall("".join(text.split()))
    return found[0] if len(found) == 1 else text.strip()


def _form(case: Case) -> str:
    token, dots = case.token, case.token.count(".")
    if not token:
        return "is empty"
    if "://" in token:
        return "is a whole address: pass the token alone"
    if dots == 0 or (dots == 1 and not {"%", "=", "/"}.isdisjoint(token)):
        return SESSION_TOKEN
    return f"has {dots + 1} parts between its dots where a JWT has 3, or characters that a JWT has not"


def _type(case: Case) -> str:
    return f"has the type {shown(case.header.get('typ'))}, which is no access token: call /api/auth/token"


def _algorithm(case: Case) -> str:
    algorithm, mode = case.header.get("alg"), case.settings.better_auth_mode
    if mode == "jwks" and algorithm == "HS256":
        return "is signed HS256, and BETTER_AUTH_MODE is jwks: set it to auto"
    if mode == "secret" and algorithm in tuple(ALGORITHMS):
        return f"is {case.signed}, and BETTER_AUTH_MODE is secret: set it to auto"
    return f"is signed {shown(algorithm)}, which is never accepted"


def _unknown_key(case: Case) -> str:
    if case.keys is None:
        return f"is {case.signed}, and nothing is at {_key_set(case)} (404): {_without_key_set(case.settings)}"
    known = ", ".join(shown(kid) for kid in case.keys) or "no usable key"
    question = "is it another frontend's, or older than a reset of its database?"
    return f"is {case.signed}; {_key_set(case)} has {known}: {question}"


def _without_key_set(settings: Settings) -> str:
    usual = "its basePath is not /api/auth: set BETTER_AUTH_JWKS_URL to the address of its key set"
    if settings.better_auth_jwks_url is None:
        return f"another program answers there, or {usual}"
    return f"correct BETTER_AUTH_JWKS_URL, or take it away for {settings.better_auth_url}/api/auth/jwks"


def _key_set(case: Case) -> str:
    setting = "BETTER_AUTH_JWKS_URL" if case.settings.better_auth_jwks_url else "BETTER_AUTH_URL"
    return f"the key set of {setting}, {shown_address(case.settings.key_set_url)},"


def _signature(case: Case) -> str:
    if case.header.get("alg") == "HS256":
        return (
            "was not signed with this BETTER_AUTH_SECRET: the frontend has another one. Compare the two .env files, "
            "quotes, spaces and $ included, and restart both"
        )
    return f"is {case.signed}, and that key did not sign it: changed on the way, or the key was replaced"


def _party(claim: str, word: str) -> Callable[[Case], str]:
    def text(case: Case) -> str:
        if claim not in case.claims:
            return f"has no {claim}, which a token of the key set needs"
        accepted = ", ".join(case.settings.issuers if claim == "iss" else case.settings.audiences)
        advice = f": set {named(case.cure)}" if case.cure else ""
        return f"{word} is {shown(case.claims[claim])}, accepted is {accepted}{advice}"

    return text


def named(settings: dict[str, str]) -> str:
    return " and ".join(f"{name}={value}" for name, value in settings.items())


def _expired(case: Case) -> str:
    return f"expired {span(time.time() - case.claims['exp'])} ago: fetch a new one from /api/auth/token"


def _identity(case: Case) -> str:
    if "email" in case.claims:
        return MAILED_LINK
    return "names no user: give it a `sub` with the user's id"


def _says(text: str) -> Callable[[Case], str]:
    return lambda _case: text


_NOT_A_NUMBER = _says("has an exp, nbf or iat that is not a number of seconds")
_IN_FUTURE = _says("is from the future: the clocks of the two machines differ")

# The steps of the verifier in its order, each with the reasons for which a token fails there.
STEPS: dict[str, dict[str, Callable[[Case], str]]] = {
    "form": {
        "not-a-jwt": _form,
        "too-long": _says(f"has more than {MAX_TOKEN_LENGTH:,} characters: leave out what the backend does not need"),
        "base64url": _says("has a part that is not base64url: was it cut, padded or changed on the way?"),
        "json": _says("has a part that is not a JSON object: was it cut or changed on the way?"),
    },
    "header": {
        "type": _type,
        "crit": _says("demands extensions (crit), which are never accepted"),
        "algorithm": _algorithm,
        "kid": _says("names no key (kid), which a token of the key set needs"),
    },
    "signature": {
        "unknown-key": _unknown_key,
        "algorithm-of-key": lambda case: f"is {case.signed}, which is a key for another algorithm",
        "key-set-unreachable": lambda case: f"is {case.signed}; {_key_set(case)} does not answer",
        "signature": _signature,
    },
    "times": {
        "no-expiry": _says("has no exp: give it one, 15 minutes ahead"),
        "exp": _NOT_A_NUMBER,
        "nbf": _NOT_A_NUMBER,
        "iat": _NOT_A_NUMBER,
        "nbf-in-future": _IN_FUTURE,
        "iat-in-future": _IN_FUTURE,
        "expired": _expired,
    },
    "issuer and audience": {
        "issuer": _party("iss", "issuer"),
        "audience": _party("aud", "audience"),
    },
    "user": {
        "no-identity": _identity,
        "identity": _says("has a user id that is empty, too long, not text, or holds control characters"),
    },
}
GOOD: dict[str, Callable[[Case], str]] = {
    "form": lambda case: f"is a JWT of {len(case.token)} characters",
    "header": lambda case: f"is {case.signed}",
    "signature": _says("is right"),
    "times": lambda case: f"is valid for {span(case.claims['exp'] - time.time())}",
    "issuer and audience": _says("are accepted"),
    "user": _says("is named"),
}
