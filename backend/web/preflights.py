"""What is a page told that asks, by its browser, whether it may call?"""

import logging
import re
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from backend.errors import OriginRefused, PreflightRefused

logger = logging.getLogger(__name__)

PREFLIGHT_SECONDS = 7_200
# As browsers write one; anything else that was sent is not repeated.
_ORIGIN = re.compile(r"null|[a-z][a-z-]{0,31}://[A-Za-z0-9.:\[\]_-]{1,256}")


class Preflights(CORSMiddleware):
    """Starlette's answers, but a refusal says why: to whoever looks into the browser's network tab, and to the log."""

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_credentials=True,
            allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["authorization", "content-type", "idempotency-key", "x-request-id"],
            max_age=PREFLIGHT_SECONDS,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Return what grants it; raise OriginRefused or PreflightRefused."""
        answer = super().preflight_response(request_headers)
        if answer.status_code != PreflightRefused.status:
            return answer
        origin = request_headers["origin"]
        shown = origin if _ORIGIN.fullmatch(origin) else None
        refused = PreflightRefused() if self.is_allowed_origin(origin) else OriginRefused(shown)
        refused.headers = {name: value for name, value in answer.headers.items() if not name.startswith("content-")}
        logger.warning("%s", refused.detail, extra={"event": "preflight-refused", "origin": shown})
        raise refused
