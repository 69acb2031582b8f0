"""Does a person in a real browser get along? Chromium, Next.js with Better Auth, the backend, PostgreSQL: all real.

The stories are in frontend/e2e; each is a test here. UPDATE_SCREENSHOTS=1 writes the README's pictures as well.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from backend import frontend
from backend.errors import OperatorError

ROOT = Path(__file__).resolve().parents[2]
STORIES = ROOT / "frontend/e2e/stories.test.mjs"
NAMES = re.findall(r'^story\("([^"]+)"', STORIES.read_text(), re.MULTILINE)
HANG_SECONDS = 900


def what_is_missing() -> str | None:
    try:
        frontend.require_node()
    except OperatorError as error:
        return str(error)
    return None if browser() else "The stories need Chromium: apt-get install chromium, or name it in CHROMIUM."


def browser() -> str | None:
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def addresses() -> Iterator[dict[str, str]]:
    if missing := what_is_missing():
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must not leave this out. {missing}")
        pytest.skip(missing)
    with subprocess.Popen(
        [sys.executable, Path(__file__).with_name("stack.py")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as stack:
        assert stack.stdin and stack.stdout
        line = stack.stdout.readline()
        assert line, "the application did not start; its words are above"
        yield json.loads(line)
        stack.stdin.close()


@pytest.fixture(scope="session")
def outcomes(addresses: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """What became of each story: None is well, everything else is why not."""
    report = tmp_path_factory.mktemp("stories") / "report.xml"
    reporter = ["--test-reporter=junit", f"--test-reporter-destination={report}"]
    run = subprocess.run(
        ["node", "--test", *reporter, STORIES],
        cwd=ROOT / "frontend",
        env={**os.environ, **addresses, "CHROMIUM": str(browser())},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert report.exists(), run.stdout + run.stderr
    cases = ElementTree.parse(report).iter("testcase")
    failures = {case.get("name", ""): case.find("failure") for case in cases}
    return {name: None if failure is None else f"{failure.text}" for name, failure in failures.items()}


@pytest.mark.parametrize("name", NAMES)
def test_story(name: str, outcomes: dict[str, str | None]) -> None:
    assert name in outcomes, f"the story did not run; there were {list(outcomes)}"
    assert outcomes[name] is None, outcomes[name]
