"""How does a test run the commands, in a tree of its own and as another process?"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil

from backend.settings import Settings

REPOSITORY = Path(__file__).parents[1]
PATIENCE = 60


@contextmanager
def scratch_tree() -> Iterator["Tree"]:
    """Copy the program to where also PostgreSQL's account may go; yields the copy, without .env and without data."""
    with TemporaryDirectory(prefix="todo-", dir="/tmp") as name:
        root = Path(name)
        root.chmod(0o755)
        for folder in ("backend", "migrations"):
            shutil.copytree(REPOSITORY / folder, root / folder, ignore=shutil.ignore_patterns(".env"))
        shutil.copy(REPOSITORY / "pyproject.toml", root)
        yield Tree(root)


def descendants(pid: int) -> set[int]:
    return {child.pid for child in psutil.Process(pid).children(recursive=True)}


def alive(pids: set[int]) -> set[int]:
    """Return those that still run; one that has ended and was not collected by its new parent does not."""
    return {each.pid for each in psutil.process_iter(["status"]) if each.info["status"] != psutil.STATUS_ZOMBIE} & pids


class Tree:
    """A copy of the program. Its commands see the variables that a test gives them, and none of the caller's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.env_file = root / "backend" / ".env"
        self.data = root / ".data" / "postgres"

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        unwanted = set(Settings.model_fields)
        inherited = {
            name: value
            for name, value in os.environ.items()
            # The flags of the make that runs the tests are not those of a person in a terminal.
            if name.lower() not in unwanted and not name.startswith(("MAKE", "MFLAGS"))
        }
        return {**inherited, "PYTHONPATH": str(self.root), "PYTHONUNBUFFERED": "1", **variables}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", *arguments]

    def run(
        self, *arguments: str, variables: Mapping[str, str] = {}, prefix: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run `python -m …` to its end."""
        command = [*prefix, *self.command(*arguments)]
        environment = self.environment(variables)
        return subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )

    @contextmanager
    def running(self, *arguments: str, variables: Mapping[str, str] = {}, folder: str = ".") -> Iterator["Running"]:
        """Run `python -m …` until the block ends."""
        with self.started(self.command(*arguments), variables=variables, folder=folder) as running:
            yield running

    @contextmanager
    def started(
        self, command: list[str], *, variables: Mapping[str, str] = {}, folder: str = "."
    ) -> Iterator["Running"]:
        """Run any command until the block ends."""
        with subprocess.Popen(
            command,
            cwd=self.root / folder, env=self.environment(variables),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        ) as process:  # fmt: skip
            running = Running(process)
            try:
                yield running
            finally:
                running.end()


def one_sentence(result: subprocess.CompletedProcess[str]) -> str:
    """Return the only line on standard error of a command that failed."""
    assert result.returncode not in {0, -signal.SIGKILL}, result.stdout
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr.strip()


class Running:
    """A command that serves."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.output = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.output += line

    def said(self, pattern: str, patience: float = PATIENCE) -> str:
        """Wait for the pattern and return what its first group, or all of it, matches."""
        deadline = time.monotonic() + patience
        while not (found := re.search(pattern, self.output, re.MULTILINE)):
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.01)
        return found[found.re.groups and 1]

    def answers(self, url: str) -> httpx.Response:
        """Wait until there is an answer."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return httpx.get(url, timeout=PATIENCE, verify=False)
            except httpx.TransportError:
                assert self.process.poll() is None, self.output
                assert time.monotonic() < deadline, self.output
                time.sleep(0.02)

    def stop(self, number: signal.Signals) -> tuple[int, set[int]]:
        """Send the signal, as a terminal's Ctrl-C to the whole group or as others to the process alone; return its
        status, and which of the processes that it had started still run."""
        family = descendants(self.process.pid)
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        # multiprocessing's resource tracker ends when it notices that its parent has.
        deadline = time.monotonic() + 10
        while (left := alive(family)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return status, left

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
