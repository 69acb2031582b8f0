"""What does the log say of a request?

Nothing of what a client sent but method and path: as they came on the wire, so that no client can write a line of its
own, and without the query, where tokens are sometimes put.
"""

import logging
import re
from functools import lru_cache
from hashlib import blake2b
from ipaddress import ip_address
from typing import Any

from fastapi.exceptions import ResponseValidationError
from starlette.types import Scope

from backend.errors import Refusal
from backend.telemetry import logs
from backend.telemetry.metrics import NO_ROUTE, PROBES
from backend.web.routing import template

logger = logging.getLogger(__name__)

# A client without an address.
UNKNOWN = "unknown"
# A JWT begins with eyJ, which is {" in base64url; some frontends put it where it does not belong.
_TOKEN = re.compile(r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9._-]*")


class RequestLog:
    """Writes a line for each answer, and before it why a request was refused or failed.

    With a key, users are shown as a keyed hash, and the route's template stands for the path, which names them.
    """

    def __init__(self, *, probes: bool = False, user_key: bytes | None = None) -> None:
        self._write = logs.access_writer()
        self._probes = probes
        self._user_key = user_key and user_key[: blake2b.MAX_KEY_SIZE]

    def answered(self, event: str, scope: Scope, status: int, seconds: float) -> None:
        """Tell of an answer that came to its end or was broken off; of probes only if that was asked for."""
        about = self.about(scope)
        if about["route"] in PROBES and not self._probes:
            return
        milliseconds = round(seconds * 1000, 1)
        broken = " broken off" if event == "broken-off" else ""
        self._write(
            f"{about['method']} {about['path']} {status}{broken} {milliseconds} ms",
            {"event": event, **about, "status": status, "milliseconds": milliseconds},
        )

    def refused(self, scope: Scope, refusal: Refusal) -> None:
        about = self.about(scope)
        text = "refused %s %s reason=%s user=%a client=%s"
        said = (about["method"], about["path"], refusal.reason, about["user"], about["client"])
        logger.warning(text, *said, extra={**about, "event": "refused", "reason": refusal.reason})

    def failed(self, scope: Scope, error: Exception) -> None:
        """Log what is a bug: its words are for the log alone, and what was to be answered not even for that."""
        about = self.about(scope)
        if isinstance(error, ResponseValidationError):
            broken = [(each["loc"], each["type"]) for each in error.errors()]
            error = TypeError(f"The answer is not what response_model says: {broken}")
        extra = {**about, "event": "failed"}
        logger.error("failed %s %s", about["method"], about["path"], exc_info=error, extra=extra)

    def client_gone(self, scope: Scope) -> None:
        about = self.about(scope)
        logger.info("client gone %s %s", about["method"], about["path"], extra={**about, "event": "client-gone"})

    def about(self, scope: Scope) -> dict[str, Any]:
        """Return what may be said of a request; the route is known from when one has matched."""
        route = template(scope) or NO_ROUTE
        user = scope.get("owner")
        if self._user_key:
            path, user = route, user and blake2b(user.encode(), key=self._user_key, digest_size=8).hexdigest()
        else:
            path = _path(scope)
        client = scope.get("client")
        return {
            "method": scope["method"],
            "route": route,
            "path": path,
            "client": _address(client[0]) if client else UNKNOWN,
            "user": user,
        }


@lru_cache(1_024)
def _address(host: str) -> str:
    """Return the client's address: behind proxies it is text out of a header, and only an address may reach the log."""
    try:
        return str(ip_address(host.partition("%")[0]))
    except ValueError:
        return UNKNOWN


def _path(scope: Scope) -> str:
    path = repr(scope.get("raw_path", b""))[2:-1]
    if "eyJ" in path:
        path = _TOKEN.sub("(token)", path)
    return path[:256]
