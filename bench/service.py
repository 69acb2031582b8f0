"""What does a running contestant cost?"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from servers import free_port

ROOT = Path(__file__).parent.parent
PATIENCE = 60
MIB = 1024 * 1024


@dataclass
class Service:
    """A contestant that serves on loopback; `ready_after` is the seconds from its start to the first 200."""

    process: subprocess.Popen[bytes]
    url: str
    ready_after: float

    @property
    def cpu(self) -> float:
        """Seconds of CPU, in user and kernel mode, that the whole process tree has used."""
        return tree_cpu(psutil.Process(self.process.pid))

    @property
    def memory(self) -> float:
        """MiB that the process tree holds; shared pages count once (PSS)."""
        return float(sum(each.memory_full_info().pss for each in _tree(psutil.Process(self.process.pid)))) / MIB


@contextmanager
def running(command: list[str], environment: Mapping[str, str], probe: tuple[str, str]) -> Iterator[Service]:
    """Run a contestant until the block ends; `probe` is the path and the token whose answer must be 200."""
    port = free_port()
    path, token = probe
    started = time.perf_counter()
    process = subprocess.Popen(
        [word.replace("PORT", str(port)) for word in command],
        cwd=ROOT,
        env={**os.environ, **environment, "PORT": str(port)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(process, url + path, token)
        yield Service(process, url, time.perf_counter() - started)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], url: str, token: str) -> None:
    deadline = time.monotonic() + PATIENCE
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}, trust_env=False) as client:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                if client.get(url).is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.005)
    raise RuntimeError(f"{process.args!r} does not serve")


def tree_cpu(process: psutil.Process) -> float:
    """Return the seconds of CPU of the process and all that it has started, those that have ended included."""
    return sum(sum(times[:4]) for each in _tree(process) if (times := _cpu_times(each)))


def _cpu_times(process: psutil.Process) -> tuple[float, ...]:
    with suppress(psutil.NoSuchProcess):
        return tuple(process.cpu_times())
    return ()


def _tree(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]
