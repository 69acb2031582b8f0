"""Do the blocks of docs/connect-your-frontend.md work as they stand there?"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import httpx
import pytest
from chromium import browser, require_node
from databases import own_database
from people import SECRET, signed
from running import serving
from servers import ROOT, application, free_port, listening

from backend.development import frontend
from backend.settings import Settings

DOCUMENT = (ROOT / "docs/connect-your-frontend.md").read_text()
CONNECT = Path(__file__).parent / "connect"

# What a visit puts on the wire, step by step: see connect/visit.mjs.
ADA = "Ada 🌱"
STORY = {
    "nobody is signed in": ["Nobody is signed in.", "token 401"],
    "three requests at once": [*3 * [f"{ADA} 200"], "token 200"],
    "a new task": [f"{ADA} 201"],
    "three at once with an expired token": [*3 * [f"{ADA} 200"], *3 * [f"{ADA} 401"], "token 200"],
    "refused again and again": [*2 * [f"{ADA} 401"], "token 200"],
    "the login fails once": ["The sign-in service cannot be reached.", "token 500"],
    "and is back": [f"{ADA} 200", "token 200"],
    "the next user of the same page": ["0 tasks", "Bob 200", "token 200"],
    "a page that still shows the first": ["Somebody else has signed in.", "token 200"],
    "signed out": ["Nobody is signed in.", "token 401"],
    "the first comes back": ["1 tasks", f"{ADA} 200", "token 200"],
}
# The section, and where it hands out tokens.
SIGNING = {
    "A key pair": "/api/auth/token",
    "The shared secret": "/api/auth/token",
    "A route of your own": "/api/token",
}
# One of them from a page at another address than the login's, and so without Next.js.
ELSEWHERE = {"The shared secret": "http://localhost:3000"}


def section(heading: str) -> str:
    found = re.search(rf"^##+ {re.escape(heading)}\n(.*?)(?=^##+ |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


def files(heading: str) -> dict[str, str]:
    """Return the blocks of a section by the names of files in their first lines."""
    return dict(re.findall(r"```\w+\n(?://|#) (\S+\.\w+).*?\n(.*?)```", section(heading), re.DOTALL))


def write(folder: Path, heading: str, tokens: str) -> None:
    """Write the files of a section, and the tasks.ts that gets its tokens there."""
    call = files("3. Call the API")
    call["tasks.ts"] = replaced(call["tasks.ts"], ('"/api/auth/token"', f'"{tokens}"'))
    for path, text in (files(heading) | call).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


def replaced(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


@dataclass
class Place:
    """Where the parts of a case are: the folder of its scripts, the page, the login and the API."""

    folder: Path
    page: str
    login: str
    api: str

    def visit(self, script: str) -> dict[str, list[str]]:
        """Return what each step of the visit did; requests at once may end in any order."""
        expired = signed(uuid4().hex, exp=int(time.time()) - 1)
        command = ["node", script, self.page, self.login, self.api, expired]
        variables = {**os.environ, "NEXT_PUBLIC_API_URL": self.api}
        run = subprocess.run(command, cwd=self.folder, env=variables, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        return {step: sorted(requests) for step, requests in json.loads(run.stdout).items()}


@pytest.fixture(scope="module")
def tables(database_url: str) -> Iterator[str]:
    """A database for Better Auth."""
    with own_database(database_url) as url:
        yield url


@contextmanager
def without_next(heading: str, tables: str, settings: Settings) -> Iterator[Place]:
    """Serve a section's blocks on Better Auth and Node alone, with the packages of the reference frontend."""
    login = f"http://localhost:{free_port()}"
    page = ELSEWHERE.get(heading, login)
    tokens = SIGNING[heading] if page == login else login + SIGNING[heading]
    origins = {"better_auth_url": login, "cors_origins": (page,), "better_auth_mode": "auto"}
    with TemporaryDirectory() as name, serving(settings.model_copy(update=origins)) as api:
        folder = Path(name)
        write(folder, heading, tokens)
        if (route := folder / "app").exists():
            shutil.move(route / "api/token/route.ts", folder)
        for script in CONNECT.glob("*.mjs"):
            shutil.copy(script, folder)
        (folder / "node_modules").symlink_to(frontend.DIRECTORY / "node_modules")
        variables = {
            "PATH": os.environ["PATH"],
            "BETTER_AUTH_SECRET": SECRET,
            "BETTER_AUTH_URL": login,
            "DATABASE_URL": tables,
            "BETTER_AUTH_TRUSTED_ORIGINS": page,
        }
        with subprocess.Popen(
            ["node", "login.mjs"], cwd=folder, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            yield Place(folder, page, login, api)


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, tables: str, settings: Settings) -> Iterator[Place]:
    require_node()
    frontend.install(print)
    with without_next(request.param, tables, settings) as place:
        yield place


@pytest.mark.spec("SC-005")
@pytest.mark.parametrize("place", SIGNING, indirect=True)
def test_a_visit(place: Place) -> None:
    assert place.visit("page.mjs") == STORY


@pytest.mark.parametrize("place", ["A key pair"], indirect=True)
def test_a_token_by_hand(place: Place, database_url: str, tmp_path: Path) -> None:
    account = {"name": "Ada", "email": f"{uuid4().hex}@example.com", "password": "correct horse battery"}
    user = httpx.post(f"{place.login}/api/auth/sign-up/email", json=account).json()["user"]
    _, lines = re.findall(r"```sh\n(.*?)```", section("5. When it does not work"), re.DOTALL)
    lines = replaced(lines, ("http://localhost:3000", place.login), (".venv/bin/python", sys.executable))
    lines = replaced(lines, ("ada@example.com", account["email"]))
    variables = {"BETTER_AUTH_SECRET": SECRET, "BETTER_AUTH_URL": place.login, "NEON_DATABASE_URL": database_url}
    port = place.api.rpartition(":")[2]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PORT": port, **variables}

    said = subprocess.check_output(["sh", "-ec", lines], cwd=tmp_path, env=environment, text=True)

    assert f"is accepted for the user {user['id']}: call /api/{user['id']}/tasks" in " ".join(said.split())


# How each section's tables are made. `npx auth@latest` needs Node.js 22.12, and Prisma's own migration a program from
# another place than the registry: migrate.mjs makes the same tables.
PREPARED = {
    **dict.fromkeys(SIGNING, ("node migrate.mjs",)),
    "Drizzle": ("npx drizzle-kit push --force",),
    "Prisma": ("node migrate.mjs", "npx prisma generate"),
}


@pytest.fixture(scope="module")
def packages() -> None:
    complete = CONNECT / "node_modules/.complete"
    if not complete.exists() or complete.stat().st_mtime < (CONNECT / "package-lock.json").stat().st_mtime:
        subprocess.run(["npm", "ci", "--loglevel=error"], cwd=CONNECT, check=True)
        complete.touch()


@contextmanager
def in_next(heading: str, database_url: str, tables: str) -> Iterator[Place]:
    """Build a section's blocks into the application in connect/, and serve it and the real backend."""
    folder = CONNECT / "built"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(CONNECT, folder, ignore=shutil.ignore_patterns("node_modules", "package*.json"))
    write(folder, heading, SIGNING.get(heading, "/api/auth/token"))
    port = free_port()
    page = f"http://localhost:{port}"
    with application(database_url, BETTER_AUTH_URL=page) as api, pytest.MonkeyPatch.context() as environment:
        for name, value in {
            "BETTER_AUTH_SECRET": SECRET,
            "BETTER_AUTH_URL": page,
            "DATABASE_URL": tables,
            "NEXT_PUBLIC_API_URL": api.base_url,
            "NEXT_TELEMETRY_DISABLED": "1",
            "CHROMIUM": browser(),
            "PRISMA_SCHEMA_ENGINE_BINARY": "/bin/true",  # for migrations alone, but `generate` would download it
        }.items():
            environment.setenv(name, value)
        for command in (*PREPARED[heading], "npx next build"):
            subprocess.run(command.split(), cwd=folder, check=True)
        start = (str(CONNECT / "node_modules/.bin/next"), "start", "--port", str(port))
        with listening(port, folder / "next.log", *start):
            yield Place(folder, page, page, api.base_url)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("heading", PREPARED)
def test_a_visit_in_next_and_chromium(heading: str, database_url: str) -> None:
    with own_database(database_url) as tables, in_next(heading, database_url, tables) as place:
        seen = place.visit(str(CONNECT / "chromium.mjs"))

    assert seen == STORY
