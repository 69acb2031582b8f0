"""Which settings, as few as possible, make the issuer and the audience of a token right?"""

from itertools import combinations
from typing import Any
from urllib.parse import urlsplit

from backend.auth.claims import has_known_audience, has_known_issuer
from backend.commands.finding import shown
from backend.settings import Settings, origin

LOOPBACK = {"127.0.0.1", "::1", "localhost"}


def cure(settings: Settings, claims: dict[str, Any], *, published: bool) -> dict[str, str]:
    """Return the settings to change, with their values, by what an unverified token says; none where none would help.

    BETTER_AUTH_URL is tried first, since CORS and the key set's address follow it. A frontend whose keys are
    `published` at BETTER_AUTH_URL is there: if its tokens name another host, it was told to.
    """
    changes: list[dict[str, Any]] = [
        {"better_auth_url": _address(settings, claims.get("iss"), published=published)},
        {"better_auth_issuers": (*settings.better_auth_issuers, *_settable(claims.get("iss")))},
        {"better_auth_audiences": (*settings.better_auth_audiences, *_settable(claims.get("aud")))},
    ]
    for count in range(len(changes) + 1):
        for chosen in combinations(changes, count):
            change = {name: value for each in chosen for name, value in each.items()}
            if _accepts(settings.model_copy(update=change), claims):
                return {name.upper(): _written(value) for name, value in change.items()}
    return {}


def _accepts(settings: Settings, claims: dict[str, Any]) -> bool:
    """Whether the settings fit what the token names; the verifier knows which tokens may leave it out."""
    issuer = "iss" not in claims or has_known_issuer(claims, frozenset(settings.issuers))
    return issuer and ("aud" not in claims or has_known_audience(claims, frozenset(settings.audiences)))


def _address(settings: Settings, issuer: object, *, published: bool) -> str:
    """Return where the frontend is, if its tokens tell, and BETTER_AUTH_URL otherwise."""
    ours = settings.better_auth_url
    try:
        theirs = origin("".join(_settable(issuer)))
    except ValueError:
        return ours
    return ours if published and _host(ours) != _host(theirs) else theirs


def _host(address: str) -> str | None:
    host = urlsplit(address).hostname
    return "localhost" if host in LOOPBACK else host


def _settable(claim: object) -> list[str]:
    """Return the first text of the claim that a setting can hold."""
    texts = [each for each in (claim if isinstance(claim, list) else [claim]) if isinstance(each, str)]
    return [each for each in texts if each and shown(each) == each == each.strip() and "," not in each][:1]


def _written(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else ",".join(value)
