"""How does a log line look?"""

import logging
import logging.config
import time

FORMAT = "%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s"


class UtcFormatter(logging.Formatter):
    """Writes the time as UTC, which a line of the log can be compared in."""

    converter = staticmethod(time.gmtime)


def configure() -> None:
    """Once, give the server and the application one form of line on standard error.

    uvicorn's own access line shows the query, where tokens are sometimes put; `backend.access` stands in for it.
    """
    if logging.getLogger("backend").handlers:
        return
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"()": UtcFormatter, "fmt": FORMAT, "datefmt": "%Y-%m-%dT%H:%M:%S"}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
            "loggers": {
                "backend": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
                "uvicorn": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
                "uvicorn.access": {"handlers": [], "propagate": False},
            },
        }
    )
