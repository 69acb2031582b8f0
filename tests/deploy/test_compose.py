"""Does deploy/compose make one application of its parts? They run here without containers, set as its file says."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
import yaml
from deploy.through_proxy import ThroughProxy
from deploy.tools import path
from faults.befall import GUARD
from people import SECRET
from servers import ROOT, Postgres, answers, debian_postgres, folder, free_port, until

from backend.development import frontend

RECIPE = ROOT / "deploy/compose"
RESTARTS = 10


class Stack:
    """The services of compose.yaml, with ports of this machine in the place of names."""

    def __init__(self, database: Postgres) -> None:
        self.port, self._backend, self._frontend = free_port(), free_port(), free_port()
        self.address = ("127.0.0.1", self.port)
        self.url = f"http://localhost:{self.port}"
        self._names = {
            "https://${DOMAIN:?}": self.url,
            "${DOMAIN:?}": self.url,
            "todo:${DATABASE_PASSWORD:?}@database/todo": f"app@localhost:{database.port}/postgres",
            "${BETTER_AUTH_SECRET:?}": SECRET,
            "frontend:3000": f"127.0.0.1:{self._frontend}",
            "backend:8000": f"127.0.0.1:{self._backend}",
        }
        self._services: Any = yaml.safe_load((RECIPE / "compose.yaml").read_text())["services"]

    def _here(self, text: str) -> str:
        for name, here in self._names.items():
            text = text.replace(name, here)
        return text

    def environment(self, service: str) -> dict[str, str]:
        return {name: self._here(value) for name, value in self._services[service]["environment"].items()}

    def migrate(self) -> None:
        subprocess.run(**self._started("migrate"), check=True)

    def backend(self) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(**self._started("backend"), stderr=subprocess.DEVNULL)
        until(lambda: answers(f"http://127.0.0.1:{self._backend}"), "the backend does not start")
        return process

    def _started(self, service: str) -> dict[str, Any]:
        _, *arguments = self._services[service]["command"]
        variables = {**os.environ, **self.environment(service), "PORT": str(self._backend)}
        return {"args": [sys.executable, *arguments], "cwd": ROOT, "env": variables}

    @contextmanager
    def running(self) -> Iterator["Stack"]:
        with ExitStack() as stack:
            frontend.build(print)
            frontend.migrate(self.environment("frontend-migrate"))
            stack.enter_context(frontend.serving(self._frontend, self.environment("frontend")))
            home = stack.enter_context(folder())
            (home / "Caddyfile").write_text("{\n\tadmin off\n}\n" + self._here((RECIPE / "Caddyfile").read_text()))
            caddy = subprocess.Popen(
                [path("caddy"), "run", "--adapter", "caddyfile", "--config", str(home / "Caddyfile")],
                env={**os.environ, "HOME": str(home), **self.environment("proxy")}, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            stack.callback(caddy.wait, GUARD)
            stack.callback(caddy.terminate)
            until(self._served, "Caddy does not start")
            yield self

    def _served(self) -> bool:
        try:
            socket.create_connection(self.address, 1).close()
        except OSError:
            return False
        return True


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with debian_postgres() as database, Stack(database).running() as stack:
        stack.migrate()
        yield stack


@pytest.mark.long
@pytest.mark.timeout(900)
def test_who_signs_up_has_tasks(stack: Stack) -> None:
    backend = stack.backend()
    try:
        with httpx.Client(base_url=stack.url, headers={"Origin": stack.url}, timeout=GUARD) as person:
            new = {"name": "Alice", "email": "alice@example.com", "password": "correct horse battery"}
            user = person.post("/api/auth/sign-up/email", json=new).json()["user"]["id"]
            token = person.get("/api/auth/token").json()["token"]
            headers = {"Authorization": f"Bearer {token}"}
            created = person.post(f"/api/{user}/tasks", json={"title": "Buy milk"}, headers=headers)
            page = person.get("/")
    finally:
        backend.terminate()
        code = backend.wait(GUARD)

    assert (created.status_code, created.json()["title"]) == (201, "Buy milk")
    assert re.search("<title>.*Todo", page.text)
    assert code == 0


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_new_backend_fails_no_request(stack: Stack) -> None:
    backend = stack.backend()
    load = ThroughProxy(stack.address, origin=stack.url)
    began = time.monotonic()
    try:
        with load.running():
            for _ in range(RESTARTS):
                backend.send_signal(signal.SIGTERM)
                backend.wait(GUARD)
                backend = stack.backend()
            time.sleep(0.5)
        tally, seconds = load.verify(), time.monotonic() - began
    finally:
        backend.terminate()
        backend.wait(GUARD)

    rate = tally.requests / seconds
    print(f"\n{RESTARTS} times another backend: {tally.requests} requests ({rate:.0f}/s), {tally.failures}")
    assert tally.failures == {}
    assert tally.wrong == {}
