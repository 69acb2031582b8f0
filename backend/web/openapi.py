"""What does the API document say beyond the routes' signatures?"""

from typing import Any

from pydantic import BaseModel, ConfigDict

from backend import errors


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


HEADERS = {
    "WWW-Authenticate": "The challenge of RFC 6750, section 3.",
    "Retry-After": "Seconds to wait before trying again.",
}
_DOCUMENTED = [each for each in vars(errors).values() if "documented" in getattr(each, "__dict__", {})]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documented answers of a route that can fail with these statuses."""
    return {status: _documented([each for each in _DOCUMENTED if each.status == status]) for status in statuses}


def _documented(kinds: list[type[errors.Problem]]) -> dict[str, Any]:
    headers = {
        name: {"description": HEADERS[name], "required": True, "schema": {"type": "string"}}
        for name in kinds[0].headers
    }
    return {
        "description": ", or ".join(each.documented for each in kinds) + ".",
        "model": ProblemRead if kinds[0].errors is None else ValidationProblemRead,
        **({"headers": headers} if headers else {}),
    }
