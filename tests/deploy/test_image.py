"""Does the image start as anybody, on a root that nobody can write, on the port that its host gives it?"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from faults.befall import GUARD
from people import ORIGIN, SECRET
from servers import ROOT, answers, folder, free_port, program, until

DOCKERFILE = (ROOT / "Dockerfile").read_text()
MOST_BYTES = 120 * 1024 * 1024
SETTINGS = {
    "BETTER_AUTH_SECRET": SECRET,
    "BETTER_AUTH_URL": ORIGIN,
    "NEON_DATABASE_URL": "postgresql://nobody:nothing@127.0.0.1:1/none",  # /livez needs none
    "HOST": "127.0.0.1",
}


def instruction(name: str) -> str:
    """Return the last one of this name."""
    found: list[str] = re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)
    return found[-1]


def test_the_user_is_a_number_that_is_not_root() -> None:
    user, group = map(int, instruction("USER").split(":"))

    assert user > 0
    assert group > 0


def test_the_health_check_asks_the_port_that_the_host_has_given(base_url: str) -> None:
    check = json.loads(instruction("HEALTHCHECK").partition("CMD ")[2])
    port = base_url.rpartition(":")[2]

    codes = [
        subprocess.run(
            [sys.executable, *check[1:]], env={**os.environ, "PORT": each}, stderr=subprocess.DEVNULL, check=False
        ).returncode
        for each in (port, str(free_port()))
    ]

    assert check[0] == "python"
    assert codes == [0, 1]


def test_nothing_reaches_the_image_that_it_does_not_need() -> None:
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    allowed = set(re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))

    assert copied - {"$REQUIREMENTS"} | {"requirements.txt", "requirements-traces.txt"} == allowed


@dataclass
class Image:
    """What buildah has made of the Dockerfile."""

    root: Path
    config: dict[str, Any]

    def command(self, user: int, *options: str, **variables: str) -> list[str]:
        """The image's own command, or another one, in a sandbox: its root, which is read-only, and no other files."""
        inside = dict(each.split("=", 1) for each in self.config["Env"]) | SETTINGS | variables
        return [
            program("bwrap"), "--die-with-parent", "--unshare-user", "--uid", str(user), "--gid", str(user),
            "--ro-bind", str(self.root), "/", "--proc", "/proc", "--dev", "/dev", "--chdir", self.config["WorkingDir"],
            "--clearenv", *(part for name, value in inside.items() for part in ("--setenv", name, value)),
            *options, "--",
        ]  # fmt: skip

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command(65534, **variables), *command], capture_output=True, text=True, check=False, timeout=GUARD
        )

    @contextmanager
    def serving(self, user: int, *options: str, **variables: str) -> Iterator[str]:
        port = str(free_port())
        with subprocess.Popen(
            [*self.command(user, *options, PORT=port, **variables), *self.config["Cmd"]], stderr=subprocess.DEVNULL
        ) as process:
            try:
                until(lambda: process.poll() is not None or answers(f"http://127.0.0.1:{port}"), "it does not start")
                assert process.poll() is None
                yield port
            finally:
                process.kill()


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    for needed in ("buildah", "mmdebstrap", "bwrap"):
        program(needed)
    with folder() as home:
        subprocess.run(["sh", ROOT / "tests/deploy/build-image.sh", home], cwd=ROOT, check=True)
        config = json.loads((home / "config.json").read_text())["Docker"]["config"]
        yield Image((home / "image").resolve(), config)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("user", [65534, 123456])
def test_the_image_serves_for_anybody_from_a_root_that_is_read_only(image: Image, user: int) -> None:
    began = time.monotonic()
    with image.serving(user) as port:
        took = time.monotonic() - began
        checked = image.run(*image.config["Healthcheck"]["Test"][1:], PORT=port)

    print(f"\n/livez answers after {took:.2f} s as {user}; load average {os.getloadavg()[0]:.1f}")
    assert checked.returncode == 0, checked.stderr


@pytest.mark.long
def test_the_image_counts_where_it_may_write_and_says_so_where_not(image: Image) -> None:
    metrics = str(free_port())
    with image.serving(65534, "--tmpfs", "/tmp", METRICS_PORT=metrics):
        assert "todo_processes 1.0" in httpx.get(f"http://127.0.0.1:{metrics}/metrics").text

    refused = image.run(*image.config["Cmd"], METRICS_PORT=metrics, PORT=str(free_port()))
    assert refused.stderr.splitlines() == [
        "METRICS_PORT needs a directory that can be written: mount one at /tmp, or name it in PROMETHEUS_MULTIPROC_DIR."
    ]


@pytest.mark.long
def test_the_image_is_small_and_installs_nothing(image: Image) -> None:
    files = [file for file in (image.root / "app").rglob("*") if file.is_file() and not file.is_symlink()]
    size = sum(file.stat().st_size for file in files)

    print(f"\n{size / 1024 / 1024:.1f} MiB above its base")
    assert size <= MOST_BYTES
    assert image.run("python", "-m", "pip", "--version").returncode == 1
    assert image.run("python", "-m", "ensurepip").returncode == 1
    assert [
        each for each in ("gcc", "cc", "make", "pip", "uv") if shutil.which(each, path=str(image.root / "usr/bin"))
    ] == []
    assert image.config["User"] == "65534:65534"
    assert image.config["StopSignal"] == "SIGTERM"
    assert {"title", "description", "licenses", "version"} <= {
        name.removeprefix("org.opencontainers.image.") for name in image.config["Labels"]
    }
