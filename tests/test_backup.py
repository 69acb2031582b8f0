"""Does what docs/operations.md says about backups bring everything back, while the application is used?"""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest
from databases import ask
from faults.load import Load
from people import User
from servers import ACCOUNT, ROOT, Postgres, application, folder, program, until

from backend.schema.migrate import upgrade

pytestmark = pytest.mark.spec("FR-034")

SECTION = (ROOT / "docs/operations.md").read_text().split("## Back up and restore\n")[1].split("\n## ")[0]
DUMP, RESTORE, BASE, RECOVER = re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)
ARCHIVE = dict(re.findall(r"^(archive_\w+) = '?(.*?)'?$", SECTION, re.MULTILINE))
EVERYTHING = "SELECT count(*) || md5(string_agg(task::text, ' ' ORDER BY id)) FROM task"


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with folder() as home:
        yield home


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Postgres]:
    """A server that archives as the page says."""
    server = Postgres(home, {"fsync": "off"} | {name: there(home, value) for name, value in ARCHIVE.items()})
    server.start()
    upgrade(server.url())
    yield server
    server.stop()


def there(home: Path, lines: str) -> str:
    return lines.replace("/backup", str(home / "backup"))


def shell(home: Path, lines: str, account: str | None = None, **variables: str) -> str:
    """Run lines of the page."""
    path = f"{Path(program('pg_dump')).parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {"PATH": path, "PYTHONPATH": str(ROOT), **variables}
    command = ["sh", "-ec", there(home, lines)]
    return subprocess.check_output(command, cwd=home, user=account, env=environment, text=True)


async def dumped(home: Path, url: str) -> str:
    """Run the line that dumps, on a snapshot that is looked at here as well; return what is in it."""
    connection = await asyncpg.connect(url)
    async with connection.transaction(isolation="repeatable_read"):
        snapshot = await connection.fetchval("SELECT pg_export_snapshot()")
        line = DUMP.replace("pg_dump", f"pg_dump --snapshot={snapshot}")
        await asyncio.to_thread(shell, home, line, NEON_DATABASE_URL=url)
        everything: str = await connection.fetchval(EVERYTHING)
    await connection.close()
    return everything


def test_a_dump_under_load_comes_back_whole_and_is_served(home: Path, server: Postgres) -> None:
    server.ask("CREATE ROLE todo LOGIN", "CREATE DATABASE empty")
    empty = server.url(database="empty")
    with application(server.url()) as running:
        ann = User(running.base_url)
        with ann.http:
            ann.add("Before the dump")
            tasks = ann.list()
        load = Load(running.address, clients=4, pause=0.01)
        with load.running():
            until(lambda: load.tally.writes > 50, "nothing is written")
            everything = asyncio.run(dumped(home, server.url()))
            written = load.tally.writes
            until(lambda: load.tally.writes > written, "nothing is written after the dump")
        tally = load.verify()

    said = shell(home, RESTORE, EMPTY_DATABASE_URL=empty)

    assert (tally.failed, tally.wrong) == (0, {})
    assert ask(empty, EVERYTHING) == [(everything,)] != ask(server.url(), EVERYTHING)
    assert "The database schema is already up to date." in said
    with (
        application(empty.replace("//app@", "//todo@")) as running,
        httpx.Client(base_url=running.base_url, headers=ann.http.headers, timeout=30) as http,
    ):
        assert http.get(ann.tasks).json() == tasks
        new = http.post(ann.tasks, json={"title": "After the restore"}).json()
    assert ask(empty, "SELECT max(id) FROM task") == [(new["id"],)]


def test_the_moment_before_an_accident_comes_back_under_a_process_that_serves(home: Path, server: Postgres) -> None:
    with application(server.url()) as running:
        ann = User(running.base_url)
        with ann.http:
            ann.add("Before the base backup")
            shell(home, BASE, ACCOUNT, URL=server.url())
            ann.add("After the base backup")
            expected, moment = ann.list(), server.ask("SELECT clock_timestamp()")
            server.ask("DELETE FROM task")
            ann.add("After the accident")
            server.stop()

            shell(home, RECOVER, ACCOUNT, PGDATA=str(server.data), MOMENT=moment)
            server.start()

            until(lambda: server.ask("SELECT pg_is_in_recovery()") == "f", "the recovery does not end")
            until(lambda: ann.http.get("/readyz").status_code == 200, "it is not ready again")
            assert ann.list() == expected
            ann.add("After the restore")
