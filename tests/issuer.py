"""Who signs tokens with key pairs in the tests, and where are the public halves to be had?"""

import base64
import json
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from people import ORIGIN

CURVES: dict[str, Callable[[], ec.EllipticCurve]] = {
    "ES256": ec.SECP256R1,
    "ES384": ec.SECP384R1,
    "ES512": ec.SECP521R1,
}
Answer = Callable[[BaseHTTPRequestHandler], None]


def segment(content: object) -> str:
    """Return the base64url form of these bytes, or of this value as JSON."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def compact(header: object, claims: object, sign: Callable[[bytes], bytes]) -> str:
    """Return a token that is honestly signed, whatever its parts are."""
    signed = f"{segment(header)}.{segment(claims)}"
    return f"{signed}.{segment(sign(signed.encode()))}"


def usual(user_id: str, **claims: Any) -> dict[str, Any]:
    """Return the claims of Better Auth's jwt plugin, with these changed."""
    now = int(time.time())
    return {"sub": user_id, "iss": ORIGIN, "aud": ORIGIN, "iat": now, "exp": now + 900} | claims


@cache
def private_key(kind: str, name: str) -> Any:
    """Return a key pair of this kind; the same one for the same name, since RSA keys take long to make."""
    del name
    if kind in CURVES:
        return ec.generate_private_key(CURVES[kind]())
    if kind == "RSA":
        return rsa.generate_private_key(65_537, 2_048)
    return ed25519.Ed25519PrivateKey.generate()


@dataclass(frozen=True)
class Signer:
    """A key pair as Better Auth keeps it; `name` tells apart different pairs that were given the same kid.

    Two signers of one kid and RSA algorithms have the same pair.
    """

    algorithm: str
    kid: str
    name: str = ""

    @property
    def private(self) -> Any:
        return private_key("RSA" if self.algorithm[:2] in {"RS", "PS"} else self.algorithm, f"{self.kid} {self.name}")

    @property
    def jwk(self) -> dict[str, Any]:
        """The public half with the members that Better Auth publishes, and no `use`."""
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        members = algorithm.to_jwk(self.private.public_key(), as_dict=True)
        return {name: value for name, value in members.items() if name != "key_ops"} | {
            "alg": self.algorithm,
            "kid": self.kid,
        }

    def sign(self, signed: bytes) -> bytes:
        return jwt.get_algorithm_by_name(self.algorithm).sign(signed, self.private)

    def sealed(self, claims: object, **header: Any) -> str:
        return compact({"alg": self.algorithm, "kid": self.kid} | header, claims, self.sign)

    def token(self, user_id: str, **claims: Any) -> str:
        return self.sealed(usual(user_id, **claims))


def key_set(*signers: Signer) -> bytes:
    return json.dumps({"keys": [signer.jwk for signer in signers]}).encode()


def answering(body: bytes, status: int = 200, **headers: str) -> Answer:
    """Return an answer with this body, status and headers (an underscore stands for a dash)."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    return answer


class Issuer:
    """A frontend that answers one thing to every GET, and keeps the requests that it got."""

    def __init__(self, address: str, answer: Answer) -> None:
        self.origin = address
        self.url = f"{address}/api/auth/jwks"
        self.answer = answer
        self.requests: list[dict[str, str]] = []


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Be silent about a client that hangs up, as an attacked one should."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


@contextmanager
def issuing(answer: Answer, context: ssl.SSLContext | None = None) -> Iterator[Issuer]:
    """Run a frontend on a free port until the block ends; with TLS where there is a context for it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            issuer.requests.append({name.lower(): value for name, value in self.headers.items()})
            try:
                issuer.answer(self)
            except OSError:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
            address = f"https://localhost:{server.server_port}"
        issuer = Issuer(address, answer)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield issuer
        server.shutdown()
        thread.join()


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 1_000_000) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
