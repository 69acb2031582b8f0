"""Who calls the API in the tests, and with which token?"""

import time
from typing import Any
from uuid import uuid4

import httpx
import jwt

SECRET = "a secret of thirty-two bytes or more"
ORIGIN = "http://localhost:3000"


def signed(user_id: str, *, secret: str = SECRET, **claims: Any) -> str:
    """Return a token as Better Auth's jwt plugin would sign it for this user, with these claims changed."""
    now = int(time.time())
    usual = {"sub": user_id, "iss": ORIGIN, "aud": ORIGIN, "iat": now, "exp": now + 900}
    return jwt.encode(usual | claims, secret, algorithm="HS256")


def lasting(user_id: str) -> str:
    """Return a token for a load that runs for longer than tokens live."""
    return signed(user_id, exp=int(time.time()) + 86_400)


class User:
    """A person who is signed in; `tasks` is the path of their own list."""

    def __init__(self, base_url: str, **claims: Any) -> None:
        self.id = uuid4().hex
        self.tasks = f"/api/{self.id}/tasks"
        self.token = signed(self.id, **claims)
        self.http = httpx.Client(
            base_url=base_url, headers={"Authorization": f"Bearer {self.token}"}, timeout=30, verify=False
        )

    def add(self, title: str = "Buy milk", **fields: Any) -> dict[str, Any]:
        response = self.http.post(self.tasks, json={"title": title, **fields})
        assert response.status_code == 201, response.text
        task: dict[str, Any] = response.json()
        return task

    def list(self) -> list[dict[str, Any]]:
        tasks: list[dict[str, Any]] = self.http.get(self.tasks).json()
        return tasks
