"""Are requests, retries and connections counted, for all processes together?"""

import os
import platform
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import httpx
import pytest
from issuer import Signer, answering, issuing, key_set
from people import User, signed
from relay import first, relayed
from servers import Application, application, folder, free_port, program, until
from test_operations import PAGE

from backend import __version__
from backend.errors import OperatorError
from backend.settings import Settings
from backend.telemetry.metrics import DIRECTORY, TOLD_EVERY, publish

TASKS = 'route="/api/{user_id}/tasks"'


def scrape(port: int) -> dict[str, float]:
    return samples(httpx.get(f"http://127.0.0.1:{port}/metrics", verify=False).text)


def samples(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"^(todo_\S+) (\S+)$", text, re.MULTILINE)}


def workers(app: Application) -> list[int]:
    """Return the processes that serve: those that have said so."""
    return [int(pid) for pid in re.findall(r"Started server process \[(\d+)\]", app.log())]


def test_two_workers_are_counted_together(database_url: str) -> None:
    port = free_port()
    with application(database_url, "--workers", "2", processes=2, METRICS_PORT=str(port)) as app:
        users = [User(app.base_url) for _ in range(20)]
        for user in users:  # each on a connection of its own, so that both workers get some
            with user.http:
                user.add()
                user.list()
                user.http.get(f"/api/{user.id}x/tasks")
                user.http.get(user.tasks, headers={"Authorization": f"Bearer {signed(user.id, secret='x' * 32)}"})
        served = {line["request_id"] for line in app.events("request")}
        time.sleep(3 * TOLD_EVERY)
        counted = scrape(port)

        serving = workers(app)
        busy = [counted["todo_pool_connections"], counted["todo_pool_busy"]]
        os.kill(serving[0], signal.SIGKILL)
        until(lambda: len(workers(app)) == 3, "the worker is not replaced")
        time.sleep(3 * TOLD_EVERY)
        left = scrape(port)

    assert len(served) == 80
    assert counted[f'todo_requests_total{{method="POST",{TASKS},status="201"}}'] == 20
    assert counted[f'todo_requests_total{{method="GET",{TASKS},status="200"}}'] == 20
    assert counted[f'todo_request_seconds_count{{method="GET",{TASKS}}}'] == 60
    assert counted['todo_refusals_total{reason="foreign-path"}'] == 20
    assert counted['todo_refusals_total{reason="signature"}'] == 20
    assert counted['todo_statement_seconds_count{statement="create"}'] == 20
    assert counted['todo_statement_seconds_count{statement="list"}'] == 20
    assert (counted["todo_retries_total"], counted["todo_unavailable_total"]) == (0, 0)
    assert (busy[0] >= 2, busy[1]) == (True, 0)
    assert left["todo_pool_connections"] <= busy[0]  # the dead one's are gone, those of the new one are there
    assert left['todo_statement_seconds_count{statement="list"}'] == 20  # what it counted stays
    assert left["todo_process_cpu_seconds_total"] >= counted["todo_process_cpu_seconds_total"] > 0
    assert [each["todo_processes"] for each in (counted, left)] == [2, 2]


def test_one_process_counts_too_and_leaves_no_files(database_url: str) -> None:
    port = free_port()
    with folder() as home, application(database_url, METRICS_PORT=str(port), TMPDIR=str(home)) as app:
        before = list(home.glob("todo-metrics-*"))
        user = User(app.base_url)
        with user.http:
            user.add()
        counted = f'todo_requests_total{{method="POST",{TASKS},status="201"}}'
        until(lambda: scrape(port).get(counted) == 1, "it is not counted")
        code = app.stop()
        after = list(home.glob("todo-metrics-*"))

    assert code == 0
    assert (len(before), after) == (1, [])


@pytest.fixture(scope="module")
def page(database_url: str) -> Iterator[str]:
    """What Prometheus gets, on an address of its own, once everything has happened that is counted by its kind."""
    port = str(free_port())
    with application(database_url, METRICS_PORT=port, METRICS_HOST="127.0.0.2") as app:
        user = User(app.base_url)
        with user.http:
            until(lambda: user.http.get("/readyz").is_success, "it is not ready")
            user.list()
            user.http.get("/api/somebody-else/tasks")
            for path in ("/nowhere", f"/{user.id}"):
                user.http.get(path)
            for method in ("PURGE", "MKCOL"):
                user.http.request(method, user.tasks)
            time.sleep(3 * TOLD_EVERY)
            yield httpx.get(f"http://127.0.0.2:{port}/metrics").text


@pytest.mark.spec("FR-032")
def test_no_client_can_make_up_a_series_and_probes_are_apart(page: str) -> None:
    counted = samples(page)

    assert counted['todo_requests_total{method="GET",route="(none)",status="404"}'] == 2
    assert counted['todo_requests_total{method="_OTHER",route="(none)",status="405"}'] == 2
    assert counted['todo_probes_total{probe="/readyz",status="200"}'] == 1
    assert [name for name in counted if name.startswith("todo_request") and "/readyz" in name] == []


def test_the_processes_and_their_build_are_told(page: str) -> None:
    counted, now = samples(page), time.time()

    assert counted[f'todo_build_info{{python="{platform.python_version()}",version="{__version__}"}}'] == 1
    assert (counted["todo_processes"], counted["todo_ready"], counted["todo_clients"]) == (1, 1, 1)
    assert counted["todo_clients_maximum"] > 1
    assert counted["todo_process_resident_memory_bytes"] > 10_000_000
    assert counted["todo_process_open_fds"] > 3
    assert now - 600 < counted["todo_process_start_time_seconds"] < now + 1


def test_every_metric_is_listed(page: str) -> None:
    told = re.findall(r"^# TYPE (todo_\S+) (\S+)", page, re.MULTILINE)
    table = re.findall(r"^\| `(todo_\w+)` \| (\w+) \|", PAGE, re.MULTILINE)

    assert sorted(told) == sorted(table)


def test_the_names_follow_prometheus_rules(page: str) -> None:
    result = subprocess.run(
        [program("promtool"), "check", "metrics"], input=page, capture_output=True, text=True, check=False
    )

    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_what_goes_wrong_is_counted_and_when_the_key_set_came(database_url: str) -> None:
    port, signer = free_port(), Signer("EdDSA", "one")
    began = time.time()
    with (
        relayed(database_url) as (relay, url),
        issuing(answering(key_set(signer))) as issuer,
        application(url, METRICS_PORT=str(port), BETTER_AUTH_JWKS_URL=issuer.url) as app,
    ):
        user = User(app.base_url)
        with user.http:
            user.http.get(user.tasks, headers={"Authorization": f"Bearer {signer.token(user.id)}"})
            task = user.add()
            relay.lose_answer = first(1)
            user.list()
            relay.lose_answer = first(1)
            user.http.patch(f"{user.tasks}/{task['id']}/complete")
        counted = scrape(port)

    fetched = [value for name, value in counted.items() if name.startswith("todo_key_set_fetched_seconds")]
    assert (counted["todo_retries_total"], counted["todo_unavailable_total"]) == (1, 1)
    assert max(fetched) >= began


def test_metrics_are_off_unless_a_port_is_set(settings: Settings, base_url: str) -> None:
    assert settings.metrics_port is None
    assert httpx.get(f"{base_url}/metrics").status_code == 404


def test_without_a_directory_to_write_to_the_cure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")

    with pytest.raises(OperatorError, match="mount one at /tmp, or name it in PROMETHEUS_MULTIPROC_DIR"):  # noqa: SIM117
        with publish("127.0.0.1", free_port()):
            pass


def test_a_taken_port_is_said_in_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OperatorError) as caught:  # noqa: SIM117
        with publish("127.0.0.1", taken.getsockname()[1]):
            pass

    assert str(caught.value).startswith("Cannot publish metrics on 127.0.0.1:")
    assert "in use" in str(caught.value)
    assert DIRECTORY not in os.environ  # it is gone, and would be looked for
