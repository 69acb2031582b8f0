"""What does the API document say beyond the routes' signatures?"""

from typing import Any

from pydantic import BaseModel, ConfigDict


class ProblemRead(BaseModel):
    """Every answer that is not a success; `detail` is one sentence that can be shown as it is."""

    model_config = ConfigDict(title="Problem")

    detail: str


class FieldErrorRead(BaseModel):
    """One broken rule."""

    model_config = ConfigDict(title="FieldError")

    loc: list[str | int]
    msg: str
    type: str


class ValidationProblemRead(ProblemRead):
    """`detail` names the first field that breaks a rule, `errors` lists all of them."""

    model_config = ConfigDict(title="ValidationProblem")

    errors: list[FieldErrorRead]


def _header(description: str) -> dict[str, Any]:
    return {"description": description, "required": True, "schema": {"type": "string"}}


_PROBLEMS: dict[int, dict[str, Any]] = {
    400: {
        "description": "The body is not valid JSON, or the Idempotency-Key is malformed.",
        "model": ValidationProblemRead,
    },
    401: {
        "description": "No access token, or one that is malformed, forged, expired or without identity.",
        "model": ProblemRead,
        "headers": {"WWW-Authenticate": _header("The challenge of RFC 6750, section 3.")},
    },
    403: {"description": "The token belongs to another user than the path.", "model": ProblemRead},
    404: {"description": "The user has no such task.", "model": ProblemRead},
    413: {"description": "The body is larger than 65,536 bytes.", "model": ProblemRead},
    415: {"description": "The body is not declared as application/json.", "model": ProblemRead},
    422: {
        "description": "A field breaks a rule, or the Idempotency-Key came before with another body.",
        "model": ValidationProblemRead,
    },
    503: {
        "description": "The database, or Better Auth's key set, cannot serve at the moment.",
        "model": ProblemRead,
        "headers": {"Retry-After": _header("Seconds to wait before trying again.")},
    },
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documented answers of a route that can fail with these statuses."""
    return {status: _PROBLEMS[status] for status in statuses}
