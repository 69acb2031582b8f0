"""Do frontend and backend agree: about where the frontend is, its keys, its clock, its page's calls and its token?"""

import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import quote

import httpx

from backend.auth.jwks import FetchError, PublicKey, parse_key_set
from backend.auth.key_set import KeySet
from backend.auth.source import HttpSource, http_client, shown_address
from backend.commands.finding import Finding, shown, span
from backend.commands.token_advice import GOOD, STEPS, Case, named, unwrapped
from backend.errors import IssuerUnavailable, Unauthorized
from backend.main import create_app, token_verifier
from backend.settings import Settings

CLOCK_DRIFT = 30
EVERY_INTERFACE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where it is asked, not where anything listens


async def examine_frontend(settings: Settings, token: str | None) -> AsyncIterator[Finding]:
    """Examine what follows from BETTER_AUTH_URL, unless the token shows that the frontend is elsewhere: then that is
    the one thing to say, and the rest would be its consequences."""
    of_keys, keys = await _key_set(settings)
    case = None if token is None else Case(settings, unwrapped(token), keys)
    url = settings.better_auth_url
    change = _change(case)
    if address := change.get("BETTER_AUTH_URL"):
        text = (
            f"is {url}, and the token comes from {address}. If that is what the browser's address bar shows, set "
            f"{named(change)}: issuer, audience, key set and CORS follow it"
        )
        yield Finding("BETTER_AUTH_URL", "bad", text)
        return
    yield Finding("BETTER_AUTH_URL", "good", f"the frontend is at {url}")
    for finding in of_keys:
        yield finding
    yield await _cors(settings)
    if case:
        async for finding in _token(case):
            yield finding


def _change(case: Case | None) -> dict[str, str]:
    try:
        return case.cure if case else {}
    except Unauthorized:
        return {}


async def _key_set(settings: Settings) -> tuple[list[Finding], dict[str, PublicKey] | None]:
    """Return what is to be said of the key set, and its keys: None where there is none (404)."""
    if settings.better_auth_mode == "secret":
        return [Finding("key set", "good", "is not used, since BETTER_AUTH_MODE is secret")], None
    url, given = settings.key_set_url, settings.better_auth_jwks_url is not None
    try:
        body = await _fetched(url)
        keys = None if body is None else parse_key_set(body)
    except FetchError as error:
        right = "is BETTER_AUTH_JWKS_URL right" if given else "does BETTER_AUTH_URL say where"
        text = f"cannot be used: {error}; is the frontend running, and {right}?"
        return [Finding("key set", "bad" if settings.better_auth_mode == "jwks" else "warning", text)], {}
    return [_of_keys(settings, keys), await _clock(url)], keys


def _of_keys(settings: Settings, keys: dict[str, PublicKey] | None) -> Finding:
    where = shown_address(settings.key_set_url)
    if keys:
        names = ", ".join(f"{shown(key.kid)} ({key.algorithms[0]})" for key in keys.values())
        return Finding("key set", "good", f"at {where} has {names}")
    if keys is not None:
        text = f"at {where} has no usable key: Better Auth makes one when it first signs"
        return Finding("key set", "warning", text)
    if settings.better_auth_jwks_url:
        return Finding("key set", "bad", f"none at {where}, where BETTER_AUTH_JWKS_URL says")
    text = f"none at {where}: right for a frontend that signs HS256 with the shared secret, and for no other"
    return Finding("key set", "bad" if settings.better_auth_mode == "jwks" else "good", text)


async def _fetched(url: str) -> bytes | None:
    source = HttpSource(url)
    try:
        return await source()
    finally:
        await source.close()


async def _clock(url: str) -> Finding:
    async with http_client(url) as client:
        try:
            # Only the head is read: the body could be slow or endless.
            async with client.stream("GET", url) as response:
                ahead = time.time() - parsedate_to_datetime(response.headers["Date"]).timestamp()
        except (httpx.HTTPError, KeyError, ValueError, OverflowError):
            return Finding("clock", "warning", "could not be compared: the frontend sends no usable Date")
    if abs(ahead) <= CLOCK_DRIFT:
        return Finding("clock", "good", "agrees with the frontend's")
    direction = "ahead of" if ahead > 0 else "behind"
    text = f"is {span(abs(ahead))} {direction} the frontend's: set both by NTP, or tokens expire at the wrong time"
    return Finding("clock", "bad", text)


async def _cors(settings: Settings) -> Finding:
    """Ask as the frontend's page does: the backend that runs, which may have been started with other settings, or where
    none listens this program."""
    host = EVERY_INTERFACE.get(settings.host, settings.host)
    where = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
    page = settings.better_auth_url
    try:
        answer = await _preflight(http_client(where), where, page)
    except (httpx.HTTPError, httpx.InvalidURL):
        here = httpx.AsyncClient(transport=httpx.ASGITransport(create_app(settings)))
        answer = await _preflight(here, "http://backend", page)
        where += " (none runs there: a new one was asked)"
    if answer.headers.get("Access-Control-Allow-Origin") == page:
        return Finding("CORS", "good", f"pages at {page} may call the backend at {where}")
    # So Starlette refuses a preflight.
    if answer.status_code == HTTPStatus.BAD_REQUEST and "Access-Control-Allow-Methods" in answer.headers:
        text = f"pages at {page} may not call the backend at {where}: it runs with another BETTER_AUTH_URL; restart it"
        return Finding("CORS", "bad", text)
    return Finding("CORS", "warning", f"was not examined: what answers at {where} is no such backend; set PORT")


async def _preflight(client: httpx.AsyncClient, where: str, page: str) -> httpx.Response:
    headers = {
        "Origin": page,
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    # Only the head is read: a stranger's body could be slow or endless.
    async with client, client.stream("OPTIONS", f"{where}/api/anybody/tasks/1", headers=headers) as response:
        return response


async def _token(case: Case) -> AsyncIterator[Finding]:
    """Show the verifier's steps, up to the one at which the token failed."""
    source = HttpSource(case.settings.key_set_url)
    key_set = KeySet(source)
    user_id = reason = ""
    try:
        user_id = (await token_verifier(case.settings, key_set).verified(case.token)).user_id
    except (Unauthorized, IssuerUnavailable) as error:
        reason = error.reason
    finally:
        await key_set.close()
        await source.close()
    for step, reasons in STEPS.items():
        if reason in reasons:
            yield Finding(f"token: {step}", "bad", reasons[reason](case))
            return
        yield Finding(f"token: {step}", "good", GOOD[step](case))
    path = f"/api/{quote(user_id, safe='')}/tasks"
    yield Finding("token", "good", f"is accepted for the user {shown(user_id)}: call {path}")
