"""Why does it not work? Examines everything that a request depends on, and says what to change."""

import asyncio
import json
import logging
import os
import shlex
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, replace

import asyncpg
from dotenv import dotenv_values
from rich.console import Console
from rich.table import Table
from rich.text import Text

from backend.commands.doctor_frontend import examine_frontend
from backend.commands.finding import Finding, printable, shown
from backend.database.failures import BEHIND, NOT_CONNECTED, describe, obstacle
from backend.database.readiness import OUR_SHARE, RESERVED
from backend.database.url import connect_arguments, direct, host, security
from backend.schema.change import MigrationError
from backend.schema.grant import lacking
from backend.schema.migrate import is_current, tables_like_ours
from backend.settings import ENV_FILE, Settings, SettingsError, load_settings

SECONDS = 10
# From variables that begin so, asyncpg takes what is not in the URL, as libpq does.
LIBPQ = ("PGUSER", "PGPASS", "PGSSL", "PGTARGET")
# What to do where the database cannot be used, by what `failures.obstacle` calls it.
CURES = {
    "certificate": "NEON_DATABASE_URL should name the authority of the server's certificate (sslrootcert)",
    "credentials": "copy NEON_DATABASE_URL anew from where the database was made",
    "database": "correct the name of the database in NEON_DATABASE_URL",
    "unreachable": "is it running, and are host and port in NEON_DATABASE_URL right?",
}
OWN_WORDS = "this is the server's own trouble: look into its log, or Neon's console"
LIMITS = f"SELECT current_setting('max_connections')::int, {RESERVED}"


async def report(token: str | None, *, as_json: bool) -> bool:
    """Print each finding as soon as it is known, or all as JSON; return whether nothing is wrong."""
    # What libraries log on the way is in the findings, if it matters.
    logging.basicConfig(handlers=[logging.NullHandler()])
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
    """Examine the environment, the database, what frontend and backend share, and the token if there is one."""
    try:
        settings = load_settings(environment="development")
    except SettingsError as error:
        for name, reason in error.complaints.items():
            yield Finding(name, "bad", printable(reason))
        return
    examinations = {
        "environment": _environment(settings),
        "database": _database(settings),
        "frontend": examine_frontend(settings, token),
    }
    for subject, findings in examinations.items():
        try:
            async for finding in findings:
                yield replace(finding, text=printable(finding.text))
        except Exception as error:  # noqa: BLE001 - a report with a gap says more than a traceback
            yield Finding(subject, "bad", f"could not be examined to the end: {type(error).__name__}")


async def _environment(settings: Settings) -> AsyncIterator[Finding]:
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


async def _database(settings: Settings) -> AsyncIterator[Finding]:
    if settings.neon_database_url is None:
        yield Finding("database", "good", "the embedded one of `dev`, since NEON_DATABASE_URL is not set")
        return
    url = settings.database_url
    way = "directly" if direct(url) == url else "through the pooler"
    yield Finding("NEON_DATABASE_URL", "good", f"leads {way} to {host(url)}, {security(url)}")
    if names := sorted(name for name in os.environ if name.startswith(LIBPQ)):
        yield Finding("NEON_DATABASE_URL", "warning", f"leaves to {', '.join(names)} of the environment what it lacks")
    try:
        for each in await _connected(settings):
            yield each
    except NOT_CONNECTED as error:
        yield Finding("database", "bad", f"cannot be used: {describe(error)}; {CURES.get(obstacle(error), OWN_WORDS)}")
    else:
        yield (rights := await _rights(url))
        # Who may not look into the schema would say that there is nothing.
        for each in await _schema(url) if rights.verdict == "good" else ():
            yield each


async def _connected(settings: Settings) -> list[Finding]:
    limits = {"timeout": SECONDS, "command_timeout": SECONDS, "statement_cache_size": 0}
    started = time.perf_counter()
    connection = await asyncpg.connect(**limits | connect_arguments(settings.database_url))
    try:
        connected = time.perf_counter()
        version = await connection.fetchval("SHOW server_version")
        answered = time.perf_counter()
        [(most, reserved)] = await connection.fetch(LIMITS)
    finally:
        connection.terminate()
    speed = f"connected in {(connected - started) * 1000:.0f} ms, answers in {(answered - connected) * 1000:.1f} ms"
    return [Finding("database", "good", f"PostgreSQL {version}, {speed}"), _pool(settings, most, reserved)]


def _pool(settings: Settings, most: int, reserved: int) -> Finding:
    """Compare what the processes here may take with what the server grants to everybody."""
    granted, size = most - reserved, settings.database_pool_size
    room = f"of {granted} (max_connections {most} less {reserved} reserved)"
    if size is None:
        text = f"{settings.workers} x as many as are of use, together at most {int(granted * OUR_SHARE)} {room}"
        return Finding("connections", "good", text)
    text = f"WORKERS x DATABASE_POOL_SIZE is {settings.workers} x {size} = {settings.workers * size} {room}"
    if settings.workers * size < granted:
        return Finding("connections", "good", text)
    share = max(1, (granted - 1) // settings.workers)
    return Finding("connections", "warning", f"{text}: set DATABASE_POOL_SIZE={share}")


async def _rights(url: str) -> Finding:
    try:
        role, missing = await asyncio.to_thread(lacking, url)
    except MigrationError as error:
        return Finding("rights", "bad", str(error))
    if not missing:
        return Finding("rights", "good", f"the role {shown(role)} lacks none that `serve` needs")
    cure = f"run `python -m backend migrate --grant {shlex.quote(role)}` as the role that owns them"
    return Finding("rights", "bad", f"the role {shown(role)} lacks {', '.join(missing)}: {cure}")


async def _schema(url: str) -> list[Finding]:
    try:
        current, others = await asyncio.to_thread(is_current, url), await asyncio.to_thread(tables_like_ours, url)
    except MigrationError as error:
        return [Finding("schema", "bad", str(error))]
    ours = Finding("schema", "good", "is up to date") if current else Finding("schema", "bad", BEHIND)
    text = "{0} looks like tasks, too: `python -m backend migrate --adopt {0} --dry-run` tells how to move in"
    return [ours, *(Finding("tables", "warning", text.format(shown(table))) for table in others)]
