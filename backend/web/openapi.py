"""What does the API document say beyond the routes' signatures?"""

import json
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


def with_our_422(document: dict[str, Any]) -> dict[str, Any]:
    """Return FastAPI's document with the body of our 422, and without one where nothing in a request could cause it."""
    for operation in (each for path in document["paths"].values() for each in path.values()):
        theirs = "HTTPValidationError" in str(operation["responses"].get("422"))
        if theirs and "requestBody" not in operation and all(map(_is_any_text, operation["parameters"])):
            del operation["responses"]["422"]
    for unused in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(unused, None)
    ours: dict[str, Any] = json.loads(json.dumps(document).replace("/HTTPValidationError", "/ValidationProblem"))
    return ours


def _is_any_text(parameter: dict[str, Any]) -> bool:
    """Whether whatever a client sends is right: a part of the path, without a rule of its own."""
    rules = parameter["schema"].keys() - {"title", "description", "examples"}
    return (parameter["in"], rules, parameter["schema"].get("type")) == ("path", {"type"}, "string")
