"""Does a person in a real browser get along? Chromium, Next.js with Better Auth, the backend, PostgreSQL: all real.

The stories are in frontend/e2e; each is a test here. UPDATE_SCREENSHOTS=1 writes the README's pictures as well.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from chromium import browser

ROOT = Path(__file__).resolve().parents[2]
STORIES = ROOT / "frontend/e2e/stories.test.mjs"
NAMES = re.findall(r'^story\("([^"]+)"', STORIES.read_text(), re.MULTILINE)
HANG_SECONDS = 900
# The first story also waits for the build and for all others.
pytestmark = pytest.mark.timeout(2 * HANG_SECONDS)


@pytest.fixture(scope="session")
def addresses() -> Iterator[dict[str, str]]:
    chromium = browser()
    with subprocess.Popen(
        [sys.executable, Path(__file__).with_name("stack.py")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as stack:
        assert stack.stdin
        assert stack.stdout
        line = stack.stdout.readline()
        assert line, "the application did not start; its words are above"
        yield json.loads(line) | {"CHROMIUM": chromium}
        stack.stdin.close()


@pytest.fixture(scope="session")
def outcomes(addresses: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """What became of each story: None is well, everything else is why not."""
    report = tmp_path_factory.mktemp("stories") / "report.xml"
    reporter = ["--test-reporter=junit", f"--test-reporter-destination={report}"]
    run = subprocess.run(
        ["node", "--test", *reporter, STORIES],
        cwd=ROOT / "frontend",
        env={**os.environ, **addresses},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert report.exists(), run.stdout + run.stderr
    cases = ET.parse(report).iter("testcase")
    failures = {case.get("name", ""): case.find("failure") for case in cases}
    return {name: None if failure is None else f"{failure.text}" for name, failure in failures.items()}


@pytest.mark.parametrize("name", NAMES)
def test_story(name: str, outcomes: dict[str, str | None]) -> None:
    assert name in outcomes, f"the story did not run; there were {list(outcomes)}"
    assert outcomes[name] is None, outcomes[name]


def test_the_types_of_the_client_are_those_of_the_api_document(addresses: dict[str, str]) -> None:
    assert addresses

    check = subprocess.run(["npm", "run", "check"], cwd=ROOT / "frontend", capture_output=True, text=True, check=False)

    assert check.returncode == 0, f"`npm run types` in frontend/ writes them again: {check.stdout}{check.stderr}"


def test_the_lock_file_names_no_registry() -> None:
    packages = json.loads((ROOT / "frontend/package-lock.json").read_text())["packages"]

    assert [name for name, package in packages.items() if "resolved" in package] == []
