"""How does a log line look?

One JSON object in production, for machines; a readable line in development. Both carry the request's id.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from typing import TextIO

import orjson
from pythonjsonlogger.orjson import OrjsonFormatter

from backend.telemetry import standard_error

access_log = logging.getLogger("backend.access")

request_id: ContextVar[str] = ContextVar("request_id", default="-")

READABLE = "%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s request_id=%(request_id)s"
FIELDS = "%(levelname)s %(name)s %(event)s %(message)s %(request_id)s"


class UtcFormatter(logging.Formatter):
    """Writes the time as UTC, which a line of the log can be compared in."""

    converter = staticmethod(time.gmtime)


class WithRequestId(logging.Filter):
    """Adds the id of the request that is being served to each line, and an event to those of libraries."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = getattr(record, "request_id", request_id.get())
        record.event = getattr(record, "event", "server" if record.name.startswith("uvicorn") else "other")
        return True


class LineHandler(logging.StreamHandler[TextIO]):
    """Leaves out the middle of the longest texts of a line that would not be written in one go."""

    def __init__(self, longest: int, *, as_json: bool) -> None:
        super().__init__()
        self._longest = longest
        self.as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        while len(line.encode()) >= self._longest:
            line = _shortened_json(line) if self.as_json else _shortened(line)
        return line


def configure(*, as_json: bool) -> None:
    """Once, give the server and the application one form of line on standard error.

    uvicorn's own access line shows the query, where tokens are sometimes put; `backend.access` stands in for it.
    """
    if logging.getLogger("backend").handlers:
        return
    log = standard_error.install()
    handler = LineHandler(log.longest if log else sys.maxsize, as_json=as_json)
    if as_json:
        names = {"levelname": "level", "name": "logger"}
        handler.setFormatter(OrjsonFormatter(FIELDS, rename_fields=names, timestamp="time"))
    else:
        handler.setFormatter(UtcFormatter(READABLE, "%Y-%m-%dT%H:%M:%S"))
    handler.addFilter(WithRequestId())
    logging.getLogger("uvicorn.access").disabled = True
    for name, level in (("", logging.WARNING), ("backend", logging.INFO), ("uvicorn", logging.INFO)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    if log:
        log.told = partial(_told, handler)


@contextmanager
def watched(on_drop: Callable[[], None]) -> Iterator[None]:
    """Call this for each line that is dropped; at the end, write what can be written: uvicorn's workers end by the
    signal that stopped them, without Python's own end."""
    log = getattr(sys.stderr, "buffer", None)
    if not isinstance(log, standard_error.StandardError):
        yield
        return
    log.on_drop = on_drop
    yield
    log.finish()


def access_writer() -> Callable[[dict[str, object], str, float], None]:
    """Return what writes the line of an answer: the facts (`event`, `status`), what was asked, and the seconds it took.

    JSON goes around `logging`, whose record, filter and formatter would be a tenth of a request (decision 0011).
    """
    handler = next(iter(logging.getLogger("backend").handlers), None)
    if isinstance(handler, LineHandler) and handler.as_json and handler.stream:
        return partial(_write_json, handler.stream.buffer.write)
    return _log


def _log(facts: dict[str, object], what: str, seconds: float) -> None:
    access_log.info("%s", _message(facts, what, seconds), extra=facts)


def _write_json(write: Callable[[bytes], int], facts: dict[str, object], what: str, seconds: float) -> None:
    line = {
        "level": "INFO",
        "logger": access_log.name,
        "message": _message(facts, what, seconds),
        "request_id": request_id.get(),
        "milliseconds": round(seconds * 1000, 1),
        "time": datetime.now(UTC),
        **facts,
    }
    write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


def _message(facts: dict[str, object], what: str, seconds: float) -> str:
    broken = " broken off" if facts["event"] == "broken-off" else ""
    return f"{what} {facts['status']}{broken} {seconds * 1000:.1f} ms"


def _told(handler: logging.Handler, lines: int) -> bytes:
    """Return the line that stands for those that were dropped."""
    facts = {"event": "lines-dropped", "lines": lines}
    said = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "args": (lines,)}
    record = logging.makeLogRecord({"msg": "dropped %d lines: nobody read the log", **said, **facts})
    handler.filter(record)
    return f"{handler.format(record)}\n".encode()


def _shortened(text: str) -> str:
    """Return the text without a quarter: of the middle, as the end of a trace says what happened."""
    keep = len(text) * 3 // 4
    head = keep // 4
    return f"{text[:head]} [...] {text[head - keep :]}"


def _shortened_json(line: str) -> str:
    fields = orjson.loads(line)
    name = max(fields, key=lambda name: len(str(fields[name])))
    fields[name] = _shortened(str(fields[name]))
    return orjson.dumps(fields).decode()
