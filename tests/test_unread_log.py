"""Does a log that nobody reads stop nothing, and is it told what was lost?"""

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from people import signed
from servers import ROOT, Application, application, free_port, until
from test_metrics import scrape

from backend.telemetry.standard_error import StandardError

LONG = "x" * 120  # makes a line long, so that few of them fill whatever there is
NOWHERE = "/" + "x" * 250
ENOUGH = 2_500  # requests whose lines fit neither into the pipe nor into memory
SMALLEST = 4_096


class Pipe:
    """A pipe of the smallest size, which is read when a test says so."""

    def __init__(self) -> None:
        self.output, self.input = os.pipe()
        fcntl.fcntl(self.input, fcntl.F_SETPIPE_SZ, SMALLEST)
        self.text = b""
        self._reader = threading.Thread(target=self._collect)

    def read(self) -> None:
        """Begin to read, until nobody can write any more."""
        self._reader.start()

    def _collect(self) -> None:
        while block := os.read(self.output, SMALLEST):
            self.text += block

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines that have come, each of which must be whole."""
        return [json.loads(line) for line in self.text.splitlines(keepends=True) if line.endswith(b"\n")]

    def close(self) -> None:
        """End together with whoever writes into it."""
        if self.input:
            os.close(self.input)
            self.input = 0
        if self._reader.ident:
            self._reader.join()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()
    os.close(pipe.output)


def asked(app: Application, numbers: range, path: str = NOWHERE, *headers: str) -> set[str]:
    """Ask once for each number, which becomes a part of the request's id; returns the statuses of the answers."""
    statuses: set[str] = set()
    with socket.create_connection(app.address, timeout=10) as connection:
        for number in numbers:
            head = [f"GET {path} HTTP/1.1", "Host: localhost", f"X-Request-Id: {number:06}.{LONG}", *headers]
            connection.sendall("\r\n".join([*head, "", ""]).encode())
            answer = ""
            while not answer.endswith("}"):
                answer += connection.recv(SMALLEST).decode()
            statuses.add(answer.split()[1])
    return statuses


def numbers(lines: list[dict[str, Any]]) -> list[int]:
    return [int(line["request_id"][:6]) for line in lines if line["event"] == "request" and LONG in line["request_id"]]


@pytest.mark.spec("EC-11")
def test_requests_are_answered_and_the_log_is_told_what_it_has_lost(database_url: str, pipe: Pipe) -> None:
    port = free_port()
    with application(database_url, errors=pipe.input, METRICS_PORT=str(port)) as app:
        statuses = asked(app, range(ENOUGH))
        lost = scrape(port)["todo_log_lines_dropped_total"]
        pipe.read()
        until(lambda: b'"lines-dropped"' in pipe.text, "nothing is said about what was dropped")
        asked(app, range(ENOUGH, ENOUGH + 1))
        until(lambda: ENOUGH in numbers(pipe.lines()), "the log does not go on")
        code = app.stop()

    lines = pipe.lines()
    written = numbers(lines)
    [told] = [line for line in lines if line["event"] == "lines-dropped"]
    assert (statuses, code) == ({"404"}, 0)
    assert 0 < lost == told["lines"] == ENOUGH + 1 - len(written)
    assert written == [*range(len(written) - 1), ENOUGH]
    assert numbers(lines[: lines.index(told)]) == written[:-1]
    assert (told["level"], told["request_id"]) == ("WARNING", "-")


@pytest.mark.parametrize("workers", [1, 2])
def test_the_end_waits_for_no_reader(database_url: str, pipe: Pipe, workers: int) -> None:
    with application(database_url, "--workers", str(workers), errors=pipe.input) as app:
        for number in range(50):  # each on a connection of its own, so that both workers get some
            asked(app, range(number, number + 1))

        assert app.stop() == 0


def test_two_workers_write_no_line_into_another(database_url: str, pipe: Pipe) -> None:
    """A refusal names the user twice, once escaped: more than a pipe takes whole."""
    token = signed("😀" * 255)
    pipe.read()
    with application(database_url, "--workers", "2", errors=pipe.input) as app, ThreadPoolExecutor(4) as pool:

        def refused(number: int) -> set[str]:
            path, one = f"/api{NOWHERE}/tasks", range(number, number + 1)
            return asked(app, one, path, f"Authorization: Bearer {token}")

        assert list(pool.map(refused, range(200))) == [{"403"}] * 200
        app.stop()
    pipe.close()

    refusals = [line for line in pipe.lines() if line["event"] == "refused"]
    assert sorted(numbers(pipe.lines())) == list(range(200))
    assert sorted(int(line["request_id"][:6]) for line in refusals) == list(range(200))
    assert {line["reason"] for line in refusals} == {"foreign-path"}
    assert max(map(len, pipe.text.splitlines(keepends=True))) <= SMALLEST


def program(text: str, errors: int) -> subprocess.Popen[str]:
    said = f"import logging, os, signal, sys\nfrom backend.telemetry import logs\n{text}"
    output = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", said], cwd=ROOT, stdin=output, stdout=output, stderr=errors, text=True
    )


LINES = "logs.configure(as_json={form}); [logging.getLogger('backend').info('%d', each) for each in range({number})]"


@pytest.mark.spec("EC-11")
def test_lines_for_people_are_bounded_too(pipe: Pipe) -> None:
    lines = LINES.format(form=False, number=20_000)
    with program(f"{lines}; print('the end', flush=True); sys.stdin.read()", pipe.input) as process:
        assert process.stdout
        process.stdout.readline()
        pipe.read()
        until(lambda: b"lines: nobody read the log request_id=-\n" in pipe.text, "nothing is said about what was lost")


@pytest.mark.parametrize("form", [True, False])
@pytest.mark.parametrize("end", ["pass", "sys.exit('a sentence')", "os.kill(os.getpid(), signal.SIGINT)"])
def test_whatever_the_end_what_can_be_written_is(pipe: Pipe, end: str, form: bool) -> None:  # noqa: FBT001
    with program(f"{LINES.format(form=form, number=100)}; print('the end', flush=True); {end}", pipe.input) as process:
        assert process.stdout
        process.stdout.readline()
        pipe.read()
        process.wait(60)
    pipe.close()

    text = pipe.text.decode()
    assert [f" {each} " in text or f'"{each}"' in text for each in range(100)] == [True] * 100
    assert text.endswith({"p": "}\n" if form else "=-\n", "s": "a sentence\n", "o": "KeyboardInterrupt\n"}[end[0]])


def test_a_worker_that_ends_by_its_signal_has_written_what_can_be_written(pipe: Pipe) -> None:
    lines = LINES.format(form=True, number=100)
    served = f"logs.configure(as_json=True)\nwith logs.watched(print):\n    {lines}\n    print('the end', flush=True)"
    with program(f"{served}\nos.kill(os.getpid(), signal.SIGKILL)", pipe.input) as process:
        assert process.stdout
        process.stdout.readline()
        pipe.read()
        process.wait(60)
    pipe.close()

    assert [line["message"] for line in pipe.lines()] == [str(each) for each in range(100)]


@pytest.mark.parametrize("end", ["pass", "sys.exit('a sentence')", "os.kill(os.getpid(), signal.SIGINT)"])
def test_whatever_the_end_it_comes_without_a_reader(pipe: Pipe, end: str) -> None:
    with program(f"{LINES.format(form=True, number=100)}; {end}", pipe.input) as process:
        assert process.wait(60) == {"p": 0, "s": 1, "o": -2}[end[0]]


FAILURE = """
logs.configure(as_json={form})
logging.getLogger("backend").error("no", exc_info=ValueError({text!r} * 5000))
"""


@pytest.mark.parametrize("character", ["x", "ü", '"', "\n", "\0"])
def test_a_long_line_is_shortened_to_what_a_pipe_takes_whole(pipe: Pipe, character: str) -> None:
    with program(FAILURE.format(form=True, text=character), pipe.input):
        pipe.read()
    pipe.close()

    [line] = pipe.lines()
    assert len(pipe.text) <= SMALLEST
    assert line["exc_info"].startswith("ValueError: ")
    assert line["exc_info"].endswith(character)
    assert " [...] " in line["exc_info"]


def test_a_long_line_for_people_is_shortened_too(pipe: Pipe) -> None:
    with program(FAILURE.format(form=False, text="x"), pipe.input):
        pipe.read()
    pipe.close()

    assert len(pipe.text) <= SMALLEST
    assert b" [...] " in pipe.text


def test_a_file_takes_a_line_of_any_length(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log, program(FAILURE.format(form=True, text="x"), log.fileno()):
        pass

    assert json.loads((tmp_path / "log").read_text())["exc_info"] == f"ValueError: {'x' * 5000}"


def kept(log: StandardError, number: int) -> list[bytes]:
    lines = [b"%06d %s\n" % (each, LONG.encode()) for each in range(number)]
    for line in lines:
        log.write(line)
    return lines


def taken(read: Callable[[], bytes], lines: list[bytes]) -> list[bytes]:
    """Return what comes in place of these lines."""
    text = b""
    while len(text) < len(b"".join(lines)):
        text += read()
    return text.splitlines(keepends=True)


def test_a_socket_is_written_without_waiting() -> None:
    """What systemd's journal gives a service."""
    reader, writer = socket.socketpair()
    with closing(reader), closing(writer):
        writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        lines = kept(StandardError(writer.fileno()), 5_000)
        shared = os.get_blocking(writer.fileno())

        assert taken(lambda: reader.recv(SMALLEST), lines) == lines
    assert shared


def test_a_pipe_stays_as_it_is_for_others(pipe: Pipe) -> None:
    lines = kept(StandardError(pipe.input), 1_000)

    assert os.get_blocking(pipe.input)
    assert taken(lambda: os.read(pipe.output, SMALLEST), lines) == lines


def test_where_the_system_knows_no_way_a_thread_waits(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr("backend.telemetry.standard_error.os.open", refused)
    lines = kept(StandardError(pipe.input), 1_000)

    assert taken(lambda: os.read(pipe.output, SMALLEST), lines) == lines


def test_after_a_dropped_line_all_are_until_the_queue_is_empty(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.telemetry.standard_error.QUEUE_BYTES", 10_000)
    log = StandardError(pipe.input)
    first = kept(log, 100)

    log.write(b"y" * 10_000 + b"\n")
    log.write(b"this one would fit\n")

    expected = [*first, b"dropped 2 lines\n"]
    assert taken(lambda: os.read(pipe.output, SMALLEST), expected) == expected


def test_the_end_waits_once_for_a_reader(pipe: Pipe) -> None:
    log = StandardError(pipe.input)
    kept(log, 100)

    times = [time.monotonic()]
    for _ in range(2):
        log.finish()
        times.append(time.monotonic())
    os.read(pipe.output, SMALLEST)

    assert times[2] - times[1] < (times[1] - times[0]) / 2


@pytest.mark.parametrize("before", [True, False])
def test_lines_for_a_reader_who_has_gone_are_counted(before: bool) -> None:  # noqa: FBT001
    dropped: list[None] = []
    output, number = os.pipe()
    if before:
        os.close(output)
    log = StandardError(number)
    if not before:
        os.close(output)
    log.on_drop = lambda: dropped.append(None)

    kept(log, 3)

    until(lambda: len(dropped) == 3, "a line is not counted")
    os.close(number)
