"""Why does it not work? Examines everything that a request depends on, and says what to change."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from typing import Literal
from urllib.parse import quote

import asyncpg
import httpx
from dotenv import dotenv_values
from rich.console import Console
from rich.table import Table
from rich.text import Text

from backend.auth.jwks import FetchError, PublicKey, parse_key_set
from backend.auth.key_set import KeySet
from backend.auth.source import HttpSource, http_client, shown_address
from backend.commands.token_advice import GOOD, STEPS, Case, shown, span, unwrapped
from backend.database.failures import BEHIND, NOT_CONNECTED, describe
from backend.database.url import connect_arguments, direct, host, security
from backend.errors import IssuerUnavailable, Unauthorized
from backend.main import token_verifier
from backend.schema.change import MigrationError
from backend.schema.migrate import is_current, tables_like_ours
from backend.settings import ENV_FILE, Settings, SettingsError, load_settings

CONNECT_SECONDS = 10
CLOCK_DRIFT = 30
# From variables that begin so, asyncpg takes what is not in the URL, as libpq does.
LIBPQ = ("PGUSER", "PGPASS", "PGSSL", "PGTARGET")


@dataclass(frozen=True)
class Finding:
    """The result of one examination. The text holds no secret, no password and no token."""

    subject: str
    verdict: Literal["good", "warning", "bad"]
    text: str


async def report(token: str | None, *, as_json: bool) -> bool:
    """Print each finding as soon as it is known, or all as JSON; return whether nothing is wrong."""
    findings = []
    console = Console(highlight=False)
    async for finding in examine(token):
        findings.append(finding)
        if not as_json:
            console.print(_row(finding))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    return all(finding.verdict != "bad" for finding in findings)


def _row(finding: Finding) -> Table:
    row = Table.grid(padding=(0, 1))
    row.add_column(width=1)
    row.add_column(width=26)
    row.add_column()
    mark, style = {"good": ("✓", "green"), "warning": ("!", "yellow"), "bad": ("✗", "bold red")}[finding.verdict]
    row.add_row(Text(mark, style), Text(finding.subject, "bold"), Text(finding.text))
    return row


async def examine(token: str | None) -> AsyncIterator[Finding]:
    """Examine the environment, the database, the key set, the clock, and the token if there is one."""
    try:
        settings = load_settings(environment="development")
    except SettingsError as error:
        for name, reason in error.complaints.items():
            yield Finding(name, "bad", reason)
        return
    for finding in _environment(settings):
        yield finding
    async for finding in _database(settings):
        yield finding
    keys: dict[str, PublicKey] = {}
    async for finding in _key_set(settings, keys):
        yield finding
    if token is not None:
        async for finding in _token(Case(settings, unwrapped(token), keys)):
            yield finding


def _environment(settings: Settings) -> Iterator[Finding]:
    try:
        load_settings(environment="production")
    except SettingsError as error:
        for name, reason in error.complaints.items():
            yield Finding(name, "warning", f"{reason}; `dev` does not mind, but `serve` will not start")
    secret = settings.better_auth_secret.get_secret_value()
    written, expanded = (dotenv_values(ENV_FILE, interpolate=each).get("BETTER_AUTH_SECRET") for each in (False, True))
    if secret == expanded != written:
        text = "has a ${…} in backend/.env, which was expanded: choose a secret without a $"
        yield Finding("BETTER_AUTH_SECRET", "bad", text)
    elif "$" in secret:
        text = "has a $, which Next.js expands in its .env files: write \\$ there, or choose a secret without"
        yield Finding("BETTER_AUTH_SECRET", "warning", text)
    else:
        yield Finding("BETTER_AUTH_SECRET", "good", f"is set, with {len(secret.encode())} bytes")
    yield Finding("BETTER_AUTH_URL", "good", f"the frontend is at {settings.better_auth_url}")


async def _database(settings: Settings) -> AsyncIterator[Finding]:
    if settings.neon_database_url is None:
        yield Finding("database", "good", "the embedded one of `dev`, since NEON_DATABASE_URL is not set")
        return
    url = settings.database_url
    way = "directly" if direct(url) == url else "through the pooler"
    yield Finding("NEON_DATABASE_URL", "good", f"leads {way} to {host(url)}, {security(url)}")
    if names := sorted(name for name in os.environ if name.startswith(LIBPQ)):
        yield Finding("NEON_DATABASE_URL", "warning", f"leaves to {', '.join(names)} of the environment what it lacks")
    connection = await _connection(url)
    yield connection
    if connection.verdict == "good":
        for each in await _schema(url):
            yield each


async def _connection(url: str) -> Finding:
    started = time.perf_counter()
    try:
        connection = await asyncpg.connect(**{"timeout": CONNECT_SECONDS} | connect_arguments(url))
        connected = time.perf_counter()
        version = await connection.fetchval("SHOW server_version")
        answered = time.perf_counter()
        await connection.close()
    except NOT_CONNECTED as error:
        return Finding("database", "bad", f"cannot be reached: {describe(error)}")
    speed = f"connected in {(connected - started) * 1000:.0f} ms, answers in {(answered - connected) * 1000:.1f} ms"
    return Finding("database", "good", f"PostgreSQL {version}, {speed}")


async def _schema(url: str) -> list[Finding]:
    try:
        current, others = await asyncio.to_thread(is_current, url), await asyncio.to_thread(tables_like_ours, url)
    except MigrationError as error:
        return [Finding("schema", "bad", str(error))]
    ours = Finding("schema", "good", "is up to date") if current else Finding("schema", "bad", BEHIND)
    text = "the table {} looks like tasks, too: `migrate --adopt TABLE --dry-run` tells how to move in"
    return [ours, *(Finding("tables", "warning", text.format(shown(table))) for table in others)]


async def _key_set(settings: Settings, keys: dict[str, PublicKey]) -> AsyncIterator[Finding]:
    if settings.better_auth_mode == "secret":
        yield Finding("key set", "good", "is not used, since BETTER_AUTH_MODE is secret")
        return
    url, needed = settings.key_set_url, settings.better_auth_mode == "jwks"
    try:
        body = await _fetched(url)
        keys |= {} if body is None else parse_key_set(body)
    except FetchError as error:
        hint = "is the frontend running? Elsewhere than BETTER_AUTH_URL says: set BETTER_AUTH_JWKS_URL"
        yield Finding("key set", "bad" if needed else "warning", f"cannot be used: {error}; {hint}")
        return
    where = shown_address(url)
    if keys:
        names = ", ".join(f"{shown(key.kid)} ({key.algorithms[0]})" for key in keys.values())
        yield Finding("key set", "good", f"at {where} has {names}")
    elif body is None:
        text = f"none at {where}: right for a frontend that signs HS256 with the shared secret, and for no other"
        yield Finding("key set", "bad" if needed else "good", text)
    else:
        yield Finding("key set", "warning", f"at {where} has no usable key: Better Auth makes one when it first signs")
    yield await _clock(url)


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
