"""Does the API accept what the real Better Auth hands out, and nothing else?

The tests of one mode share a frontend and run in the order of this file; the last of them ends it.
"""

import asyncio
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from mails import CODES, LINKS
from people import SECRET, signed
from pydantic import SecretStr
from real_frontend import Frontend, Person, key_id, left_out
from running import serving

from backend.commands.doctor import examine
from backend.commands.finding import Finding
from backend.commands.token_advice import MAILED_LINK, SESSION_TOKEN
from backend.settings import Settings

KEY_SETS = {
    "eddsa": "jwt plugin as it is: EdDSA",
    "es256": "jwt plugin, ES256",
    "es512": "jwt plugin, ES512",
    "rs256": "jwt plugin, RS256",
    "ps256": "jwt plugin, PS256",
    "rotation": "jwt plugin, a new key every 2 s",
    "serial": "jwt plugin, serial ids",
}
SHARED_SECRET = {
    "hs256": "jwt plugin with `jwt.sign`, HS256",
    "own-route": "own route, HS256",
    "cookie-cache": "cookie cache, strategy `jwt`",
}
REFUSED = {
    "session": "session token (bearer plugin)",
    "session-cookie": "session cookie, signed",
    "session-cache": "cookie cache with the plugin's keys",
    "links": "links in mails: verification, change of address",
    "codes": "codes in mails: new password, deletion, magic link, one-time code",
}
UNREADABLE = {
    "slow": "jwt plugin, key set slower than 5 s",
    "rubbish": "jwt plugin, rubbish for a key set",
}
ROWS = KEY_SETS | SHARED_SECRET | REFUSED | UNREADABLE
COLUMNS = ["own", "another's", "forged", "after rotation", "issuer down", "API started while it is down"]

DOCUMENT = Path(__file__).parent.parent / "docs/better-auth.md"
TABLE = re.compile(r"(<!-- table: written by tests/test_better_auth.py -->\n).*?(<!-- end -->)", re.DOTALL)
NEXT_SECRET = "the secret that replaces the other one"

in_modes = pytest.mark.parametrize("frontend", [*KEY_SETS, *SHARED_SECRET], indirect=True)
in_key_set_modes = pytest.mark.parametrize("frontend", KEY_SETS, indirect=True)
in_secret_modes = pytest.mark.parametrize("frontend", SHARED_SECRET, indirect=True)


Row = dict[str, str]


@pytest.fixture(scope="module")
def observed() -> dict[str, Row]:
    """What the tests have seen, by row and column of the table."""
    return defaultdict(dict)


@pytest.fixture(scope="module")
def frontend(request: pytest.FixtureRequest, database_url: str) -> Iterator[Frontend]:
    if reason := left_out():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    with Frontend(request.param, database_url) as frontend:
        yield frontend


@pytest.fixture(scope="module")
def row(frontend: Frontend, observed: dict[str, Row]) -> Row:
    return observed[frontend.mode]


@contextmanager
def api(settings: Settings, frontend: Frontend, **changed: Any) -> Iterator[httpx.Client]:
    """Serve the real API with the frontend's origin and secret; this one has not met the key set yet."""
    update = {"better_auth_url": frontend.origin, "better_auth_mode": "auto", "database_pool_size": 2, **changed}
    with (
        serving(settings.model_copy(update=update)) as url,
        httpx.Client(base_url=url, timeout=30, verify=False) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client(settings: Settings, frontend: Frontend) -> Iterator[httpx.Client]:
    with api(settings, frontend) as client:
        yield client


@pytest.fixture(scope="module")
def alice(frontend: Frontend) -> Person:
    return frontend.sign_up()


@pytest.fixture(scope="module")
def bob(frontend: Frontend) -> Person:
    """Signs up while the frontend is there, and sends his token when it is not."""
    return frontend.sign_up()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def listing(client: httpx.Client, user_id: str, token: str) -> httpx.Response:
    return client.get(f"/api/{user_id}/tasks", headers=bearer(token))


def status(client: httpx.Client, person: Person, token: str | None = None) -> int:
    """Return what the person's own list answers to this token, or to theirs."""
    return listing(client, person.id, token or person.token).status_code


@in_modes
def test_own_tasks_are_served(frontend: Frontend, client: httpx.Client, alice: Person, row: Row) -> None:
    title = f"Buy milk, {frontend.mode}"

    created = client.post(f"/api/{alice.id}/tasks", json={"title": title}, headers=bearer(alice.token))
    listed = listing(client, alice.id, alice.token)

    assert (created.status_code, listed.status_code) == (201, 200)
    assert title in [task["title"] for task in listed.json()]
    row["own"] = str(listed.status_code)


@in_modes
def test_another_users_tasks_are_forbidden(client: httpx.Client, alice: Person, bob: Person, row: Row) -> None:
    answer = status(client, bob, alice.token)

    assert bob.id != alice.id
    assert answer == 403
    row["another's"] = str(answer)


@in_modes
def test_forged_tokens_are_refused(client: httpx.Client, alice: Person, row: Row) -> None:
    forgeries = [*with_a_changed_signature(alice.token), signed_by_somebody_else(alice.token)]

    answers = {status(client, alice, forgery) for forgery in forgeries}

    assert len(forgeries) > 32
    assert answers == {401}
    row["forged"] = ", ".join(map(str, answers))


def with_a_changed_signature(token: str) -> list[str]:
    """Return the token once for each byte of its signature, with that byte changed."""
    signed_part, _, signature = token.rpartition(".")
    good = jwt.utils.base64url_decode(signature)
    changed = [good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :] for place in range(len(good))]
    return [f"{signed_part}.{jwt.utils.base64url_encode(each).decode()}" for each in changed]


def signed_by_somebody_else(token: str) -> str:
    """Return a token that says the same, signed with another key for the same algorithm."""
    header = jwt.get_unverified_header(token)
    claims = jwt.decode(token, options={"verify_signature": False})
    return jwt.encode(claims, another_key(header["alg"]), header["alg"], headers=header)


def another_key(algorithm: str) -> Any:
    match algorithm:
        case "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "ES512":
            return ec.generate_private_key(ec.SECP521R1())
        case "HS256":
            return SECRET.swapcase()
        case _:
            return rsa.generate_private_key(65_537, 2_048)


@pytest.mark.parametrize("frontend", ["eddsa"], indirect=True)
def test_the_token_in_the_header_of_get_session_is_as_good(client: httpx.Client, alice: Person) -> None:
    token = alice.http.get("/api/auth/get-session").headers["set-auth-jwt"]

    assert status(client, alice, token) == 200


@pytest.mark.parametrize(
    ("frontend", "reason"),
    [("session", "not-a-jwt"), ("session-cache", "type")],
    indirect=["frontend"],
)
def test_what_is_no_access_token_is_refused(
    client: httpx.Client, alice: Person, row: Row, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = status(client, alice)

    assert answer == 401
    assert f"reason={reason} " in caplog.text
    row["own"] = str(answer)


@pytest.mark.parametrize("frontend", ["session"], indirect=True)
def test_the_session_cookie_is_refused(client: httpx.Client, alice: Person, observed: dict[str, Row]) -> None:
    cookie = alice.cookie("session_token")

    answer = status(client, alice, cookie)

    assert cookie.startswith(f"{alice.session_token}.")
    assert answer == 401
    observed["session-cookie"]["own"] = str(answer)


@pytest.mark.parametrize("frontend", ["mails"], indirect=True)
@pytest.mark.parametrize("kind", LINKS)
def test_the_link_in_a_mail_is_refused(
    frontend: Frontend, client: httpx.Client, kind: str, observed: dict[str, Row], doctor_says: Callable[[str], str]
) -> None:
    person = frontend.sign_up()
    link = LINKS[kind](person)

    answers = {listing(client, name, link).status_code for name in (person.id, person.email)}

    claims = jwt.decode(link, SECRET, ["HS256"])
    assert claims["userId"] == person.id
    assert claims.keys() <= {"email", "userId", "updateTo", "requestType", "iat", "exp"}
    assert answers == {401}
    assert doctor_says(link) == MAILED_LINK
    observed["links"]["own"] = ", ".join(map(str, answers))


@pytest.mark.parametrize("frontend", ["mails"], indirect=True)
@pytest.mark.parametrize("kind", CODES)
def test_the_code_in_a_mail_is_refused(
    frontend: Frontend, client: httpx.Client, kind: str, observed: dict[str, Row], doctor_says: Callable[[str], str]
) -> None:
    person = frontend.sign_up()
    code = CODES[kind](person)

    answer = status(client, person, code)

    assert answer == 401
    assert doctor_says(code) == SESSION_TOKEN
    observed["codes"]["own"] = str(answer)


@pytest.fixture
def doctor_says(frontend: Frontend, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """What `python -m backend doctor TOKEN` ends with, beside this frontend."""
    monkeypatch.setitem(Settings.model_config, "env_file", None)
    monkeypatch.setenv("BETTER_AUTH_SECRET", SECRET)
    monkeypatch.setenv("BETTER_AUTH_URL", frontend.origin)

    async def findings(token: str) -> list[Finding]:
        return [finding async for finding in examine(token)]

    return lambda token: asyncio.run(findings(token))[-1].text


@in_key_set_modes
def test_a_rotation_of_the_key_is_not_noticed(
    frontend: Frontend, client: httpx.Client, alice: Person, row: Row
) -> None:
    unseen = frontend.sign_up()
    assert status(client, alice) == 200

    new = token_of_the_next_key(frontend, alice)
    answer = status_within_two_seconds(client, alice, new)

    assert answer == 200
    assert status(client, alice) == 200
    assert status(client, unseen) == 200
    row["after rotation"] = str(answer)


def token_of_the_next_key(frontend: Frontend, person: Person) -> str:
    if frontend.mode != "rotation":
        frontend.let_the_key_expire()
    while key_id(next_token := person.new_token()) == key_id(person.token):
        time.sleep(0.1)
    return next_token


def status_within_two_seconds(client: httpx.Client, person: Person, token: str) -> int:
    """Return the last answer; the API asks for an unknown key once in two seconds."""
    deadline = time.monotonic() + 2
    while (answer := status(client, person, token)) != 200 and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer


@in_secret_modes
def test_a_rotation_of_the_secret_is_not_noticed(
    settings: Settings, frontend: Frontend, alice: Person, row: Row
) -> None:
    frontend.stop()
    frontend.start(NEXT_SECRET)
    carol = frontend.sign_up()
    secrets = {"better_auth_secret": SecretStr(NEXT_SECRET), "better_auth_secret_previous": SecretStr(SECRET)}

    with api(settings, frontend, **secrets) as client:
        old, new = status(client, alice), status(client, carol)
    with api(settings, frontend) as client:
        unprepared = status(client, carol)

    assert (old, new, unprepared) == (200, 200, 401)
    row["after rotation"] = str(new)


@pytest.mark.parametrize("frontend", ["eddsa"], indirect=True)
@pytest.mark.parametrize(
    "path", ["slow", "rubbish/page", "rubbish/half", "rubbish/list", "rubbish/error", "rubbish/elsewhere"]
)
def test_a_key_set_that_cannot_be_read_harms_nobody_else(
    settings: Settings, frontend: Frontend, alice: Person, path: str, observed: dict[str, Row]
) -> None:
    url = f"{frontend.origin}/{path}"
    with (
        api(settings, frontend, better_auth_jwks_url=url) as auto,
        api(settings, frontend, better_auth_jwks_url=url, better_auth_mode="jwks") as strict,
        ThreadPoolExecutor() as threads,
    ):
        own = threads.submit(listing, auto, alice.id, alice.token)
        another = threads.submit(listing, auto, "another", alice.token)
        forged = threads.submit(listing, auto, alice.id, signed_by_somebody_else(alice.token))
        in_mode_jwks = threads.submit(listing, strict, alice.id, alice.token)
        assert_hs256_is_served(auto, frontend)
        while not all(each.done() for each in (own, another, forged, in_mode_jwks)):
            assert_hs256_is_served(auto, frontend)

    answers = [each.result().status_code for each in (own, another, forged, in_mode_jwks)]
    assert answers == [503, 503, 503, 503]  # nobody can tell a forgery now
    assert int(own.result().headers["Retry-After"]) > 0
    cells = [*map(str, answers[:3])]
    observed[path.partition("/")[0]] = dict(zip(COLUMNS, cells, strict=False))


def assert_hs256_is_served(client: httpx.Client, frontend: Frontend) -> None:
    started = time.monotonic()

    answer = listing(client, "dave", signed("dave", iss=frontend.origin, aud=frontend.origin))

    assert answer.status_code == 200
    assert time.monotonic() - started < 2


@in_modes
def test_an_issuer_that_goes_down_is_not_noticed(
    frontend: Frontend, client: httpx.Client, alice: Person, bob: Person, row: Row
) -> None:
    assert status(client, alice) == 200
    frontend.stop()

    answer = status(client, bob)

    assert answer == 200
    row["issuer down"] = str(answer)


@in_key_set_modes
def test_an_api_started_while_the_issuer_is_down_knows_no_key(
    settings: Settings, frontend: Frontend, bob: Person, row: Row
) -> None:
    frontend.stop()

    with api(settings, frontend) as auto, api(settings, frontend, better_auth_mode="jwks") as strict:
        in_auto, in_mode_jwks = status(auto, bob), listing(strict, bob.id, bob.token)

    assert (in_auto, in_mode_jwks.status_code) == (503, 503)
    assert int(in_mode_jwks.headers["Retry-After"]) > 0
    row["API started while it is down"] = str(in_auto)


@in_secret_modes
def test_an_api_started_while_the_issuer_is_down_knows_the_secret(
    settings: Settings, frontend: Frontend, bob: Person, row: Row
) -> None:
    frontend.stop()

    with api(settings, frontend) as auto, api(settings, frontend, better_auth_mode="jwks") as strict:
        in_auto, in_mode_jwks = status(auto, bob), status(strict, bob)

    assert (in_auto, in_mode_jwks) == (200, 401)
    row["API started while it is down"] = f"{in_auto}, in mode `jwks` {in_mode_jwks}"


@pytest.mark.parametrize("frontend", ["serial"], indirect=True)
def test_a_new_key_under_an_old_name_replaces_it(settings: Settings, frontend: Frontend) -> None:
    frontend.reset()
    old = frontend.sign_up()
    with api(settings, frontend) as client:
        before = status(client, old)

        frontend.reset()
        new = frontend.sign_up()
        after = status(client, new), status(client, old)

    assert (before, after) == (200, (200, 401))
    assert (key_id(old.token), old.id) == (key_id(new.token), new.id) == ("1", "1")


def test_the_table_in_the_document_is_what_was_seen(observed: dict[str, Row]) -> None:
    missing = [ROWS[row] for row in ROWS if not observed[row]]
    if missing:
        pytest.skip("the table needs the whole file")
    lines = [["tokens", *COLUMNS], ["---"] * (len(COLUMNS) + 1)]
    lines += [[words, *(observed[row].get(column, "-") for column in COLUMNS)] for row, words in ROWS.items()]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)

    text = DOCUMENT.read_text()
    expected = TABLE.sub(rf"\g<1>{table}\g<2>", text)
    if os.environ.get("UPDATE_DOCS") == "1":
        DOCUMENT.write_text(expected)
        text = expected

    assert expected == text, "UPDATE_DOCS=1 writes the table"
    assert table in text
