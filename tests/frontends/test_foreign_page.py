"""Do fetch and axios work on a page of another origin, in Chromium, with its own preflights and credentials?"""

import json
import os
import subprocess
from pathlib import Path

from chromium import browser
from people import User

from backend.development import frontend

ROOT = Path(__file__).resolve().parents[2]


def test_fetch_and_axios_on_a_page_of_another_origin(person: User, api: str, origin: str) -> None:
    chromium = browser()
    frontend.install(print)

    script = ["node", "e2e/foreign-page.mjs", origin, f"{api}{person.tasks}", person.token]
    run = subprocess.run(
        script,
        cwd=frontend.DIRECTORY,
        env={**os.environ, "CHROMIUM": chromium},
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    answers = json.loads(run.stdout)
    statuses = {name: answer["status"] for name, answer in answers["fetch"].items()}
    assert statuses == {
        "created": 201, "whole": 200, "toggled": 200, "listed": 200, "slash": 200, "deleted": 204, "gone": 404,
    }  # fmt: skip
    toggled = answers["fetch"]["toggled"]["body"]
    assert (toggled["title"], toggled["completed"]) == ("Sent back whole", True)
    assert answers["fetch"]["listed"]["body"] == answers["fetch"]["slash"]["body"] == [toggled]
    assert answers["fetch"]["slash"]["redirected"] is False
    assert answers["refused"]["status"] == 401
    assert answers["refused"]["challenge"].startswith("Bearer ")
    assert answers["refused"]["id"]
    assert answers["axios"]["created"]["status"] == 201
    assert answers["axios"]["listed"]["body"] == [answers["axios"]["created"]["body"]]
    assert answers["axios"]["invalid"]["status"] == 422
    assert isinstance(answers["axios"]["invalid"]["body"]["detail"], str)
