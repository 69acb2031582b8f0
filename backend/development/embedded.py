"""How do development and tests get a real PostgreSQL that nobody had to install?"""

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

from backend.development.account import Account, account_for, content, lock, no_link
from backend.development.postgres import Server, reason
from backend.development.programs import installed, place_of_root, programs_for
from backend.errors import OperatorError

logger = logging.getLogger(__name__)

MAJOR_VERSION = "18"
LOCALE = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
SOCKET_PATH_LIMIT = 103 if sys.platform == "darwin" else 107


@contextmanager
def embedded_postgres(
    directory: Path,
    *,
    report: Callable[[str], None] = logger.info,
    settings: Mapping[str, str] = {},
    address: str = "",
) -> Iterator[str]:
    """Run PostgreSQL on the files in `directory` until the block ends; yields its URL, a Unix socket.

    `directory` is for the database alone. At `address`, if any, port 5432 is open to every account of this machine.
    On Linux the server ends when the thread ends that enters the block. Raises OperatorError when it cannot start.
    """
    with ExitStack() as stack:
        try:
            sockets = _open(stack, directory, report, {**settings, "listen_addresses": address})
        except OSError as error:
            problem = f"The embedded database cannot use {error.filename or directory}: {error.strerror or error}"
            raise OperatorError(f"{problem}; put that right, or set NEON_DATABASE_URL.") from error
        # With port and mode, because a shell's PGPORT and PGSSLMODE would decide otherwise.
        yield f"postgresql://app@/todo?host={quote(str(sockets), safe='')}&port=5432&sslmode=disable"


def _open(stack: ExitStack, directory: Path, report: Callable[[str], None], settings: Mapping[str, str]) -> Path:
    package = installed()
    home, account = _home(directory.resolve())
    stack.enter_context(_locked(home, account))
    programs = programs_for(account, package, home)
    data = home / "data"
    if not data.exists():
        report("Creating the database directory")
        _create(data, programs, account)
    _check_version(data)
    account.take(data)
    sockets = stack.enter_context(_sockets(home, account))
    report("Starting PostgreSQL")
    stack.enter_context(Server(data, sockets, programs, account).running(settings))
    return sockets


def _home(directory: Path) -> tuple[Path, Account]:
    """Return the folder for the files and who runs the server; elsewhere if only root can enter `directory` (/root)."""
    account = _made(directory)
    if account.reaches(directory):
        return directory, account
    home = place_of_root(directory)
    logger.warning("The database is in %s: PostgreSQL refuses root, and others cannot reach %s", home, directory)
    return home, _made(home)


def _made(directory: Path) -> Account:
    account = account_for(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if not any(directory.iterdir()):
        account.take(directory)
    return account


@contextmanager
def _locked(home: Path, account: Account) -> Iterator[None]:
    with open(home / "owner.lock", "a+", opener=no_link) as file:
        account.take_open(file)
        if not lock(file):
            file.seek(0)
            owner = file.read() or "of another start"
            raise OperatorError(f"The database in {home} is in use by process {owner}: stop that one first.")
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _create(data: Path, programs: Path, account: Account) -> None:
    for abandoned in data.parent.glob("creating-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(prefix="creating-", dir=data.parent))
    account.take(unfinished)
    succeeded, output = account.run(programs / "initdb", "-U", "app", "-A", "trust", "-E", "UTF8", *LOCALE, unfinished)
    if not succeeded:
        raise OperatorError(f"The database directory {data} could not be created: {reason(output)}")
    unfinished.rename(data)
    parent = os.open(data.parent, os.O_RDONLY)
    os.fsync(parent)  # initdb has synchronised the files, not the new name.
    os.close(parent)


def _check_version(data: Path) -> None:
    version = content(data / "PG_VERSION").decode().strip()
    if version != MAJOR_VERSION:
        problem = f"The database in {data} belongs to PostgreSQL {version}, and this is {MAJOR_VERSION}"
        raise OperatorError(f"{problem}: move it away to begin with an empty one, or set NEON_DATABASE_URL.")


@contextmanager
def _sockets(home: Path, account: Account) -> Iterator[Path]:
    sockets = home / "sockets"
    if len(bytes(sockets / ".s.PGSQL.5432")) <= SOCKET_PATH_LIMIT and "," not in str(sockets):
        sockets.mkdir(mode=0o700, exist_ok=True)
        account.take(sockets)
        yield sockets
        return
    with tempfile.TemporaryDirectory(prefix="todo-", dir="/tmp") as short:  # TMPDIR may be too long as well
        account.take(Path(short))
        yield Path(short)
