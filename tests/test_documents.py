"""Do the documents say what is so?"""

import inspect
import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import Tree, scratch_tree
from servers import free_port

from backend import errors
from backend.auth import jwt
from backend.commands.token_advice import STEPS

ROOT = Path(__file__).parent.parent
ERRORS = (ROOT / "docs/errors.md").read_text()
README = (ROOT / "README.md").read_text()


def problems() -> list[type[errors.Problem]]:
    classes = [each for _, each in inspect.getmembers(errors, inspect.isclass)]
    return [each for each in classes if issubclass(each, errors.Problem) and hasattr(each, "status")]


@pytest.mark.parametrize("problem", problems(), ids=lambda problem: problem.__name__)
def test_every_status_and_its_detail_stand_in_errors_md(problem: type[errors.Problem]) -> None:
    detail = "the first broken rule, naming the field" if problem is errors.Invalid else problem.detail

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
def tree_that_is_set_up() -> Iterator[Tree]:
    """A copy in which `make` finds its files, and a .venv that is complete."""
    with scratch_tree() as tree:
        for name in ("Makefile", "setup.sh", "requirements-dev.txt"):
            shutil.copy2(ROOT / name, tree.root)
        venv = tree.root / ".venv"
        venv.mkdir()
        for each in (ROOT / ".venv").iterdir():
            (venv / each.name).symlink_to(each)
        (venv / ".complete").unlink(missing_ok=True)
        (venv / ".complete").touch()
        yield tree


VERSION = re.compile(r"([A-Z][A-Za-z. ]*|asyncpg|uvicorn) (\d[\d.]*\d)")
LOCK_NAMES = {"Better Auth": "better-auth", "Next.js": "next"}


def locked_versions() -> set[tuple[str, str]]:
    versions = {*re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)}
    for project in ("tests/better_auth", "tests/frontends/connect", "frontend"):
        versions |= {*json.loads((ROOT / project / "package.json").read_text())["dependencies"].items()}
    return versions


def test_the_versions_last_seen_green_are_the_locked_ones() -> None:
    sentence = README.partition("Last seen green with ")[2].partition("`make newest`")[0]

    named = {LOCK_NAMES.get(name, name.lower()): version for name, version in VERSION.findall(sentence)}

    assert len(named) == 9
    assert set(named.items()) == {(name, version) for name, version in locked_versions() if name in named}
    assert f"Better Auth {named['better-auth']} " in (ROOT / "docs/better-auth.md").read_text()


@pytest.mark.spec("SC-010", "FR-006")
def test_the_commands_of_the_readme_do_what_it_says() -> None:
    run, calls, test = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    with tree_that_is_set_up() as tree:
        port = str(free_port())
        outputs = []
        for _ in range(2):
            with tree.started(run.split(), variables={"PORT": port}) as server:
                server.answers(f"http://127.0.0.1:{port}/health")

                commands = calls.replace("8000", port)
                outputs.append(subprocess.check_output(["sh", "-ec", commands], cwd=tree.root, text=True))
                server.stop(signal.SIGINT)

    assert test == "make test\n"
    assert f"http://127.0.0.1:{port}/docs" in server.output
    assert "Give the frontend the same BETTER_AUTH_SECRET" in server.output
    assert outputs[0].count('"title":"Buy milk"') == 2  # the created task, and the list of one
    assert outputs[1].count('"title":"Buy milk"') == 3  # and one more, beside that of the first run
