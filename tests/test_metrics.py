"""Are requests, retries and connections counted, for all processes together?"""

import os
import re
import signal
import socket
import time

import httpx
import pytest
from issuer import Signer, answering, issuing, key_set
from people import User, signed
from relay import first, relayed
from servers import Application, application, folder, free_port, until

from backend.errors import OperatorError
from backend.settings import Settings
from backend.telemetry.metrics import GAUGES_EVERY, publish


def scrape(port: int) -> dict[str, float]:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", verify=False).text
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
        time.sleep(3 * GAUGES_EVERY)
        counted = scrape(port)

        serving = workers(app)
        busy = [counted["todo_pool_connections"], counted["todo_pool_busy"]]
        os.kill(serving[0], signal.SIGKILL)
        until(lambda: len(workers(app)) == 3, "the worker is not replaced")
        time.sleep(3 * GAUGES_EVERY)
        left = scrape(port)

    assert len(served) == 80
    assert counted['todo_requests_total{method="POST",status="201"}'] == 20
    assert counted['todo_requests_total{method="GET",status="200"}'] == 20
    assert counted['todo_request_seconds_count{method="GET"}'] == 60
    assert counted['todo_refusals_total{reason="foreign-path"}'] == 20
    assert counted['todo_refusals_total{reason="signature"}'] == 20
    assert counted["todo_statements_total"] == 40
    assert (counted["todo_retries_total"], counted["todo_unavailable_total"]) == (0, 0)
    assert (busy[0] >= 2, busy[1]) == (True, 0)
    assert left["todo_pool_connections"] <= busy[0]  # the dead one's are gone, those of the new one are there
    assert left["todo_statements_total"] == 40  # what it counted stays


def test_one_process_counts_too_and_leaves_no_files(database_url: str) -> None:
    port = free_port()
    with folder() as home, application(database_url, METRICS_PORT=str(port), TMPDIR=str(home)) as app:
        before = list(home.glob("todo-metrics-*"))
        user = User(app.base_url)
        with user.http:
            user.add()
        counted = scrape(port)
        code = app.stop()
        after = list(home.glob("todo-metrics-*"))

    assert counted['todo_requests_total{method="POST",status="201"}'] == 1
    assert code == 0
    assert (len(before), after) == (1, [])


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
