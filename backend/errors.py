"""What can go wrong in a client's eyes, and in the operator's?

Each Problem carries the status and the public text; the argument is the reason, for the log alone.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, TypedDict


class OperatorError(Exception):
    """Something that whoever runs the program must put right; the message tells them so without a value or a trace."""


class Departed(Exception):
    """The client has gone while its request waited; there is nobody to be answered."""


class FieldError(TypedDict):
    """One broken rule: where in the request, what is wrong in words, and pydantic's code for it."""

    loc: list[str | int]
    msg: str
    type: str


class Problem(Exception):
    """The base of every answer that is not a success.

    `documented` is what the API document says of it, one clause of a sentence about all those of this status; nothing
    where only the server itself answers so, or it is a case of another.
    """

    status: ClassVar[int]
    documented: ClassVar[str]
    detail: str
    headers: Mapping[str, str] = {}
    errors: Sequence[FieldError] | None = None

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason

    @property
    def content(self) -> dict[str, object]:
        """What the body of the answer says."""
        return {"detail": self.detail} if self.errors is None else {"detail": self.detail, "errors": self.errors}


class Refusal(Problem):
    """A request that is turned away for whose it is; worth a line in the log each time."""


class Unauthorized(Refusal):
    status = 401
    documented = "No access token, or one that is malformed, forged, expired or without identity"
    detail = "The access token is invalid."
    headers = {"WWW-Authenticate": 'Bearer realm="todo", error="invalid_token"'}


class TokenMissing(Unauthorized):
    """RFC 6750, section 3.1: without credentials the challenge carries no error code."""

    detail = "An access token is required."
    headers = {"WWW-Authenticate": 'Bearer realm="todo"'}


class TokenExpired(Unauthorized):
    detail = "The access token has expired."
    headers = {
        "WWW-Authenticate": 'Bearer realm="todo", error="invalid_token", error_description="The access token expired"'
    }


class Forbidden(Refusal):
    status = 403
    documented = "The token belongs to another user than the path"
    detail = "These tasks belong to another user."


class BadRequest(Problem):
    """It is not HTTP, or two servers could read it in two ways; the connection ends."""

    status = 400
    detail = "The request is not valid HTTP."
    errors = [FieldError(loc=["request"], msg=detail, type="http_invalid")]


class Malformed(Problem):
    """The body is not JSON, so no rule about a field could be checked."""

    status = 400
    documented = "The body is not valid JSON"
    detail = "The request body is not valid JSON."
    errors = [FieldError(loc=["body"], msg=detail, type="json_invalid")]


class BadKey(Problem):
    status = 400
    documented = "the Idempotency-Key is malformed"
    detail = "The Idempotency-Key should be 1 to 255 visible characters."
    errors = [FieldError(loc=["header", "Idempotency-Key"], msg=detail, type="idempotency_key")]


class PreflightRefused(Problem):
    """A browser's question before it sends a page's request; the page itself never sees the answer."""

    status = 400
    detail = "This method or header is not allowed; Access-Control-Allow-Methods and -Headers list those that are."
    errors = [FieldError(loc=["header"], msg=detail, type="preflight_refused")]


class OriginRefused(PreflightRefused):
    detail = "This origin is not allowed; set BETTER_AUTH_URL or CORS_ORIGINS."

    def __init__(self, origin: str | None) -> None:
        super().__init__("origin")
        if origin:
            self.detail = self.detail.replace("This origin", f"The origin {origin}")
        self.errors = [FieldError(loc=["header", "Origin"], msg=self.detail, type="origin_refused")]


class Invalid(Problem):
    """A field breaks a rule; `detail` says the first one in a sentence, `errors` all of them."""

    status = 422
    documented = "A field breaks a rule"
    errors: Sequence[FieldError] = ()

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("invalid")
        self.errors = errors
        first = errors[0]["msg"]
        self.detail = f"{first[0].upper()}{first[1:]}."


class KeyReused(Problem):
    status = 422
    documented = "the Idempotency-Key came before with another body"
    detail = "This Idempotency-Key was used with another body."
    errors = [FieldError(loc=["header", "Idempotency-Key"], msg=detail, type="idempotency_key_reused")]


class NotFound(Problem):
    status = 404
    detail = "Not found."


class TaskNotFound(NotFound):
    """The user has no such task; whether another user has it is not told."""

    documented = "The user has no such task"
    detail = "Task not found."


class MethodNotAllowed(Problem):
    status = 405
    detail = "Method not allowed."

    def __init__(self, allowed: Sequence[str]) -> None:
        super().__init__("method")
        self.headers = {"Allow": ", ".join(allowed)}


class TooSlow(Problem):
    """The request takes too long to arrive; the connection ends."""

    status = 408
    detail = "The request took too long to arrive."


class TooLarge(Problem):
    limit = 65_536
    status = 413
    documented = f"The body is larger than {limit:,} bytes"
    detail = "The request body is too large."


class UnsupportedMediaType(Problem):
    status = 415
    documented = "The body is not declared as application/json"
    detail = "The request body must be application/json."


class HeadTooLarge(Problem):
    """The URL and the headers together; the connection ends."""

    status = 431
    detail = "The URL and the headers of the request are too large."


class Unavailable(Problem):
    """The database cannot serve now, or cannot be reached; trying again later may help."""

    status = 503
    documented = "The database, or Better Auth's key set, cannot serve at the moment"
    detail = "The service is temporarily unavailable, and nothing was changed. Please try again."
    headers = {"Retry-After": "2"}


class Overloaded(Unavailable):
    """More requests wait for a connection than can be served in time."""


class NotReady(Unavailable):
    """The readiness check alone answers so: what is missing, in a word of a fixed list."""

    def __init__(self, obstacle: str) -> None:
        super().__init__("not-ready")
        self.detail = f"Not ready: {obstacle}."


class OutcomeUnknown(Unavailable):
    """The connection broke after the change was sent, so that it may have been made or not."""

    safe = "The service became unavailable, and the change may have been made or not. It is safe to try again."
    unsafe = "The service became unavailable, and the change may have been made or not. Look before you try again."

    def __init__(self, reason: str, *, try_again: bool) -> None:
        super().__init__(reason)
        self.detail = self.safe if try_again else self.unsafe


class IssuerUnavailable(Unavailable):
    """Better Auth's key set is needed, and cannot be had or trusted any more."""

    detail = "The sign-in service cannot be reached to check the access token. Please try again."


class InternalError(Problem):
    status = 500
    detail = "Internal server error."
