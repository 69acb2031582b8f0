"""Which tokens are refused, which pass, and in which places does a token not count?"""

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from hostile.test_paths import OPERATIONS, exchange, recorded
from people import ORIGIN, SECRET, User
from running import StatementLog

from backend.auth.jwt import TokenVerifier
from backend.errors import TokenExpired, Unauthorized

USER = uuid4().hex
TASKS = f"/api/{USER}/tasks"
NOW = int(time.time())
LATER = NOW + 86_400
HS256 = {"alg": "HS256"}
CLAIMS = {"sub": USER, "exp": LATER}


def segment(content: object) -> str:
    """Return the base64url form of these bytes, or of this value as JSON."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def sealed(header: object, claims: object, *, secret: str = SECRET, digest: str = "sha256") -> str:
    """Return a token that is honestly signed, whatever its parts are."""
    signing_input = f"{segment(header)}.{segment(claims)}"
    signature = hmac.digest(secret.encode(), signing_input.encode(), digest)
    return f"{signing_input}.{segment(signature)}"


def headed(**header: object) -> str:
    return sealed(HS256 | header, CLAIMS)


def bearing(**claims: object) -> str:
    return sealed(HS256, CLAIMS | claims)


def written(claims: str) -> str:
    """Return a token over JSON that no encoder would write."""
    return sealed(HS256, claims.encode("utf-8", "surrogatepass"))


def identified(**claims: object) -> str:
    """Return a token in which nothing but these claims can say who it is."""
    return sealed(HS256, {"exp": LATER} | claims)


def of_length(length: int) -> str:
    """Return a good token of exactly so many characters."""
    candidates = (
        sealed(HS256 | {"pad": "x" * outer}, CLAIMS | {"pad": "x" * inner})
        for outer in range(4)
        for inner in range(length * 3 // 4 - 300, length * 3 // 4)
    )
    return next(each for each in candidates if len(each) == length)


def respelled(token: str) -> str:
    """Return the token with its last character changed in the bits that decoding drops (RFC 4648, section 3.5)."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]


GOOD = sealed(HS256, CLAIMS)
HEADER, PAYLOAD, SIGNATURE = GOOD.split(".")
DEEP = b"[" * 2_500 + b"]" * 2_500

# By the reason that the log gives, which shows that each is refused for what it stands for.
BAD: dict[str, dict[str, str]] = {
    "algorithm": {
        "alg none without a signature's meaning": headed(alg="none"),
        "alg None": headed(alg="None"),
        "alg NONE": headed(alg="NONE"),
        "alg nOnE": headed(alg="nOnE"),
        "alg hs256 in lower case": headed(alg="hs256"),
        "alg HS256 and a blank": headed(alg="HS256 "),
        "alg HS256 and NUL": headed(alg="HS256\0"),
        "alg HS384, signed so": sealed({"alg": "HS384"}, CLAIMS, digest="sha384"),
        "alg HS512, signed so": sealed({"alg": "HS512"}, CLAIMS, digest="sha512"),
        "alg HS1, signed so": sealed({"alg": "HS1"}, CLAIMS, digest="sha1"),
        "alg RS256 over an HMAC": headed(alg="RS256"),
        "alg RS512 over an HMAC": headed(alg="RS512"),
        "alg PS256 over an HMAC": headed(alg="PS256"),
        "alg ES256 over an HMAC": headed(alg="ES256"),
        "alg ES512 over an HMAC": headed(alg="ES512"),
        "alg EdDSA over an HMAC, with a kid": headed(alg="EdDSA", kid="1"),
        "alg Ed25519 over an HMAC": headed(alg="Ed25519"),
        "alg dir": headed(alg="dir"),
        "alg A128KW": headed(alg="A128KW"),
        "alg unknown": headed(alg="ROT13"),
        "alg empty": headed(alg=""),
        "alg null": headed(alg=None),
        "alg a number": headed(alg=256),
        "alg true": headed(alg=True),
        "alg a list": headed(alg=["HS256"]),
        "alg an object": headed(alg={"HS256": "HS256"}),
        "alg missing": sealed({"typ": "JWT"}, CLAIMS),
        "alg under another spelling": sealed({"ALG": "HS256"}, CLAIMS),
        "alg only in the claims": sealed({}, CLAIMS | HS256),
        "alg twice, the last one none": sealed(b'{"alg": "HS256", "alg": "none"}', CLAIMS),
        "an empty header": sealed({}, CLAIMS),
        "header and payload in each other's place": f"{PAYLOAD}.{HEADER}.{SIGNATURE}",
    },
    "signature": {
        "signed with another secret": sealed(HS256, CLAIMS, secret=SECRET[::-1]),
        "signed with an empty secret": sealed(HS256, CLAIMS, secret=""),
        "signed with the secret and a line feed": sealed(HS256, CLAIMS, secret=f"{SECRET}\n"),
        "signed with the secret in capitals": sealed(HS256, CLAIMS, secret=SECRET.upper()),
        "signed with the secret in base64": sealed(HS256, CLAIMS, secret=base64.b64encode(SECRET.encode()).decode()),
        "signed with the secret's hash": sealed(HS256, CLAIMS, secret=hashlib.sha256(SECRET.encode()).hexdigest()),
        "signed with SHA-512 and said to be HS256": sealed(HS256, CLAIMS, digest="sha512"),
        "the hash without a key": f"{HEADER}.{PAYLOAD}."
        + segment(hashlib.sha256(f"{HEADER}.{PAYLOAD}".encode()).digest()),
        "another payload under the signature": f"{HEADER}.{segment(CLAIMS | {'admin': True})}.{SIGNATURE}",
        "another header over the signature": f"{segment(HS256 | {'kid': '1'})}.{PAYLOAD}.{SIGNATURE}",
        "the signature cut by a byte": f"{HEADER}.{PAYLOAD}.{segment(base64.urlsafe_b64decode(SIGNATURE + '=')[:-1])}",
        "the signature longer by a byte": f"{HEADER}.{PAYLOAD}."
        + segment(base64.urlsafe_b64decode(SIGNATURE + "=") + b"x"),
        "the signature as hexadecimal text": f"{HEADER}.{PAYLOAD}."
        + hmac.new(SECRET.encode(), f"{HEADER}.{PAYLOAD}".encode(), "sha256").hexdigest(),
        "the signature as zeros": f"{HEADER}.{PAYLOAD}.{segment(bytes(32))}",
        "one bit of the signature": f"{HEADER}.{PAYLOAD}.{'B' if SIGNATURE[0] == 'A' else 'A'}{SIGNATURE[1:]}",
        "expired and forged, which is not told as expired": sealed(HS256, CLAIMS | {"exp": 1}, secret="wrong"),
    },
    "not-a-jwt": {
        "a word": "token",
        "null as frontends send it": "null",
        "undefined as frontends send it": "undefined",
        "an object as frontends send it": "[object Object]",
        "an opaque session token": "jv4mPn8Vd0XqLrT2bYwKc7HsZg9Ua1Ef",
        "a signed cookie value": "jv4mPn8Vd0XqLrT2bYwKc7HsZg9Ua1Ef." + base64.b64encode(bytes(range(32))).decode(),
        "a signed cookie value, percent-encoded": "jv4mPn8Vd0XqLrT2bYwKc7HsZg9Ua1Ef.AAECAwQFBgcICQoLDA0ODxAREhM%3D",
        "one dot": f"{HEADER}.{PAYLOAD}",
        "three dots": f"{GOOD}.{SIGNATURE}",
        "four dots, as an encrypted token has": f"{GOOD}.{SIGNATURE}.{SIGNATURE}",
        "a dot": ".",
        "two dots": "..",
        "a dot in front": f".{GOOD}",
        "a dot behind": f"{GOOD}.",
        "no header": f".{PAYLOAD}.{SIGNATURE}",
        "no payload": f"{HEADER}..{SIGNATURE}",
        "no signature": f"{HEADER}.{PAYLOAD}.",
        "alg none and no signature": f"{segment({'alg': 'none'})}.{PAYLOAD}.",
        "padding on the signature": f"{GOOD}=",
        "padding on the header": f"{HEADER}=.{PAYLOAD}.{SIGNATURE}",
        "two padding characters": f"{GOOD}==",
        "a plus": f"{HEADER}.{PAYLOAD}.+{SIGNATURE[1:]}",
        "a slash": f"{HEADER}.{PAYLOAD}./{SIGNATURE[1:]}",
        "a blank in the middle": f"{HEADER}. {PAYLOAD}.{SIGNATURE}",
        "a tab in the middle": f"{HEADER}.{PAYLOAD}\t.{SIGNATURE}",
        "a percent-encoded line feed": f"{GOOD}%0A",
        "a percent-encoded dot": f"{HEADER}%2E{PAYLOAD}.{SIGNATURE}",
        "quotation marks": f'"{GOOD}"',
        "single quotation marks": f"'{GOOD}'",
        "angle brackets": f"<{GOOD}>",
        "a no-break space behind": f"{GOOD}\xa0",
        "a next-line character behind": f"{GOOD}\x85",
        "a soft hyphen inside": f"{HEADER}.{PAYLOAD}.\xad{SIGNATURE}",
        "bytes of UTF-8 inside": f"{HEADER}.{PAYLOAD}.{SIGNATURE}\xc3\xa9",
        "a second token after a comma": f"{GOOD},{GOOD}",
        "a second token after a blank": f"{GOOD} {GOOD}",
        "the scheme twice": f"Bearer {GOOD}",
        "an attribute": f"token={GOOD}",
        "the JSON serialization": json.dumps({"payload": PAYLOAD, "protected": HEADER, "signature": SIGNATURE}),
        "the JSON parts in the clear": f"{json.dumps(HS256)}.{json.dumps(CLAIMS)}.{SIGNATURE}",
        "a path": "../../etc/passwd",
        "a format string": "%s%n%x.%s.%s",
    },
    "base64url": {
        "spare bits in the signature": respelled(GOOD),
        "a header of one character": f"A.{PAYLOAD}.{SIGNATURE}",
        "a payload of five characters": f"{HEADER}.AAAAA.{SIGNATURE}",
        "a signature of 41 characters": GOOD[:-2],
        "spare bits in the header": f"{segment(b'{}')[:-1]}1.{PAYLOAD}.{SIGNATURE}",
    },
    "json": {
        "a header that is no JSON": sealed(b"HS256", CLAIMS),
        "a header that is a text": sealed("HS256", CLAIMS),
        "a header that is a list": sealed([HS256], CLAIMS),
        "a header that is null": sealed(None, CLAIMS),
        "a header with a byte-order mark": sealed(b'\xef\xbb\xbf{"alg": "HS256"}', CLAIMS),
        "a header in UTF-16": sealed(json.dumps(HS256).encode("utf-16"), CLAIMS),
        "a header that is no UTF-8": sealed(b'{"alg": "HS256", "x": "\xff"}', CLAIMS),
        "a header nested 2,500 deep": sealed(b'{"alg": "HS256", "x": ' + DEEP + b"}", CLAIMS),
        "a header with an open end": sealed(b'{"alg": "HS256"', CLAIMS),
        "claims that are no JSON": sealed(HS256, b"sub=me"),
        "claims that are a text": sealed(HS256, USER),
        "claims that are a number": sealed(HS256, LATER),
        "claims that are a list": sealed(HS256, [CLAIMS]),
        "claims that are null": sealed(HS256, None),
        "claims that are true": sealed(HS256, True),  # noqa: FBT003 - the claims
        "claims that are no UTF-8": sealed(HS256, b'{"sub": "\xff\xfe", "exp": %d}' % LATER),
        "claims with an overlong NUL": sealed(HS256, b'{"sub": "\xc0\x80", "exp": %d}' % LATER),
        "claims nested 2,500 deep": sealed(HS256, b'{"sub": "%s", "x": %s}' % (USER.encode(), DEEP)),
        "claims with a comma too many": written(f'{{"sub": "{USER}", "exp": {LATER},}}'),
        "claims with a comment": written(f'{{"sub": "{USER}", /* who */ "exp": {LATER}}}'),
        "claims with something behind them": written(f'{{"sub": "{USER}", "exp": {LATER}}} {{}}'),
        "claims with NUL behind them": written(f'{{"sub": "{USER}", "exp": {LATER}}}\0'),
        "claims with a byte-order mark": written(f'\ufeff{{"sub": "{USER}", "exp": {LATER}}}'),
        "compressed claims": sealed(HS256 | {"zip": "DEF"}, b"\xabV*.MR\xb2R"),
        "exp NaN": written(f'{{"sub": "{USER}", "exp": NaN}}'),
        "exp Infinity": written(f'{{"sub": "{USER}", "exp": Infinity}}'),
        "exp -Infinity": written(f'{{"sub": "{USER}", "exp": -Infinity}}'),
        "exp 1e400": written(f'{{"sub": "{USER}", "exp": 1e400}}'),
        "exp of 5,000 digits": written(f'{{"sub": "{USER}", "exp": {"9" * 5_000}}}'),
        "sub with a lone surrogate, escaped": written(f'{{"sub": "\\ud800", "id": "{USER}", "exp": {LATER}}}'),
        "sub with a lone surrogate, encoded": written(f'{{"sub": "\ud800", "id": "{USER}", "exp": {LATER}}}'),
    },
    "type": {
        "typ of Better Auth's session cache": headed(typ="better-auth.session-cache+jwt"),
        "typ at+jwt": headed(typ="at+jwt"),
        "typ of a DPoP proof": headed(typ="dpop+jwt"),
        "typ JWE": headed(typ="JWE"),
        "typ of a logout token": headed(typ="logout+jwt"),
        "typ empty": headed(typ=""),
        "typ null": headed(typ=None),
        "typ a number": headed(typ=1),
        "typ a list": headed(typ=["JWT"]),
        "typ JWT and a blank": headed(typ="JWT "),
    },
    "crit": {
        "crit with b64": headed(crit=["b64"], b64=False),
        "crit with exp": headed(crit=["exp"], exp=LATER),
        "crit empty": headed(crit=[]),
        "crit null": headed(crit=None),
        "crit a text": headed(crit="alg"),
    },
    "no-expiry": {
        "exp missing": sealed(HS256, {"sub": USER}),
        "exp under another spelling": sealed(HS256, {"sub": USER, "EXP": LATER, "expires": LATER}),
        "exp only in the header": sealed(HS256 | {"exp": LATER}, {"sub": USER}),
        "no claims at all": sealed(HS256, {}),
    },
    "exp": {
        "exp null": bearing(exp=None),
        "exp a text of digits": bearing(exp=str(LATER)),
        "exp a date": bearing(exp="2099-01-01T00:00:00Z"),
        "exp true": bearing(exp=True),
        "exp false": bearing(exp=False),
        "exp a list": bearing(exp=[LATER]),
        "exp an object": bearing(exp={"$gt": 0}),
    },
    "expired": {
        "exp a second ago": bearing(exp=NOW - 1),
        "exp at the time of signing": bearing(exp=NOW),
        "exp half a minute ago, which leeway would forgive": bearing(exp=NOW - 30),
        "exp 0": bearing(exp=0),
        "exp -1": bearing(exp=-1),
        "exp -0.0": bearing(exp=-0.0),
        "exp -1e308": bearing(exp=-1e308),
        "exp 1e-300": bearing(exp=1e-300),
        "exp twice, the last one past": written(f'{{"sub": "{USER}", "exp": {LATER}, "exp": 1}}'),
    },
    "nbf": {
        "nbf null": bearing(nbf=None),
        "nbf a text": bearing(nbf=str(NOW)),
        "nbf false": bearing(nbf=False),
        "nbf a list": bearing(nbf=[NOW]),
    },
    "nbf-in-future": {
        "nbf an hour ahead": bearing(nbf=NOW + 3_600),
        "nbf 1e308": bearing(nbf=1e308),
    },
    "iat": {
        "iat null": bearing(iat=None),
        "iat a text": bearing(iat="now"),
        "iat true": bearing(iat=True),
        "iat an object": bearing(iat={}),
    },
    "iat-in-future": {
        "iat an hour ahead": bearing(iat=NOW + 3_600),
        "iat in milliseconds": bearing(iat=NOW * 1_000),
    },
    "issuer": {
        "iss of a stranger": bearing(iss="https://evil.test"),
        "iss with a slash behind": bearing(iss=f"{ORIGIN}/"),
        "iss with a suffix": bearing(iss=f"{ORIGIN}.evil.test"),
        "iss with another port": bearing(iss=f"{ORIGIN}0"),
        "iss in capitals": bearing(iss=ORIGIN.upper()),
        "iss empty": bearing(iss=""),
        "iss null": bearing(iss=None),
        "iss a number": bearing(iss=3_000),
        "iss a list": bearing(iss=[ORIGIN]),
        "iss an object": bearing(iss={ORIGIN: ORIGIN}),
    },
    "audience": {
        "aud of a stranger": bearing(aud="https://evil.test"),
        "aud with a slash behind": bearing(aud=f"{ORIGIN}/"),
        "aud with a prefix": bearing(aud=f"evil {ORIGIN}"),
        "aud empty": bearing(aud=""),
        "aud null": bearing(aud=None),
        "aud a number": bearing(aud=0),
        "aud true": bearing(aud=True),
        "aud an object": bearing(aud={ORIGIN: True}),
        "aud an empty list": bearing(aud=[]),
        "aud a list of strangers": bearing(aud=["https://evil.test", ""]),
        "aud a list with a number": bearing(aud=[ORIGIN, 1]),
        "aud a list with null": bearing(aud=[None, ORIGIN]),
        "aud a list in a list": bearing(aud=[[ORIGIN]]),
    },
    "identity": {
        "sub empty, and an id": bearing(sub="", id=USER),
        "sub null, and an id": bearing(sub=None, id=USER),
        "sub a number, and an id": bearing(sub=1, id=USER),
        "sub a float, and an id": bearing(sub=1.5, id=USER),
        "sub true, and an id": bearing(sub=True, id=USER),
        "sub a list, and an id": bearing(sub=[USER], id=USER),
        "sub an object, and an id": bearing(sub={"id": USER}, id=USER),
        "sub of 256 characters": bearing(sub="x" * 256, id=USER),
        "sub of 256 emoji": bearing(sub="\N{GRINNING FACE}" * 256, id=USER),
        "sub with NUL": bearing(sub=f"{USER}\0", id=USER),
        "sub with a line feed": bearing(sub=f"{USER}\n", id=USER),
        "sub with a carriage return": bearing(sub=f"\r{USER}", id=USER),
        "sub with a tab": bearing(sub=f"{USER}\t", id=USER),
        "sub with an escape": bearing(sub="\x1b[31m", id=USER),
        "sub with the last control": bearing(sub="a\x1fb", id=USER),
        "sub with DEL": bearing(sub="a\x7fb", id=USER),
        "sub twice, the last one empty": written(f'{{"sub": "{USER}", "exp": {LATER}, "sub": ""}}'),
        "id null, and a user_id": identified(id=None, user_id=USER),
        "id a number, and a user_id": identified(id=7, user_id=USER),
        "user_id empty, and a cookie cache": identified(user_id="", user={"id": USER}, session={"userId": USER}),
        "a cookie cache of null": identified(user={"id": None}, session={"userId": None}),
        "a cookie cache of nobody": identified(user={}, session={}),
        "a cookie cache of a number": identified(user={"id": 1}, session={"userId": 1}),
        "a cookie cache of an empty user": identified(user={"id": ""}, session={"userId": ""}),
        "a cookie cache beside a bad sub": bearing(sub="", user={"id": USER}, session={"userId": USER}),
    },
    "no-identity": {
        "only an e-mail address, as verification links have": identified(email="alice@example.com"),
        "a verification link of Better Auth": identified(email="alice@example.com", userId=USER),
        "a link to change the address": identified(
            email="alice@example.com", userId=USER, updateTo="bob@example.com", requestType="change-email-verification"
        ),
        "only a userId": identified(userId=USER),
        "an e-mail address as the user's id": identified(email=USER),
        "only a name": identified(name=USER, username=USER, preferred_username=USER),
        "names of the claim in capitals": identified(SUB=USER, ID=USER, UserId=USER),
        "uid, user and account": identified(uid=USER, user=USER, account=USER),
        "a cookie cache without a session": identified(user={"id": USER}),
        "a cookie cache without a user": identified(session={"userId": USER}),
        "a cookie cache whose session is another's": identified(user={"id": USER}, session={"userId": uuid4().hex}),
        "a cookie cache with its session's own id": identified(user={"id": USER}, session={"id": USER}),
        "a cookie cache of texts": identified(user=USER, session=USER),
        "a cookie cache of lists": identified(user=[{"id": USER}], session=[{"userId": USER}]),
    },
    "too-long": {
        "8,193 characters": of_length(8_193),
        "20,000 characters": of_length(20_000),
        "20,000 dots": "." * 20_000,
        "20,000 letters": "A" * 20_000,
    },
}

# Where a good token stands in a place that does not count: the reason, and the lines of the request's head.
CARRIERS: dict[str, tuple[str, list[str]]] = {
    "no header at all": ("no-authorization-header", []),
    "in a cookie": ("no-authorization-header", [f"Cookie: token={GOOD}; better-auth.session_token={GOOD}"]),
    "in X-Authorization": ("no-authorization-header", [f"X-Authorization: Bearer {GOOD}"]),
    "in X-Access-Token": ("no-authorization-header", [f"X-Access-Token: {GOOD}"]),
    "in set-auth-jwt": ("no-authorization-header", [f"set-auth-jwt: {GOOD}"]),
    "in Proxy-Authorization": ("no-authorization-header", [f"Proxy-Authorization: Bearer {GOOD}"]),
    "in X-Forwarded-Authorization": ("no-authorization-header", [f"X-Forwarded-Authorization: Bearer {GOOD}"]),
    "in a header with an underscore": ("no-authorization-header", [f"Authorization_: Bearer {GOOD}"]),
    "an empty header": ("no-bearer-token", ["Authorization:"]),
    "the scheme alone": ("no-bearer-token", ["Authorization: Bearer"]),
    "the scheme and blanks": ("no-bearer-token", ["Authorization: Bearer    "]),
    "no scheme": ("no-bearer-token", [f"Authorization: {GOOD}"]),
    "Basic with the token": ("no-bearer-token", [f"Authorization: Basic {GOOD}"]),
    "Basic with a password": ("no-bearer-token", ["Authorization: Basic YWxpY2U6cGFzc3dvcmQ="]),
    "Digest": ("no-bearer-token", [f'Authorization: Digest username="alice", response="{GOOD}"']),
    "DPoP": ("no-bearer-token", [f"Authorization: DPoP {GOOD}"]),
    "JWT as the scheme": ("no-bearer-token", [f"Authorization: JWT {GOOD}"]),
    "Token as the scheme": ("no-bearer-token", [f"Authorization: Token {GOOD}"]),
    "a scheme that begins with Bearer": ("no-bearer-token", [f"Authorization: BearerX {GOOD}"]),
    "a colon after the scheme": ("no-bearer-token", [f"Authorization: Bearer: {GOOD}"]),
    "a tab after the scheme": ("no-bearer-token", [f"Authorization: Bearer\t{GOOD}"]),
    "an equals sign after the scheme": ("no-bearer-token", [f"Authorization: Bearer={GOOD}"]),
    "a no-break space after the scheme": ("no-bearer-token", [f"Authorization: Bearer\xa0{GOOD}"]),
    "the scheme in other letters": ("no-bearer-token", [f"Authorization: \xdfearer {GOOD}"]),
    "a list that begins with Basic": ("no-bearer-token", [f"Authorization: Basic abc, Bearer {GOOD}"]),
    "a list that ends with Basic": ("not-a-jwt", [f"Authorization: Bearer {GOOD}, Basic abc"]),
    "the same header twice": ("several-authorization-headers", [f"Authorization: Bearer {GOOD}"] * 2),
    "a good one, then an empty one": (
        "several-authorization-headers",
        [f"Authorization: Bearer {GOOD}", "Authorization:"],
    ),
    "Basic, then a good one in other letters": (
        "several-authorization-headers",
        ["Authorization: Basic abc", f"AUTHORIZATION: Bearer {GOOD}"],
    ),
}

# What the HTTP server turns away before it is a request.
NO_REQUEST = {
    "NUL in the token": f"Authorization: Bearer {GOOD}\0",
    "an escape in the token": f"Authorization: Bearer \x1b{GOOD}",
    "DEL in the token": f"Authorization: Bearer {GOOD}\x7f",
    "a bare carriage return": f"Authorization: Bearer {GOOD}\rX-Other: 1",
    "a folded line": f"Authorization: Bearer\r\n {GOOD}",
    "a blank before the colon": f"Authorization : Bearer {GOOD}",
    "a header without a name": f": Bearer {GOOD}",
    "a line without a colon": f"Bearer {GOOD}",
}


def head(*lines: str, method: str = "GET", target: str = TASKS) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: test", *lines, "\r\n"]).encode("latin-1")


def test_the_table_is_long_enough() -> None:
    assert sum(len(tokens) for tokens in BAD.values()) + len(CARRIERS) + len(NO_REQUEST) >= 120


@pytest.mark.spec("FR-001", "FR-002", "FR-004", "EC-5", "SC-009")
@pytest.mark.parametrize(
    ("reason", "token"),
    [pytest.param(reason, token, id=name) for reason, tokens in BAD.items() for name, token in tokens.items()],
)
def test_a_bad_token_is_refused_for_its_own_reason(base_url: str, reason: str, token: str) -> None:
    expired = reason == "expired"

    with recorded() as lines:
        answer = exchange(base_url, head(f"Authorization: Bearer {token}"))

    assert answer.status_code == 401
    assert answer.json() == {"detail": f"The access token {'has expired' if expired else 'is invalid'}."}
    challenge = answer.headers.get_list("www-authenticate")
    assert [each.startswith('Bearer realm="todo", error="invalid_token"') for each in challenge] == [True]
    assert ("expired" in challenge[0]) is expired
    assert refusals(lines) == [reason]
    assert leaks(token, lines, answer.text) == []


@pytest.mark.spec("FR-001", "FR-004", "SC-009")
@pytest.mark.parametrize(("reason", "lines_sent"), CARRIERS.values(), ids=CARRIERS)
def test_a_good_token_in_the_wrong_place_does_not_count(base_url: str, reason: str, lines_sent: list[str]) -> None:
    missing = reason.startswith("no-")

    with recorded() as lines:
        answer = exchange(base_url, head(*lines_sent))

    assert answer.status_code == 401
    assert answer.json() == {
        "detail": "An access token is required." if missing else "The access token is invalid.",
    }
    challenge = 'Bearer realm="todo"' if missing else 'Bearer realm="todo", error="invalid_token"'
    assert answer.headers.get_list("www-authenticate") == [challenge]
    assert refusals(lines) == [reason]
    assert leaks(GOOD, lines, answer.text) == []


@pytest.mark.spec("FR-001", "FR-017")
@pytest.mark.parametrize(
    "name", ["access_token", "token", "authorization", "jwt", "Authorization=Bearer%20x&access_token"]
)
def test_a_token_in_the_query_does_not_count_and_is_not_logged(base_url: str, name: str) -> None:
    with recorded() as lines:
        answer = exchange(base_url, head(target=f"{TASKS}?{name}={GOOD}"))

    assert answer.status_code == 401
    assert refusals(lines) == ["no-authorization-header"]
    assert leaks(GOOD, lines, answer.text) == []


@pytest.mark.spec("FR-001", "US1.3")
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", json.dumps({"title": "x", "access_token": GOOD, "token": GOOD})),
        ("application/x-www-form-urlencoded", f"access_token={GOOD}"),  # RFC 6750, section 2.2
    ],
    ids=["JSON", "form"],
)
def test_a_token_in_the_body_does_not_count(base_url: str, content_type: str, body: str) -> None:
    described = head(f"Content-Type: {content_type}", f"Content-Length: {len(body)}", method="POST")

    with recorded() as lines:
        answer = exchange(base_url, described + body.encode())

    assert answer.status_code == 401
    assert refusals(lines) == ["no-authorization-header"]
    assert leaks(GOOD, lines, answer.text) == []


@pytest.mark.spec("FR-001", "FR-017")
@pytest.mark.parametrize("line", NO_REQUEST.values(), ids=NO_REQUEST)
def test_what_is_no_header_line_never_becomes_a_request(base_url: str, line: str) -> None:
    with recorded() as lines:
        answer = exchange(base_url, head(line))

    assert answer.status_code == 400
    assert refusals(lines) == []
    assert leaks(GOOD, lines, answer.text) == []


@pytest.mark.spec("SC-003", "FR-001", "FR-004", "US1.4", "US2.4", "US3.4", "US4.4", "US5.4", "US6.4")
@pytest.mark.parametrize("operation", OPERATIONS, ids=" ".join)
def test_every_operation_refuses_every_kind_of_bad_token_without_asking_the_database(
    operation: tuple[str, str], base_url: str, alice: User, statement_log: StatementLog
) -> None:
    task = alice.add("Untouched")
    method, path = operation
    target = f"{alice.tasks}{path}".replace("{id}", str(task["id"]))
    statement_log.new()

    answers = {
        name: exchange(base_url, head(f"Authorization: Bearer {token}", method=method, target=target)).status_code
        for tokens in BAD.values()
        for name, token in tokens.items()
    }

    assert set(answers.values()) == {401}, [name for name, status in answers.items() if status != 401]
    assert statement_log.new() == []
    assert alice.list() == [task]


CACHE = {"session": {"userId": USER, "token": "opaque"}, "user": {"id": USER, "email": "alice@example.com"}}
PASSING: dict[str, tuple[str, str]] = {
    "sub": (USER, GOOD),
    "id": (USER, identified(id=USER)),
    "user_id": (USER, identified(user_id=USER)),
    "sub before the other two": (USER, identified(user_id="b", id="a", sub=USER)),
    "sub before bad ones": (USER, identified(sub=USER, id=None, user_id=7)),
    "id before user_id": (USER, identified(user_id="b", id=USER)),
    "user_id before a cookie cache": (USER, identified(user_id=USER, user={"id": "a"}, session={"userId": "a"})),
    "a cookie cache beside a userId": (USER, identified(userId="c", user={"id": USER}, session={"userId": USER})),
    "sub before an e-mail address": (USER, bearing(email="bob@example.com")),
    "a cookie cache": (USER, identified(**CACHE, updatedAt=NOW * 1_000, version="1")),
    "a cookie cache with an unknown typ-less header": (USER, sealed(HS256 | {"x": 1}, {"exp": LATER} | CACHE)),
    "iss and aud": (USER, bearing(iss=ORIGIN, aud=ORIGIN)),
    "aud a list of one": (USER, bearing(aud=[ORIGIN])),
    "aud a list of several": (USER, bearing(aud=["https://api.example.com", ORIGIN, ORIGIN])),
    "iat 59 s ahead": (USER, bearing(iat=NOW + 59)),
    "nbf 59 s ahead": (USER, bearing(nbf=NOW + 59)),
    "iat and nbf long ago": (USER, bearing(iat=0, nbf=-1)),
    "a broken exp": (USER, bearing(exp=LATER + 0.5)),
    "exp in the scientific form": (USER, written(f'{{"sub": "{USER}", "exp": 4.1e9}}')),
    "exp beyond 64 bits": (USER, bearing(exp=10**30)),
    "typ JWT": (USER, headed(typ="JWT")),
    "typ jwt": (USER, headed(typ="jwt")),
    "typ application/jwt": (USER, headed(typ="application/jwt")),
    "typ APPLICATION/JWT": (USER, headed(typ="APPLICATION/JWT")),
    "kid a text": (USER, headed(kid="key-1")),
    "kid a path": (USER, headed(kid="../../../../dev/null")),
    "kid SQL": (USER, headed(kid="x' UNION SELECT 'secret")),
    "kid empty": (USER, headed(kid="")),
    "kid null": (USER, headed(kid=None)),
    "kid a number": (USER, headed(kid=1)),
    "kid a list": (USER, headed(kid=["a", {}])),
    "jku, x5u and jwk, which are not followed": (
        USER,
        headed(jku="http://127.0.0.1:9/jwks", x5u="http://127.0.0.1:9/", jwk={"kty": "oct", "k": segment(b"evil")}),
    ),
    "x5c and unknown parameters": (USER, headed(x5c=["MIIB"], cty="JWT", unknown={"deep": [1]})),
    "claims that nobody knows": (USER, bearing(role="admin", scope="*", nonce=None)),
    "white space in the JSON": (USER, written(f'\n{{ "sub" :\t"{USER}" , "exp":{LATER} }}\r\n')),
    "escapes in the JSON": (USER, written(f'{{"\\u0073ub": "\\u{ord(USER[0]):04x}{USER[1:]}", "exp": {LATER}}}')),
    "8,192 characters": (USER, of_length(8_192)),
    "an id of one character": ("1", bearing(sub="1")),
    "an id of 255 characters": ("x" * 255, bearing(sub="x" * 255)),
    "an id of 255 emoji": ("\N{GRINNING FACE}" * 255, bearing(sub="\N{GRINNING FACE}" * 255)),
    "an id with a blank and a percent sign": ("a b%41", bearing(sub="a b%41")),
    "an id in another script": ("用户", bearing(sub="用户")),
    "an id that is SQL": ("' OR 1=1; --", bearing(sub="' OR 1=1; --")),
    "an id of dots": ("..", bearing(sub="..")),
    "an id with an accent, a question mark and a hash": ("Zoë?#+", bearing(sub="Zoë?#+")),
}


@pytest.mark.spec("FR-001", "FR-002", "FR-003")
@pytest.mark.parametrize(("user", "token"), PASSING.values(), ids=PASSING)
def test_a_good_token_passes(base_url: str, user: str, token: str) -> None:
    target = f"/api/{quote(user, safe='')}/tasks"

    with recorded() as lines:
        answer = exchange(base_url, head(f"Authorization: Bearer {token}", target=target))

    assert (answer.status_code, answer.json()) == (200, [])
    assert refusals(lines) == []


@pytest.mark.spec("FR-001")
@pytest.mark.parametrize(
    "line",
    [
        "Authorization: Bearer {}",
        "authorization: bearer {}",
        "AUTHORIZATION: BEARER {}",
        "Authorization: bEaReR {}",
        "Authorization:Bearer {}",
        "Authorization: Bearer   {}",
        "Authorization: \t Bearer {}  ",
    ],
)
def test_the_scheme_is_bearer_in_any_case(base_url: str, line: str) -> None:
    answer = exchange(base_url, head(line.format(GOOD)))

    assert answer.status_code == 200


@pytest.mark.spec("FR-002", "FR-005", "EC-7")
@pytest.mark.parametrize(
    ("claims", "ignored"),
    [
        ({"sub": "a", "id": "b", "user_id": "c", "userId": "d"}, ["b", "c", "d"]),
        ({"id": "b", "user_id": "c", "userId": "d"}, ["c", "d"]),
        ({"user_id": "c", "userId": "d", "email": "e"}, ["d", "e"]),
        ({"sub": "a", "email": "e", "user": {"id": "f"}, "session": {"userId": "f"}}, ["e", "f"]),
    ],
    ids=["sub", "id", "user_id", "sub and a cookie cache"],
)
def test_claims_that_come_later_open_nothing(base_url: str, claims: dict[str, object], ignored: list[str]) -> None:
    line = f"Authorization: Bearer {identified(**claims)}"

    statuses = [exchange(base_url, head(line, target=f"/api/{user}/tasks")).status_code for user in ignored]

    assert set(statuses) == {403}


@pytest.mark.spec("EC-1", "FR-004")
def test_a_token_that_expires_on_the_way_is_refused_and_says_so(base_url: str) -> None:
    expires = time.time() + 0.6
    line = f"Authorization: Bearer {bearing(exp=expires)}"

    before = exchange(base_url, head(line))
    time.sleep(expires - time.time() + 0.01)
    after = exchange(base_url, head(line))

    assert before.status_code == 200
    assert after.status_code == 401
    assert after.json() == {"detail": "The access token has expired."}


def refusals(lines: list[str]) -> list[str]:
    """Return the reasons of the refusals that were logged, each of which must name the request."""
    refused = [line for line in lines if " refused " in line]
    assert [line for line in refused if "client=127.0.0.1" not in line or "/api/" not in line] == []
    return [reason for line in refused for reason in re.findall(r" reason=([a-z0-9-]+) ", line)]


def leaks(token: str, lines: list[str], answer: str) -> list[str]:
    """Return the parts of the token that stand in the log or in the answer."""
    parts = [part for part in re.split(r"[^A-Za-z0-9_-]", token) if len(part) >= 12 and part != USER]
    return [part for part in [*parts, SECRET] if part in answer or part in "\n".join(lines)]


class Clock:
    """Stands still until it is set, and counts how often it was asked."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.asked = 0

    def __call__(self) -> float:
        self.asked += 1
        return self.now


def a_verifier(clock: Callable[[], float], **options: Any) -> TokenVerifier:
    return TokenVerifier(
        secrets=[SECRET.encode()], key_set=None, issuers=[ORIGIN], audiences=[ORIGIN], clock=clock, **options
    )


def at(clock: Clock, **claims: float) -> str:
    """Return a token whose times are those of the clock plus these seconds."""
    times = {"exp": 900.0, "iat": 0.0} | claims
    return sealed(HS256, {"sub": "alice"} | {name: clock.now + seconds for name, seconds in times.items()})


@pytest.mark.spec("FR-002")
@pytest.mark.parametrize(
    "claims",
    [
        {"exp": 1},
        {"exp": 0.001},
        {"iat": 60},
        {"nbf": 60},
        {"iat": 59.999, "nbf": 60},
        {"iat": -1_000_000},
    ],
    ids=str,
)
async def test_a_time_just_inside_its_bound_is_accepted(claims: dict[str, float]) -> None:
    clock = Clock()

    user = (await a_verifier(clock).verified(at(clock, **claims))).user_id

    assert user == "alice"


@pytest.mark.spec("FR-002", "EC-1")
@pytest.mark.parametrize(
    ("claims", "error", "reason"),
    [
        ({"exp": 0}, TokenExpired, "expired"),
        ({"exp": -0.001}, TokenExpired, "expired"),
        ({"iat": 60.001}, Unauthorized, "iat-in-future"),
        ({"iat": 61}, Unauthorized, "iat-in-future"),
        ({"nbf": 60.001}, Unauthorized, "nbf-in-future"),
        ({"nbf": 61}, Unauthorized, "nbf-in-future"),
    ],
    ids=str,
)
async def test_a_time_just_outside_its_bound_is_refused(
    claims: dict[str, float], error: type[Unauthorized], reason: str
) -> None:
    clock = Clock()

    with pytest.raises(error) as refusal:
        await a_verifier(clock).verified(at(clock, **claims))

    assert (type(refusal.value), refusal.value.reason) == (error, reason)


@pytest.mark.spec("EC-1")
async def test_a_remembered_token_expires_on_time() -> None:
    clock = Clock()
    verifier, token = a_verifier(clock), at(clock, exp=10)
    await verifier.verified(token)

    clock.now += 9.999
    just_before = (await verifier.verified(token)).user_id
    clock.now += 0.001
    with pytest.raises(TokenExpired):
        await verifier.verified(token)
    with pytest.raises(TokenExpired):
        await verifier.verified(token)

    assert just_before == "alice"


@pytest.mark.spec("FR-001")
@pytest.mark.parametrize("secret", [" blanks at both ends \n", "ключ 🔑", "c2VjcmV0LWluLWJhc2U2NA==", "00ff" * 16])
async def test_the_key_is_the_secrets_bytes_as_they_are(secret: str) -> None:
    verifier = TokenVerifier(secrets=[secret.encode()], key_set=None, issuers=[ORIGIN], audiences=[ORIGIN])

    user = (await verifier.verified(sealed(HS256, CLAIMS, secret=secret))).user_id
    with pytest.raises(Unauthorized):
        await verifier.verified(sealed(HS256, CLAIMS | {"jti": "2"}, secret=f"{secret} "))

    assert user == USER


async def questions(clock: Clock, verifier: TokenVerifier, token: str) -> int:
    """Return how often the clock is asked: once for a token that is remembered, more often for one that is checked."""
    before = clock.asked
    await verifier.verified(token)
    return clock.asked - before


@pytest.mark.spec("FR-001")
async def test_verified_tokens_are_remembered_up_to_the_capacity_and_no_further() -> None:
    clock = Clock()
    verifier = a_verifier(clock, capacity=2)
    oldest, older, newest = (at(clock, exp=seconds) for seconds in (100, 200, 300))

    first = [await questions(clock, verifier, token) for token in (oldest, older, newest)]
    again = [await questions(clock, verifier, token) for token in (newest, older, oldest)]

    assert first == [2, 2, 2]
    assert again == [1, 1, 2]


@pytest.mark.spec("FR-001", "EC-5")
async def test_refused_tokens_are_not_remembered_and_push_no_good_one_out() -> None:
    clock = Clock()
    verifier = a_verifier(clock, capacity=1)
    good = at(clock)
    await verifier.verified(good)

    for bad in (respelled(good), good[:-4] + "AAAA", at(clock, exp=0), at(clock, iat=61), "x" * 20_000):
        with pytest.raises(Unauthorized):
            await verifier.verified(bad)

    assert await questions(clock, verifier, good) == 1
