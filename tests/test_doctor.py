"""Does the doctor say what is wrong and what to change, and does it keep what it sees to itself?"""

import ast
import hmac
import json
import os
import re
import socketserver
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import asyncpg
import pytest
from databases import execute, own_database
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from issuer import Answer, Issuer, Signer, answering, compact, issuing, key_set, segment, usual
from people import ORIGIN, SECRET, signed
from relay import relayed
from typer.testing import CliRunner

from backend import auth
from backend.auth.jwks import parse_key_set
from backend.commands import doctor
from backend.commands.cli import cli
from backend.commands.doctor import examine
from backend.commands.finding import Finding, shown, span
from backend.commands.token_advice import GOOD, MAILED_LINK, SESSION_TOKEN, STEPS, Case
from backend.schema import grant, migrate
from backend.settings import Settings, load_settings

ED, RS = Signer("EdDSA", "ed"), Signer("RS256", "rs")
OTHERS = Signer("EdDSA", "another frontend's")
VARIABLES = [name.upper() for name in Settings.model_fields]
PASSWORD = "hunter2"
NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with issuing(answering(key_set(ED, RS))) as issuer:
        yield issuer


class Environment:
    """The variables and the .env file that the doctor sees: a good configuration, and what a test does to it."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path, good: dict[str, str]) -> None:
        self.patch = patch
        self.file = folder / ".env"
        self.variables = good
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        patch.setitem(Settings.model_config, "env_file", self.file)
        patch.setattr(doctor, "ENV_FILE", self.file)
        self.set(**good)

    def set(self, **variables: str) -> None:
        for name, value in variables.items():
            self.patch.setenv(name, value)
            self.variables[name] = value

    def unset(self, *names: str) -> None:
        for name in names:
            self.patch.delenv(name)
            del self.variables[name]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, issuer: Issuer) -> Environment:
    """A good configuration for development, without a database."""
    good = {"BETTER_AUTH_SECRET": SECRET, "BETTER_AUTH_URL": ORIGIN, "BETTER_AUTH_JWKS_URL": issuer.url, "PORT": "9"}
    return Environment(monkeypatch, tmp_path, good)


@pytest.fixture
def production(environment: Environment, database_url: str) -> Environment:
    environment.set(NEON_DATABASE_URL=database_url.replace("//app@", f"//app:{PASSWORD}@"))
    return environment


async def found(token: str | None = None) -> list[Finding]:
    return [finding async for finding in examine(token)]


async def said(subject: str, token: str | None = None) -> tuple[str, str]:
    """Return verdict and text of the last finding on the subject."""
    finding = [each for each in await found(token) if each.subject == subject][-1]
    return finding.verdict, finding.text


def by_secret(claims: object, **header: Any) -> str:
    return compact({"alg": "HS256"} | header, claims, lambda text: hmac.digest(SECRET.encode(), text, "sha256"))


async def test_a_good_configuration_and_token_are_found_good(production: Environment, issuer: Issuer) -> None:
    findings = await found(ED.token("ann"))

    assert {finding.verdict for finding in findings} == {"good"}
    assert [finding.subject for finding in findings] == [
        "BETTER_AUTH_SECRET", "NEON_DATABASE_URL", "database", "connections", "rights", "schema", "BETTER_AUTH_URL",
        "key set", "clock", "CORS", "token: form", "token: header", "token: signature", "token: times",
        "token: issuer and audience", "token: user", "token",
    ]  # fmt: skip
    texts = {finding.subject: finding.text for finding in findings}
    assert texts["key set"] == f"at {issuer.url} has ed (EdDSA), rs (RS256)"
    assert texts["token: header"] == "is signed EdDSA with key ed"
    assert texts["token: times"] == "is valid for 15 minutes"
    assert texts["token"] == "is accepted for the user ann: call /api/ann/tasks"
    assert texts["database"].startswith("PostgreSQL 18")
    assert production.variables["BETTER_AUTH_URL"] in texts["BETTER_AUTH_URL"]
    assert texts["CORS"].startswith(f"pages at {ORIGIN} may call the backend at {NOBODY} (none runs there")


# Typical mistakes: the token.


@dataclass(frozen=True)
class Mistake:
    token: Callable[[], str]
    step: str
    text: str


JWKS = "{jwks}"
MISTAKES = {
    "another secret": Mistake(
        lambda: signed("ann", secret="the secret of the frontend, which is another"),
        "signature",
        "was not signed with this BETTER_AUTH_SECRET: the frontend has another one. Compare the two .env files, "
        "quotes, spaces and $ included, and restart both",
    ),
    "a session token": Mistake(
        lambda: "jv4mPn8Vd0XqLrT2bYwKc7HsZg9Ua1Ef",
        "form",
        SESSION_TOKEN,
    ),
    "a session cookie": Mistake(
        lambda: "jv4mPn8Vd0XqLrT2bYwKc7HsZg9Ua1Ef.AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8%3D",
        "form",
        SESSION_TOKEN,
    ),
    "expired": Mistake(
        lambda: ED.token("ann", exp=time.time() - 180),
        "times",
        "expired 3 minutes ago: fetch a new one from /api/auth/token",
    ),
    "another audience": Mistake(
        lambda: ED.token("ann", aud="http://localhost:8000"),
        "issuer and audience",
        f"audience is http://localhost:8000, accepted is {ORIGIN}: set BETTER_AUTH_AUDIENCES=http://localhost:8000",
    ),
    "another issuer": Mistake(
        lambda: signed("ann", iss="https://todo.example"),
        "issuer and audience",
        f"issuer is https://todo.example, accepted is {ORIGIN}: set BETTER_AUTH_ISSUERS=https://todo.example",
    ),
    "no audience": Mistake(
        lambda: ED.sealed({name: value for name, value in usual("ann").items() if name != "aud"}),
        "issuer and audience",
        "has no aud, which a token of the key set needs",
    ),
    "another frontend's key": Mistake(
        lambda: OTHERS.token("ann"),
        "signature",
        f"is signed EdDSA with key another frontend's; the key set of BETTER_AUTH_JWKS_URL, {JWKS}, has ed, rs: is it "
        "another frontend's, or older than a reset of its database?",
    ),
    "an e-mail verification link": Mistake(
        lambda: by_secret({"email": "ann@example.com", "exp": time.time() + 3_600}),
        "user",
        MAILED_LINK,
    ),
    "a session cache": Mistake(
        lambda: ED.sealed(usual("ann"), typ="better-auth.session-cache+jwt"),
        "header",
        "has the type better-auth.session-cache+jwt, which is no access token: call /api/auth/token",
    ),
    "a whole link": Mistake(
        lambda: f"http://localhost:3000/api/auth/verify-email?token={ED.token('ann')}&callbackURL=/",
        "form",
        "is a whole address: pass the token alone",
    ),
    "nothing": Mistake(lambda: " \n", "form", "is empty"),
    "cut": Mistake(
        lambda: ED.token("ann").rpartition(".")[0],
        "form",
        "has 2 parts between its dots where a JWT has 3, or characters that a JWT has not",
    ),
    "alg none": Mistake(
        lambda: compact({"alg": "none"}, usual("ann"), lambda _: b"?"),
        "header",
        "is signed none, which is never accepted",
    ),
    "the algorithm of another key": Mistake(
        lambda: ED.sealed(usual("ann"), kid="rs"),
        "signature",
        "is signed EdDSA with key rs, which is a key for another algorithm",
    ),
    "no user": Mistake(
        lambda: by_secret({"exp": time.time() + 60}), "user", "names no user: give it a `sub` with the user's id"
    ),
}


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_mistaken_token_is_explained(issuer: Issuer, mistake: str) -> None:
    expected = MISTAKES[mistake]

    findings = await found(expected.token())

    bad = [finding for finding in findings if finding.verdict == "bad"]
    text = expected.text.replace(JWKS, issuer.url)
    assert bad == [Finding(f"token: {expected.step}", "bad", text)]
    assert findings[-1] == bad[0]


@pytest.mark.parametrize(
    ("mode", "token", "text"),
    [
        ("jwks", lambda: signed("ann"), "is signed HS256, and BETTER_AUTH_MODE is jwks: set it to auto"),
        (
            "secret",
            lambda: ED.token("ann"),
            "is signed EdDSA with key ed, and BETTER_AUTH_MODE is secret: set it to auto",
        ),
        (
            "secret",
            lambda: compact({"alg": ["EdDSA"]}, {}, lambda _: b"?"),
            "is signed ['EdDSA'], which is never accepted",
        ),
        ("secret", lambda: compact({"alg": "none"}, {}, lambda _: b"?"), "is signed none, which is never accepted"),
        ("jwks", lambda: compact({"alg": "HS512"}, {}, lambda _: b"?"), "is signed HS512, which is never accepted"),
    ],
)
async def test_a_mode_that_does_not_fit_is_named(
    environment: Environment, mode: str, token: Callable[[], str], text: str
) -> None:
    environment.set(BETTER_AUTH_MODE=mode)

    assert await said("token: header", token()) == ("bad", text)


@pytest.mark.parametrize(("mode", "verdict"), [("auto", "warning"), ("jwks", "bad")])
async def test_an_unreachable_key_set_is_named(environment: Environment, mode: str, verdict: str) -> None:
    environment.set(BETTER_AUTH_JWKS_URL=f"{NOBODY}/jwks", BETTER_AUTH_MODE=mode)

    of_set = await said("key set")
    of_token = await said("token: signature", ED.token("ann"))

    hint = "is the frontend running, and is BETTER_AUTH_JWKS_URL right?"
    where = f"the key set of BETTER_AUTH_JWKS_URL, {NOBODY}/jwks,"
    assert of_set == (verdict, f"cannot be used: ConnectError at {NOBODY}/jwks; {hint}")
    assert of_token == ("bad", f"is signed EdDSA with key ed; {where} does not answer")


@pytest.mark.parametrize(
    ("answer", "mode", "finding"),
    [
        (answering(b"", 404), "auto", ("bad", "none at {jwks}, where BETTER_AUTH_JWKS_URL says")),
        (
            answering(b'{"keys": []}', 200),
            "auto",
            ("warning", "at {jwks} has no usable key: Better Auth makes one when it first "),
        ),
        (answering(b"<html>", 200), "auto", ("warning", "cannot be used: it is not JSON; ")),
        (answering(b"<html>", 500), "jwks", ("bad", "cannot be used: status 500 at {jwks}; ")),
        (answering(b"", 200), "secret", ("good", "is not used, since BETTER_AUTH_MODE is secret")),
    ],
)
async def test_a_key_set_that_does_not_do_is_named(
    environment: Environment, issuer: Issuer, answer: Answer, mode: str, finding: tuple[str, str]
) -> None:
    issuer.answer = answer
    environment.set(BETTER_AUTH_MODE=mode)

    verdict, text = await said("key set")

    assert verdict == finding[0]
    assert text.startswith(finding[1].replace(JWKS, issuer.url))


@pytest.mark.parametrize(("mode", "verdict"), [("auto", "good"), ("jwks", "bad")])
async def test_no_key_set_is_right_for_a_shared_secret_alone(
    environment: Environment, issuer: Issuer, mode: str, verdict: str
) -> None:
    issuer.answer = answering(b"", 404)
    environment.unset("BETTER_AUTH_JWKS_URL")
    environment.set(BETTER_AUTH_URL=issuer.origin, BETTER_AUTH_MODE=mode)

    text = f"none at {issuer.url}: right for a frontend that signs HS256 with the shared secret, and for no other"
    assert await said("key set") == (verdict, text)


# Frontend and backend disagree: one cure, and it cures.

HERE, OTHER_NAME, SECURE, AWAY = "{here}", "{other name}", "{secure}", "http://127.0.0.1:9"
API, TOLD = "http://localhost:8000", "https://todo.example"


@dataclass(frozen=True)
class Disagreement:
    """BETTER_AUTH_URL, a token's iss and aud, and the settings that make all of it right; more that is set before."""

    url: str
    issuer: object
    audience: object
    cure: str
    before: tuple[str, str] = ("PORT", "9")


DISAGREEMENTS = {
    "another port": Disagreement(AWAY, HERE, HERE, f"BETTER_AUTH_URL={HERE}"),
    "another name": Disagreement(OTHER_NAME, HERE, HERE, f"BETTER_AUTH_URL={HERE}"),
    "https": Disagreement(SECURE, HERE, HERE, f"BETTER_AUTH_URL={HERE}"),
    "and an audience": Disagreement(AWAY, HERE, API, f"BETTER_AUTH_URL={HERE} and BETTER_AUTH_AUDIENCES={API}"),
    "an issuer was set": Disagreement(AWAY, HERE, HERE, f"BETTER_AUTH_URL={HERE}", ("BETTER_AUTH_ISSUERS", HERE)),
    "the key set's address was set": Disagreement(
        AWAY, HERE, [HERE], f"BETTER_AUTH_URL={HERE}", ("BETTER_AUTH_JWKS_URL", f"{HERE}/api/auth/jwks")
    ),
    "the API as audience": Disagreement(HERE, HERE, [API], f"BETTER_AUTH_AUDIENCES={API}"),
    "a path": Disagreement(HERE, f"{HERE}/api/auth", HERE, f"BETTER_AUTH_ISSUERS={HERE}/api/auth"),
    "a slash": Disagreement(
        HERE, HERE, HERE, f"BETTER_AUTH_ISSUERS={HERE}/,{HERE}", ("BETTER_AUTH_ISSUERS", f"{HERE}/")
    ),
    "names that the frontend was told": Disagreement(
        HERE, TOLD, TOLD, f"BETTER_AUTH_ISSUERS={TOLD} and BETTER_AUTH_AUDIENCES={TOLD}"
    ),
}


@pytest.mark.spec("FR-035")
@pytest.mark.parametrize("disagreement", DISAGREEMENTS)
async def test_a_disagreement_has_one_cure_and_it_cures(
    environment: Environment, issuer: Issuer, disagreement: str
) -> None:
    names = {HERE: issuer.origin, OTHER_NAME: issuer.origin.replace("127.0.0.1", "localhost")}
    names[SECURE] = issuer.origin.replace("http:", "https:")

    def real(text: str) -> str:
        for name, address in names.items():
            text = text.replace(name, address)
        return text

    case = DISAGREEMENTS[disagreement]
    claims = json.loads(real(json.dumps({"iss": case.issuer, "aud": case.audience})))
    cure = real(case.cure)
    environment.unset("BETTER_AUTH_JWKS_URL")
    environment.set(BETTER_AUTH_URL=real(case.url), **{case.before[0]: real(case.before[1])})

    told = [finding for finding in await found(ED.token("ann", **claims)) if finding.verdict == "bad"]
    environment.set(**dict(each.split("=", 1) for each in cure.split(" and ")))
    after = await found(ED.token("ann", **claims))

    assert len(told) == 1
    assert f"set {cure}" in told[0].text
    assert [finding for finding in after if finding.verdict == "bad"] == []
    assert after[-1].text.startswith("is accepted")


@pytest.mark.parametrize("issuer_claim", [None, 7, [TOLD], "", " ", "a,b", "\x1b", "x" * 300])
async def test_what_no_setting_can_hold_is_no_cure(environment: Environment, issuer_claim: object) -> None:
    environment.unset("BETTER_AUTH_JWKS_URL")

    verdict, text = await said("token: issuer and audience", by_secret(usual("ann", iss=issuer_claim)))

    assert (verdict, "set " in text) == ("bad", False)


WRONG = {
    "given": "correct BETTER_AUTH_JWKS_URL, or take it away for {origin}/api/auth/jwks",
    "derived": (
        "another program answers there, or its basePath is not /api/auth: set BETTER_AUTH_JWKS_URL to the address of "
        "its key set"
    ),
}


@pytest.mark.spec("FR-035")
@pytest.mark.parametrize("address", WRONG)
async def test_a_wrong_address_of_the_key_set_is_named(environment: Environment, issuer: Issuer, address: str) -> None:
    issuer.answer = answering(b"", 404)
    environment.set(BETTER_AUTH_URL=issuer.origin)
    if address == "derived":
        environment.unset("BETTER_AUTH_JWKS_URL")

    verdict, text = await said("token: signature", ED.token("ann", iss=issuer.origin, aud=issuer.origin))

    setting = {"given": "BETTER_AUTH_JWKS_URL", "derived": "BETTER_AUTH_URL"}[address]
    where = f"nothing is at the key set of {setting}, {issuer.url}, (404)"
    assert (verdict, text) == (
        "bad",
        f"is signed EdDSA with key ed, and {where}: {WRONG[address].format(origin=issuer.origin)}",
    )


async def test_the_backend_that_runs_is_asked_whether_the_page_may_call_it(
    environment: Environment, base_url: str
) -> None:
    environment.set(PORT=base_url.rpartition(":")[2], HOST="0.0.0.0")

    allowed = await said("CORS")
    environment.set(BETTER_AUTH_URL="http://localhost:3001")
    refused = await said("CORS")

    assert allowed == ("good", f"pages at {ORIGIN} may call the backend at {base_url}")
    text = f"pages at http://localhost:3001 may not call the backend at {base_url}"
    assert refused == ("bad", f"{text}: it runs with another BETTER_AUTH_URL; restart it")


async def test_a_stranger_on_the_port_is_not_taken_for_the_backend(environment: Environment, issuer: Issuer) -> None:
    environment.set(PORT=issuer.origin.rpartition(":")[2])

    text = f"was not examined: what answers at {issuer.origin} is no such backend; set PORT"
    assert await said("CORS") == ("warning", text)


# Typical mistakes: the configuration.


async def test_missing_variables_are_all_named(environment: Environment) -> None:
    environment.unset("BETTER_AUTH_SECRET", "BETTER_AUTH_URL")

    findings = await found("token")

    assert findings == [
        Finding("BETTER_AUTH_SECRET", "bad", "is missing"),
        Finding("BETTER_AUTH_URL", "bad", "is missing"),
    ]


async def test_malformed_variables_are_named_without_their_values(environment: Environment) -> None:
    environment.set(
        BETTER_AUTH_URL=PASSWORD,
        NEON_DATABASE_URL=f"mysql://app:{PASSWORD}@db/todo",
        BETTER_AUTH_MODE=PASSWORD,
        BETTER_AUTH_JWKS_URL=PASSWORD,
    )

    findings = await found()

    assert {finding.subject for finding in findings} == set(environment.variables) - {"BETTER_AUTH_SECRET", "PORT"}
    assert {finding.verdict for finding in findings} == {"bad"}
    assert PASSWORD not in str(findings)


async def test_what_only_development_allows_is_a_warning(environment: Environment) -> None:
    environment.set(BETTER_AUTH_SECRET="short")

    findings = await found()

    warnings = {each.subject: each.text for each in findings if each.verdict == "warning"}
    effect = "`dev` does not mind, but `serve` will not start"
    assert warnings == {
        "BETTER_AUTH_SECRET": f"must have at least 32 bytes; `openssl rand -hex 32` makes a good one; {effect}",
        "NEON_DATABASE_URL": f"is missing; {effect}",
    }
    assert "bad" not in {each.verdict for each in findings}


async def test_a_dollar_that_was_expanded_is_a_trap(environment: Environment) -> None:
    environment.unset("BETTER_AUTH_SECRET")
    environment.file.write_text(f"BETTER_AUTH_SECRET={PASSWORD}${{HOME_OF_NOBODY}} and thirty-two bytes or more\n")

    verdict, text = await said("BETTER_AUTH_SECRET")

    assert verdict == "bad"
    assert text == "has a ${…} in backend/.env, which was expanded: choose a secret without a $"


async def test_a_dollar_in_an_overridden_file_is_none(environment: Environment) -> None:
    environment.file.write_text(f"BETTER_AUTH_SECRET={PASSWORD}${{HOME_OF_NOBODY}} and thirty-two bytes or more\n")

    assert await said("BETTER_AUTH_SECRET") == ("good", f"is set, with {len(SECRET)} bytes")


@pytest.mark.parametrize("quote", ["", "'"])
async def test_a_dollar_that_the_frontend_would_expand_is_a_warning(environment: Environment, quote: str) -> None:
    environment.unset("BETTER_AUTH_SECRET")
    environment.file.write_text(f"BETTER_AUTH_SECRET={quote}pa$word-of-thirty-two-bytes-or-more{quote}\n")

    verdict, text = await said("BETTER_AUTH_SECRET")

    assert (verdict, "which Next.js expands in its .env files" in text) == ("warning", True)


async def test_what_a_shell_adds_to_the_url_is_named(production: Environment) -> None:
    production.patch.setenv("PGTARGETSESSIONATTRS", "any")
    production.patch.setenv("PGPASSWORD", PASSWORD)

    verdict, text = await said("NEON_DATABASE_URL")

    assert verdict == "warning"
    assert text == "leaves to PGPASSWORD, PGTARGETSESSIONATTRS of the environment what it lacks"


async def test_an_unreachable_database_is_named(environment: Environment) -> None:
    environment.set(NEON_DATABASE_URL=f"postgresql://app:{PASSWORD}@127.0.0.1:9/todo?sslmode=disable")

    findings = await found()

    verdicts = {each.subject: (each.verdict, each.text) for each in findings}
    assert verdicts["NEON_DATABASE_URL"] == ("good", "leads directly to 127.0.0.1, perhaps without TLS")
    assert verdicts["database"][0] == "bad"
    assert verdicts["database"][1].startswith("cannot be used: ConnectionRefusedError")
    assert verdicts["database"][1].endswith("; is it running, and are host and port in NEON_DATABASE_URL right?")
    assert "schema" not in verdicts
    assert "key set" in verdicts


async def test_a_missing_schema_and_a_table_that_may_move_in_are_named(production: Environment) -> None:
    url = production.variables["NEON_DATABASE_URL"]
    name = f"empty_{uuid4().hex}"
    connection = await asyncpg.connect(url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    production.set(NEON_DATABASE_URL=url.replace("/todo?", f"/{name}?"))

    connection = await asyncpg.connect(production.variables["NEON_DATABASE_URL"])
    await connection.execute("CREATE TABLE todos (user_id text, title text, done boolean)")
    await connection.close()

    assert await said("schema") == ("bad", "is missing or behind: run `python -m backend migrate`")
    verdict, text = await said("tables")
    cure = "`python -m backend migrate --adopt todos --dry-run` tells how to move in"
    assert (verdict, text) == ("warning", f"todos looks like tasks, too: {cure}")


async def test_a_role_without_rights_is_told_how_to_get_them(production: Environment) -> None:
    url = production.variables["NEON_DATABASE_URL"]
    role = f"stranger_{uuid4().hex}"
    connection = await asyncpg.connect(url)
    await connection.execute(f"CREATE ROLE {role} LOGIN")
    production.set(NEON_DATABASE_URL=url.replace(f"//app:{PASSWORD}@", f"//{role}@"))

    verdict, text = await said("rights")

    await connection.execute(f"DROP ROLE {role}")
    await connection.close()
    lacks = ", ".join(f"{each} ON TABLE public.task" for each in ("SELECT", "INSERT", "UPDATE", "DELETE"))
    cure = f"run `python -m backend migrate --grant {role}` as the role that owns them"
    assert (verdict, text) == ("bad", f"the role {role} lacks {lacks}: {cure}")


@pytest.mark.spec("FR-035")
@pytest.mark.parametrize(
    ("workers", "size", "verdict", "text"),
    [
        ("2", "", "good", "2 x as many as are of use, together at most 175 of 195"),
        ("4", "20", "good", "WORKERS x DATABASE_POOL_SIZE is 4 x 20 = 80 of 195"),
        ("1", "200", "warning", "WORKERS x DATABASE_POOL_SIZE is 1 x 200 = 200 of 195"),
    ],
)
async def test_the_pool_is_compared_with_the_servers_limit(
    production: Environment, workers: str, size: str, verdict: str, text: str
) -> None:
    production.set(WORKERS=workers, DATABASE_POOL_SIZE=size)

    cure = ": set DATABASE_POOL_SIZE=194" if verdict == "warning" else ""
    assert await said("connections") == (verdict, f"{text} (max_connections 200 less 5 reserved){cure}")


def dated(date: str | None) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        body = key_set(ED)
        request.send_response_only(200)
        if date is not None:
            request.send_header("Date", date)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("seconds", "verdict", "text"),
    [
        (0, "good", "agrees with the frontend's"),
        (-300, "bad", "is 5 minutes ahead of the frontend's: set both by NTP, or tokens expire at the wrong time"),
        (7_201, "bad", "is 2 hours behind the frontend's: set both by NTP, or tokens expire at the wrong time"),
    ],
)
async def test_a_clock_that_is_wrong_is_named(issuer: Issuer, seconds: int, verdict: str, text: str) -> None:
    issuer.answer = dated(time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + seconds)))

    assert await said("clock") == (verdict, text)


@pytest.mark.usefixtures("environment")
async def test_the_clock_is_read_from_an_answer_whose_body_does_not_come(issuer: Issuer) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        body = key_set(ED)
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if len(issuer.requests) == 1:
            request.wfile.write(body)

    issuer.answer = answer

    assert await said("clock") == ("good", "agrees with the frontend's")


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("date", [None, "", "tomorrow", "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"])
async def test_a_frontend_without_a_clock_is_a_warning(issuer: Issuer, date: str | None) -> None:
    issuer.answer = dated(date)

    assert await said("clock") == ("warning", "could not be compared: the frontend sends no usable Date")


# Every reason has its explanation.

FORMS: dict[str, Callable[[], str]] = {
    "not-a-jwt": lambda: "token",
    "too-long": lambda: "x" * 8_193,
    "base64url": lambda: "a.a.a",
    "json": lambda: f"{segment(b'[')}.{segment({})}.{segment(b'?')}",
    "type": lambda: ED.sealed(usual("ann"), typ="JWE"),
    "crit": lambda: ED.sealed(usual("ann"), crit=["exp"]),
    "algorithm": lambda: ED.sealed(usual("ann"), alg="none"),
    "kid": lambda: ED.sealed(usual("ann"), kid=None),
    "unknown-key": lambda: OTHERS.token("ann"),
    "algorithm-of-key": lambda: RS.sealed(usual("ann"), kid="ed"),
    "signature": lambda: Signer("EdDSA", "ed", "a stranger's").token("ann"),
    "key-set-unreachable": lambda: ED.token("ann"),
    "no-expiry": lambda: by_secret({"sub": "ann"}),
    "exp": lambda: by_secret({"sub": "ann", "exp": "soon"}),
    "nbf": lambda: by_secret(usual("ann", nbf="soon")),
    "iat": lambda: by_secret(usual("ann", iat="soon")),
    "nbf-in-future": lambda: by_secret(usual("ann", nbf=time.time() + 90)),
    "iat-in-future": lambda: by_secret(usual("ann", iat=time.time() + 90)),
    "expired": lambda: by_secret(usual("ann", exp=1)),
    "issuer": lambda: by_secret(usual("ann", iss="x")),
    "audience": lambda: by_secret(usual("ann", aud="x")),
    "no-identity": lambda: by_secret({"exp": time.time() + 60}),
    "identity": lambda: by_secret(usual("")),
}
EXPLAINED = {reason for reasons in STEPS.values() for reason in reasons}


def test_no_two_steps_explain_one_reason() -> None:
    assert sum(len(reasons) for reasons in STEPS.values()) == len(EXPLAINED)
    assert list(GOOD) == list(STEPS)


def test_every_reason_that_the_verifier_can_give_is_explained_and_no_other() -> None:
    """Reads the verifier's source: a new `raise` needs an explanation and a token in FORMS."""
    assert auth.__file__
    nodes = [node for file in Path(auth.__file__).parent.glob("*.py") for node in ast.walk(ast.parse(file.read_text()))]
    raised = {
        constant.value
        for node in nodes
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"Unauthorized", "TokenExpired"}
        for constant in ast.walk(node)
        if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
    }

    # Not of a token, and put together: f"{name}-in-future".
    assert raised - {"several-authorization-headers", "-in-future"} <= EXPLAINED
    assert len(raised) > 15
    assert set(FORMS) == EXPLAINED


@pytest.mark.parametrize("reason", FORMS)
async def test_a_token_for_every_reason_stops_at_its_step(environment: Environment, reason: str) -> None:
    if reason == "key-set-unreachable":
        environment.set(BETTER_AUTH_JWKS_URL=NOBODY)
    token = FORMS[reason]()
    step = next(step for step, reasons in STEPS.items() if reason in reasons)
    case = Case(load_settings(environment="development"), token, parse_key_set(key_set(ED, RS)))

    findings = [each for each in await found(token) if each.subject.startswith("token")]

    assert [each.verdict for each in findings[:-1]] == ["good"] * (len(findings) - 1)
    assert findings[-1] == Finding(f"token: {step}", "bad", STEPS[step][reason](case))


# It keeps what it sees to itself, and steers no terminal.

SEQUENCE = "\x1b]0;owned\x07\x1b[2J\u009b31m\u202e"


def run(
    environment: Environment, *arguments: str, stdin: str = "", terminal: str = "utf-8"
) -> subprocess.CompletedProcess[str]:
    """Run the doctor as an operator does; whatever backend/.env holds is overridden."""
    variables = {name: environment.variables.get(name, "") for name in VARIABLES}
    return subprocess.run(
        [sys.executable, "-m", "backend", "doctor", *arguments],
        env={**os.environ, **variables, "PYTHONIOENCODING": terminal, "COLUMNS": "200"},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        encoding=terminal,
        timeout=60,
    )


def secrets_of(token: str) -> list[str]:
    return [SECRET, PASSWORD, "ann@example.com", token, *(part for part in token.split(".") if len(part) > 20)]


@pytest.mark.spec("FR-017")
@pytest.mark.parametrize("mistake", ["another secret", "a session cookie", "expired", "an e-mail verification link"])
async def test_no_secret_password_token_or_e_mail_address_is_told(production: Environment, mistake: str) -> None:
    jwks = production.variables["BETTER_AUTH_JWKS_URL"].replace("//", f"//ann:{PASSWORD}@") + f"?key={PASSWORD}"
    production.set(BETTER_AUTH_JWKS_URL=jwks)
    token = MISTAKES[mistake].token().strip()

    told = str(await found(token))

    assert [secret for secret in secrets_of(token) if secret and secret in told] == []


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    "token",
    [
        ED.sealed(usual("ann"), typ=SEQUENCE),
        ED.sealed(usual("ann"), alg=SEQUENCE),
        ED.sealed(usual("ann"), kid=SEQUENCE),
        ED.sealed(usual("ann"), kid="x" * 3_000),
        ED.token("ann", aud=SEQUENCE),
        ED.token("ann", aud=[SEQUENCE]),
        ED.token("ann", iss={SEQUENCE: SEQUENCE}),
        ED.token("ann" + SEQUENCE[-6:]),
        SEQUENCE,
        f"Bearer {SEQUENCE}",
    ],
)
async def test_nothing_in_a_token_can_steer_a_terminal(token: str) -> None:
    findings = [each for each in await found(token) if each.subject.startswith("token")]

    for finding in findings:
        assert finding.text.isprintable()
        assert finding.text.isascii()
        assert len(finding.text) < 400


@pytest.mark.usefixtures("environment")
async def test_nothing_in_a_key_set_can_steer_a_terminal(issuer: Issuer) -> None:
    issuer.answer = answering(key_set(Signer("EdDSA", SEQUENCE)))

    _, text = await said("key set")

    assert text.isprintable()


def test_the_findings_in_a_terminal(production: Environment) -> None:
    result = run(production, ED.token("ann", exp=time.time() - 180))

    assert result.returncode == 1
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert [line[:2] for line in lines] == ["✓ "] * (len(lines) - 1) + ["✗ "]
    last = re.sub(" +", " ", lines[-1]).strip()
    # However long the command takes to start.
    assert re.fullmatch(r"✗ token: times expired \d+ minutes ago: fetch a new one from /api/auth/token", last)


@pytest.mark.spec("FR-017")
def test_the_findings_for_machines_of_a_token_from_standard_input(production: Environment) -> None:
    token = ED.token("ann", email="ann@example.com")

    result = run(production, "--json", "-", stdin=f"{token}\n")

    assert (result.returncode, result.stderr) == (0, "")
    findings = json.loads(result.stdout)
    assert [list(finding) for finding in findings] == [["subject", "verdict", "text"]] * len(findings)
    assert findings[-1]["text"] == "is accepted for the user ann: call /api/ann/tasks"
    assert [secret for secret in secrets_of(token) if secret in result.stdout] == []


@pytest.mark.parametrize(
    "copied",
    ['{{"token":"{0}"}}', '"{0}"', "Bearer {0}", "Authorization: bearer {0}\r\n", "  {1}\n{2}\n", "'{0}',"],
    ids=["JSON", "quotes", "Bearer", "a header", "two lines", "code"],
)
@pytest.mark.usefixtures("production")
async def test_a_token_is_taken_out_of_what_it_was_copied_with(copied: str) -> None:
    token = ED.token("ann")

    findings = await found(copied.format(token, token[:80], token[80:]))

    assert findings[-1].text == "is accepted for the user ann: call /api/ann/tasks"


class Troubled(socketserver.BaseRequestHandler):
    """A PostgreSQL that answers one error, when somebody connects or when a statement comes."""

    code, message, connects = "XX000", b"", False

    def handle(self) -> None:
        fields = b"SFATAL\0C" + self.code.encode() + b"\0M" + self.message + b"\0\0"
        error = b"E" + struct.pack("!i", len(fields) + 4) + fields
        with suppress(OSError):
            self.request.recv(4_096)
            if not self.connects:
                self.request.sendall(error)
                return
            self.request.sendall(b"R" + struct.pack("!ii", 8, 0) + VERSION + READY)
            while (asked := self.request.recv(4_096)) and not asked.endswith(TERMINATE):
                self.request.sendall(READY if asked.startswith(SYNC) else error)


VERSION = b"S" + struct.pack("!i", 24) + b"server_version\x0018.0\0"
SYNC, TERMINATE = b"S" + struct.pack("!i", 4), b"X" + struct.pack("!i", 4)
READY = b"Z" + struct.pack("!i", 5) + b"I"


@pytest.fixture(scope="module")
def troubled() -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Troubled) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"postgresql://app:{PASSWORD}@127.0.0.1:{server.server_address[1]}/todo?sslmode=disable"
        server.shutdown()
        thread.join()


@pytest.mark.spec("FR-035")
@pytest.mark.parametrize("code", ["55000", "XX000"])
@pytest.mark.parametrize("connects", [False, True])
async def test_a_database_in_trouble_is_a_finding_beside_those_of_the_token(
    environment: Environment, troubled: str, code: str, *, connects: bool
) -> None:
    Troubled.code, Troubled.message, Troubled.connects = code, b"not now\x1b[2J", connects
    environment.set(NEON_DATABASE_URL=troubled)

    findings = {each.subject: each.text for each in await found(ED.token("ann"))}

    assert re.fullmatch(
        r"cannot be used: \w+: not now\?\[2J; this is the server's own trouble: .*", findings["database"]
    )
    assert findings["token"].startswith("is accepted")


async def test_a_server_that_falls_silent_on_the_way_is_a_finding(
    environment: Environment, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fall_silent(sent: bytes) -> None:
        relay.frozen |= b"has_schema_privilege" in sent

    for module in (grant, migrate):
        monkeypatch.setattr(module, "LOOK_LIMIT", 0.5)
    with relayed(database_url) as (relay, url):
        relay.refuse = fall_silent
        environment.set(NEON_DATABASE_URL=url)

        findings = {each.subject: each.text for each in await found(ED.token("ann"))}

    assert findings["rights"] == "The database could not be reached or migrated: TimeoutError"
    assert findings["token"].startswith("is accepted")


def test_no_log_line_stands_in_the_report_and_any_terminal_can_show_it(environment: Environment) -> None:
    environment.set(BETTER_AUTH_JWKS_URL=NOBODY)
    environment.file.write_text("what is no setting\n")

    result = run(environment, ED.token("ann"), terminal="ascii")

    assert (result.returncode, result.stderr) == (1, "")
    assert "\n\\u2713 BETTER_AUTH_SECRET" in result.stdout


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text() | st.just(ORIGIN),
    lambda each: st.lists(each) | st.dictionaries(st.text(), each),
    max_leaves=3,
)
TOKENS = st.one_of(
    st.text(),
    st.text(st.sampled_from('eyJ.-_={}"%:/ \n\x00\x1b')),
    st.builds(
        lambda header, claims: compact(header, claims, lambda _: b"?"),
        st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit"]), JSON),
        st.dictionaries(st.sampled_from(["iss", "aud", "sub", "exp", "nbf", "iat", "email"]), JSON),
    ),
    st.builds(
        lambda claims: by_secret(usual("ann") | claims), st.dictionaries(st.sampled_from(["iss", "aud", "exp"]), JSON)
    ),
)
SETTINGS = st.dictionaries(
    # What connects elsewhere is left as it is.
    st.sampled_from(sorted({*VARIABLES} - {"NEON_DATABASE_URL", "BETTER_AUTH_JWKS_URL", "HOST", "PORT"})),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])) | st.integers().map(str),
)
CODES = st.sampled_from(["55000", "XX000", "28P01", "3D000", "53300", "57P03", "42P01", "08P01", "0A000", "?????"])


@pytest.mark.spec("FR-017", "FR-035")
@hypothesis_settings(
    max_examples=40, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    variables=SETTINGS, token=TOKENS.map(str.encode) | st.binary(), trouble=st.tuples(CODES, st.binary(), st.booleans())
)
@example(variables={}, token=b"\xff", trouble=("XX000", b"", False))
@example(variables={}, token=b"", trouble=("XX000", b"\xff", True))
@pytest.mark.usefixtures("environment")
def test_whatever_is_wrong_the_doctor_reports_and_keeps_secrets(
    troubled: str, variables: dict[str, str], token: bytes, trouble: tuple[str, bytes, bool]
) -> None:
    code, message, Troubled.connects = trouble
    Troubled.code, Troubled.message = code, message.replace(b"\0", b"")
    address = f"http://ann:{PASSWORD}@127.0.0.1:9/jwks?key={PASSWORD}"
    usual = {"NEON_DATABASE_URL": troubled, "BETTER_AUTH_JWKS_URL": address}

    with patch.dict(os.environ, usual | variables):
        result = CliRunner().invoke(cli, ["doctor", "--json", "-"], input=token)

    assert result.exit_code in {0, 1}
    assert isinstance(result.exception, SystemExit | None)
    assert {each["verdict"] for each in json.loads(result.stdout)} <= {"good", "warning", "bad"}
    assert [secret for secret in (SECRET, PASSWORD) if secret in result.output] == []


# What the document says that it says.

THERE = "http://localhost:3001"
DOCUMENT = Path(__file__).parents[1] / "docs/connect-your-frontend.md"
ROWS = DOCUMENT.read_text().split("| what the doctor says |")[1].split("\n\n")[0].splitlines()[2:]


@dataclass(frozen=True)
class Situation:
    token: Callable[[], str] = lambda: ED.token("ann")
    settings: dict[str, str] = field(default_factory=dict)
    status: int = 200


SITUATIONS = [
    Situation(lambda: signed("ann", iss=THERE, aud=THERE), {"BETTER_AUTH_JWKS_URL": ""}),
    Situation(lambda: signed("ann", iss=THERE, aud=THERE), {"BETTER_AUTH_URL": THERE, "PORT": "{port}"}),
    *(Situation(MISTAKES[name].token) for name in ("another secret", "a session token", "another audience")),
    Situation(status=404),
    Situation(settings={"BETTER_AUTH_JWKS_URL": NOBODY}),
    Situation(MISTAKES["expired"].token),
    Situation(),
    Situation(settings={"NEON_DATABASE_URL": "{troubled}"}),
    Situation(settings={"WORKERS": "4", "DATABASE_POOL_SIZE": "50"}),
    Situation(settings={"NEON_DATABASE_URL": "{left}"}),
]


@pytest.fixture(scope="module")
def servers(base_url: str, troubled: str, database_url: str) -> Iterator[dict[str, str]]:
    """The port of a backend, a database in trouble, and one with the table of another backend."""
    with own_database(database_url) as left:
        execute(left, "CREATE TABLE tasks (user_id text, title text, done boolean)")
        yield {"port": base_url.rpartition(":")[2], "troubled": troubled, "left": left}


@pytest.mark.spec("FR-035")
@pytest.mark.parametrize(("row", "situation"), [*zip(ROWS, SITUATIONS, strict=True)], ids=range(len(ROWS)))
async def test_the_doctor_says_what_the_document_says(
    production: Environment, issuer: Issuer, servers: dict[str, str], row: str, situation: Situation
) -> None:
    Troubled.code, Troubled.message, Troubled.connects = "55000", b"not now", False
    issuer.answer = answering(key_set(ED, RS), situation.status)
    production.set(**{name: value.format(**servers) for name, value in situation.settings.items()})

    texts = [finding.text for finding in await found(situation.token())]

    words = re.findall(r"`([^`]+)`", row.split(" | ")[1])
    assert words
    assert [each for each in words if not any(each in text for text in texts)] == []


def test_no_token_is_no_mistake_and_a_warning_is_none_either(environment: Environment) -> None:
    environment.set(BETTER_AUTH_JWKS_URL=NOBODY)

    result = run(environment)

    assert result.returncode == 0
    assert "! key set" in result.stdout


def test_missing_variables_fail(environment: Environment) -> None:
    environment.unset("BETTER_AUTH_SECRET", "BETTER_AUTH_URL")

    result = run(environment, "--json")

    assert (result.returncode, result.stderr) == (1, "")
    assert [finding["subject"] for finding in json.loads(result.stdout)] == ["BETTER_AUTH_SECRET", "BETTER_AUTH_URL"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 seconds"), (1, "1 second"), (59, "59 seconds"), (60, "1 minute"), (180, "3 minutes"), (7_200, "2 hours"),
     (86_400, "1 day"), (864_000, "10 days")],
)  # fmt: skip
def test_a_length_of_time_as_a_person_says_it(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_a_shown_value_is_short_and_plain() -> None:
    assert shown("ed") == "ed"
    assert shown(["\x1b"]) == "['\\x1b']"
    assert len(shown("x" * 1_000)) == 100
