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
from relay import Relay
from servers import Application, application, until
from test_operations import listed

from backend import __version__


@pytest.fixture(scope="module")
def app(line: tuple[Relay, str]) -> Iterator[Application]:
    with application(line[1].replace("app@", "app:a-password@"), REQUEST_DEADLINE="1") as app:
        yield app


@pytest.fixture
def user(app: Application) -> Iterator[User]:
    user = User(app.base_url)
    with user.http:
        yield user


@pytest.mark.spec("FR-032")
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
    assert set(line) == listed("Fields of a line")
    assert (line["method"], line["route"], line["path"]) == ("GET", "/api/{user_id}/tasks", user.tasks)
    assert (line["client"], line["user"]) == ("127.0.0.1", user.id)
    assert "color_message" not in app.log()
    assert [each["request_id"] for each in lines if each["event"] == "server"] == ["-"] * len(
        [each for each in lines if each["event"] == "server"]
    )


def test_the_start_says_what_listens_where(app: Application) -> None:
    [started] = app.events("started")

    facts = {"address": app.base_url.removeprefix("http://"), "version": __version__, "workers": 1, "pool": None}
    assert {name: started[name] for name in facts} == facts


def test_a_refusal_names_its_reason(app: Application, user: User) -> None:
    answer = user.http.get("/api/somebody-else/tasks")

    refused, answered = app.lines_of(answer.headers["x-request-id"])
    assert (refused["event"], refused["level"], refused["reason"]) == ("refused", "WARNING", "foreign-path")
    assert (refused["user"], answered["status"]) == (user.id, 403)
    assert (refused["route"], refused["path"]) == ("/api/{user_id}/tasks", "/api/somebody-else/tasks")


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


@pytest.mark.spec("FR-032")
def test_readiness_is_told_once_for_each_change_and_probes_are_not(
    app: Application, user: User, line: tuple[Relay, str]
) -> None:
    def changes() -> list[str]:
        return [each.get("reason", "ready") for each in app.events() if each["event"] in {"ready", "not-ready"}]

    relay, _ = line
    until(lambda: user.http.get("/readyz").is_success, "it is not ready")
    before = changes()
    relay.hole = True
    relay.lose()
    for _ in range(2):
        user.http.get(user.tasks)
        user.http.get("/readyz")
    relay.hole = False
    until(lambda: user.http.get("/readyz").is_success, "the database does not come back")

    assert before[-1] == "ready"
    assert changes() == [*before, "unreachable", "ready"]
    assert {"/health", "/livez", "/readyz"} & {each["route"] for each in app.events("request")} == set()


@pytest.mark.spec("FR-032")
def test_with_a_setting_the_log_names_no_user(line: tuple[Relay, str]) -> None:
    with application(line[1], LOG_USERS="hashed") as app:
        user = User(app.base_url)
        with user.http:
            user.list()
            user.http.get("/api/somebody-else/tasks")
            user.http.get(f"/{user.id}")
        text, lines = app.log(), app.events()

    named = [each["user"] for each in lines if "user" in each]
    assert user.id not in text
    assert (len(named), len(set(named[:3])), named[3]) == (4, 1, None)  # listed, refused, its answer, nowhere
    assert {each["path"] for each in lines if "path" in each} == {"/api/{user_id}/tasks", "(none)"}


def test_below_the_level_nothing_is_written() -> None:
    said = "[logging.getLogger(name).info('x') for name in ('backend', 'uvicorn.error')]; logging.error('the worst')"
    program = f"import logging; from backend.telemetry import logs; logs.configure(as_json=True, level='error'); {said}"

    result = subprocess.run(
        [sys.executable, "-c", f"{program}; logs.access_writer()('x', {{}})"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert [json.loads(each)["message"] for each in result.stderr.splitlines()] == ["the worst"]


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
    write = "logs.access_writer()('GET / 200', {'event': 'request'})"
    program = f"from backend.telemetry import logs; logs.configure(as_json=True); {write}; print('written')"

    result = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" 2>&-', sys.executable, program], capture_output=True, text=True, check=True
    )

    assert result.stdout == "written\n"


def test_in_development_a_line_is_for_people(app: Application, line: tuple[Relay, str]) -> None:
    with (
        application(line[1], LOG_FORMAT="text", LOG_PROBES="true") as other,
        closing(httpx.Client(base_url=other.base_url)) as http,
    ):
        answer = http.get("/health", headers={"X-Request-Id": "mine-2"})
        lines = other.log().splitlines()

    (written,) = [each for each in lines if "mine-2" in each]
    assert answer.status_code == 200
    assert "INFO GET /health 200 " in written
    assert written.endswith(" request_id=mine-2")
    assert written[23:25] == "Z "
    assert app.process.poll() is None
