"""Which account runs PostgreSQL, and how are files opened that this account may have changed?"""

import fcntl
import os
import pwd
import stat
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import IO

from backend.errors import OperatorError

# A shell's PGPORT or PGSSLMODE would change what the programs do; without a locale the server cannot start on macOS.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True)
class Account:
    """The user and group that run PostgreSQL; None means our own. It refuses root, which gives its files to another."""

    ids: tuple[int, int] | None = None

    def start(
        self, *command: str | Path, stdin: int = subprocess.DEVNULL, output: int | IO[bytes] = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        """Start it in a session of its own: the terminal's Ctrl-C must not stop the database before the backend."""
        user, group = self.ids or (None, None)
        return subprocess.Popen(  # noqa: S603 - all commands are made of constants and paths
            command,
            user=user,
            group=group,
            extra_groups=[] if self.ids else None,
            cwd="/",
            env=ENVIRONMENT,
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, *command: str | Path, text: str = "") -> tuple[bool, str]:
        """Return whether the command succeeded, and its output."""
        with self.start(*command, stdin=subprocess.PIPE) as process:
            output, _ = process.communicate(text.encode())
        return process.returncode == 0, output.decode(errors="replace")

    def reaches(self, path: Path) -> bool:
        """Return whether the account may enter a directory or execute a file."""
        return self.ids is None or self.run("test", "-x", path)[0]

    def take(self, path: Path) -> None:
        """Own everything below, and `path` itself last, so that an interrupted start is repeated.

        Links are not followed: with one, the account, or whoever may write there, could make root give away any file.
        """
        if self.ids and path.lstat().st_uid != self.ids[0]:
            for _, folders, files, number in os.fwalk(path, topdown=False):
                for name in (*folders, *files):
                    os.chown(name, *self.ids, dir_fd=number, follow_symlinks=False)
            os.chown(path, *self.ids, follow_symlinks=False)

    def take_open(self, file: IO[str] | IO[bytes]) -> None:
        if self.ids:
            os.fchown(file.fileno(), *self.ids)

    def kill(self, pid: int, number: Signals) -> None:
        """Send a signal with the account's rights alone: the pid is read from a file that the account can change."""
        if pid > 1:
            self.run("sh", "-c", f"kill -{number:d} {pid:d}")


def account_for(directory: Path) -> Account:
    """Return the owner of the data in this directory; for new data of root an account that every system has."""
    if os.geteuid() != 0:
        return Account()  # pragma: no cover - where root runs the tests, as in a container
    with suppress(FileNotFoundError, NotADirectoryError):
        owner = (directory / "data").stat()
        if owner.st_uid != 0:
            return Account((owner.st_uid, owner.st_gid))
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = known.get("postgres") or known["nobody"]
    return Account((entry.pw_uid, entry.pw_gid))


def no_link(path: str, flags: int) -> int:
    """Open a regular file that has no other name (an `opener`).

    The account could replace a file by a link to one that only root may read or write.
    """
    number = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    status = os.fstat(number)
    if not stat.S_ISREG(status.st_mode) or (os.geteuid() == 0 and status.st_nlink > 1):
        os.close(number)
        raise OperatorError(f"{path} has another name elsewhere, or is no file: remove it.")
    return number


def content(path: Path) -> bytes:
    with open(path, "rb", opener=no_link) as file:
        return file.read()


def overwrite(path: Path, content: bytes) -> None:
    with open(path, "r+b", opener=no_link) as file:
        file.truncate(0)
        file.write(content)


def lock(file: IO[str] | IO[bytes], seconds: float = 0) -> bool:
    """Return whether the file could be locked within these seconds."""
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
