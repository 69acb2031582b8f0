"""Which source of keys does each token stand on, how long is it remembered, and which answer does a refusal get?"""

import logging
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from issuer import Clock, Issuer, Signer, answering, compact, issuing, key_set
from people import ORIGIN, SECRET, signed
from running import serving
from servers import certificates

from backend.auth.jwks import FetchError
from backend.auth.jwt import TokenVerifier
from backend.auth.key_set import KeySet
from backend.auth.source import HttpSource
from backend.errors import IssuerUnavailable, Problem, TokenExpired, Unauthorized
from backend.main import token_verifier
from backend.settings import Settings, load_settings

PREVIOUS = "the secret that was shared before this one"
ED, EC, RS = Signer("EdDSA", "ed"), Signer("ES256", "ec"), Signer("RS256", "rs")
OLD, NEW = Signer("EdDSA", "old"), Signer("EdDSA", "new")
INVALID = 'Bearer realm="todo", error="invalid_token"'


class Published:
    """A fetch of these keys that counts; without keys it fails."""

    def __init__(self, *signers: Signer) -> None:
        self.signers = signers
        self.fetches = 0

    async def __call__(self) -> bytes:
        self.fetches += 1
        if not self.signers:
            raise FetchError("no answer")
        return key_set(*self.signers)


def configured(**options: Any) -> Settings:
    return load_settings(
        _env_file=None,
        better_auth_secret=SECRET,
        better_auth_url=ORIGIN,
        neon_database_url="postgresql://nobody@127.0.0.1:9/none",
        **options,
    )


def made(published: Published, **options: Any) -> TokenVerifier:
    return token_verifier(configured(**options), KeySet(published))


async def met(verifier: TokenVerifier, token: str) -> str:
    """Return the user, or the reason of the refusal."""
    try:
        return (await verifier.verified(token)).user_id
    except Problem as problem:
        return problem.reason


TOKENS = {
    "HS256": signed("ann"),
    "EdDSA": ED.token("ann"),
    "ES256": EC.token("ann"),
    "RS256": RS.token("ann"),
    "Ed25519": ED.sealed({"sub": "ann", "iss": ORIGIN, "aud": ORIGIN, "exp": int(time.time()) + 900}, alg="Ed25519"),
}


@pytest.mark.parametrize("algorithm", TOKENS)
@pytest.mark.parametrize("mode", ["auto", "secret", "jwks"])
async def test_the_mode_decides_which_family_counts(mode: str, algorithm: str) -> None:
    verifier = made(Published(ED, EC, RS), better_auth_mode=mode)
    allowed = {"auto": set(TOKENS), "secret": {"HS256"}, "jwks": set(TOKENS) - {"HS256"}}[mode]

    outcome = await met(verifier, TOKENS[algorithm])

    assert outcome == ("ann" if algorithm in allowed else "algorithm")


@pytest.mark.spec("FR-001")
async def test_a_shared_secrets_token_never_asks_for_the_key_set() -> None:
    published = Published(ED)
    verifier = made(published)

    outcomes = [await met(verifier, token) for token in (TOKENS["HS256"], signed("ann", secret=PREVIOUS))]

    assert outcomes == ["ann", "signature"]
    assert published.fetches == 0


async def test_the_previous_secret_counts_where_it_is_set() -> None:
    token = signed("ann", secret=PREVIOUS)

    without = await met(made(Published()), token)
    verifier = made(Published(), better_auth_secret_previous=PREVIOUS)
    outcomes = [await met(verifier, each) for each in (token, TOKENS["HS256"], signed("ann", secret=PREVIOUS + " "))]
    in_jwks_mode = await met(made(Published(ED), better_auth_secret_previous=PREVIOUS, better_auth_mode="jwks"), token)

    assert without == "signature"
    assert outcomes == ["ann", "ann", "signature"]
    assert in_jwks_mode == "algorithm"


async def test_the_kid_of_a_shared_secrets_token_is_ignored() -> None:
    tokens = [compact({"alg": "HS256", "kid": kid}, {}, lambda _: b"?") for kid in ("ed", ["ed"], 7, None)]
    published = Published(ED)

    outcomes = [await met(made(published), token) for token in tokens]

    assert set(outcomes) == {"signature"}
    assert published.fetches == 0


@pytest.mark.parametrize("claim", ["iss", "aud"])
async def test_a_key_sets_token_must_carry_a_known_issuer_and_audience(claim: str) -> None:
    verifier = made(Published(ED))
    word = {"iss": "issuer", "aud": "audience"}[claim]
    values: list[Any] = [None, "", "http://localhost:3001", f"{ORIGIN}/", ORIGIN.upper(), 7, True, [], {}, [7, ORIGIN]]

    wrong = {repr(value): await met(verifier, ED.token("ann", **{claim: value})) for value in values}
    claims = {"sub": "ann", "iss": ORIGIN, "aud": ORIGIN, "exp": int(time.time()) + 900}
    missing = await met(verifier, ED.sealed({name: value for name, value in claims.items() if name != claim}))

    assert set(wrong.values()) == {word}
    assert missing == word


async def test_an_audience_may_be_one_of_several_and_an_issuer_may_not() -> None:
    verifier = made(Published(ED))

    outcomes = [
        await met(verifier, ED.token("ann", **claims))
        for claims in (
            {"aud": [ORIGIN]},
            {"aud": ["http://other", ORIGIN]},
            {"aud": ["http://other"]},
            {"iss": [ORIGIN]},
        )
    ]

    assert outcomes == ["ann", "ann", "audience", "issuer"]


async def test_the_accepted_issuers_and_audiences_can_be_set() -> None:
    verifier = made(Published(ED), better_auth_issuers="auth, https://auth", better_auth_audiences="http://api")

    outcomes = [
        await met(verifier, sign("ann", iss=issuer, aud=audience))
        for sign in (ED.token, signed)
        for issuer, audience in [("auth", "http://api"), ("https://auth", "http://api"), (ORIGIN, "http://api")]
    ]

    assert outcomes == ["ann", "ann", "issuer"] * 2


@pytest.mark.spec("FR-002")
async def test_the_nested_user_of_a_cookie_cache_counts_with_the_secret_alone() -> None:
    now = int(time.time())
    claims = {"user": {"id": "ann"}, "session": {"userId": "ann"}, "iss": ORIGIN, "aud": ORIGIN, "exp": now + 300}
    verifier = made(Published(ED))
    cookie = signed("ann", sub=None)

    by_key = await met(verifier, ED.sealed(claims))
    by_secret = await met(verifier, compact({"alg": "HS256"}, claims, sign_hs256))
    with_null = await met(verifier, cookie)

    assert (by_key, by_secret, with_null) == ("no-identity", "ann", "identity")


def sign_hs256(text: bytes) -> bytes:
    import hmac

    return hmac.digest(SECRET.encode(), text, "sha256")


# Verified tokens are remembered.


class Remembering:
    """A verifier with clocks of its own; `checked` counts the signatures that it looked at."""

    def __init__(self, *signers: Signer, capacity: int = 10_000) -> None:
        self.clock = Clock(time.time())
        self.published = Published(*signers)
        self.keys = KeySet(self.published, self.clock)
        self.secrets: list[bytes] = [SECRET.encode()]
        self.verifier = TokenVerifier(
            secrets=self.secrets,
            key_set=self.keys,
            issuers=[ORIGIN],
            audiences=[ORIGIN],
            clock=self.clock,
            capacity=capacity,
        )

    async def met(self, token: str) -> str:
        return await met(self.verifier, token)


@pytest.mark.parametrize(("passed", "outcome"), [(0.0, "ann"), (59.9, "ann"), (60.0, "signature")])
async def test_a_verified_token_is_remembered_for_a_minute(passed: float, outcome: str) -> None:
    remembering = Remembering()
    token = signed("ann")
    await remembering.met(token)
    remembering.secrets.clear()
    remembering.secrets.append(b"another secret since then, of the same length")

    remembering.clock.now += passed
    again = await remembering.met(token)

    assert again == outcome


@pytest.mark.parametrize("signer", [None, ED])
async def test_no_token_is_remembered_beyond_its_end(signer: Signer | None) -> None:
    remembering = Remembering(ED)
    sign = signer.token if signer else signed
    token = sign("ann", exp=remembering.clock.now + 10)

    outcomes = []
    for passed in (0.0, 9.9, 0.1):
        remembering.clock.now += passed
        outcomes.append(await remembering.met(token))

    assert outcomes == ["ann", "ann", "expired"]


async def test_a_remembered_token_goes_with_its_key() -> None:
    remembering = Remembering(OLD)
    old, new = OLD.token("ann"), NEW.token("ann")
    first = await remembering.met(old)
    remembering.published.signers = (NEW,)
    remembering.clock.now += 3
    remembered = await remembering.met(old)

    outcomes = [await remembering.met(token) for token in (new, old)]

    assert (first, remembered) == ("ann", "ann")
    assert outcomes == ["ann", "unknown-key"]


async def test_a_remembered_token_goes_when_its_keys_name_gets_another_key() -> None:
    remembering = Remembering(OLD)
    reset = Signer("EdDSA", "old", "after a reset of the database")
    old, new = OLD.token("ann"), reset.token("ann")
    await remembering.met(old)
    remembering.published.signers = (reset,)

    outcomes = [await remembering.met(token) for token in (new, old)]

    assert outcomes == ["ann", "signature"]


async def test_a_remembered_token_goes_when_its_key_is_for_another_algorithm() -> None:
    remembering = Remembering(RS)
    token = RS.token("ann")
    await remembering.met(token)
    ps = Signer("PS256", "rs")
    remembering.published.signers = (ps, NEW)
    remembering.clock.now += 3

    outcomes = [await remembering.met(each) for each in (NEW.token("bob"), token)]

    assert outcomes == ["bob", "algorithm-of-key"]


async def test_a_remembered_token_goes_when_the_key_set_is_too_old() -> None:
    remembering = Remembering(ED)
    remembering.clock.now += 59 - 86_400
    token = ED.token("ann", exp=remembering.clock.now + 900_000)
    await remembering.met(token)
    remembering.published.signers = ()

    outcomes = []
    for passed in (86_370.0, 29.9, 0.1):
        remembering.clock.now += passed
        outcomes.append(await remembering.met(token))

    assert outcomes == ["ann", "ann", "key-set-unreachable"]


async def test_a_bad_token_is_not_remembered_as_good_or_bad() -> None:
    remembering = Remembering(OLD)
    token = NEW.token("ann")
    before = await remembering.met(token)
    remembering.published.signers = (NEW,)
    remembering.clock.now += 2

    after = await remembering.met(token)

    assert (before, after) == ("unknown-key", "ann")


async def test_only_so_many_tokens_are_remembered_the_newest() -> None:
    remembering = Remembering(capacity=3)
    tokens = [signed(f"user {number}") for number in range(5)]
    for token in tokens:
        await remembering.met(token)
    remembering.secrets.clear()
    remembering.secrets.append(b"another secret since then, of the same length")

    outcomes = [await remembering.met(token) for token in tokens]

    assert outcomes == ["signature", "signature", "user 2", "user 3", "user 4"]


@pytest.mark.parametrize(("length", "outcome"), [(2_048, "ann"), (2_049, "signature")])
async def test_a_very_long_token_is_accepted_and_not_remembered(length: int, outcome: str) -> None:
    """Ten thousand of the longest would fill 80 MiB."""
    remembering = Remembering()
    token = next(each for pad in range(1_200, 1_500) if len(each := signed("ann", name="x" * pad, exp=9**10)) >= length)
    first = await remembering.met(token)
    remembering.secrets[:] = [b"another secret since then, of the same length"]

    again = await remembering.met(token)

    assert (first, again) == ("ann", outcome)


# 401 against 503.


async def refusal(verifier: TokenVerifier, token: str) -> Problem:
    with pytest.raises(Problem) as caught:
        await verifier.verified(token)
    return caught.value


@pytest.mark.parametrize("mode", ["auto", "jwks"])
async def test_a_token_that_may_be_ours_is_503_until_the_key_set_was_reached(mode: str) -> None:
    problem = await refusal(made(Published(), better_auth_mode=mode), ED.token("ann"))

    assert (type(problem), problem.reason) == (IssuerUnavailable, "key-set-unreachable")


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://elsewhere.example"},
        {"iss": None},
        {"iss": [ORIGIN]},
        {"exp": 1},
        {"exp": "soon"},
        {"exp": None},
    ],
    ids=str,
)
async def test_a_token_that_cannot_be_ours_is_401_beside_a_shared_secret(claims: dict[str, Any]) -> None:
    token = ED.token("ann", **claims)

    in_auto = await refusal(made(Published()), token)
    in_jwks = await refusal(made(Published(), better_auth_mode="jwks"), token)

    assert (type(in_auto), in_auto.reason) == (Unauthorized, "key-set-unreachable")
    assert (type(in_jwks), in_jwks.reason) == (IssuerUnavailable, "key-set-unreachable")


async def test_a_key_sets_token_without_a_kid_is_401_while_the_key_set_was_never_reached() -> None:
    claims = {"sub": "ann", "iss": ORIGIN, "aud": ORIGIN, "exp": int(time.time()) + 900}

    problem = await refusal(made(Published()), ED.sealed(claims, kid=None))

    assert (type(problem), problem.reason) == (Unauthorized, "kid")


@pytest.mark.parametrize("secrets", [[SECRET.encode()], []])
async def test_a_known_set_that_is_too_old_is_503_in_either_mode(secrets: list[bytes]) -> None:
    remembering = Remembering(ED)
    remembering.secrets[:] = secrets
    await remembering.met(ED.token("ann"))
    remembering.published.signers = ()
    remembering.clock.now += 86_400

    token = ED.token("ann", iat=remembering.clock.now, exp=remembering.clock.now + 900)
    problem = await refusal(remembering.verifier, token)

    assert isinstance(problem, IssuerUnavailable)
    assert problem.headers["Retry-After"] == "2"


@pytest.mark.parametrize(
    ("token", "challenge"),
    [
        (ED.token("ann", exp=1), f'{INVALID}, error_description="The access token expired"'),
        (ED.token("ann", exp=1, iss="http://other"), f'{INVALID}, error_description="The access token expired"'),
        (Signer("EdDSA", "ed", "a stranger's").token("ann", exp=1), INVALID),
        (NEW.token("ann", exp=1), INVALID),
        (ED.token("ann", iss="http://other"), INVALID),
        (EC.sealed({}, alg="EdDSA", kid="ed"), INVALID),
    ],
)
async def test_only_an_honest_old_token_is_told_that_it_expired(token: str, challenge: str) -> None:
    problem = await refusal(made(Published(ED)), token)

    assert problem.headers["WWW-Authenticate"] == challenge
    assert isinstance(problem, TokenExpired) == ("expired" in challenge)


# The same on a real socket.


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with issuing(answering(key_set(ED))) as issuer:
        yield issuer


@pytest.mark.spec("FR-004")
@pytest.mark.parametrize(
    ("mode", "answers"),
    [("auto", [200, 503, 503, 401]), ("jwks", [401, 503, 503, 401]), ("secret", [200, 401, 401, 401])],
)
def test_an_unreachable_issuer_in_each_mode(settings: Settings, mode: str, answers: list[int]) -> None:
    nobody = settings.model_copy(
        update={"better_auth_jwks_url": "http://127.0.0.1:9/api/auth/jwks", "better_auth_mode": mode}
    )
    tokens = [signed("ann"), ED.token("ann"), NEW.token("ann"), "rubbish"]

    with serving(nobody) as url, httpx.Client(base_url=url) as client:
        responses = [client.get("/api/ann/tasks", headers={"Authorization": f"Bearer {token}"}) for token in tokens]

    assert [response.status_code for response in responses] == answers
    for response in responses:
        match response.status_code:
            case 401:
                assert response.headers["WWW-Authenticate"] == INVALID
                assert response.json() == {"detail": "The access token is invalid."}
            case 503:
                assert response.headers["Retry-After"] == "2"
                assert "WWW-Authenticate" not in response.headers
                assert response.json()["detail"].startswith("The sign-in service cannot be reached")


def test_nothing_is_fetched_at_the_start_nor_in_secret_mode_ever(settings: Settings, issuer: Issuer) -> None:
    options: dict[str, Any] = {"better_auth_jwks_url": issuer.url}
    tokens = [signed("ann"), ED.token("ann"), NEW.token("ann"), EC.token("ann", kid="ed"), RS.token("ann")]

    met: dict[str, list[int]] = {}
    requests = []
    for mode in ("secret", "auto"):
        with serving(settings.model_copy(update=options | {"better_auth_mode": mode})) as url:
            requests.append(len(issuer.requests))
            with httpx.Client(base_url=url) as client:
                met[mode] = [
                    client.get("/api/ann/tasks", headers={"Authorization": f"Bearer {token}"}).status_code
                    for token in tokens
                ]
        requests.append(len(issuer.requests))

    assert met == {"secret": [200, 401, 401, 401, 401], "auto": [200, 200, 401, 401, 401]}
    assert requests == [0, 0, 0, 1]


# What the key set's address may hold, and what is told of it.


async def test_a_password_in_the_key_sets_address_is_never_shown(issuer: Issuer) -> None:
    source = HttpSource(issuer.url.replace("//", "//user:hunter2@").replace("jwks", "nothing?token=hunter2"))
    issuer.answer = answering(b"", 500)

    with pytest.raises(FetchError) as caught:
        await source()
    await source.close()
    issuer.answer = answering(key_set(ED))

    assert "status 500 at http://127.0.0.1:" in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_a_connection_that_the_issuer_forgot_is_no_failure(issuer: Issuer) -> None:
    source = HttpSource(issuer.url)
    bodies = [await source() for _ in range(3)]
    await source.close()

    assert bodies == [key_set(ED)] * 3
    assert {request["connection"] for request in issuer.requests[-3:]} == {"close"}


PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


@pytest.mark.parametrize(
    "proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "http://[", "nothing://x", "http://h:x"]
)
async def test_a_proxy_of_the_shell_is_not_used(issuer: Issuer, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.setenv(name, proxy)
    monkeypatch.delenv("NO_PROXY", raising=False)
    source = HttpSource(issuer.url)

    body = await source()
    await source.close()

    assert body == key_set(ED)


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    return certificates(tmp_path)


@pytest.fixture
def secure_issuer(authority: Path) -> Iterator[Issuer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.with_name("server.crt"), authority.with_name("server.key"))
    with issuing(answering(key_set(ED)), context) as running:
        yield running


async def test_the_authority_that_SSL_CERT_FILE_names_is_believed(  # noqa: N802
    secure_issuer: Issuer, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown, known = HttpSource(secure_issuer.url), HttpSource(secure_issuer.url)

    with pytest.raises(FetchError, match=r"^ConnectError at https://localhost:\d+/api/auth/jwks$"):
        await unknown()
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    body = await known()
    await unknown.close()
    await known.close()

    assert body == key_set(ED)


@pytest.mark.parametrize("content", [None, b"", b"no certificate"], ids=["missing", "empty", "something else"])
async def test_a_wrong_SSL_CERT_FILE_is_one_line_in_the_log_and_a_pause(  # noqa: N802
    secure_issuer: Issuer,
    content: bytes | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(logging.getLogger("backend"), "propagate", True)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "roots"))
    if content is not None:
        (tmp_path / "roots").write_bytes(content)
    source = HttpSource(secure_issuer.url)
    verifier = token_verifier(configured(), KeySet(source))

    outcomes = [await met(verifier, ED.token("ann")) for _ in range(3)]
    await source.close()

    assert outcomes == ["key-set-unreachable"] * 3
    assert len(caplog.messages) == 1
    assert "the certificates that SSL_CERT_FILE names. Next try in 2 s" in caplog.messages[0]


async def test_a_wrong_SSL_CERT_FILE_does_not_matter_without_tls(  # noqa: N802
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    source = HttpSource(issuer.url)

    body = await source()
    await source.close()

    assert body == key_set(ED)
