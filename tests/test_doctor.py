"""Does the doctor say what is wrong and what to change, and does it keep what it sees to itself?"""

import ast
import hmac
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from issuer import Answer, Issuer, Signer, answering, compact, issuing, key_set, segment, usual
from people import ORIGIN, SECRET, signed

from backend import auth
from backend.auth.jwks import parse_key_set
from backend.commands import doctor
from backend.commands.doctor import Finding, examine
from backend.commands.token_advice import GOOD, MAILED_LINK, SESSION_TOKEN, STEPS, Case, shown, span
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
    good = {"BETTER_AUTH_SECRET": SECRET, "BETTER_AUTH_URL": ORIGIN, "BETTER_AUTH_JWKS_URL": issuer.url}
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
        "BETTER_AUTH_SECRET", "BETTER_AUTH_URL", "NEON_DATABASE_URL", "database", "schema", "key set", "clock",
        "token: form", "token: header", "token: signature", "token: times", "token: issuer and audience",
        "token: user", "token",
    ]  # fmt: skip
    texts = {finding.subject: finding.text for finding in findings}
    assert texts["key set"] == f"at {issuer.url} has ed (EdDSA), rs (RS256)"
    assert texts["token: header"] == "is signed EdDSA with key ed"
    assert texts["token: times"] == "is valid for 15 minutes"
    assert texts["token"] == "is accepted for the user ann: call /api/ann/tasks"
    assert texts["database"].startswith("PostgreSQL 18")
    assert production.variables["BETTER_AUTH_URL"] in texts["BETTER_AUTH_URL"]


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
        f"audience is http://localhost:8000, accepted is {ORIGIN}: set BETTER_AUTH_AUDIENCES",
    ),
    "another issuer": Mistake(
        lambda: signed("ann", iss="https://todo.example"),
        "issuer and audience",
        f"issuer is https://todo.example, accepted is {ORIGIN}: set BETTER_AUTH_ISSUERS",
    ),
    "no audience": Mistake(
        lambda: ED.sealed({name: value for name, value in usual("ann").items() if name != "aud"}),
        "issuer and audience",
        "has no aud, which a token of the key set needs",
    ),
    "another frontend's key": Mistake(
        lambda: OTHERS.token("ann"),
        "signature",
        f"is signed EdDSA with key another frontend's; the key set at {JWKS} has ed, rs: is it another frontend's, or "
        "older than a reset of its database?",
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

    hint = "is the frontend running? Elsewhere than BETTER_AUTH_URL says: set BETTER_AUTH_JWKS_URL"
    assert of_set == (verdict, f"cannot be used: ConnectError at {NOBODY}/jwks; {hint}")
    assert of_token == ("bad", f"is signed EdDSA with key ed; the key set at {NOBODY}/jwks does not answer")


@pytest.mark.parametrize(
    ("answer", "mode", "finding"),
    [
        (
            answering(b"", 404),
            "auto",
            ("good", "none at {jwks}: right for a frontend that signs HS256 with the shared secret, and "),
        ),
        (answering(b"", 404), "jwks", ("bad", "none at {jwks}: ")),
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

    assert {finding.subject for finding in findings} == set(environment.variables) - {"BETTER_AUTH_SECRET"}
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
    assert verdicts["database"][1].startswith("cannot be reached: ConnectionRefusedError")
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
    assert (verdict, text.partition(":")[0]) == ("warning", "the table todos looks like tasks, too")


async def test_a_schema_that_may_not_be_looked_at_is_named(production: Environment) -> None:
    url = production.variables["NEON_DATABASE_URL"]
    role = f"stranger_{uuid4().hex}"
    connection = await asyncpg.connect(url)
    await connection.execute(f"CREATE ROLE {role} LOGIN")
    production.set(NEON_DATABASE_URL=url.replace(f"//app:{PASSWORD}@", f"//{role}@"))

    verdict, text = await said("schema")

    await connection.execute(f"DROP ROLE {role}")
    await connection.close()
    assert (verdict, "permission denied" in text) == ("bad", True)


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


def run(environment: Environment, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the doctor as an operator does; whatever backend/.env holds is overridden."""
    variables = {name: environment.variables.get(name, "") for name in VARIABLES}
    return subprocess.run(
        [sys.executable, "-m", "backend", "doctor", *arguments],
        env={**os.environ, **variables, "PYTHONIOENCODING": "utf-8", "COLUMNS": "200"},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
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
    assert last == "✗ token: times expired 3 minutes ago: fetch a new one from /api/auth/token"


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
