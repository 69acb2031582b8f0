"""Do the attacks of Debian's slowhttptest cost others anything? In each mode with as many connections as may be."""

import subprocess

import pytest
from faults.load import Load
from faults.report import SLOW
from lists import memory
from people import lasting
from servers import Postgres, application, folder, program

from backend.server.limits import Limits

CONNECTIONS = Limits.connections
MODES = {
    "slow head (-H)": ("-H", "-i", "5"),
    "slow body (-B)": ("-B", "-i", "5", "-s", "8192", "-f", "application/json"),
    "slow read of a list of 10,000 tasks (-X)": ("-X", "-w", "512", "-y", "1024", "-n", "5", "-z", "32", "-k", "3"),
    "many ranges (-R)": ("-R", "-b", "3000"),
}
LIST = "INSERT INTO task (user_id, title, completed) SELECT 'rude', 'Buy milk', false FROM generate_series(1, 10000)"


@pytest.mark.spec("FR-022")
@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
def test_an_attack_costs_the_others_no_answer(server: Postgres, mode: str) -> None:
    server.ask("TRUNCATE task", LIST)
    with folder() as home, application(server.url(options="sslmode=disable")) as app:
        # It can set no header but this one; without a token nobody would wait for its body, or make a list for it.
        cookie = f"x=y\r\nAuthorization: Bearer {lasting('rude')}"
        command = [program("slowhttptest"), *MODES[mode], "-c", str(CONNECTIONS), "-r", "200", "-l", "50", "-p", "5",
                   "-u", f"{app.base_url}/api/rude/tasks", "-j", cookie, "-g", "-o", str(home / "seen")]  # fmt: skip
        load, before = Load(app.address, 10, 0.02), memory(app)
        with load.running():
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        tally, rise = load.verify(), memory(app) - before
        looks = [line.split(",") for line in (home / "seen.csv").read_text().splitlines()[1:]]

    SLOW.rows.append(
        f"| {mode} | {max(int(look[3]) for look in looks):,} | {tally.requests:,} | {tally.failed} | "
        f"{tally.slowest:.2f} s | {rise:.0f} MiB |\n"
    )
    print(f"\n{SLOW.rows[-1]}{tally.failures}")
    assert (tally.failures, tally.wrong) == ({}, {})
    assert rise < CONNECTIONS / 4 + 25
