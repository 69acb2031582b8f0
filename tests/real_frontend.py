"""How does a test run a frontend with the real Better Auth, and what do its users hold?"""

import asyncio
import os
import subprocess
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import asyncpg
import httpx
import jwt
from people import SECRET

PROJECT = Path(__file__).parent / "better_auth"
OLDEST_NODE = 20


@cache
def left_out() -> str | None:
    """Why Better Auth cannot run here, or None."""
    try:
        version = subprocess.check_output(["node", "--version"], text=True).strip()
    except OSError:
        return f"Better Auth's tests are left out: they need Node {OLDEST_NODE} or newer"
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST_NODE:
        return f"Better Auth's tests are left out: they need Node {OLDEST_NODE} or newer, and this is {version}"
    installed, lock = PROJECT / "node_modules/.complete", PROJECT / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        return "Better Auth's tests are left out: `make better-auth` installs it, and needs npm"
    return None


class Frontend:
    """Better Auth in one of the modes of better_auth/modes.mjs, its tables in a schema of that name; a restart keeps
    the origin."""

    def __init__(self, mode: str, database_url: str) -> None:
        self.mode = mode
        self.origin = ""
        self._database_url = database_url
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._query(f'DROP SCHEMA IF EXISTS "{self.mode}" CASCADE')
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._stack.close()

    def start(self, secret: str = SECRET) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "MODE": self.mode,
            "PORT": str(urlsplit(self.origin).port or 0),
            "DATABASE_URL": self._database_url,
            "BETTER_AUTH_SECRET": secret,
        }
        # It also ends with its input, and so with the tests, whatever becomes of them.
        self._process = subprocess.Popen(
            ["node", "server.mjs"], cwd=PROJECT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert self._process.stdout
        self.origin = self._process.stdout.readline().strip()
        assert self.origin, "the frontend did not start"

    def stop(self) -> None:
        self._process.kill()
        with self._process:
            pass

    def reset(self) -> None:
        """Begin anew with an empty database, as after `docker compose down --volumes`."""
        self.stop()
        self._query(f'DROP SCHEMA "{self.mode}" CASCADE')
        self.start()

    def let_the_key_expire(self) -> None:
        """Do what `rotationInterval` does in time: the next token gets a new key, and the old one stays published."""
        self._query(f'UPDATE "{self.mode}".jwks SET "expiresAt" = now()')

    def sign_up(self) -> "Person":
        return Person(self, self._stack.enter_context(httpx.Client(base_url=self.origin, timeout=30, verify=False)))

    def _query(self, statement: str) -> None:
        async def execute() -> None:
            connection = await asyncpg.connect(self._database_url)
            await connection.execute(statement)
            await connection.close()

        asyncio.run(execute())


class Person:
    """Somebody who has signed up with the frontend, by e-mail and password; `token` is what they got for it."""

    def __init__(self, frontend: Frontend, http: httpx.Client) -> None:
        self.mode = frontend.mode
        self.http = http
        self.email = f"{uuid4().hex}@example.com"
        body = {"name": "Alice", "email": self.email, "password": uuid4().hex}
        answer = http.post("/api/auth/sign-up/email", json=body)
        assert answer.status_code == 200, answer.text
        self.id: str = answer.json()["user"]["id"]
        self.session_token: str = answer.json()["token"]
        self.token = self.new_token()

    def new_token(self) -> str:
        """Return what the mode hands out, got as a frontend gets it."""
        match self.mode:
            case "session":
                return self.session_token
            case "cookie-cache" | "session-cache":
                return self.cookie("session_data")
            case "own-route":
                return self._got("/own-token")
            case "mails":
                return self.mailed(self.email)
            case _:
                return self._got("/api/auth/token")

    def ask(self, path: str, **fields: str) -> None:
        """Do what makes Better Auth send a mail."""
        answer = self.http.post(f"/api/auth/{path}", json=fields, headers={"Origin": str(self.http.base_url)})
        assert answer.status_code == 200, answer.text

    def follow(self, token: str) -> None:
        """Open the link in a mail that asks whether an address is right."""
        answer = self.http.get("/api/auth/verify-email", params={"token": token})
        assert answer.status_code == 200, answer.text

    def mailed(self, address: str) -> str:
        """Return the token in the last mail to this address, which is then gone."""
        return self._got(f"/mail?to={address}")

    def cookie(self, name: str) -> str:
        return unquote(self.http.cookies[f"better-auth.{name}"])

    def _got(self, path: str) -> str:
        answer = self.http.get(path)
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["token"]
        return token


def key_id(token: str) -> str:
    kid: str = jwt.get_unverified_header(token)["kid"]
    return kid
