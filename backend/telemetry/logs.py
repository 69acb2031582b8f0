"""How does a log line look?

One JSON object in production, for machines; a readable line in development. Both carry the request's id.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import TextIO

import orjson
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.orjson import OrjsonFormatter

from backend.telemetry import standard_error

ACCESS = "backend.access"
access_log = logging.getLogger(ACCESS)

request_id: ContextVar[str] = ContextVar("request_id", default="-")
# The fields that name the trace and the span; none outside a request that belongs to a trace.
trace: ContextVar[Mapping[str, str]] = ContextVar("trace", default=MappingProxyType({}))

READABLE = "%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s request_id=%(request_id)s"
FIELDS = "%(levelname)s %(name)s %(event)s %(message)s %(request_id)s"
# uvicorn's message for terminals: with escape codes, and not filled in.
UNSHOWN = [*RESERVED_ATTRS, "color_message"]


class UtcFormatter(logging.Formatter):
    """Writes the time as UTC, which a line of the log can be compared in."""

    converter = staticmethod(time.gmtime)


class WithRequestId(logging.Filter):
    """Adds the ids of the request that is being served to each line, and an event to those of libraries."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.__dict__.update(trace.get())
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


def configure(*, as_json: bool, level: str = "info") -> None:
    """Once, give the server and the application one form of line on standard error, from this level on.

    uvicorn's own access line shows the query, where tokens are sometimes put; `backend.access` stands in for it.
    """
    if logging.getLogger("backend").handlers:
        return
    log = standard_error.install()
    handler = LineHandler(log.longest if log else sys.maxsize, as_json=as_json)
    if as_json:
        names = {"levelname": "level", "name": "logger"}
        handler.setFormatter(OrjsonFormatter(FIELDS, rename_fields=names, timestamp="time", reserved_attrs=UNSHOWN))
    else:
        handler.setFormatter(UtcFormatter(READABLE, "%Y-%m-%dT%H:%M:%S"))
    handler.addFilter(WithRequestId())
    logging.getLogger("uvicorn.access").disabled = True
    least = logging.getLevelNamesMapping()[level.upper()]
    for name, lowest in (("", logging.WARNING), ("backend", logging.DEBUG), ("uvicorn", logging.DEBUG)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(max(least, lowest))
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


def access_writer() -> Callable[[str, dict[str, object]], None]:
    """Return what writes the line of an answer, from what it says to people and to machines.

    JSON goes around `logging`, whose record, filter and formatter would be a tenth of a request (decision 0011).
    """
    handler = next(iter(logging.getLogger("backend").handlers), None)
    as_json = isinstance(handler, LineHandler) and handler.as_json and handler.stream
    if as_json and access_log.isEnabledFor(logging.INFO):
        return partial(_write_json, as_json.buffer.write)
    return _log


def _log(message: str, facts: dict[str, object]) -> None:
    access_log.info("%s", message, extra=facts)


def _write_json(write: Callable[[bytes], int], message: str, facts: dict[str, object]) -> None:
    line = {
        "level": "INFO",
        "logger": ACCESS,
        "message": message,
        "request_id": request_id.get(),
        **trace.get(),
        "time": datetime.now(UTC),
        **facts,
    }
    write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


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
