"""What can someone do who makes tokens, or the key set, as they please?"""

import base64
import gzip
import hmac
import json
import logging
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from os import environ
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from issuer import Answer, Issuer, Signer, answering, compact, issuing, key_set, segment, usual
from people import SECRET, signed
from running import serving
from servers import uncovered

from backend.settings import Settings

ED, EC, ES512 = Signer("EdDSA", "ed"), Signer("ES256", "ec"), Signer("ES512", "es512")
RS, PS = Signer("RS256", "rs"), Signer("PS256", "ps")
ONE = Signer("EdDSA", "1")
PUBLISHED = [ED, EC, ES512, RS, PS, ONE]
STRANGER = Signer("EdDSA", "stranger")
INVALID = 'Bearer realm="todo", error="invalid_token"'


def trusting(settings: Settings, issuer: Issuer, mode: str = "auto") -> Settings:
    return settings.model_copy(update={"better_auth_jwks_url": issuer.url, "better_auth_mode": mode})


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with issuing(answering(key_set(*PUBLISHED))) as issuer:
        yield issuer


@pytest.fixture(scope="module")
def listener() -> Iterator[Issuer]:
    """What a token would like to be fetched; it has the stranger's keys."""
    with issuing(answering(key_set(STRANGER))) as listener:
        yield listener


@pytest.fixture(scope="module")
def api(settings: Settings, issuer: Issuer) -> Iterator[httpx.Client]:
    with serving(trusting(settings, issuer)) as url, httpx.Client(base_url=url, timeout=30, verify=False) as client:
        yield client


def ask(api: httpx.Client, token: str, user: str = "ann") -> httpx.Response:
    return api.get(f"/api/{user}/tasks", headers={"Authorization": f"Bearer {token}"})


def assert_refused(response: httpx.Response) -> None:
    assert response.status_code == 401, response.text
    assert response.json() == {"detail": "The access token is invalid."}
    assert response.headers["WWW-Authenticate"] == INVALID


@pytest.mark.parametrize("signer", PUBLISHED, ids=lambda signer: signer.kid)
def test_the_keys_that_are_attacked_here_are_good(api: httpx.Client, signer: Signer) -> None:
    assert ask(api, signer.token("ann")).status_code == 200


# Key confusion.

FORMS: dict[str, Callable[[Signer], bytes]] = {
    "the JWK as it was published": lambda signer: json.dumps(signer.jwk).encode(),
    "the JWK without blanks": lambda signer: json.dumps(signer.jwk, separators=(",", ":")).encode(),
    "the JWK with its members in order": lambda signer: json.dumps(signer.jwk, sort_keys=True).encode(),
    "the whole key set": lambda _: key_set(*PUBLISHED),
    "PEM": lambda signer: public(signer, Encoding.PEM),
    "PEM without the line feed at its end": lambda signer: public(signer, Encoding.PEM).strip(),
    "DER": lambda signer: public(signer, Encoding.DER),
    "base64 of DER": lambda signer: base64.b64encode(public(signer, Encoding.DER)),
    "the raw x or n": lambda signer: base64.urlsafe_b64decode(number(signer) + "=="),
    "the base64url x or n": lambda signer: number(signer).encode(),
    "the kid": lambda signer: signer.kid.encode(),
    "nothing": lambda _: b"",
}


def public(signer: Signer, encoding: Encoding) -> bytes:
    form: bytes = signer.private.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
    return form


def number(signer: Signer) -> str:
    return str(signer.jwk.get("x") or signer.jwk["n"])


@pytest.mark.spec("FR-001")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("signer", PUBLISHED, ids=lambda signer: signer.kid)
def test_a_public_key_is_no_shared_secret(api: httpx.Client, signer: Signer, form: str) -> None:
    key = FORMS[form](signer)
    headers = [{"alg": algorithm, "kid": signer.kid} for algorithm in ("HS256", signer.algorithm)]

    for header in headers:
        token = compact(header, usual("ann"), lambda text: hmac.digest(key, text, "sha256"))

        assert_refused(ask(api, token))


@pytest.mark.parametrize("signer", PUBLISHED, ids=lambda signer: signer.kid)
def test_a_key_is_for_no_other_algorithm(api: httpx.Client, signer: Signer) -> None:
    others = {"none", "HS256", "HS512", "RS1", "ES256K", "Ed448", signer.algorithm.lower()}
    others |= {"EdDSA", "Ed25519", "ES256", "ES384", "ES512", "RS256", "RS512", "PS256", "PS512"} - {signer.algorithm}
    if signer.algorithm == "EdDSA":
        others -= {"Ed25519"}

    for algorithm in others:
        assert_refused(ask(api, signer.sealed(usual("ann"), alg=algorithm)))
    for other in PUBLISHED:
        if other is not signer:
            assert_refused(ask(api, signer.sealed(usual("ann"), kid=other.kid)))
            assert_refused(ask(api, signer.sealed(usual("ann"), kid=other.kid, alg=other.algorithm)))


def test_a_ps256_key_takes_no_rs256_token_of_its_own_owner(api: httpx.Client) -> None:
    as_rs = Signer("RS256", PS.kid)
    assert as_rs.jwk["n"] == PS.jwk["n"]

    response = ask(api, as_rs.token("ann"))

    assert_refused(response)


def test_the_name_ed25519_is_the_same_algorithm(api: httpx.Client) -> None:
    assert ask(api, ED.sealed(usual("ann"), alg="Ed25519")).status_code == 200


# The header.

KIDS = {
    "a list": ["ed"],
    "a number": 1,
    "null": None,
    "true": True,
    "an object": {"ed": "ed"},
    "empty": "",
    "in capitals": "ED",
    "with a blank": "ed ",
    "with NUL": "ed\0",
    "only NUL": "\0",
    "a path": "../../../../dev/null",
    "a file": "file:///dev/null",
    "SQL": "ed' UNION SELECT 'secret' --",
    "a command": "ed|sleep 5",
    "an address": "http://127.0.0.1:1/jwks",
    "5 kB": "ed" * 2_500,
    "10 kB": "ed" * 5_000,
    "a terminal's sequence": "\x1b[2J",
    "a line of its own": "ed\nrefused",
}


@pytest.mark.parametrize("kid", KIDS)
def test_a_kid_is_a_name_and_nothing_else(api: httpx.Client, kid: str) -> None:
    for sign in (ED.sign, lambda text: hmac.digest(b"", text, "sha256")):
        assert_refused(ask(api, compact({"alg": "EdDSA", "kid": KIDS[kid]}, usual("ann"), sign)))


def test_a_number_is_no_name(api: httpx.Client) -> None:
    assert ask(api, ONE.sealed(usual("ann"))).status_code == 200
    assert_refused(ask(api, ONE.sealed(usual("ann"), kid=1)))


def test_a_kid_must_be_there(api: httpx.Client) -> None:
    assert_refused(ask(api, compact({"alg": "EdDSA"}, usual("ann"), ED.sign)))


@pytest.mark.parametrize("kid", ["stranger", "ed"])
def test_a_token_brings_no_key_and_has_nothing_fetched(api: httpx.Client, listener: Issuer, kid: str) -> None:
    certificate = base64.b64encode(public(STRANGER, Encoding.DER)).decode()
    brought: list[dict[str, Any]] = [
        {"jwk": STRANGER.jwk},
        {"jwk": STRANGER.jwk | {"kid": kid}},
        {"jku": listener.url},
        {"x5u": listener.url},
        {"x5c": [certificate]},
        {"jku": listener.url, "x5u": listener.url, "jwk": STRANGER.jwk, "x5c": [certificate], "iss": listener.origin},
    ]

    for header in brought:
        assert_refused(ask(api, STRANGER.sealed(usual("ann"), kid=kid, **header)))
        assert_refused(ask(api, STRANGER.sealed(usual("ann", iss=listener.origin), kid=kid, **header)))
        # What is ignored spoils no good token either.
        assert ask(api, ED.sealed(usual("ann"), **header)).status_code == 200

    assert listener.requests == []


@pytest.mark.parametrize("crit", [["b64"], ["exp"], [], None, "b64", {}, False])
def test_extensions_that_must_be_understood_are_refused(api: httpx.Client, crit: Any) -> None:
    assert_refused(ask(api, ED.sealed(usual("ann"), crit=crit, b64=False)))
    assert_refused(ask(api, ED.sealed(usual("ann"), crit=crit)))


def test_a_payload_that_is_not_encoded_is_refused(api: httpx.Client) -> None:
    head = segment({"alg": "EdDSA", "kid": "ed", "b64": False})
    raw = json.dumps(usual("ann"), separators=(",", ":"))
    signature = segment(ED.sign(f"{head}.{raw}".encode()))

    assert_refused(ask(api, f"{head}.{raw}.{signature}"))
    assert_refused(ask(api, f"{head}.{segment(raw.encode())}.{signature}"))
    assert_refused(ask(api, f"{head}..{signature}"))


@pytest.mark.parametrize("kind", ["better-auth.session-cache+jwt", "at+jwt", "dpop+jwt", "JOSE", "", None, 7, ["JWT"]])
def test_a_token_for_another_purpose_is_refused(api: httpx.Client, kind: Any) -> None:
    nested = {"user": {"id": "ann"}, "session": {"userId": "ann"}}

    assert_refused(ask(api, ED.sealed(usual("ann"), typ=kind)))
    assert_refused(ask(api, ED.sealed(usual("ann") | nested, typ=kind)))


# The claims.


def without(*names: str, **claims: Any) -> dict[str, Any]:
    return {name: value for name, value in usual("ann", **claims).items() if name not in names}


@pytest.mark.spec("FR-002")
@pytest.mark.parametrize("signer", [ED, PS], ids=lambda signer: signer.kid)
def test_claims_that_do_not_do(api: httpx.Client, signer: Signer) -> None:
    nested = {"user": {"id": "ann", "email": "ann@example.com"}, "session": {"userId": "ann"}}
    wrong: list[dict[str, Any]] = [
        without("iss"),
        without("aud"),
        without("iss", "aud"),
        *(usual("ann", iss=value) for value in ("http://localhost:3001", "", None, ["http://localhost:3000"])),
        *(usual("ann", aud=value) for value in ("http://localhost:8000", "", None, [], ["http://localhost:8000"], [7])),
        without("sub", **nested),
        without("sub", email="ann"),
        without("sub", user={"id": "ann"}),
        without("exp"),
        usual("ann", sub=None, id="ann"),
        usual("ann", sub=["ann"]),
        usual("ann", exp=str(int(time.time()) + 900)),
        usual("ann", exp=True),
        usual("ann", nbf=int(time.time()) + 900),
        usual("ann", iat=int(time.time()) + 900),
    ]

    for claims in wrong:
        assert_refused(ask(api, signer.sealed(claims)))
    assert ask(api, signer.token("ann", aud=["http://other", "http://localhost:3000"])).status_code == 200


@pytest.mark.spec("FR-002")
def test_an_e_mail_verification_link_is_no_access_token(api: httpx.Client) -> None:
    now = int(time.time())
    claims = {"email": "ann@example.com", "iat": now, "exp": now + 3_600}

    for user in ("ann@example.com", "ann", ""):
        token = compact({"alg": "HS256"}, claims, lambda text: hmac.digest(SECRET.encode(), text, "sha256"))

        assert ask(api, token, user or "undefined").status_code == 401


@pytest.mark.spec("FR-003", "FR-005")
def test_a_key_sets_token_reaches_its_own_user_alone(api: httpx.Client) -> None:
    assert [ask(api, ED.token("ann"), user).status_code for user in ("ann", "bob", "Ann")] == [200, 403, 403]


# The key set.


@contextmanager
def attacked(settings: Settings, answer: Answer) -> Iterator[tuple[httpx.Client, Issuer]]:
    with (
        issuing(answer) as issuer,
        serving(trusting(settings, issuer)) as url,
        httpx.Client(base_url=url, timeout=30, verify=False) as client,
    ):
        yield client, issuer


def endless(request: BaseHTTPRequestHandler) -> None:
    """Send a key set that does not end, and say in `sent` how much of it was taken."""
    request.send_response(200)
    request.send_header("Connection", "close")
    request.end_headers()
    request.wfile.write(key_set(ED)[:-2])
    while len(sent) < 1_000:
        request.wfile.write(b" " * 100_000)
        sent.append(100_000)


sent: list[int] = []
MANY = json.dumps({"keys": [{**ED.jwk, "kid": str(each)} for each in range(10_000)] + [ED.jwk]}).encode()
TOO_MANY = json.dumps({"keys": [ED.jwk] + [{"kid": str(each)} for each in range(32)]}).encode()
PADDED = key_set(ED) + b" " * 65_536
HOSTILE: dict[str, Answer] = {
    "10,000 keys": answering(MANY),
    "33 keys": answering(TOO_MANY),
    "a little too large": answering(PADDED),
    "10 MB": answering(key_set(ED) + b" " * 10_000_000),
    "more than it says": answering(key_set(ED), Content_Length="10"),
    "less than it says": answering(key_set(ED), Content_Length="60000", Connection="close"),
    "compressed though nobody asked": answering(gzip.compress(key_set(ED)), Content_Encoding="gzip"),
    "an error with a good set": answering(key_set(ED), 500),
    "created with a good set": answering(key_set(ED), 201),
    "an error page": answering(b"<html>Internal Server Error</html>", 500, Content_Type="text/html"),
    "a sign-in page": answering(b"<html>Sign in</html>", 200, Content_Type="text/html"),
    "forbidden": answering(b"", 403),
    "not modified": answering(b"", 304),
    "nothing": answering(b""),
    "only a secret": answering(json.dumps({"keys": [{"kty": "oct", "kid": "ed", "k": segment(b"x" * 32)}]}).encode()),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_key_set_lets_nobody_in_and_keeps_nobody_out(settings: Settings, name: str) -> None:
    secret = compact({"alg": "HS256", "kid": "ed"}, usual("ann"), lambda text: hmac.digest(b"x" * 32, text, "sha256"))

    with attacked(settings, HOSTILE[name]) as (api, issuer):
        tokens = [ED.token("ann"), STRANGER.token("ann"), secret, signed("ann")]
        statuses = [ask(api, token).status_code for token in tokens]

    # Where there is no key set, nobody can tell these two from tokens of ours; the third is not even from one.
    assert statuses == ([401] * 2 if name == "only a secret" else [503] * 2) + [401, 200]
    assert len(issuer.requests) == 1
    assert issuer.requests[0]["accept-encoding"] == "identity"


def test_a_key_set_without_end_is_left_early(settings: Settings) -> None:
    sent.clear()

    with attacked(settings, endless) as (api, _):
        started = time.monotonic()
        status = ask(api, ED.token("ann")).status_code
        lasted = time.monotonic() - started

    assert status == 503
    assert lasted < 4
    # What the sockets between us hold, and not much more.
    assert sum(sent) < 50_000_000


def test_a_compressed_bomb_is_not_unpacked(settings: Settings) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    assert len(bomb) < 65_536

    with attacked(settings, answering(bomb, Content_Encoding="gzip")) as (api, issuer):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        status = ask(api, ED.token("ann")).status_code
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    assert status == 503
    assert len(issuer.requests) == 1
    assert grown < 30_000


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(settings: Settings, listener: Issuer, status: int) -> None:
    with attacked(settings, answering(b"", status, Location=listener.url)) as (api, issuer):
        response = ask(api, STRANGER.token("ann"))

    assert response.status_code == 503
    assert len(issuer.requests) == 1
    assert listener.requests == []


def test_a_key_set_that_drips_is_given_up_after_five_seconds(settings: Settings) -> None:
    def drip(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Connection", "close")
        request.end_headers()
        for byte in key_set(ED):
            request.wfile.write(bytes([byte]))
            time.sleep(0.2)

    served = []
    with attacked(settings, drip) as (api, issuer), ThreadPoolExecutor() as pool:
        started = time.monotonic()
        waiting = [pool.submit(ask, api, ED.token(f"user {each}"), f"user {each}") for each in range(5)]
        while not all(request.done() for request in waiting):
            asked = time.monotonic()
            assert ask(api, signed("ann")).status_code == 200
            served.append(time.monotonic() - asked)
        lasted = time.monotonic() - started
        statuses = [request.result().status_code for request in waiting]

    assert statuses == [503] * 5
    assert 4.5 < lasted < 8
    assert len(issuer.requests) == 1
    assert len(served) > 50
    assert sorted(served)[len(served) // 2] < 0.2


def test_private_keys_and_secrets_in_the_set_open_nothing(settings: Settings) -> None:
    private = ED.jwk | {"d": segment(ED.private.private_bytes_raw())}
    oct_key = {"kty": "oct", "kid": "oct", "alg": "HS256", "k": segment(b"x" * 32)}
    body = json.dumps({"keys": [private, oct_key, EC.jwk]}).encode()

    with attacked(settings, answering(body)) as (api, _):
        good = ask(api, EC.token("ann"))
        bad = [
            ask(api, ED.token("ann")),
            *(
                ask(api, compact(header, usual("ann"), lambda text: hmac.digest(b"x" * 32, text, "sha256")))
                for header in ({"alg": "HS256", "kid": "oct"}, {"alg": "EdDSA", "kid": "oct"})
            ),
        ]

    assert good.status_code == 200
    for response in bad:
        assert_refused(response)


# A flood.

# The full number takes the better part of a minute.
FORGERIES = 100_000 if environ.get("FULL") else 4_000


class Reasons(logging.Handler):
    """Counts the refusals in the log by their reason, without the price of writing them."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self.count[record.__dict__.get("reason") or record.msg] += 1


@pytest.fixture
def reasons() -> Iterator[Reasons]:
    logger, handler = logging.getLogger("backend"), Reasons()
    logger.addHandler(handler)
    logger.propagate = False
    yield handler
    logger.propagate = True
    logger.removeHandler(handler)


@contextmanager
def process(part: str, url: str, **work: Any) -> Iterator[tuple[IO[str], IO[str]]]:
    """Run one part of flood.py; yields its input and output."""
    script, port = Path(__file__).with_name("flood.py"), url.rpartition(":")[2]
    command = [sys.executable, str(script), part, port]
    with subprocess.Popen(
        command, env=uncovered(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:  # fmt: skip
        assert running.stdin
        assert running.stdout
        running.stdin.write(json.dumps(work) + "\n")
        running.stdin.flush()
        yield running.stdin, running.stdout
    assert running.returncode == 0


def p99(durations: list[float]) -> float:
    return sorted(durations)[int(len(durations) * 0.99)]


def test_no_forgery_of_a_flood_gets_in_and_no_honest_user_is_harmed(
    settings: Settings, reasons: Reasons, capsys: pytest.CaptureFixture[str]
) -> None:
    templates = [{"alg": signer.algorithm, "kid": signer.kid, "bytes": len(signer.sign(b""))} for signer in PUBLISHED]
    templates += [{"alg": one["alg"], "kid": other["kid"], "bytes": 64} for one in templates for other in templates]
    templates += [{"alg": algorithm, "kid": None, "bytes": 64} for algorithm in ("EdDSA", "ES256", "RS256", "none")]
    templates += [{"alg": "HS256", "kid": "ed", "bytes": 32}] * 5
    with issuing(answering(key_set(*PUBLISHED))) as issuer, serving(trusting(settings, issuer)) as url:
        work = {"path": "/api/ann/tasks", "token": ED.token("ann"), "count": 500}
        with process("honest", url, **work) as (honest_input, honest_output):
            idle = json.loads(honest_output.readline())
            fetches, started = len(issuer.requests), time.monotonic()
            with process("flood", url, templates=templates, count=FORGERIES) as (_, flood_output):
                statuses = json.loads(flood_output.readline())
            lasted = time.monotonic() - started
            honest_input.close()
            during = json.loads(honest_output.readline())

    before, meanwhile = p99(idle) * 1000, p99(during) * 1000
    with capsys.disabled():
        print(f"\n{FORGERIES:,} forgeries in {lasted:.1f} s; {len(during)} honest requests, none refused:")
        print(f"p99 {before:.1f} ms before, {meanwhile:.1f} ms during, ratio {meanwhile / before:.1f}")
    assert statuses == {"401": FORGERIES}
    assert sum(reasons.count.values()) == FORGERIES
    assert set(reasons.count) == {"signature", "algorithm-of-key", "unknown-key", "algorithm"}
    # One for each 2 s by unknown keys, one for each 30 s by bad signatures.
    assert len(issuer.requests) - fetches <= lasted // 2 + 1 + lasted // 30 + 1
    assert len(during) > 20
