"""Can tests be run in a browser here, and must they be?"""

import os
import shutil

import pytest

from backend.development import frontend
from backend.errors import OperatorError


def require_node() -> None:
    """Skip the test where Node.js is missing, and fail it where CI=true."""
    try:
        frontend.require_node()
    except OperatorError as error:
        _leave_out(str(error))


def browser() -> str:
    """Return Chromium's path; skip the test where it or Node.js is missing, and fail it where CI=true."""
    require_node()
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        _leave_out("The tests in a browser need Chromium: apt-get install chromium, or name it in CHROMIUM.")
    return str(found)


def _leave_out(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must not leave this out. {reason}")
    pytest.skip(reason)
