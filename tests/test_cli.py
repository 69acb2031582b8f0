"""Do the commands do what they say, from the first start to the last Ctrl-C?"""

import asyncio
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import jwt
import pytest
import uvicorn
import uvloop
from commands import Running, Tree, alive, descendants, one_sentence, scratch_tree
from databases import ask, execute, own_database
from people import ORIGIN, SECRET, User, signed
from servers import free_port
from typer.testing import CliRunner

from backend import __version__
from backend.commands.cli import cli
from backend.development.embedded import embedded_postgres
from backend.errors import OperatorError
from backend.schema.migrate import is_current, upgrade
from backend.server import run as server

ROOT = os.geteuid() == 0
TOKEN = r"^(eyJ[\w-]+\.[\w-]+\.[\w-]+)$"


@pytest.fixture(scope="module")
def tree() -> Iterator[Tree]:
    """A copy in which nothing is ever started."""
    with scratch_tree() as tree:
        yield tree


@pytest.fixture
def fresh() -> Iterator[Tree]:
    with scratch_tree() as tree:
        yield tree


@pytest.fixture
def database(database_url: str) -> Iterator[str]:
    with own_database(database_url) as url:
        yield url


def production(url: str, **more: str) -> dict[str, str]:
    return {"BETTER_AUTH_SECRET": SECRET, "BETTER_AUTH_URL": ORIGIN, "NEON_DATABASE_URL": url, **more}


# --- dev


@dataclass
class Made:
    """What a first `dev` said, did and left, before it was stopped with Ctrl-C."""

    tree: Tree
    port: int
    output: str
    created: str
    docs: int
    env_file: str
    status: int
    left: set[int]
    started: int


@pytest.fixture(scope="module")
def made() -> Iterator[Made]:
    with scratch_tree() as tree:
        port = free_port()
        with tree.running("backend", "dev", "--port", str(port)) as running:
            line = running.said("^curl .*$")
            shell = subprocess.run(
                ["sh", "-c", line + " -sS -w ' %{http_code}'"], capture_output=True, text=True, check=True
            )
            docs = running.answers(f"http://127.0.0.1:{port}/docs").status_code
            running.said("Press Ctrl-C")
            started = len(descendants(running.process.pid))
            status, left = running.stop(signal.SIGINT)
        env_file = tree.env_file.read_text()
        yield Made(tree, port, running.output, shell.stdout, docs, env_file, status, left, started)


def test_dev_says_which_database_address_documentation_user_and_token(made: Made) -> None:
    address = f"http://127.0.0.1:{made.port}"

    assert f"Todo API        {address}\n" in made.output
    assert f"Documentation   {address}/docs\n" in made.output
    assert "Database        embedded PostgreSQL, for development only\n" in made.output
    assert "demo-user" in made.output
    assert re.search(TOKEN, made.output, re.MULTILINE)
    assert "Give the frontend the same BETTER_AUTH_SECRET" in made.output
    assert "Traceback" not in made.output
    assert made.docs == 200


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_curl_line_that_dev_prints_creates_a_task(made: Made) -> None:
    assert made.created.endswith(" 201")
    assert '"title":"Buy milk"' in made.created


def test_ctrl_c_ends_dev_with_status_0_and_leaves_no_process(made: Made) -> None:
    assert made.started >= 5  # PostgreSQL and its workers
    assert (made.status, made.left) == (0, set())


@pytest.mark.spec("FR-020")
def test_dev_writes_a_private_env_file_with_a_secret_of_32_bytes(made: Made) -> None:
    example = (made.tree.root / "backend" / ".env.example").read_text()

    secret = re.findall("^BETTER_AUTH_SECRET=([0-9a-f]{64})$", made.env_file, re.MULTILINE)

    assert len(secret) == 1
    assert made.env_file.replace(secret[0], "") == example
    assert made.tree.env_file.stat().st_mode & 0o777 == 0o600
    assert secret[0] not in made.output


@pytest.mark.spec("SC-004")
def test_a_second_dev_finds_the_tasks_keeps_the_secret_and_ends_at_sigterm(made: Made) -> None:
    token = re.findall(TOKEN, made.output, re.MULTILINE)[0]
    with made.tree.running("backend", "dev", "--port", str(made.port)) as running:
        running.said("Press Ctrl-C")

        tasks = httpx.get(
            f"http://127.0.0.1:{made.port}/api/demo-user/tasks", headers={"Authorization": f"Bearer {token}"}
        )
        status, left = running.stop(signal.SIGTERM)

    assert [task["title"] for task in tasks.json()] == ["Buy milk"]
    assert made.tree.env_file.read_text() == made.env_file
    assert "Wrote" not in running.output
    assert (status, left) == (0, set())


def test_dev_with_its_data_in_use_says_by_whom(made: Made) -> None:
    with embedded_postgres(made.tree.data):
        result = made.tree.run("backend", "dev", "--port", str(free_port()))

    assert f"is in use by process {os.getpid()}: stop that one first." in one_sentence(result)


def test_dev_with_data_of_another_version_says_so_and_keeps_it(fresh: Tree) -> None:
    version = fresh.data / "data" / "PG_VERSION"
    version.parent.mkdir(parents=True)
    version.write_text("17\n")

    result = fresh.run("backend", "dev", "--port", str(free_port()))

    assert "belongs to PostgreSQL 17, and this is 18" in one_sentence(result)
    assert version.read_text() == "17\n"


def test_a_port_that_is_taken_is_one_sentence_and_nothing_is_started(tree: Tree) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])

        result = tree.run("backend", "dev", "--port", port)

    assert f"127.0.0.1:{port}" in one_sentence(result)
    assert "--port" in result.stderr
    assert not tree.env_file.exists()
    assert not tree.data.exists()


def test_without_write_permission_dev_names_the_file_and_starts_nothing(fresh: Tree) -> None:
    fresh.env_file.parent.chmod(0o555)
    powers = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if ROOT else ()

    result = fresh.run("backend", "dev", "--port", str(free_port()), prefix=powers)

    assert one_sentence(result) == f"{fresh.env_file} cannot be written: Permission denied."
    assert not fresh.env_file.exists()
    assert not fresh.data.exists()


def test_dev_uses_the_database_that_is_named_and_starts_none(fresh: Tree, database: str) -> None:
    port = free_port()
    variables = {"NEON_DATABASE_URL": database}

    with fresh.running("backend", "dev", "--port", str(port), variables=variables) as running:
        running.said("Press Ctrl-C")
        status, _ = running.stop(signal.SIGTERM)

    assert "the one that NEON_DATABASE_URL names" in running.output
    assert status == 0
    assert is_current(database)
    assert not fresh.data.exists()


def test_dev_with_reload_starts_again_when_a_file_changes_and_stops_clean(fresh: Tree, database: str) -> None:
    port = free_port()
    main = fresh.root / "backend" / "main.py"
    document = f"http://127.0.0.1:{port}/openapi.json"
    variables = {"NEON_DATABASE_URL": database}
    with fresh.running("backend", "dev", "--port", str(port), "--reload", variables=variables) as running:
        first = running.answers(document).json()["info"]["title"]

        main.write_text(main.read_text().replace('title="Todo API"', 'title="Changed"'))
        deadline = time.monotonic() + 60
        while (second := running.answers(document).json()["info"]["title"]) == first:
            assert time.monotonic() < deadline, running.output
            time.sleep(0.05)
        status, left = running.stop(signal.SIGINT)

    assert (first, second) == ("Todo API", "Changed")
    assert (status, left) == (0, set())
    assert "Traceback" not in running.output


# --- serve


def assert_production(running: Running, address: str) -> None:
    health = running.answers(f"{address}/health")
    assert health.status_code == 200
    assert "server" not in health.headers
    for path in ("/docs", "/openapi.json", "/redoc"):
        assert httpx.get(address + path).status_code == 404


@pytest.mark.spec("FR-016", "SC-010")
def test_serve_with_two_workers_answers_as_production_and_ends_at_sigterm(tree: Tree, database: str) -> None:
    upgrade(database)
    port = str(free_port())
    # Whatever the environment says, this command is production.
    variables = production(database, ENVIRONMENT="development", WORKERS="2")
    with tree.running("backend", "serve", "--port", port, variables=variables) as running:
        assert_production(running, f"http://127.0.0.1:{port}")
        running.said("2 workers")
        user = User(f"http://127.0.0.1:{port}")
        with user.http:
            task = user.add()
            listed = user.list()
        status, left = running.stop(signal.SIGTERM)

    assert listed == [task]
    assert (status, left) == (0, set())
    assert SECRET not in running.output
    assert user.token not in running.output
    assert not tree.env_file.exists()
    assert not tree.data.exists()


def test_several_clients_are_accepted_in_one_iteration_of_the_event_loop() -> None:
    accepted: list[int] = []

    class Client(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted[-1] += 1
            transport.close()

    async def count(sockets: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        servers = [await loop.create_server(Client, sock=each) for each in sockets]
        for _ in range(10):
            accepted.append(0)
            await asyncio.sleep(0)
        for each in servers:
            each.close()

    with server.listener("127.0.0.1", 0) as taken, ExitStack() as clients:
        taken.listen(4 * server.ACCEPTED_PER_ITERATION)
        for _ in range(4 * server.ACCEPTED_PER_ITERATION):
            clients.enter_context(socket.create_connection(taken.getsockname()))
        uvloop.run(count(server.several(taken)))

    assert sum(accepted) == 4 * server.ACCEPTED_PER_ITERATION
    assert max(accepted) == server.ACCEPTED_PER_ITERATION


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="left out: this system keeps IPv6 and IPv4 apart")
def test_every_address_of_ipv6_is_every_address_of_ipv4_too() -> None:
    with server.listener("::", 0) as taken:
        taken.listen()
        socket.create_connection(("127.0.0.1", taken.getsockname()[1]), 5).close()


@pytest.mark.spec("FR-016")
def test_serve_shows_the_documentation_only_when_told_and_ends_at_ctrl_c(tree: Tree, database: str) -> None:
    port = str(free_port())
    variables = production(database, API_DOCS="true")
    with tree.running("backend", "serve", "--port", port, variables=variables) as running:
        docs = running.answers(f"http://127.0.0.1:{port}/docs")
        document = running.answers(f"http://127.0.0.1:{port}/openapi.json")
        status, left = running.stop(signal.SIGINT)

    assert docs.status_code == document.status_code == 200
    assert "server" not in docs.headers
    assert (status, left) == (0, set())


def test_serve_listens_where_host_and_port_say_and_its_options_win(tree: Tree, database: str) -> None:
    ports = [str(free_port()) for _ in range(2)]
    with (
        tree.running("backend", "serve", variables=production(database, HOST="127.0.0.2", PORT=ports[0])) as told,
        tree.running(
            "backend", "serve", "--host", "127.0.0.3", "--port", ports[1],
            variables=production(database, HOST="127.0.0.2", PORT=ports[0]),
        ) as given,
    ):  # fmt: skip
        assert told.answers(f"http://127.0.0.2:{ports[0]}/livez").status_code == 200
        assert given.answers(f"http://127.0.0.3:{ports[1]}/livez").status_code == 200


def test_what_is_not_done_when_the_time_to_drain_is_over_is_cut_off(tree: Tree, database: str) -> None:
    port = free_port()
    with tree.running("backend", "serve", variables=production(database, PORT=str(port), DRAIN_SECONDS="1")) as running:
        running.answers(f"http://127.0.0.1:{port}/livez")
        with socket.create_connection(("127.0.0.1", port)) as unfinished:
            unfinished.sendall(b"POST /api/u/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n")
            unfinished.sendall(f"Authorization: Bearer {signed('u')}\r\n\r\n".encode())
            began = time.monotonic()
            status, left = running.stop(signal.SIGTERM)

    assert '"event":"cut-off"' in running.output
    assert (status, left) == (0, set())
    assert time.monotonic() - began < 30  # the default, and what a body may take


@pytest.mark.spec("FR-020", "FR-006")
def test_serve_never_falls_back_to_the_embedded_database(tree: Tree) -> None:
    variables = production("", ENVIRONMENT="development")

    result = tree.run("backend", "serve", "--port", str(free_port()), variables=variables)

    assert result.returncode == 1
    assert "NEON_DATABASE_URL is missing" in result.stderr
    assert "Traceback" not in result.stderr
    assert not tree.data.exists()


@pytest.mark.spec("SC-014")
def test_serving_loads_nothing_that_it_does_not_use(tree: Tree) -> None:
    serve = "import backend.commands.cli; from backend.main import app"
    imports = "import asyncio; from backend.auth.key_set import KeySet; from backend.auth.source import HttpSource"
    fetch = f"{imports}; asyncio.run(KeySet(HttpSource('http://127.0.0.1:1')).find('k'))"
    variables = tree.environment(production("postgresql://u:p@127.0.0.1/todo"))

    loaded = []
    for work in (serve, f"{serve}; {fetch}"):
        program = f"import atexit, sys; atexit.register(lambda: print(*sys.modules)); {work}"
        result = subprocess.run(
            [sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=False
        )
        loaded.append({"alembic", "httpx", "prometheus_client", "rich"} & set(result.stdout.split()))

    assert loaded == [set(), {"httpx", "rich"}]


def test_a_command_loads_no_library_of_the_database_before_it_needs_one(tree: Tree) -> None:
    program = "import sys, backend.commands.cli; print(*sys.modules)"

    result = subprocess.run(
        [sys.executable, "-c", program], env=tree.environment({}), capture_output=True, text=True, check=True
    )

    assert "backend.commands.serve" in result.stdout.split()
    assert not {"sqlmodel", "sqlalchemy", "asyncpg"} & set(result.stdout.split())


def test_a_port_or_address_that_cannot_be_had_is_told_in_plain_words() -> None:
    with server.listener("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        taken.listen()

        with pytest.raises(OperatorError, match=rf"^Cannot listen on 127.0.0.1:{port}: Address already in use\. Is"):
            server.listener("127.0.0.1", port).__enter__()
    with pytest.raises(OperatorError, match=r"^Cannot listen on no-such-host\.invalid:8000: "):
        server.listener("no-such-host.invalid", 8000).__enter__()


async def test_until_a_process_can_serve_its_port_refuses_and_of_two_the_second_is_told() -> None:
    with server.listener("127.0.0.1", 0) as first, server.listener(*first.getsockname()) as second:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(first.getsockname())
        first.listen()

        with pytest.raises(OperatorError, match=r"^Cannot listen on 127.0.0.1:\d+: Address already in use\."):
            await server._Server(uvicorn.Config("none"), lambda: None).startup([second])  # noqa: SLF001


def test_a_number_that_is_no_listening_socket_is_told_in_plain_words() -> None:
    idle = socket.socket().detach()

    with pytest.raises(OperatorError, match=rf"^The socket under number {idle} does not listen\.$"):
        server.inherited(idle).__enter__()
    with pytest.raises(OperatorError, match=rf"^There is no socket under number {idle}: "):
        server.inherited(idle).__enter__()


@pytest.mark.spec("FR-016", "SC-010")
def test_uvicorn_backend_main_app_is_production(tree: Tree, database: str) -> None:
    port = str(free_port())
    command = ("uvicorn", "backend.main:app", "--port", port, "--no-server-header")
    with tree.running(*command, variables=production(database)) as running:
        assert_production(running, f"http://127.0.0.1:{port}")
        _, left = running.stop(signal.SIGTERM)

    assert left == set()
    assert "Traceback" not in running.output


def test_uvicorn_main_app_works_from_within_the_folder(tree: Tree, database: str) -> None:
    upgrade(database)
    port = str(free_port())
    command = ("uvicorn", "main:app", "--port", port, "--no-server-header")
    with tree.running(*command, variables=production(database), folder="backend") as running:
        assert_production(running, f"http://127.0.0.1:{port}")
        user = User(f"http://127.0.0.1:{port}")
        with user.http:
            task = user.add()
            listed = user.list()
        running.stop(signal.SIGTERM)

    assert listed == [task]
    assert "Traceback" not in running.output


# --- migrate, token, help


def test_migrate_makes_the_schema_and_check_tells_before_and_after(
    tree: Tree, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in production(database).items():
        monkeypatch.setenv(name, value)

    before = CliRunner().invoke(cli, ["migrate", "--check"])
    untouched = not is_current(database)
    migrated, again = (tree.run("backend", "migrate", variables={"NEON_DATABASE_URL": database}) for _ in range(2))
    after = CliRunner().invoke(cli, ["migrate", "--check"])

    assert "run `python -m backend migrate`" in str(before.exception)
    assert isinstance(before.exception, OperatorError)
    assert untouched
    assert migrated.returncode == 0
    assert re.findall(r"^Applied (\d+): ", migrated.stdout, re.MULTILINE) == ["0001", "0002"]
    assert (again.returncode, again.stdout) == (0, "The database schema is already up to date.\n")
    assert (after.exit_code, after.stdout) == (0, "The database schema is up to date.\n")


def test_migrate_check_of_a_schema_that_is_behind_fails_with_one_sentence(tree: Tree, database: str) -> None:
    result = tree.run("backend", "migrate", "--check", variables=production(database))

    assert one_sentence(result) == "The database schema is missing or behind: run `python -m backend migrate`."
    assert not is_current(database)


@pytest.mark.spec("FR-030")
def test_migrate_takes_over_what_another_backend_has_left_and_says_so(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(
        database,
        "CREATE TABLE tasks (id serial PRIMARY KEY, user_id text, heading text, done boolean, created_at timestamp)",
        "INSERT INTO tasks (user_id, heading) VALUES ('alice', 'Buy milk')",
    )
    monkeypatch.setenv("NEON_DATABASE_URL", database)

    def said(*arguments: str) -> str:
        result = CliRunner().invoke(cli, ["migrate", *arguments])
        return result.stdout or str(result.exception) + result.stderr

    refused = said("--adopt", "tasks", "--column", "title=heading")
    look = said("--adopt", "tasks", "--column", "title=heading", "--assume-utc", "--dry-run")
    done = said("--adopt", "tasks", "--column", "title=heading", "--time-zone", "Europe/Berlin")

    assert "created_at has no time zone (timestamp without time zone): say --assume-utc or --time-zone" in refused
    assert "Nothing was changed." in look
    assert "The table tasks becomes task, with 1 rows:" in done
    assert "The way back" in done
    assert done.index("The way back") < done.index("Applied 0001") < done.index("Applied 0002")
    assert ask(database, "SELECT title, completed FROM task") == [("Buy milk", False)]


def test_migrate_mentions_a_table_that_looks_like_tasks(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(database, "CREATE TABLE todos (id int, user_id text, title text, done boolean)")
    monkeypatch.setenv("NEON_DATABASE_URL", database)

    result = CliRunner().invoke(cli, ["migrate"])

    assert "The table todos looks like tasks, too: migrate --adopt todos --dry-run" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [["--assume-utc"], ["--adopt", "tasks", "--column", "heading"], ["--adopt", "tasks", "--partitions", "2"]],
)
def test_an_option_of_migrate_that_means_nothing_is_refused(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEON_DATABASE_URL", "postgresql://u:p@127.0.0.1:1/x")

    result = CliRunner().invoke(cli, ["migrate", *arguments])

    assert result.exit_code == 2


@pytest.mark.spec("FR-036")
def test_migrate_makes_partitions(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEON_DATABASE_URL", database)

    sql = CliRunner().invoke(cli, ["migrate", "--partitions", "2", "--sql"]).stdout
    CliRunner().invoke(cli, ["migrate", "--partitions", "2"])

    assert sql.count("PARTITION OF task") == 2
    assert ask(database, "SELECT count(*) FROM pg_partition_tree('task') WHERE level = 1") == [(2,)]


def test_migrate_prints_the_sql_and_goes_back_by_one(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEON_DATABASE_URL", database)
    CliRunner().invoke(cli, ["migrate"])

    sql = CliRunner().invoke(cli, ["migrate", "--down", "--sql"]).stdout
    down = CliRunner().invoke(cli, ["migrate", "--down"]).stdout
    same = CliRunner().invoke(cli, ["migrate", "--to", "0001"]).stdout

    assert "DROP INDEX CONCURRENTLY" in sql
    assert down.startswith("Took back 0002: ")
    assert same == "The database schema is already there.\n"


@pytest.mark.spec("FR-017")
def test_migrate_with_an_unreachable_database_is_one_sentence_without_the_password(tree: Tree) -> None:
    url = f"postgresql://app:swordfish@127.0.0.1:{free_port()}/todo"

    result = tree.run("backend", "migrate", variables=production(url))

    assert one_sentence(result).startswith("The database could not be reached or migrated: ")
    assert "swordfish" not in result.stderr


def test_token_prints_a_bare_token_that_the_api_accepts(tree: Tree, base_url: str) -> None:
    variables = {"BETTER_AUTH_SECRET": SECRET, "BETTER_AUTH_URL": ORIGIN}

    result = tree.run("backend", "token", "Ünï 1", "--expires", "15m", variables=variables)

    token = result.stdout.removesuffix("\n")
    claims = jwt.decode(token, SECRET, algorithms=["HS256"], audience=ORIGIN, issuer=ORIGIN)
    answer = httpx.get(f"{base_url}/api/Ünï%201/tasks", headers={"Authorization": f"Bearer {token}"})
    assert (result.returncode, result.stderr) == (0, "")
    assert claims["sub"] == "Ünï 1"
    assert claims["exp"] - claims["iat"] == 900
    assert (answer.status_code, answer.json()) == (200, [])


@pytest.mark.parametrize(("expires", "seconds"), [("30s", 30), ("15m", 900), ("2h", 7_200), ("7d", 604_800)])
def test_a_token_lives_as_long_as_it_is_told(expires: str, seconds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BETTER_AUTH_SECRET", SECRET)
    monkeypatch.setenv("BETTER_AUTH_URL", ORIGIN)

    result = CliRunner().invoke(cli, ["token", "alice", "--expires", expires])

    claims = jwt.decode(result.stdout.strip(), options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == seconds


@pytest.mark.parametrize("expires", ["", "0m", "15", "m", "-5m", "1.5h", "15 m", "1w", "1h30m", "99999999d", "\u0661h"])
def test_a_duration_that_cannot_be_read_is_refused(expires: str) -> None:
    result = CliRunner().invoke(cli, ["token", "alice", f"--expires={expires}"])

    assert result.exit_code == 2
    assert "such as 15m or 7d" in re.sub(r"[\s│]+", " ", result.stderr)
    assert result.stdout == ""


def test_token_without_a_secret_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BETTER_AUTH_SECRET", "")

    result = CliRunner().invoke(cli, ["token", "alice"])

    assert isinstance(result.exception, OperatorError)
    assert "BETTER_AUTH_SECRET is missing" in str(result.exception)
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([], ["dev", "serve", "migrate", "token", "in production"]),
        (["dev"], ["development", "embedded PostgreSQL", ".data/", "/docs", "token", "--port", "--reload"]),
        (
            ["serve"],
            ["production", "BETTER_AUTH_SECRET", "BETTER_AUTH_URL", "NEON_DATABASE_URL", "--host", "--workers"],
        ),
        (
            ["migrate"],
            ["schema", "NEON_DATABASE_URL", "direct host", "--check", "Change nothing", "--new", "next migration"],
        ),
        (["user"], ["export", "erase", "one user", "NEON_DATABASE_URL"]),
        (["user", "erase"], ["USER_ID", "path of the API", "for good", "--yes", "token"]),
        (["token"], ["HS256", "development", "BETTER_AUTH_SECRET", "--expires", "user's id"]),
    ],
    ids=["all", "dev", "serve", "migrate", "user", "erase", "token"],
)
def test_help_says_what_a_command_does(command: list[str], words: list[str]) -> None:
    result = CliRunner().invoke(cli, [*command, "--help"], env={"COLUMNS": "100", "TERM": "dumb"})

    said = re.sub(r"[\s│]+", " ", result.stdout)
    assert result.exit_code == 0
    assert [word for word in words if word not in said] == []


def test_the_version_is_told() -> None:
    result = CliRunner().invoke(cli, ["--version"])

    assert (result.exit_code, result.stdout) == (0, f"todo-backend {__version__}, Python {platform.python_version()}\n")


def test_the_console_script_is_the_same_program() -> None:
    script = Path(sys.executable).with_name("todo-backend")

    result = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)

    assert "migrate" in result.stdout


def test_processes_are_seen_while_they_live_and_not_after() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        seen = child.pid in descendants(os.getpid()), alive({child.pid})
        child.kill()

    assert seen == (True, {child.pid})
    assert alive({child.pid}) == set()
