"""Do the units serve under a real systemd, and lose nothing when the instances are replaced?

It boots Debian 13 in systemd-nspawn, with this tree in /opt, and with this machine's network.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from deploy.through_proxy import ThroughProxy
from faults.befall import GUARD
from people import ORIGIN, SECRET, User
from servers import ROOT, Postgres, answers, debian_postgres, folder, free_port, program, until

RESTARTS = 20
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
README = (ROOT / "deploy/systemd/README.md").read_text()


class Machine:
    """Debian with the recipe carried out, as far as it can be without a systemd that runs."""

    def __init__(self, root: Path, database: Postgres) -> None:
        self._nspawn = [program("systemd-nspawn"), "--quiet", f"--directory={root}", "--register=no", "--keep-unit"]
        packages = "ca-certificates,dbus,python3,python3-venv,systemd-sysv"
        subprocess.run(
            [program("mmdebstrap"), "--quiet", "--variant=minbase", f"--include={packages}", "trixie", root], check=True
        )
        self.address = ("127.0.0.1", free_port())
        home = root / "opt/todo-backend"
        subprocess.run(["git", "clone", "--quiet", ROOT, home], check=True)
        for unit in (home / "deploy/systemd").glob("todo-backend*"):
            text = unit.read_text().replace("127.0.0.1:8000", "{}:{}".format(*self.address))
            (root / "etc/systemd/system" / unit.name).write_text(text)
        settings = {"BETTER_AUTH_SECRET": SECRET, "BETTER_AUTH_URL": ORIGIN, "NEON_DATABASE_URL": database.url()}
        file = root / "etc/todo-backend.env"
        file.write_text("".join(f'{name}="{value}"\n' for name, value in settings.items()))
        file.chmod(0o600)
        install = "\n".join(
            re.findall(r"^(?:python3 -m venv|\.venv/bin/python -m compileall) .*$", README, re.MULTILINE)
        )
        authorities = f"--bind-ro={AUTHORITIES}"
        subprocess.run([*self._nspawn, authorities, "--chdir=/opt/todo-backend", "sh", "-ec", install], check=True)

    def boot(self) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        process = subprocess.Popen(
            [*self._nspawn, "--boot"], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        until(lambda: self._state(process.pid) in {"running", "degraded"}, "systemd does not boot")
        return process

    def _state(self, pid: int) -> str:
        with suppress(OSError, IndexError):
            self._init = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
            return self.systemctl("is-system-running").stdout.strip()
        return ""

    def systemctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        inside = [program("nsenter"), f"--target={self._init}", "--mount", "--uts", "--ipc", "--pid", "systemctl"]
        return subprocess.run([*inside, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def machine() -> Iterator[Machine]:
    with debian_postgres() as database, folder() as home:
        machine = Machine(home / "root", database)
        process = machine.boot()
        try:
            yield machine
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(GUARD)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_recipe_serves_and_replacing_its_instances_fails_no_request(machine: Machine) -> None:
    recipe = [line.split() for line in re.findall(r"systemctl ((?:start|enable) .*)$", README, re.MULTILINE)][:2]
    for line in recipe:
        done = machine.systemctl(*line)
        assert done.returncode == 0, done.stderr
    url = "http://{}:{}".format(*machine.address)
    until(lambda: answers(url), "it does not serve")
    user = User(url)
    with user.http:
        assert user.add()["title"] == "Buy milk"

    load = ThroughProxy(machine.address)
    began = time.monotonic()
    with load.running():
        for restart in range(RESTARTS):
            assert machine.systemctl("restart", f"todo-backend@{restart % 2 + 1}").returncode == 0
            time.sleep(5)
    tally = load.verify()

    rate = tally.requests / (time.monotonic() - began)
    print(f"\n{RESTARTS} restarts by systemd: {tally.requests} requests ({rate:.0f}/s), failed {tally.failures}")
    assert tally.wrong == {}
    assert tally.failures == {}
