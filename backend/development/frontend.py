"""How is the reference frontend in frontend/ installed, built, migrated and served?"""

import fcntl
import hashlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGKILL, SIGTERM

from backend.development.children import ending_with_us, stop
from backend.errors import OperatorError

DIRECTORY = Path(__file__).resolve().parents[2] / "frontend"
IGNORED = {"node_modules", ".next", ".migrate", "e2e", ".env", ".env.example", "next-env.d.ts", "tsconfig.tsbuildinfo"}
NEXT = "node_modules/next/dist/bin/next"
NODE_MAJOR = 20
READY_SECONDS = 120
STOP_SECONDS = 10


def require_node() -> None:
    """Raise OperatorError unless Node.js of the needed version, and npm, can be run."""
    node = shutil.which("node")
    if not node or not shutil.which("npm"):
        raise OperatorError(f"The frontend needs Node.js {NODE_MAJOR} or newer with npm: install it from nodejs.org.")
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603
    version = re.match(r"v(\d+)\.", said)
    if not version or int(version[1]) < NODE_MAJOR:
        raise OperatorError(f"The frontend needs Node.js {NODE_MAJOR} or newer, and this is {said or 'unknown'}.")


def require_port(port: int) -> None:
    """Raise OperatorError if another program listens at one of the addresses of `localhost`."""
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with suppress(OSError), socket.socket(family) as probe:
            probe.settimeout(1)
            probe.connect((host, port))
            raise OperatorError(
                f"Port {port} is taken by another program: stop it, or take another with --frontend-port."
            )


def install(report: Callable[[str], None]) -> str:
    """Install the packages of the lock file, unless they are installed; returns the lock file's digest."""
    installed = DIRECTORY / "node_modules/.installed"
    if _differs(installed, lock := _digest([DIRECTORY / "package-lock.json"])):
        report("Installing the frontend's packages")
        retries = ("--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000")
        _run(["npm", "ci", "--no-audit", "--no-fund", *retries], "The frontend's packages could not be installed")
        installed.write_text(lock)
    return lock


def build(report: Callable[[str], None]) -> None:
    """Install and build what has changed since the last time; raises OperatorError. Of two at once, one waits."""
    with (DIRECTORY / "package-lock.json").open() as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        sources = install(report) + _digest(_sources())
        if _differs(built := DIRECTORY / ".next/.built", sources):
            report("Building the frontend, which takes a minute")
            built.unlink(missing_ok=True)
            # Any secret: building signs nothing.
            placeholder = {"BETTER_AUTH_SECRET": secrets.token_hex(32)}
            _run(["npm", "run", "build"], "The frontend could not be built", placeholder)
            built.write_text(sources)


def migrate(settings: Mapping[str, str]) -> None:
    """Bring Better Auth's tables up to date, by its own migrations."""
    _run(["node", ".migrate/migrate.js"], "Better Auth's tables could not be made", settings)


@contextmanager
def serving(port: int, settings: Mapping[str, str], *, on_end: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Serve the built frontend on this machine alone until the block ends; calls `on_end` if it ends by itself."""
    # In a session of its own: the terminal's Ctrl-C is for this process, which stops the frontend then.
    process = subprocess.Popen(  # noqa: S603
        [*ending_with_us(SIGTERM), "node", NEXT, "start", "--hostname", "127.0.0.1", "--port", str(port)],
        cwd=DIRECTORY,
        env=_environment(settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    stopping = threading.Event()

    def watch() -> None:
        process.wait()
        if not stopping.is_set():
            on_end()

    try:
        _wait_for(port, process)
        threading.Thread(target=watch, daemon=True).start()
        yield
    finally:
        stopping.set()
        stop(process, SIGTERM, SIGKILL, STOP_SECONDS)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise OperatorError("The frontend did not start: what it said stands above.")


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "NEXT_TELEMETRY_DISABLED": "1", "BETTER_AUTH_TELEMETRY": "0", **settings}


def _run(command: list[str], failure: str, settings: Mapping[str, str] = {}) -> None:
    done = subprocess.run(  # noqa: S603
        command, cwd=DIRECTORY, env=_environment(settings), capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = f"{done.stdout}\n{done.stderr}"
        unreachable = re.search(r"ENOTFOUND|ECONNREFUSED|ETIMEDOUT|EAI_AGAIN|ECONNRESET|network", said)
        reason = "the npm registry cannot be reached" if "npm ci" in " ".join(command) and unreachable else None
        raise OperatorError(f"{failure}: {reason}." if reason else f"{failure}:\n{said.strip()}")


def _sources() -> list[Path]:
    found = (path for path in DIRECTORY.iterdir() if path.name not in IGNORED)
    return sorted(file for path in found for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(DIRECTORY)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _differs(marker: Path, content: str) -> bool:
    return not marker.exists() or marker.read_text() != content
