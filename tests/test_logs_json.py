"""Can a machine read the log of production, and does it keep secrets?"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from people import SECRET, User, signed
from relay import Relay, relayed
from servers import Application, application, until


@pytest.fixture(scope="module")
def line(database_url: str) -> Iterator[tuple[Relay, str]]:
    with relayed(database_url) as line:
        yield line


@pytest.fixture(scope="module")
def app(line: tuple[Relay, str]) -> Iterator[Application]:
    with application(line[1].replace("app@", "app:a-password@"), REQUEST_DEADLINE="1") as app:
        yield app


@pytest.fixture
def user(app: Application) -> Iterator[User]:
    user = User(app.base_url)
    with user.http:
        yield user


def test_every_line_is_an_object_with_time_level_event_and_request_id(app: Application, user: User) -> None:
    answer = user.http.get(user.tasks, headers={"X-Request-Id": "mine-1"})
    lines = app.events()

    assert lines
    for each in lines:
        assert {"time", "level", "logger", "event", "message", "request_id"} <= set(each), each
        assert datetime.fromisoformat(each["time"]).utcoffset() == timedelta(0)
    (line,) = app.lines_of(answer.headers["x-request-id"])
    assert answer.headers["x-request-id"] == "mine-1"
    assert (line["event"], line["status"], line["level"]) == ("request", 200, "INFO")
    assert abs(datetime.fromisoformat(str(line["time"])) - datetime.now(UTC)) < timedelta(minutes=1)
    assert isinstance(line["milliseconds"], float)
    assert [each["request_id"] for each in lines if each["event"] == "server"] == ["-"] * len(
        [each for each in lines if each["event"] == "server"]
    )


def test_a_refusal_names_its_reason(app: Application, user: User) -> None:
    answer = user.http.get("/api/somebody-else/tasks")

    refused, answered = app.lines_of(answer.headers["x-request-id"])
    assert (refused["event"], refused["level"], refused["reason"]) == ("refused", "WARNING", "foreign-path")
    assert (refused["user"], answered["status"]) == (user.id, 403)


def test_a_failure_of_the_database_names_its_cause(app: Application, user: User, line: tuple[Relay, str]) -> None:
    relay, _ = line
    relay.hole = True
    relay.lose()
    answer = user.http.get(user.tasks)
    relay.hole = False
    until(lambda: user.http.get(user.tasks).is_success, "the database does not come back")

    unavailable, answered = app.lines_of(answer.headers["x-request-id"])
    assert (unavailable["event"], unavailable["level"], answered["status"]) == ("unavailable", "ERROR", 503)
    assert "TimeoutError" in str(unavailable["message"])


def test_no_line_can_be_forged_and_nothing_secret_is_written(app: Application, user: User) -> None:
    foreign = signed("mallory", secret="another secret of thirty-two bytes!")
    forged = '/api/x%0A{"event":"request"}/tasks'
    answers = [
        user.http.get(f"{user.tasks}?token={user.token}"),
        user.http.get(user.tasks, headers={"Authorization": f"Bearer {foreign}"}),
        user.http.get(forged, headers={"X-Request-Id": '"},{"'}),
        user.http.post(user.tasks, json={"title": "a private matter"}),
        user.http.post(user.tasks, json={"title": "x"}, headers={"Idempotency-Key": "a-private-key"}),
        user.http.post(user.tasks, content=b'{"title": "a private'),
    ]

    text = app.log()
    assert [answer.status_code for answer in answers] == [200, 401, 403, 201, 201, 400]
    assert all(json.loads(each) for each in text.splitlines())
    for secret in (user.token, foreign, SECRET, "a-password", "a private", "a-private-key"):
        assert secret not in text


def test_answers_need_no_log() -> None:
    write = "logs.access_writer()({'event': 'request', 'status': 200}, 'GET /health', 0.1)"
    program = f"from backend.telemetry import logs; logs.configure(as_json=True); {write}; print('written')"

    result = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" 2>&-', sys.executable, program], capture_output=True, text=True, check=True
    )

    assert result.stdout == "written\n"


def test_in_development_a_line_is_for_people(app: Application, line: tuple[Relay, str]) -> None:
    with application(line[1], LOG_FORMAT="text") as other, closing(httpx.Client(base_url=other.base_url)) as http:
        answer = http.get("/health", headers={"X-Request-Id": "mine-2"})
        lines = other.log().splitlines()

    (written,) = [each for each in lines if "mine-2" in each]
    assert answer.status_code == 200
    assert "INFO GET /health 200 " in written
    assert written.endswith(" request_id=mine-2")
    assert written[23:25] == "Z "
    assert app.process.poll() is None
