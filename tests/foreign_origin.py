"""The origin of a frontend that is not ours: a page, and the key set of its tokens."""

import json
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY = Ed25519PrivateKey.generate()
KEY_ID = "3kQX9aBcDeFgHiJkLmNoPqRsTuVwXyZ0"
PAGE = b"<!doctype html><title>A frontend</title><h1>A frontend</h1>"


class Origin(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        key_set = self.path == "/api/auth/jwks"
        public = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(KEY.public_key()))
        body = json.dumps({"keys": [{"alg": "EdDSA", **public, "kid": KEY_ID}]}).encode() if key_set else PAGE
        self.send_response(200)
        self.send_header("Content-Type", "application/json" if key_set else "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def eddsa(user_id: str, **claims: Any) -> str:
    """Return a token as Better Auth's jwt plugin signs it with a key pair, with these claims added."""
    now = int(time.time())
    payload = {"iat": now, "exp": now + 900, "sub": user_id, "email": "a@example.com", **claims}
    return jwt.encode(payload, KEY, algorithm="EdDSA", headers={"kid": KEY_ID, "typ": None})
