"""Does the application reach its database as the URL says, and live through what happens to it?"""

import asyncio
import hashlib
import logging
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import httpx
import pytest
from databases import ask, execute, own_database, upgrade, using
from people import User
from relay import READY, error_response, relayed
from running import serving
from servers import certificates, until

from backend.database import statements
from backend.database.connection import Connection
from backend.database.statements import Again, Statement
from backend.database.url import connect_arguments, host, security
from backend.db import Database
from backend.development.embedded import embedded_postgres
from backend.errors import Unavailable
from backend.schema.migrate import BASE, move
from backend.settings import Settings
from backend.telemetry.metrics import Metrics

REPOSITORY = Path(__file__).parents[1]
NEON = "postgresql://neondb_owner:npg_Ab1@ep-cool-darkness-a1b2c3d4-pooler.eu-central-1.aws.neon.tech/neondb"
SESSIONS = "FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'todo-backend %'"
UNAVAILABLE = {"detail": Unavailable.detail}


# --- What the URL says


@dataclass
class Server:
    """What a server that speaks just enough of the protocol has learned about its one caller."""

    port: int
    encrypted: bool = False
    parameters: dict[str, str] = field(default_factory=dict)
    password: str | None = None

    def answer(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.settimeout(30)
            head = connection.recv(8)
            if context and head[4:] == struct.pack("!i", 80877103):  # SSLRequest
                connection.sendall(b"S")
                with context.wrap_socket(connection, server_side=True) as secured:
                    self.encrypted = True
                    self._greet(secured, secured.recv(8))
            else:
                self._greet(connection, head)

    def _greet(self, connection: socket.socket, head: bytes) -> None:
        words = connection.recv(struct.unpack("!i", head[:4])[0] - 8).decode().split("\0")
        self.parameters = dict(zip(words[::2], words[1::2], strict=False))
        connection.sendall(b"R" + struct.pack("!ii", 8, 3))  # AuthenticationCleartextPassword
        self.password = connection.recv(1000)[5:].rstrip(b"\0").decode()


@contextmanager
def listening(context: ssl.SSLContext | None = None) -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        server = Server(listener.getsockname()[1])
        thread = threading.Thread(target=server.answer, args=[listener, context])
        thread.start()
        yield server
        thread.join()


def connect(url: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(**connect_arguments(url))
        await connection.close()

    asyncio.run(run())


@pytest.fixture(scope="module")
def certificate() -> Iterator[Path]:
    """The certificate of an authority that nobody knows; beside it lie those of its server at localhost."""
    with TemporaryDirectory() as directory:
        yield certificates(Path(directory))


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.with_name("server.crt"), certificate.with_name("server.key"))
    return context


@pytest.mark.spec("FR-006")
def test_neons_url_as_it_is_handed_out_verifies_the_server() -> None:
    arguments = connect_arguments(f"{NEON}?sslmode=require&channel_binding=require")

    context = arguments.pop("ssl")
    assert arguments == {"dsn": NEON, "port": 5432}
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.get_ca_certs()


def test_where_the_system_has_no_root_certificates_certifis_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "none"))

    context = connect_arguments(f"{NEON}?sslmode=require&channel_binding=require")["ssl"]

    assert context.get_ca_certs()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("sslmode=require&channel_binding=require", "with TLS and a verified certificate"),
        ("sslmode=verify-full", "with TLS and a verified certificate"),
        ("sslmode=require", "with TLS, the certificate unverified"),
        ("", "perhaps without TLS"),
    ],
)
def test_how_far_a_url_protects_is_said_in_words(options: str, words: str) -> None:
    assert security(f"{NEON}?{options}") == words


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u@h/d", {"dsn": "postgresql://u@h/d"}),
        ("postgres://u@h/d", {"dsn": "postgresql://u@h/d"}),
        ("postgresql+asyncpg://u@h/d", {"dsn": "postgresql://u@h/d"}),
        ("postgresql+psycopg://u@h/d", {"dsn": "postgresql://u@h/d"}),
        ("postgresql://u@h/d?sslmode=require", {"dsn": "postgresql://u@h/d?sslmode=require"}),
        ("postgresql://u@h/d?sslmode=require&channel_binding=prefer", {"dsn": "postgresql://u@h/d?sslmode=require"}),
        ("postgresql://u@h/d?channel_binding=disable", {"dsn": "postgresql://u@h/d"}),
        ("postgresql://u@h/d?connect_timeout=7", {"dsn": "postgresql://u@h/d", "timeout": 7.0}),
        ("postgresql://u@h/d?connect_timeout=0", {"dsn": "postgresql://u@h/d"}),
        ("postgresql://u:p%40%2F%3A%25@h:6543/d", {"dsn": "postgresql://u:p%40%2F%3A%25@h:6543/d", "port": 6543}),
        ("postgresql://u@/d?host=%2Ftmp%2Fa%20b", {"dsn": "postgresql://u@/d?host=%2Ftmp%2Fa%20b"}),
    ],
)
@pytest.mark.spec("FR-006")
def test_a_url_is_what_asyncpg_is_told(url: str, expected: dict[str, object]) -> None:
    assert {"port": 5432} | expected == connect_arguments(url)


@pytest.mark.spec("FR-017", "FR-020")
@pytest.mark.parametrize(
    "url",
    [
        *(f"postgresql://u:MA{each}RKER@h/d" for each in [*'@/?#:%[]\\^|" \t\n\r\0\x7f\xa0é\uff0f', "%4", "%00"]),
        "postgresql://u:1234/MARKER@h/d",
        "postgresql://u:1234?MARKER=1@h/d",
        "postgresql://u:1234#MARKER@h/d",
        "postgresql://u:MARKER@h1,h2/d",
        "postgresql://u:MARKER@h1:1,h2:2/d",
        "postgresql://u:MARKER@/d?host=h1,h2",
        "postgresql://u:MARKER@/d?host=h:5433",
        "postgresql://u:MARKER@h/d\n",
        "postgresql://h/d?password=MA+RKER",
        "postgresql://h/d?password=MA=RKER",
        "postgresql://h/d?password=MA&RKER",
        "postgresql://h/d?password=abc&MARKER=x",
        "postgresql://u:MARKER@h/d?user=MARKER",
        "postgresql://u:MARKER@h/d?host=MARKER",
        "postgresql://u:MARKER@h/d?dbname=MARKER",
        "postgresql://u:MARKER@h:1/d?port=2",
        "postgresql://u:MARKER@h/d?password=MARKER",
        "postgresql://u:MARKER@h/d?sslmode=require&sslmode=disable",
        "postgresql://u:%FFMARKER@h/d",
        "postgresql://u:MARKER@h/d?port=MARKER",
        "postgresql://u:MARKER@h/d?port=65536",
        "postgresql://u:MARKER@h:0/d",
        "postgresql://u:MARKER@h/d?sslmode=require&channel_binding=require&sslrootcert=/nowhere/MARKER",
    ],
)
def test_a_url_that_can_be_read_in_two_ways_is_refused_in_a_sentence(url: str) -> None:
    with pytest.raises(ValueError, match=r"\A[a-z][ -~]{10,250}\Z") as refusal:
        connect_arguments(url)

    assert not {"MARKER", "RKER", "1234"} & set(re.findall(r"\w+", str(refusal.value)))
    assert "MARKER" not in "".join(traceback.format_exception(refusal.value))


@pytest.mark.spec("FR-006")
@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"{NEON}?sslmode=require", NEON[len("postgresql://neondb_owner:npg_Ab1@") : -len("/neondb")]),
        ("postgresql://u:p@ep-a.neon.tech/d?sslmode=require&options=endpoint%3Dep-a", "ep-a.neon.tech"),
        ("postgresql://u:!$&'()*,;=-._~+p@h/d?application_name=a%20b", "h"),
        ("postgresql://u:p@[::1]:6543/d", "::1"),
        ("postgresql://u:p@[fe80::1%25eth0]/d", "fe80::1%eth0"),
        ("postgresql://u:p@10.0.0.1:6543/d?", "10.0.0.1"),
        ("postgresql://u:p@%2Fvar%2Frun%2FpostgreSQL/d", "a socket"),
        ("postgresql:///d?host=/var/run/postgresql&user=u", "a socket"),
        ("postgresql:///d?host=db.example&port=6543&user=u", "db.example"),
    ],
)
def test_what_can_be_read_in_one_way_is_taken_and_its_host_shown(url: str, shown: str) -> None:
    connect_arguments(url)

    assert host(url) == shown


def test_a_shells_port_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for port in ("no number", "5499"):
        monkeypatch.setenv("PGPORT", port)
        with listening() as server, pytest.raises((OSError, asyncpg.PostgresError)):
            connect(f"postgresql://u:secret@127.0.0.1:{server.port}/d?sslmode=disable")

        assert server.password == "secret"
    assert connect_arguments("postgresql://u@h/d")["port"] == 5432


@pytest.mark.parametrize("options", ["sslrootcert=system", "sslmode=verify-full&sslrootcert=system"])
def test_the_systems_root_certificates_are_taken_where_the_url_asks_for_them(options: str) -> None:
    arguments = connect_arguments(f"postgresql://u@h/d?{options}")

    assert arguments["dsn"] == "postgresql://u@h/d"
    assert arguments["ssl"].verify_mode == ssl.CERT_REQUIRED
    assert arguments["ssl"].check_hostname


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("mysql://u@h/d", "does not begin with postgresql://"),
        ("u:MARKER@h/d", "does not begin with postgresql://"),
        ("postgresql://u:MARKER@h:port/d", "more than one way"),
        ("postgresql://u:MARKER@h:99999/d", "is not a URL"),
        ("postgresql://u:MARKER@[h/d", "more than one way"),
        (f"postgresql://u:MARKER@{'h' * 64}/d", "is not a URL"),
        ("postgresql://u:MARKER@/d", "names no host"),
        ("postgresql://u:MARKER@h", "names no database"),
        ("postgresql://u:MARKER@h/", "names no database"),
        ("postgresql://u@h/d?zeta=MARKER&alpha=MARKER&sslmode=require", "options that are not supported: alpha, zeta"),
        ("postgresql://u@h/d?connect_timeout=MARKER", "does not know: connect_timeout"),
        ("postgresql://u@h/d?connect_timeout=-1", "does not know: connect_timeout"),
        ("postgresql://u@h/d?sslmode=disable&channel_binding=require", "without TLS at the same time"),
        ("postgresql://u@h/d?sslmode=prefer&channel_binding=require", "without TLS at the same time"),
        ("postgresql://u@h/d?sslmode=allow&sslrootcert=system", "without TLS at the same time"),
        ("postgresql://u@h/d?sslmode=MARKER", "sslmode"),
        ("postgresql://u@h/d?target_session_attrs=MARKER", "target_session_attrs"),
        ("postgresql://u@h/d?channel_binding=MARKER", "channel_binding"),
    ],
)
@pytest.mark.spec("FR-017", "FR-020")
def test_a_url_that_cannot_work_is_refused_without_a_value(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as refusal:
        connect_arguments(url)

    assert "MARKER" not in str(refusal.value)


@pytest.mark.spec("FR-006")
def test_a_percent_encoded_password_reaches_the_server_decoded() -> None:
    with listening() as server, pytest.raises((OSError, asyncpg.PostgresError)):
        connect(f"postgres://us%40er:p%40ss%2Fw%3Ard%25%20%C3%A9@127.0.0.1:{server.port}/my%20db?sslmode=disable")

    assert server.password == "p@ss/w:rd% é"
    assert (server.parameters["user"], server.parameters["database"]) == ("us@er", "my db")


@pytest.mark.spec("FR-006")
@pytest.mark.parametrize("url", ["postgresql://app@/todo?host={}", "postgresql://?host={}&dbname=todo&user=app"])
def test_a_unix_socket_is_reached_wherever_the_url_names_the_database(database_url: str, url: str) -> None:
    sockets = parse_qs(urlsplit(database_url).query)["host"][0]

    assert ask(connect_arguments(url.format(sockets))["dsn"], "SELECT current_database()::text") == [("todo",)]


@pytest.mark.spec("FR-006")
def test_sslmode_require_alone_encrypts_and_takes_any_certificate(tls: ssl.SSLContext) -> None:
    with listening(tls) as server, pytest.raises((OSError, asyncpg.PostgresError)):
        connect(f"postgresql://u:secret@127.0.0.1:{server.port}/d?sslmode=require")

    assert server.encrypted
    assert server.password == "secret"


@pytest.mark.spec("FR-006")
def test_channel_binding_refuses_a_server_whose_certificate_nobody_knows(tls: ssl.SSLContext) -> None:
    with listening(tls) as server, pytest.raises(ssl.SSLCertVerificationError):
        connect(f"postgresql://u:secret@127.0.0.1:{server.port}/d?sslmode=require&channel_binding=require")

    assert server.password is None


@pytest.mark.spec("FR-006")
def test_channel_binding_takes_a_server_whose_certificate_is_given(tls: ssl.SSLContext, certificate: Path) -> None:
    options = f"sslmode=require&channel_binding=require&sslrootcert={certificate}"

    with listening(tls) as server, pytest.raises((OSError, asyncpg.PostgresError)):
        connect(f"postgresql://u:secret@localhost:{server.port}/d?{options}")

    assert server.password == "secret"


@pytest.mark.spec("FR-006")
def test_a_server_without_tls_never_sees_the_password_where_tls_is_required() -> None:
    def refuse(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(8)
            connection.sendall(b"N")
            seen.append(connection.recv(1000))

    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse, args=[listener])
        thread.start()

        with pytest.raises((OSError, asyncpg.InterfaceError)):
            connect(f"postgresql://u:secret@127.0.0.1:{listener.getsockname()[1]}/d?sslmode=require")

        thread.join()
    assert seen == [b""]


# --- The statements


def test_a_statements_name_comes_from_its_sql_alone() -> None:
    program = "from backend.database import statements; print(*(each.name for each in statements.ALL))"

    elsewhere = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()

    names = [each.name for each in statements.ALL]
    assert names == elsewhere
    hashes = [hashlib.sha256(each.sql.encode()).hexdigest()[:16] for each in statements.ALL]
    assert names == [f"todo_{each.label}_{digest}" for each, digest in zip(statements.ALL, hashes, strict=True)]
    assert len(set(names)) == len(names)


# --- A database of its own


@pytest.fixture
def empty(database_url: str) -> Iterator[str]:
    with own_database(database_url) as url:
        yield url


@pytest.fixture
def database(empty: str) -> str:
    upgrade(empty)
    return empty


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """The application's log, also where an earlier test has configured it."""
    monkeypatch.setattr(logging.getLogger("backend"), "propagate", True)
    return caplog


@contextmanager
def user_of(settings: Settings) -> Iterator[User]:
    with serving(settings) as base_url:
        user = User(base_url)
        with user.http:
            yield user


@asynccontextmanager
async def pool(url: str, *, size: int = 1, deadline: float = 30, prepare: bool = True) -> AsyncIterator[Database]:
    database = Database(url, statements.ALL, pool_size=size, deadline=deadline, prepare=prepare, metrics=Metrics())
    yield database
    await database.close()


def wait_until(url: str, query: str, expected: object) -> None:
    deadline = time.monotonic() + 30
    while (found := ask(url, query)) != [(expected,)]:
        assert time.monotonic() < deadline, f"{query}: {found}"
        time.sleep(0.01)


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Another session holds the table, so that every statement on it waits."""
    entered, leave = threading.Event(), threading.Event()

    async def hold() -> None:
        connection = await asyncpg.connect(url)
        async with connection.transaction():
            await connection.execute("LOCK TABLE task IN ACCESS EXCLUSIVE MODE")
            entered.set()
            await asyncio.to_thread(leave.wait)
        await connection.close()

    thread = threading.Thread(target=asyncio.run, args=[hold()])
    thread.start()
    entered.wait()
    try:
        yield
    finally:
        leave.set()
        thread.join()


def assert_unavailable(response: httpx.Response) -> None:
    assert (response.status_code, response.json()) == (503, UNAVAILABLE)
    assert int(response.headers["Retry-After"]) > 0


@pytest.mark.spec("EC-4")
def test_while_the_database_is_unreachable_every_task_request_gets_503_and_health_200(
    settings: Settings, tmp_path: Path, heard: pytest.LogCaptureFixture
) -> None:
    away = f"postgresql://app:swordfish@/todo?host={tmp_path}"
    with user_of(using(settings, away, request_deadline=0.5)) as alice:
        answers = [
            alice.http.request(method, path, json={"title": "Buy milk"})
            for method, path in [
                ("GET", alice.tasks), ("POST", alice.tasks), ("GET", f"{alice.tasks}/1"), ("PUT", f"{alice.tasks}/1"),
                ("PATCH", f"{alice.tasks}/1/complete"), ("DELETE", f"{alice.tasks}/1"),
            ]
        ]  # fmt: skip
        health = alice.http.get("/health")

    for answer in answers:
        assert_unavailable(answer)
    assert health.status_code == 200
    assert "No connection to the database" in heard.text
    assert heard.text.count("The database cannot serve") == len(answers)
    assert "swordfish" not in heard.text


@pytest.mark.spec("EC-4", "SC-004")
def test_the_service_returns_by_itself_when_the_database_does(settings: Settings) -> None:
    with TemporaryDirectory(prefix="database-", dir="/tmp") as name:
        directory = Path(name)
        with embedded_postgres(directory) as url:
            upgrade(url)

        with user_of(using(settings, url, request_deadline=3)) as alice:
            away = alice.http.get(alice.tasks)
            with embedded_postgres(directory):
                task = alice.add()
            away_again = alice.http.get(alice.tasks)
            with embedded_postgres(directory):
                found = alice.list()

    assert_unavailable(away)
    assert_unavailable(away_again)
    assert found == [task]


@pytest.mark.spec("EC-4")
def test_a_missing_schema_is_503_until_it_is_migrated_without_a_restart(
    settings: Settings, empty: str, heard: pytest.LogCaptureFixture
) -> None:
    with user_of(using(settings, empty)) as alice:
        before = alice.http.post(alice.tasks, json={"title": "Too early"})
        upgrade(empty)
        # What lasts is asked for again after a pause, of less than a second.
        until(lambda: alice.http.get(alice.tasks).status_code == 200, "the schema is not found")
        task = alice.add()
        move(empty, BASE, drop_rows=True)
        between = alice.http.get(alice.tasks)
        upgrade(empty)
        until(lambda: alice.http.get(alice.tasks).status_code == 200, "the schema is not found again")
        after = alice.list()

    assert_unavailable(before)
    assert_unavailable(between)
    assert heard.text.count("schema is missing or behind: run `python -m backend migrate`") >= 2
    assert task["title"] == "Buy milk"
    assert after == []


@pytest.mark.spec("EC-4")
def test_a_schema_that_is_behind_is_503_and_says_so(
    settings: Settings, database: str, heard: pytest.LogCaptureFixture
) -> None:
    execute(database, "ALTER TABLE task DROP COLUMN description")

    with user_of(using(settings, database)) as alice:
        answer = alice.http.get(alice.tasks)

    assert_unavailable(answer)
    assert "schema is missing or behind: run `python -m backend migrate`" in heard.text


@pytest.mark.spec("EC-4")
def test_a_column_whose_type_changes_under_way_costs_no_restart(settings: Settings, database: str) -> None:
    """Plans that were prepared before fail with "cached plan must not change result type" (0A000)."""
    with user_of(using(settings, database, database_pool_size=1)) as alice:
        task = alice.add()
        execute(database, "ALTER TABLE task ALTER COLUMN title TYPE text")

        answers = [alice.http.get(alice.tasks) for _ in range(2)]

    assert {answer.status_code for answer in answers} <= {200, 503}
    assert answers[-1].json() == [task]


def test_a_date_that_python_cannot_hold_is_one_rows_trouble_and_said_in_the_log(
    settings: Settings, database: str, heard: pytest.LogCaptureFixture
) -> None:
    with user_of(using(settings, database, database_pool_size=1)) as alice:
        odd, good = alice.add(), alice.add()
        execute(database, f"UPDATE task SET created_at = '20000-01-01' WHERE id = {odd['id']}")

        listed, read = alice.http.get(alice.tasks), alice.http.get(f"{alice.tasks}/{odd['id']}")
        other = alice.http.get(f"{alice.tasks}/{good['id']}")

    assert (listed.status_code, read.status_code) == (500, 500)
    assert (other.status_code, other.json()) == (200, good)
    assert heard.text.count("has a date before the year 1 or after 9999") == 2
    assert "Traceback" not in heard.text


@pytest.mark.spec("EC-4")
def test_connections_closed_while_idle_cost_no_request(settings: Settings, database: str) -> None:
    with user_of(using(settings, database, database_pool_size=3)) as alice:
        for _ in range(5):
            wait_until(database, f"SELECT count(*) > 0 {SESSIONS}", expected=True)
            ask(database, f"SELECT pg_terminate_backend(pid, 10000) {SESSIONS}")

            answer = alice.http.post(alice.tasks, json={"title": "Buy milk"})

            assert answer.status_code == 201
        assert len(alice.list()) == 5


@pytest.mark.spec("EC-4")
def test_a_request_that_the_database_keeps_waiting_gets_503_and_its_connection_is_not_lost(
    settings: Settings, database: str
) -> None:
    with user_of(using(settings, database, database_pool_size=1, request_deadline=1)) as alice:
        task = alice.add()
        with locked(database):
            answers = [alice.http.get(alice.tasks) for _ in range(2)]

        after = alice.list()

    for answer in answers:
        assert_unavailable(answer)
    assert after == [task]


@pytest.mark.spec("EC-4")
def test_more_waiting_requests_than_the_deadline_allows_get_503_and_none_hangs(
    settings: Settings, database: str
) -> None:
    with user_of(using(settings, database, database_pool_size=2, request_deadline=1)) as alice:
        task = alice.add()
        with locked(database), ThreadPoolExecutor(20) as threads:
            answers = list(threads.map(alice.http.get, [alice.tasks] * 20))

        after = [alice.list() for _ in range(4)]

    for answer in answers:
        assert_unavailable(answer)
    assert after == [[task]] * 4


SLEEP = Statement("SELECT pg_sleep($1)", ("seconds",), Again.IDEMPOTENT)
ONE = Statement("SELECT 1 AS one", (), Again.IDEMPOTENT)
SESSION = Statement("SELECT pg_backend_pid()", (), Again.IDEMPOTENT)
ONCE = Statement("SELECT 1 AS one", (), Again.NOT_REPEATABLE)


async def test_a_cancelled_request_gives_its_slot_back(database_url: str) -> None:
    async with pool(database_url) as database:
        running = asyncio.create_task(database.fetch(SLEEP, seconds=60.0))
        waiting = asyncio.create_task(database.fetch(SLEEP, seconds=60.0))
        await asyncio.sleep(0.2)

        waiting.cancel()
        running.cancel()
        outcomes = await asyncio.gather(running, waiting, return_exceptions=True)
        opening = asyncio.create_task(database.fetch(ONE))
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])

        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2
        assert [dict(row) for row in await database.fetch(ONE)] == [{"one": 1}]


async def test_a_connection_whose_statement_was_given_up_is_not_used_again(database_url: str) -> None:
    async with pool(database_url) as database:
        first = await database.fetch(SESSION)
        given_up = asyncio.create_task(database.fetch(SLEEP, seconds=60.0))
        await asyncio.sleep(0.2)
        given_up.cancel()
        await asyncio.wait([given_up])

        assert await database.fetch(SESSION) != first


async def test_a_statement_that_could_not_be_sent_goes_on_to_another_connection(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that ends a session says so first; until it closes the connection, asyncpg takes it for open."""
    farewell = error_response("57P01", "terminating connection due to administrator command").removesuffix(READY)
    fetch, tries = Connection.fetch, iter(range(10))

    async def too_late(*arguments: Any) -> list[asyncpg.Record]:
        if next(tries) < 5:
            relay.say(farewell)
            await asyncio.sleep(0.05)
        return await fetch(*arguments)

    monkeypatch.setattr(Connection, "fetch", too_late)
    with relayed(database_url) as (relay, url):
        async with pool(url) as database:
            assert len(await database.fetch(ONCE)) == 1

    assert next(tries) == 6


async def test_waiting_requests_are_served_in_the_order_in_which_they_came(database_url: str) -> None:
    served: list[int] = []

    async def request(number: int) -> None:
        await opened.fetch(SLEEP, seconds=0.001)
        served.append(number)

    async with pool(database_url) as opened:
        await asyncio.gather(*map(request, range(30)))

    assert served == list(range(30))


async def test_a_server_that_accepts_and_says_nothing_is_given_up_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://u:p@127.0.0.1:{silent.getsockname()[1]}/d?sslmode=disable"
        async with pool(url, deadline=0.5) as database:
            with pytest.raises(Unavailable):
                await asyncio.wait_for(database.fetch(ONE), 30)


PREPARED = Statement("SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'todo\\_%'", (), Again.IDEMPOTENT)


@pytest.mark.parametrize(("prepare", "expected"), [(True, len(statements.ALL)), (False, 0)])
async def test_statements_are_prepared_beforehand_unless_a_setting_says_no(
    database_url: str,
    prepare: bool,  # noqa: FBT001  pytest passes it by name
    expected: int,
) -> None:
    async with pool(database_url, prepare=prepare) as database:
        rows = await database.fetch(PREPARED)

    assert rows[0][0] == expected


def test_without_prepared_statements_every_operation_works(settings: Settings, database: str) -> None:
    with user_of(using(settings, database, database_prepared_statements=False)) as alice:
        task = alice.add("Buy milk", description="Two bottles")
        path = f"{alice.tasks}/{task['id']}"

        changed = alice.http.put(path, json={"title": "Buy bread"}).json()
        toggled = alice.http.patch(f"{path}/complete").json()
        read = alice.http.get(path).json()
        listed = alice.list()
        deleted = alice.http.delete(path).status_code
        gone = alice.http.get(path).status_code

    assert (changed["title"], changed["description"], toggled["completed"]) == ("Buy bread", "Two bottles", True)
    assert read == toggled
    assert listed == [toggled]
    assert (deleted, gone) == (204, 404)


@pytest.mark.parametrize("prepare", [True, False])
def test_a_pooled_connection_is_idle_and_in_no_transaction(
    settings: Settings,
    database: str,
    prepare: bool,  # noqa: FBT001  pytest passes it by name
) -> None:
    own = using(settings, database, database_pool_size=3, database_prepared_statements=prepare)
    with user_of(own) as alice:
        wait_until(database, f"SELECT count(*) {SESSIONS} AND state IS NOT NULL AND query <> ''", expected=3)
        time.sleep(0.2)
        warmed = ask(database, f"SELECT state, xact_start {SESSIONS}")
        alice.add()
        used = ask(database, f"SELECT state, xact_start {SESSIONS}")

    assert warmed == used == [("idle", None)] * 3


@pytest.mark.spec("FR-010", "US1.1")
def test_the_first_task_on_a_fresh_connection_is_created_at_the_time_of_its_request(
    settings: Settings, database: str
) -> None:
    with user_of(using(settings, database, database_pool_size=1)) as alice:
        wait_until(database, f"SELECT count(*) {SESSIONS}", expected=1)
        time.sleep(0.5)
        before = ask(database, "SELECT clock_timestamp()")

        task = alice.add()

        created = ask(database, "SELECT created_at, created_at = updated_at FROM task WHERE id = $1", task["id"])
    assert created[0][0] >= before[0][0]
    assert created[0][1]


@pytest.mark.parametrize(("method", "path"), [("PUT", ""), ("PATCH", "/complete")])
def test_updated_at_grows_also_when_the_servers_clock_was_set_back(
    alice: User, database_url: str, method: str, path: str
) -> None:
    task = alice.add()
    execute(database_url, f"UPDATE task SET updated_at = '2100-01-01T00:00:00Z' WHERE id = {task['id']}")

    changed = alice.http.request(method, f"{alice.tasks}/{task['id']}{path}", json={"title": "Later"}).json()

    assert changed["updated_at"] == "2100-01-01T00:00:00.000001Z"
