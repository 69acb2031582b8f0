"""Does systemd take the units, find them hardened, and serve through the socket?"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.befall import GUARD
from people import ORIGIN, SECRET, User
from servers import ROOT, answers, folder, free_port, program, until

UNITS = ROOT / "deploy/systemd"
SERVICES = ["todo-backend@.service", "todo-backend-migrate.service"]


@pytest.fixture
def installed() -> Iterator[Path]:
    """The units as they would stand in /etc/systemd/system, for this tree."""
    with folder() as home:
        for unit in UNITS.glob("todo-backend*"):
            (home / unit.name).write_text(unit.read_text().replace("/opt/todo-backend", str(ROOT)))
        yield home


def analyze(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [program("systemd-analyze"), "--no-pager", *arguments]
    return subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)


def test_the_units_are_valid(installed: Path) -> None:
    result = analyze(installed, "verify", "./todo-backend.socket", "./todo-backend@1.service", f"./{SERVICES[1]}")

    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("service", SERVICES)
def test_the_exposure_is_at_most_2(installed: Path, service: str) -> None:
    result = analyze(installed, "security", "--offline=true", "--threshold=20", f"./{service}")

    print(result.stdout.splitlines()[-1])
    assert result.returncode == 0, result.stdout


def test_both_services_are_hardened_alike() -> None:
    parts = [
        re.search(r"^DynamicUser.*?^SystemCallErrorNumber", (UNITS / each).read_text(), re.MULTILINE | re.DOTALL)
        for each in SERVICES
    ]

    assert parts[0]
    assert parts[1]
    assert parts[0][0] == parts[1][0]


def test_the_unit_serves_on_the_socket_that_it_is_handed(database_url: str) -> None:
    start = re.findall(r"^ExecStart=(.*)$", (UNITS / SERVICES[0]).read_text(), re.MULTILINE)[0]
    settings = {"BETTER_AUTH_SECRET": SECRET, "BETTER_AUTH_URL": ORIGIN, "NEON_DATABASE_URL": database_url}
    port = free_port()
    command = [
        program("systemd-socket-activate"), f"--listen=127.0.0.1:{port}",
        *(f"--setenv={name}={value}" for name, value in settings.items()),
        *start.replace("/opt/todo-backend", str(ROOT)).split(),
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        try:
            # The first who comes waits in the socket until the service is there.
            until(lambda: answers(f"http://127.0.0.1:{port}"), "it does not start")
            user = User(f"http://127.0.0.1:{port}")
            with user.http:
                assert user.list() == []
        finally:
            process.terminate()
            code = process.wait(GUARD)

    assert code == 0
