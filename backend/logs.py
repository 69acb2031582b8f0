"""How does a log line look?

One JSON object in production, for machines; a readable line in development. Both carry the request's id.
"""

import logging
import logging.config
import time
from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="-")

READABLE = "%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s request_id=%(request_id)s"
FIELDS = "%(levelname)s %(name)s %(event)s %(message)s %(request_id)s"


class UtcFormatter(logging.Formatter):
    """Writes the time as UTC, which a line of the log can be compared in."""

    converter = staticmethod(time.gmtime)


class WithRequestId(logging.Filter):
    """Adds the id of the request that is being served to each line, and an event to those of libraries."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        record.event = getattr(record, "event", "server" if record.name.startswith("uvicorn") else "other")
        return True


def configure(*, as_json: bool) -> None:
    """Once, give the server and the application one form of line on standard error.

    uvicorn's own access line shows the query, where tokens are sometimes put; `backend.access` stands in for it.
    """
    if logging.getLogger("backend").handlers:
        return
    json = {
        "()": "pythonjsonlogger.orjson.OrjsonFormatter",
        "fmt": FIELDS,
        "rename_fields": {"levelname": "level", "name": "logger"},
        "timestamp": "time",
    }
    readable = {"()": UtcFormatter, "fmt": READABLE, "datefmt": "%Y-%m-%dT%H:%M:%S"}
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": json if as_json else readable},
            "filters": {"request_id": {"()": WithRequestId}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["request_id"]}},
            "root": {"handlers": ["stderr"], "level": "WARNING"},
            "loggers": {
                "backend": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
                "uvicorn": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
                "uvicorn.access": {"handlers": [], "propagate": False},
            },
        }
    )
