"""Which published keys are used, and for which algorithm?"""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from issuer import Signer, key_set, segment

from backend.auth.jwks import ALGORITHMS, MAX_KEYS, FetchError, PublicKey, parse_key_set

SIGNED = b"header.claims"
GOOD = Signer("EdDSA", "good")
RSA = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
OF_CURVE = {"EdDSA": ("EdDSA", "Ed25519"), "ES256": ("ES256",), "ES384": ("ES384",), "ES512": ("ES512",)}


def parsed(*jwks: Any) -> dict[str, PublicKey]:
    return parse_key_set(json.dumps({"keys": jwks}).encode())


def verified(key: PublicKey, signer: Signer) -> set[str]:
    """Return the algorithms for which the key accepts this signer's signature."""
    return {
        algorithm
        for algorithm in {*ALGORITHMS, "HS256", "none"}
        if key.verifies(algorithm, SIGNED, signer.sign(SIGNED))
    }


def okp(curve: str, private: ed448.Ed448PrivateKey | x25519.X25519PrivateKey) -> dict[str, Any]:
    raw = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return {"kty": "OKP", "crv": curve, "kid": "odd", "alg": "EdDSA", "x": segment(raw)}


def secp256k1() -> dict[str, Any]:
    numbers = ec.generate_private_key(ec.SECP256K1()).public_key().public_numbers()
    x, y = (segment(number.to_bytes(32)) for number in (numbers.x, numbers.y))
    return {"kty": "EC", "crv": "secp256k1", "kid": "odd", "alg": "ES256K", "x": x, "y": y}


def short_rsa(bits: int) -> dict[str, Any]:
    numbers = rsa.generate_private_key(65_537, bits).public_key().public_numbers()
    n = segment(numbers.n.to_bytes(bits // 8))
    return {"kty": "RSA", "kid": "odd", "alg": "RS256", "n": n, "e": "AQAB"}


def with_private_part(algorithm: str) -> dict[str, Any]:
    """Return a JWK as someone publishes it who mistakes the private key for the public one."""
    signer = Signer(algorithm, "odd")
    if algorithm == "RS256":
        numbers = signer.private.private_numbers()
        return signer.jwk | {
            name: segment(value.to_bytes(256))
            for name, value in {"d": numbers.d, "p": numbers.p, "q": numbers.q}.items()
        }
    if algorithm == "ES256":
        return signer.jwk | {"d": segment(signer.private.private_numbers().private_value.to_bytes(32))}
    return signer.jwk | {"d": segment(signer.private.private_bytes_raw())}


OKP, EC, RS = (Signer(algorithm, "odd").jwk for algorithm in ("EdDSA", "ES256", "RS256"))
WITHOUT_KID = {name: value for name, value in OKP.items() if name != "kid"}

DROPPED: dict[str, Any] = {
    "a secret": {"kty": "oct", "kid": "odd", "alg": "HS256", "k": segment(b"x" * 32)},
    "a secret that says EdDSA": {"kty": "oct", "kid": "odd", "alg": "EdDSA", "k": segment(b"x" * 32)},
    "a secret beside a public key": OKP | {"k": segment(b"x" * 32)},
    "a private Ed25519 key": with_private_part("EdDSA"),
    "a private P-256 key": with_private_part("ES256"),
    "a private RSA key": with_private_part("RS256"),
    "a private key whose d is null": OKP | {"d": None},
    "an RSA key with its first factor": RS | {"p": "AQAB"},
    "an RSA key with other factors": RS | {"oth": []},
    "an RSA key of 1024 bits": short_rsa(1_024),
    "an RSA key of 2040 bits": short_rsa(2_040),
    "an RSA key without n": {"kty": "RSA", "kid": "odd", "alg": "RS256", "e": "AQAB"},
    "an RSA key without e": {name: value for name, value in RS.items() if name != "e"},
    "an RSA key with an empty n": RS | {"n": ""},
    "an RSA key with n as a number": RS | {"n": 12_345},
    "an RSA key with e = 1": RS | {"e": "AQ"},
    "an RSA key with an even e": RS | {"e": "Ag"},
    "secp256k1": secp256k1(),
    "secp256k1 that says P-256": secp256k1() | {"crv": "P-256", "alg": "ES256"},
    "Ed448": okp("Ed448", ed448.Ed448PrivateKey.generate()),
    "Ed448 that says Ed25519": okp("Ed25519", ed448.Ed448PrivateKey.generate()),
    "X25519": okp("X25519", x25519.X25519PrivateKey.generate()),
    "coordinates off the curve": EC | {"y": EC["x"]},
    "coordinates of zero": EC | {"x": segment(bytes(32)), "y": segment(bytes(32))},
    "coordinates of another curve": Signer("ES384", "odd").jwk | {"crv": "P-256"},
    "a curve in lower case": EC | {"crv": "p-256"},
    "a curve as a list": EC | {"crv": ["P-256"]},
    "an Ed25519 curve in kty EC": OKP | {"kty": "EC"},
    "a P-256 curve in kty OKP": EC | {"kty": "OKP"},
    "no kty": {name: value for name, value in OKP.items() if name != "kty"},
    "kty as a list": OKP | {"kty": ["OKP"]},
    "kty in lower case": OKP | {"kty": "okp"},
    "no x": {name: value for name, value in OKP.items() if name != "x"},
    "x null": OKP | {"x": None},
    "x a number": OKP | {"x": 7},
    "x an object": OKP | {"x": {"x": OKP["x"]}},
    "x too short": OKP | {"x": segment(bytes(31))},
    "x too long": OKP | {"x": segment(bytes(33))},
    "x no base64": OKP | {"x": "*" * 43},
    "x not ASCII": OKP | {"x": "é" * 43},
    "no kid": WITHOUT_KID,
    "kid null": WITHOUT_KID | {"kid": None},
    "kid a number": WITHOUT_KID | {"kid": 1},
    "kid a list": WITHOUT_KID | {"kid": ["odd"]},
    "kid an object": WITHOUT_KID | {"kid": {"odd": "odd"}},
    "kid true": WITHOUT_KID | {"kid": True},
    "nothing": {},
}


@pytest.mark.parametrize("algorithm", OF_CURVE)
@pytest.mark.parametrize("published", ["its own", "RS256", "HS256", "none", None, 7, ["EdDSA"]])
def test_a_curve_fixes_the_algorithm_whatever_is_published(algorithm: str, published: Any) -> None:
    signer = Signer(algorithm, "1")

    key = parsed(signer.jwk | ({} if published == "its own" else {"alg": published}))["1"]

    assert key.algorithms == OF_CURVE[algorithm]
    assert verified(key, signer) == set(OF_CURVE[algorithm])


@pytest.mark.parametrize("algorithm", RSA)
def test_an_rsa_key_verifies_the_published_algorithm_alone(algorithm: str) -> None:
    signer = Signer(algorithm, "1")

    key = parsed(signer.jwk)["1"]

    assert verified(key, signer) == {algorithm}


@pytest.mark.parametrize("published", [None, "EdDSA", "HS256", "none", "rs256", "", 7, ["PS256"]])
def test_an_rsa_key_that_says_nothing_usable_is_for_rs256(published: Any) -> None:
    jwk = Signer("RS256", "1").jwk | {"alg": published}
    without = {name: value for name, value in jwk.items() if name != "alg"}

    keys = [parsed(each)["1"] for each in (jwk, without)]

    assert [key.algorithms for key in keys] == [("RS256",), ("RS256",)]


@pytest.mark.parametrize(("published", "signed"), [("PS256", "RS256"), ("RS256", "PS256"), ("RS512", "RS256")])
def test_one_rsa_key_is_not_for_two_algorithms(published: str, signed: str) -> None:
    signer = Signer(signed, "1")

    key = parsed(signer.jwk | {"alg": published})["1"]

    assert verified(key, signer) == set()


@pytest.mark.parametrize("bad", DROPPED)
def test_a_bad_key_is_dropped_and_spoils_no_other(bad: str) -> None:
    keys = parsed(DROPPED[bad], GOOD.jwk)

    assert list(keys) == ["good"]
    assert verified(keys["good"], GOOD) == {"EdDSA", "Ed25519"}


def test_the_dropped_keys_would_be_taken_if_they_were_not_bad() -> None:
    keys = parsed(OKP, Signer("ES256", "2").jwk, Signer("RS256", "3").jwk, short_rsa(2_048) | {"kid": "4"})

    assert list(keys) == ["odd", "2", "3", "4"]


@pytest.mark.parametrize("kid", ["", "1", "../../../etc/passwd", "' OR 1=1 --", "\x00", "é", "😀", "x" * 5_000])
def test_a_kid_is_any_text(kid: str) -> None:
    keys = parsed(WITHOUT_KID | {"kid": kid})

    assert list(keys) == [kid]


def test_members_that_nobody_asked_for_are_ignored() -> None:
    extra = {"use": "sig", "key_ops": ["verify"], "ext": True, "x5u": "http://127.0.0.1:1", "x5c": ["?"], "iat": 1}

    keys = parsed(GOOD.jwk | extra)

    assert list(keys) == ["good"]


def test_a_key_equals_itself_fetched_again_and_no_other() -> None:
    first, again = parsed(GOOD.jwk)["good"], parsed(GOOD.jwk | {"use": "sig"})["good"]
    others = [
        parsed(Signer("EdDSA", "good", "another pair").jwk)["good"],
        parsed(GOOD.jwk | {"kid": "other"})["other"],
        parsed(Signer("RS256", "good").jwk)["good"],
    ]
    as_ps = parsed(Signer("RS256", "good").jwk | {"alg": "PS256"})["good"]

    assert first == again
    assert first not in others
    assert others[2] != as_ps


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"keys",
        b"\xff\xfe",
        b"<!doctype html><title>Sign in</title>",
        b"null",
        b"[]",
        b'"keys"',
        b"7",
        b"{}",
        b'{"Keys": []}',
        b'{"keys": null}',
        b'{"keys": {}}',
        b'{"keys": "good"}',
        b'{"keys": [null]}',
        b'{"keys": [[]]}',
        b'{"keys": ["good"]}',
        b'{"keys": [NaN]}',
        b'{"keys": []',
        b'{"keys": []} {"keys": []}',
        b'{"keys": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"keys": [' + b'{"x":' * 5_000 + b"1" + b"}" * 5_000 + b"]}",
        b'{"keys": [{"kid": "\\ud800"}]}',
    ],
)
def test_what_is_no_key_set_is_refused(body: bytes) -> None:
    with pytest.raises(FetchError, match=r"^it is not (JSON|a key set)$"):
        parse_key_set(body)


def test_one_element_that_is_no_object_makes_it_no_key_set() -> None:
    with pytest.raises(FetchError, match="it is not a key set"):
        parsed(GOOD.jwk, "good")


@pytest.mark.parametrize("filler", [{}, DROPPED["a secret"], GOOD.jwk])
def test_a_set_has_at_most_32_keys_usable_or_not(filler: dict[str, Any]) -> None:
    keys = parsed(GOOD.jwk, *[filler] * (MAX_KEYS - 1))

    with pytest.raises(FetchError, match="it has more than 32 keys"):
        parsed(GOOD.jwk, *[filler] * MAX_KEYS)

    assert list(keys) == ["good"]


def test_an_empty_set_is_one() -> None:
    assert parse_key_set(key_set()) == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)  # fmt: skip
MEMBERS = ["kty", "crv", "kid", "alg", "x", "y", "n", "e", "use"]


@settings(max_examples=100, derandomize=True, database=None, deadline=None)
@given(st.sampled_from([OKP, EC, RS]), st.dictionaries(st.sampled_from(MEMBERS), JSON, max_size=4))
def test_no_member_of_a_key_can_break_more_than_its_key(jwk: dict[str, Any], changes: dict[str, Any]) -> None:
    keys = parsed(jwk | changes, GOOD.jwk)

    assert keys["good"].kid == "good"
