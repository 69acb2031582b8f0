"""Does `make demo` hold its promise, and say in one sentence why it cannot?"""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
from chromium import browser

from backend import frontend
from backend.errors import OperatorError

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def tree() -> Iterator[Path]:
    """A copy, so that the real .env and .data stay as they are; the frontend is the one that has been built."""
    with TemporaryDirectory() as directory:
        copy = Path(directory)
        copy.chmod(0o755)  # PostgreSQL's account must be able to go there.
        for name in ("backend", "migrations"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".env"))
        (copy / "frontend").symlink_to(ROOT / "frontend")
        yield copy


def demo(tree: Path, port: int, frontend_port: int, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "backend", "demo", "--port", str(port), "--frontend-port", str(frontend_port)]
    return subprocess.Popen(
        command,
        cwd=tree,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def descendants(pid: int) -> list[int]:
    children = [
        int(child) for file in Path("/proc", str(pid), "task").glob("*/children") for child in file.read_text().split()
    ]
    return [*children, *(each for child in children for each in descendants(child))]


def test_one_command_serves_everything_and_leaves_nothing(tree: Path) -> None:
    browser()
    backend_port, port = free_port(), free_port()
    with demo(tree, backend_port, port) as running:
        assert running.stdout
        said = ""
        while "Ctrl-C" not in said and (line := running.stdout.readline()):
            said += line
        assert f"http://localhost:{port}" in said, said

        page = httpx.get(f"http://localhost:{port}")
        person = {"name": "Ada", "email": "ada@example.com", "password": "correct horse battery"}
        with httpx.Client(base_url=f"http://localhost:{port}", headers={"Origin": f"http://localhost:{port}"}) as ada:
            user = ada.post("/api/auth/sign-up/email", json=person).json()["user"]
            token = ada.get("/api/auth/token").json()["token"]
        tasks = f"http://localhost:{backend_port}/api/{user['id']}/tasks"
        created = httpx.post(tasks, json={"title": "Buy milk"}, headers={"Authorization": f"Bearer {token}"})
        started = descendants(running.pid)
        os.kill(running.pid, signal.SIGINT)
        rest = running.stdout.read()

    assert page.status_code == 200
    assert created.status_code == 201, created.text
    assert running.returncode == 0, rest
    assert len(started) >= 2  # the frontend and PostgreSQL
    assert [pid for pid in started if Path("/proc", str(pid)).exists()] == []


def test_a_port_that_is_taken_is_named(tree: Path) -> None:
    browser()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for backend_port, frontend_port in ((port, free_port()), (free_port(), port)):
            with demo(tree, backend_port, frontend_port) as running:
                said, _ = running.communicate()

            assert running.returncode == 1
            assert str(port) in said
            assert len(said.splitlines()) == 1, said


def test_a_missing_or_old_node_is_named(tree: Path, tmp_path: Path) -> None:
    old = tmp_path / "node"
    old.write_text("#!/bin/sh\necho v18.19.0\n")
    old.chmod(0o755)
    (tmp_path / "npm").write_text("#!/bin/sh\n")
    (tmp_path / "npm").chmod(0o755)
    empty = tmp_path / "empty"
    empty.mkdir()

    for path, sentence in (
        (empty, "The frontend needs Node.js 20 or newer with npm: install it from nodejs.org."),
        (tmp_path, "The frontend needs Node.js 20 or newer, and this is v18.19.0."),
    ):
        with demo(tree, free_port(), free_port(), PATH=str(path)) as running:
            said, _ = running.communicate()

        assert running.returncode == 1
        assert said == f"{sentence}\n"


def test_an_unreachable_registry_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    browser()
    for name in ("package.json", "package-lock.json"):
        shutil.copy2(frontend.DIRECTORY / name, tmp_path / name)
    monkeypatch.setattr(frontend, "DIRECTORY", tmp_path)
    monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
    monkeypatch.setenv("npm_config_fetch_retries", "0")

    with pytest.raises(OperatorError, match="the npm registry cannot be reached"):
        frontend.install(lambda _: None)
