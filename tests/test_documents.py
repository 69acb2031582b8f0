"""Do the documents say what is so?"""

import inspect
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest

from backend import errors
from backend.auth import jwt
from backend.explain import STEPS

ROOT = Path(__file__).parent.parent
ERRORS = (ROOT / "docs/errors.md").read_text()
README = (ROOT / "README.md").read_text()


def problems() -> list[type[errors.Problem]]:
    classes = [each for _, each in inspect.getmembers(errors, inspect.isclass)]
    return [each for each in classes if issubclass(each, errors.Problem) and hasattr(each, "status")]


@pytest.mark.parametrize("problem", problems(), ids=lambda problem: problem.__name__)
def test_every_status_and_its_detail_stand_in_errors_md(problem: type[errors.Problem]) -> None:
    if problem is errors.Invalid:
        detail = "the first broken rule, naming the field"
    elif problem is errors.Malformed:
        detail = errors.Malformed("").detail
    else:
        detail = problem.detail

    assert f"| {problem.status} | {detail} |" in ERRORS


def test_every_reason_in_the_log_stands_in_errors_md() -> None:
    reasons = {reason for step in STEPS.values() for reason in step}  # those of the verifier, as test_doctor.py holds
    reasons |= set(re.findall(r'(?:Unauthorized|TokenMissing)\("([a-z-]+)"\)', inspect.getsource(jwt.bearer_token)))

    table = ERRORS.split("| reason | status |")[1].split("\n\n")[0]
    documented = {reason for row in table.splitlines() for reason in re.findall(r"`([a-z0-9-]+)`", row.split(" | ")[0])}

    assert documented == reasons | {"foreign-path"}


def test_every_decision_is_short_and_has_its_four_parts() -> None:
    decisions = sorted((ROOT / "docs/decisions").glob("*.md"))

    assert len(decisions) >= 6
    for decision in decisions:
        text = decision.read_text()
        assert len(text.splitlines()) <= 50, decision.name
        assert re.findall(r"^## (\w+)", text, re.MULTILINE) == ["Context", "Decision", "Consequences", "Alternatives"]


def test_every_link_between_documents_leads_somewhere() -> None:
    documents = [each for each in ROOT.glob("**/*.md") if not {".venv", "node_modules"} & set(each.parts)]

    links = [
        (document, link)
        for document in documents
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    ]

    assert [f"{document.name}: {link}" for document, link in links if not (document.parent / link).exists()] == []


@contextmanager
def scratch_copy() -> Iterator[Path]:
    """Copy the tree to where also PostgreSQL's account can go, so that the real .env and .data stay as they are."""
    with TemporaryDirectory() as directory:
        copy = Path(directory)
        copy.chmod(0o755)
        for name in ("backend", "migrations"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".env"))
        for name in ("Makefile", "setup.sh", "pyproject.toml", "requirements-dev.txt"):
            shutil.copy2(ROOT / name, copy / name)
        (copy / ".venv").mkdir()
        for each in (ROOT / ".venv").iterdir():
            (copy / ".venv" / each.name).symlink_to(each)
        (copy / ".venv/.complete").unlink(missing_ok=True)
        (copy / ".venv/.complete").touch()
        yield copy


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


@pytest.mark.spec("SC-010", "FR-006")
def test_the_commands_of_the_readme_do_what_it_says() -> None:
    run, calls, test = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    with scratch_copy() as tree:
        port = free_port()
        # The flags of the make that runs the tests are not those of a person in a terminal.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        environment |= {"PORT": port, "BETTER_AUTH_URL": "http://localhost:3000"}
        outputs = []
        for _ in range(2):
            with subprocess.Popen(
                run.split(), cwd=tree, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
            ) as server:
                wait_until_healthy(server, port)

                commands = calls.replace("8000", port)
                outputs.append(subprocess.check_output(["sh", "-ec", commands], cwd=tree, text=True))
                os.killpg(server.pid, signal.SIGINT)
                banner, _ = server.communicate(timeout=60)

    assert test == "make test\n"
    assert f"http://127.0.0.1:{port}/docs" in banner
    assert "Give the frontend the same BETTER_AUTH_SECRET" in banner
    assert outputs[0].count('"title":"Buy milk"') == 2  # the created task, and the list of one
    assert outputs[1].count('"title":"Buy milk"') == 3  # and one more, beside that of the first run


def wait_until_healthy(server: subprocess.Popen[str], port: str) -> None:
    while server.poll() is None:
        try:
            httpx.get(f"http://127.0.0.1:{port}/health")
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("the server did not come up")
