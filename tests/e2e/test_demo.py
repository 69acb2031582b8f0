"""Does `make demo` hold its promise, and say in one sentence why it cannot?"""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from chromium import browser
from commands import Tree, alive, descendants, one_sentence, scratch_tree
from servers import free_port, until

from backend.development import frontend
from backend.errors import OperatorError


@pytest.fixture(scope="module")
def tree() -> Iterator[Tree]:
    """A copy, so that the real .env and .data stay as they are; the frontend is the one that has been built."""
    with scratch_tree() as tree:
        (tree.root / "frontend").symlink_to(frontend.DIRECTORY)
        yield tree


def demo(port: int, frontend_port: int) -> list[str]:
    return ["backend", "demo", "--port", str(port), "--frontend-port", str(frontend_port)]


def test_one_command_serves_everything_and_leaves_nothing(tree: Tree) -> None:
    browser()
    backend_port, port = free_port(), free_port()
    with tree.running(*demo(backend_port, port)) as running:
        running.said("Ctrl-C", patience=280)  # The frontend may have to be built.

        page = httpx.get(f"http://localhost:{port}")
        person = {"name": "Ada", "email": "ada@example.com", "password": "correct horse battery"}
        with httpx.Client(base_url=f"http://localhost:{port}", headers={"Origin": f"http://localhost:{port}"}) as ada:
            user = ada.post("/api/auth/sign-up/email", json=person).json()["user"]
            token = ada.get("/api/auth/token").json()["token"]
        tasks = f"http://localhost:{backend_port}/api/{user['id']}/tasks"
        created = httpx.post(tasks, json={"title": "Buy milk"}, headers={"Authorization": f"Bearer {token}"})
        started = len(descendants(running.process.pid))
        status, left = running.stop(signal.SIGINT)

    assert f"http://localhost:{port}" in running.output
    assert page.status_code == 200
    assert created.status_code == 201, created.text
    assert started >= 2  # the frontend and PostgreSQL
    assert (status, left) == (0, set()), running.output


def test_a_port_that_is_taken_is_named(tree: Tree) -> None:
    browser()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for ports in ((port, free_port()), (free_port(), port)):
            result = tree.run(*demo(*ports))

            assert str(port) in one_sentence(result)


def test_a_missing_or_old_node_is_named(tree: Tree, tmp_path: Path) -> None:
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
        result = tree.run(*demo(free_port(), free_port()), variables={"PATH": str(path)})

        assert one_sentence(result) == sentence


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


def test_a_frontend_that_ends_by_itself_takes_the_rest_with_it(tree: Tree) -> None:
    browser()
    with tree.running(*demo(free_port(), free_port())) as running:
        running.said("Ctrl-C", patience=280)
        family = descendants(running.process.pid)
        os.kill(next(pid for pid in family if b"next" in Path(f"/proc/{pid}/cmdline").read_bytes()), signal.SIGKILL)
        status = running.process.wait(60)
        left = alive(family)

    assert "The frontend has ended by itself, so the rest stops too." in running.output
    assert (status, left) == (0, set())


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A program in the place of Next.js, which a test writes."""
    browser()
    program = tmp_path / frontend.NEXT
    program.parent.mkdir(parents=True)
    monkeypatch.setattr(frontend, "DIRECTORY", tmp_path)
    return program


def test_a_frontend_that_does_not_start_is_named(stand_in: Path) -> None:
    stand_in.write_text("process.exit(1)")

    with pytest.raises(OperatorError, match="did not start"), frontend.serving(free_port(), {}):
        pass


def test_a_frontend_that_is_deaf_to_a_polite_stop_is_killed(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontend, "STOP_SECONDS", 0.1)
    port = free_port()
    stand_in.write_text(f"process.on('SIGTERM', () => {{}}); require('net').createServer().listen({port}, '127.0.0.1')")

    with frontend.serving(port, {}):
        pass

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


LAUNCHER = """
import pathlib, sys
from backend.development import frontend
frontend.DIRECTORY = pathlib.Path(sys.argv[1])
with frontend.serving(int(sys.argv[2]), {}):
    print("serving", flush=True)
    sys.stdin.read()
"""


def test_a_frontend_ends_with_a_parent_that_is_killed(stand_in: Path, tmp_path: Path) -> None:
    port = free_port()
    stand_in.write_text(f"require('net').createServer().listen({port}, '127.0.0.1')")
    command = [sys.executable, "-c", LAUNCHER, str(tmp_path), str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout
        assert launcher.stdout.readline() == b"serving\n"
        family = descendants(launcher.pid)
        launcher.kill()

    until(lambda: not alive(family), "the frontend goes on")


def test_a_frontend_is_installed_and_built_again_only_after_a_change(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    npm, directory = tmp_path / "bin" / "npm", tmp_path / "frontend"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\nmkdir -p node_modules .next\n")
    npm.chmod(0o755)
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{npm.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(frontend, "DIRECTORY", directory)

    done: list[list[str]] = []
    for changed in ("package-lock.json", None, "page.tsx", "package-lock.json"):
        if changed:
            (directory / changed).write_text(f"changed after {done}")
        said: list[str] = []
        frontend.build(said.append)
        done.append([text.partition(" ")[0] for text in said])

    assert done == [["Installing", "Building"], [], ["Building"], ["Installing", "Building"]]
