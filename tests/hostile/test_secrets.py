"""Does a part of a password, a secret or a token come out anywhere, whatever somebody has made of it?"""

import asyncio
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch
from urllib.parse import quote, unquote

import asyncpg
import jwt
import pytest
from hostile.test_paths import exchange, raw, recorded
from hypothesis import assume, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from people import ORIGIN, SECRET, signed
from test_database import connect, listening
from typer.testing import CliRunner

from backend.commands.cli import cli
from backend.database.statements import LIST
from backend.database.url import connect_arguments, host
from backend.db import Database
from backend.errors import Unavailable
from backend.settings import Settings, SettingsError, load_settings
from backend.telemetry.metrics import Metrics

NASTY = "@/:?#%[]&=+;,\\ \"'`|^<>{}$!*()\t\n\r\x01\x7f\x85\xa0éß\u2028\u2100\uff0f\uff20\udcff-_.~"
# No word of a message is made of these letters and digits, and a parser may take them for a port or a byte.
PLAIN = "ZXQzxq89"
CHUNK = 4
URLS = [
    "postgresql://u:{}@127.0.0.1:{}/d?sslmode=disable",
    "postgresql://u:{}@127.0.0.1:{}/d?sslmode=disable&application_name=x",
    "postgresql://{}@127.0.0.1:{}/d?sslmode=disable",
    "postgresql://u:{}@/d?host=127.0.0.1&port={}&sslmode=disable",
    "postgresql://127.0.0.1/d?password={}&port={}&user=u&sslmode=disable",
    "postgresql://?host=127.0.0.1&user=u&password={}&port={}&dbname=d&sslmode=disable",
    "postgresql://u@127.0.0.1/d?sslpassword={}&port={}&sslmode=disable",
]
# Those in which nothing but the password can be meant.
PLAIN_URLS = [each for each in URLS if not each.startswith("postgresql://{}") and "sslpassword" not in each]
ADDRESSES = ["http://u:{}@127.0.0.1:9/jwks", "http://{}@127.0.0.1:9/jwks", "http://127.0.0.1:9/jwks?key={}"]

passwords = st.text(st.sampled_from(NASTY + PLAIN * 4), min_size=CHUNK, max_size=20)
many = hypothesis_settings(max_examples=500 if os.environ.get("FULL") else 40, deadline=None, database=None)


def encoded(secret: str) -> str:
    """Return it as it belongs into a URL."""
    return quote(secret, safe="", errors="replace")


Write = Callable[[str], str]
WRITTEN = st.sampled_from([str, encoded])


def shown(secret: str, *texts: str) -> list[str]:
    """Return every piece of the secret that one of the texts holds, in whatever form, if it is of a telling length."""
    forms = {secret, unquote(secret), encoded(secret), ascii(secret)[1:-1]}
    pieces = {form[start : start + CHUNK] for form in forms for start in range(len(form) - CHUNK + 1)}
    return sorted(piece for piece in pieces if any(piece in text for text in texts))


def trace(error: BaseException | None) -> str:
    return "".join(traceback.format_exception(error)) + repr(error)


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set these alone of all that decide something."""
    unset = {name.upper() for name in Settings.model_fields}
    kept = {name: value for name, value in os.environ.items() if name not in unset and not name.startswith("PG")}
    usual = {"BETTER_AUTH_SECRET": SECRET, "BETTER_AUTH_URL": ORIGIN, "BETTER_AUTH_MODE": "secret"}
    with patch.dict(os.environ, kept | usual | variables, clear=True):
        yield


def said_by(*commands: str) -> list[str]:
    """Return what each command prints, and what Python would print if nobody caught its error."""
    results = [CliRunner().invoke(cli, command.split(" ")) for command in commands]
    return [text for result in results for text in (result.output, trace(result.exception))]


def settings_or_error() -> tuple[Settings | None, str]:
    try:
        settings = load_settings()
    except SettingsError as error:
        return None, trace(error)
    return settings, f"{settings!r} {settings}"


def failing(url: str) -> str:
    """Return what driver and pool raise about a database that cannot be reached."""

    async def run() -> str:
        database = Database(url, (), deadline=0.02, pool_size=1, metrics=Metrics())
        database.open()
        with pytest.raises((OSError, asyncpg.InterfaceError)) as refused:
            await asyncpg.connect(**connect_arguments(url))
        with pytest.raises(Unavailable) as unavailable:
            await database.fetch(LIST, user_id="u", page_size=1)
        await asyncio.sleep(0.03)
        await database.close()
        return trace(refused.value) + trace(unavailable.value)

    return asyncio.run(run())


def accepted(url: str) -> bool:
    try:
        connect_arguments(url)
    except ValueError:
        return False
    return True


@pytest.mark.spec("FR-017", "FR-020")
@many
@given(st.sampled_from(URLS), passwords, WRITTEN)
@example(URLS[0], "89/zxqz@x", str)
@example(URLS[0], "8989?zxqzxq=z", str)
@example(URLS[0], "zxqz@zxqz", str)
@example(URLS[4], "zxqz&ZXQZ=z", str)
@example(URLS[4], "zxqz&ZXQZ", str)
def test_no_part_of_a_databases_password_is_shown(template: str, password: str, write: Write) -> None:
    url = template.format(write(password), 9)

    with environment(NEON_DATABASE_URL=url), recorded() as lines:
        settings, text = settings_or_error()
        texts = said_by("doctor", "doctor --json", "migrate", "migrate --check")
        if settings:
            texts.append(failing(url))
    refusals = [line for line in text.splitlines() if line.startswith("  NEON_DATABASE_URL ")]

    assert shown(password, text, *texts, *lines) == []
    assert bool(settings) == (not refusals)


@pytest.mark.spec("FR-006", "FR-017")
@many
@given(st.sampled_from(PLAIN_URLS), passwords, WRITTEN)
@example(URLS[0], "89/zxqz@x", str)
@example(URLS[0], "zxqz@zxqz", str)
def test_a_url_is_refused_or_reaches_the_host_that_is_shown(template: str, password: str, write: Write) -> None:
    written = write(password)
    assume(accepted(template.format(written, 9)))

    with listening() as server:
        url = template.format(written, server.port)
        with pytest.raises((OSError, asyncpg.PostgresError)):
            connect(url)

    assert host(url) == "127.0.0.1"
    assert server.password == unquote(written)
    assert server.parameters["database"] == "d"


@pytest.mark.spec("FR-017", "FR-020")
@many
@given(st.sampled_from(ADDRESSES), passwords, WRITTEN)
@example(ADDRESSES[0], "8989/zxqz", str)
@example(ADDRESSES[0], "89?zxqzxqz", str)
def test_no_part_of_a_password_in_an_address_is_shown(template: str, password: str, write: Write) -> None:
    address = template.format(write(password))
    variables = {"BETTER_AUTH_URL": address, "BETTER_AUTH_JWKS_URL": address, "CORS_ORIGINS": address}
    variables |= {"BETTER_AUTH_MODE": "jwks", "ENVIRONMENT": "development"}

    with environment(**variables), recorded() as lines:
        texts = [settings_or_error()[1], *said_by("doctor", "doctor --json", f"doctor {signed('ann')}")]

    assert shown(password, *texts, *lines) == []


@pytest.mark.spec("FR-017", "FR-020")
@many
@given(passwords, passwords)
def test_no_part_of_a_secret_is_shown(secret: str, previous: str) -> None:
    variables = {"BETTER_AUTH_SECRET": secret, "BETTER_AUTH_SECRET_PREVIOUS": previous}

    with environment(**variables), recorded() as lines:
        texts = [
            settings_or_error()[1],
            *said_by("doctor", "migrate", "migrate --check", "token ann --expires 1d")[:-2],
        ]

    assert shown(secret, *texts, *lines) == shown(previous, *texts, *lines) == []


@pytest.mark.spec("FR-017", "SC-009")
def test_a_token_where_it_does_not_belong_is_not_logged(base_url: str) -> None:
    token = signed("ann")
    short = jwt.encode({"sub": "a", "exp": 1}, SECRET, headers={"typ": None})
    targets = [f"/api/{token}/tasks", f"/api/ann/tasks/{token}", f"/{token}?token={token}", f"/api/%41{token}%42/tasks"]

    with recorded() as lines:
        answers = [exchange(base_url, raw(None, "GET", each, f"X-Request-Id: {short}")) for each in targets]

    assert len(short) <= 128
    assert {answer.headers["x-request-id"] for answer in answers} & {short} == set()
    assert len([line for line in lines if "(token)" in line]) == 7
    assert [part for part in token.split(".") if any(part[:8] in line for line in lines)] == []
