"""How is PostgreSQL started on a data directory, and stopped?"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from backend.development.account import Account, content, lock, no_link, overwrite
from backend.development.children import ending_with_us, stop
from backend.errors import OperatorError

CREATE_TODO = "SELECT 'CREATE DATABASE todo' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'todo') \\gexec"
LOG_LIMIT = 1_000_000
READY_SECONDS = 120
STOP_SECONDS = 20


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
        with open(log, "ab", opener=no_link) as output:
            self.account.take_open(output)
            self._stop_predecessor(output)
            if output.tell() > LOG_LIMIT:
                output.truncate(0)
            begin = output.seek(0, os.SEEK_END)
            claimed = self._claim_lock_files()
            process = self.account.start(*ending_with_us(signal.SIGINT), *self._command(settings), output=output)
        try:
            self._wait_until_ready(process, log, begin, claimed)
            self._create_todo()
            yield
        finally:
            stop(process, signal.SIGINT, signal.SIGQUIT, STOP_SECONDS)
            self._restore_lock_files(claimed)

    def _command(self, settings: Mapping[str, str]) -> Iterator[str | Path]:
        ours = {"port": "5432", "unix_socket_directories": str(self.sockets)}
        yield from (self.programs / "postgres", "-D", self.data)
        for name, value in {**settings, **ours}.items():
            yield from ("-c", f"{name}={value}")

    def _stop_predecessor(self, log: IO[bytes]) -> None:
        """Stop a server whose parent was killed. It still holds the lock on the log, which a stale pid file does not
        prove."""
        for number in (signal.SIGINT, signal.SIGQUIT):
            if lock(log):
                return
            with suppress(OSError, ValueError):
                self.account.kill(int(_first_line(content(self.data / "postmaster.pid"))), number)
            lock(log, STOP_SECONDS)
        if not lock(log):
            raise OperatorError(f"An earlier server still uses {self.data} and does not end: stop it first.")

    def _claim_lock_files(self) -> dict[Path, bytes]:
        """Write our pid into stale lock files, and return what was in them.

        PostgreSQL refuses to start if a lock file names a living process, which need not be a server any more. It
        ignores one that names its parent.
        """
        files = (self.data / "postmaster.pid", self.sockets / ".s.PGSQL.5432.lock")
        claimed = {file: content(file) for file in files if file.exists()}
        for file, text in claimed.items():
            overwrite(file, b"%d\n%b" % (os.getpid(), text.partition(b"\n")[2]))
        return claimed

    def _restore_lock_files(self, claimed: dict[Path, bytes]) -> None:
        """If a server of others does run on this data, it would end when its pid file names another process."""
        for file, text in claimed.items():
            if file.exists() and _first_line(content(file)) == b"%d" % os.getpid():
                overwrite(file, text)

    def _wait_until_ready(
        self, process: subprocess.Popen[bytes], log: Path, begin: int, claimed: dict[Path, bytes]
    ) -> None:
        deadline = time.monotonic() + READY_SECONDS
        ask = (self.programs / "pg_isready", "-h", self.sockets, "-U", "app", "-d", "postgres")
        while not self.account.run(*ask)[0]:
            if process.poll() is not None:
                raise OperatorError(self._refusal(content(log)[begin:].decode(errors="replace"), claimed))
            if time.monotonic() >= deadline:
                raise OperatorError(f"PostgreSQL is not ready after {READY_SECONDS} s: {log} tells what it does.")
            time.sleep(0.01)

    def _refusal(self, output: str, claimed: dict[Path, bytes]) -> str:
        if "shared memory block" in output:
            owner = _first_line(claimed[self.data / "postmaster.pid"]).decode()
            return f"The database in {self.data} is in use by process {owner}: stop that one first."
        return f"PostgreSQL ended while it was starting: {reason(output)}"

    def _create_todo(self) -> None:
        options = ("-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", self.sockets, "-U", "app", "-d", "postgres")
        succeeded, output = self.account.run(self.programs / "psql", *options, text=CREATE_TODO)
        if not succeeded:
            raise OperatorError(f"PostgreSQL started, but does not serve: {reason(output)}")


def _first_line(text: bytes) -> bytes:
    return text.partition(b"\n")[0]


def reason(output: str) -> str:
    """Return the line of a program's output that says why it failed."""
    lines = [line for line in output.splitlines() if line.strip()] or ["it left no word"]
    return next((line for line in reversed(lines) if "FATAL" in line or "error" in line), lines[-1])
