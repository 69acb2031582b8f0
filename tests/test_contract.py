"""Do the API document, the specification's contract and the answers on the wire say the same?"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from databases import execute
from people import User
from pydantic import TypeAdapter
from servers import uncovered

from backend.models import TaskRead

REPOSITORY = Path(__file__).parents[1]
CONTRACT = REPOSITORY / "specs/002-fastapi-backend/contracts/openapi.yaml"
HEADER = """\
# The wire format, as the application serves it at /openapi.json where API_DOCS is on.
# Written by `UPDATE_CONTRACT=1 .venv/bin/pytest tests/test_contract.py`, and compared by the same test.
"""
HANG_SECONDS = 900
STALE = (
    f"{CONTRACT.relative_to(REPOSITORY)} is not what the application serves. Where the change is meant, write it anew: "
    "UPDATE_CONTRACT=1 .venv/bin/pytest tests/test_contract.py"
)


@pytest.fixture
def served(anonymous: httpx.Client) -> dict[str, Any]:
    document: dict[str, Any] = anonymous.get("/openapi.json").json()
    return document


@pytest.mark.spec("FR-014", "FR-015")
def test_the_served_document_is_the_contract(served: dict[str, Any]) -> None:
    if os.environ.get("UPDATE_CONTRACT"):
        CONTRACT.parent.mkdir(exist_ok=True)
        CONTRACT.write_text(HEADER + yaml.safe_dump(served, sort_keys=False, allow_unicode=True, width=120))

    contract = yaml.safe_load(CONTRACT.read_text()) if CONTRACT.exists() else {}

    assert contract == served, STALE


@pytest.mark.spec("FR-014")
def test_the_operations_are_those_of_the_specification(served: dict[str, Any]) -> None:
    operations = {
        f"{method.upper()} {path}": described["operationId"]
        for path, methods in served["paths"].items()
        for method, described in methods.items()
    }

    assert (
        operations.items()
        >= {
            "GET /api/{user_id}/tasks": "listTasks",
            "POST /api/{user_id}/tasks": "createTask",
            "GET /api/{user_id}/tasks/{id}": "getTask",
            "PUT /api/{user_id}/tasks/{id}": "updateTask",
            "DELETE /api/{user_id}/tasks/{id}": "deleteTask",
            "PATCH /api/{user_id}/tasks/{id}/complete": "toggleTaskCompletion",
            "GET /health": "healthCheck",
            "GET /livez": "livenessCheck",
            "GET /readyz": "readinessCheck",
        }.items()
    )


@pytest.mark.spec("FR-001")
def test_the_token_is_a_bearer_jwt(served: dict[str, Any]) -> None:
    schemes = served["components"]["securitySchemes"]

    (name,) = schemes
    assert name == "BearerAuth"
    assert (schemes[name]["type"], schemes[name]["scheme"], schemes[name]["bearerFormat"]) == ("http", "bearer", "JWT")


@pytest.mark.spec("FR-014", "FR-015")
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
def test_a_method_that_a_path_does_not_know_gets_all_that_it_knows(
    anonymous: httpx.Client, served: dict[str, Any], method: str
) -> None:
    known = {
        path.format(user_id="somebody", id=1): sorted(
            {*map(str.upper, methods), *(["HEAD"] if "get" in methods else [])}
        )
        for path, methods in served["paths"].items()
        if method.lower() not in methods
    }

    answers = {path: anonymous.request(method, path) for path in known}

    assert {path: answer.headers["Allow"].split(", ") for path, answer in answers.items()} == known
    assert {answer.status_code for answer in answers.values()} <= {405}
    assert all(answer.json() == {"detail": "Method not allowed."} for answer in answers.values())


@pytest.mark.spec("FR-010", "FR-011", "FR-014")
@pytest.mark.parametrize("time", ["2026-01-31 23:59:59", "2026-01-31 23:59:59.000001", "2026-01-31 23:59:59.120+05:30"])
def test_the_bytes_of_an_answer_are_those_of_its_shape(alice: User, database_url: str, time: str) -> None:
    text = 'Ünïcode \N{PILE OF POO} \u2028 \x7f "quoted" \\ /' + "".join(map(chr, range(1, 32)))
    task = alice.add(text, description=text)
    path = f"{alice.tasks}/{task['id']}"
    execute(database_url, f"UPDATE task SET created_at = '{time}', updated_at = '{time}' WHERE id = {task['id']}")

    answers = [
        alice.http.get(path),
        alice.http.put(path, json={}),
        alice.http.post(alice.tasks, json={"title": text, "description": None}),
        alice.http.put(path, json={"title": text}),
        alice.http.patch(f"{path}/complete"),
    ]

    for answer in answers:
        assert TaskRead.model_validate_json(answer.content).model_dump_json().encode() == answer.content
    many = TypeAdapter(list[TaskRead])
    listed = alice.http.get(alice.tasks).content
    assert many.dump_json(many.validate_json(listed)) == listed


def schemathesis(
    folder: Path, url: str, examples: int, *, caller: User, other: User, owner: str
) -> tuple[str, dict[str, Any]]:
    """Send what Schemathesis makes up from the served document, always the same, as `caller` to the path of `owner`.

    `other` is tried on everything that the caller has read. Returns the output and the report.
    """
    people = {"caller": caller.token, "other": other.token}
    users = [
        {"name": name, "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {token}"}]}
        for name, token in people.items()
    ]
    (folder / "users.yaml").write_text(yaml.safe_dump({"auth": users}))
    (folder / "schemathesis.toml").write_text(f"""
        continue-on-failure = true
        suppress-health-check = ["all"]
        parameters = {{ "path.user_id" = "{owner}" }}
        auth.wfc = {{ path = "users.yaml", user = "caller", peers = ["caller", "other"] }}
        generation = {{ deterministic = true, max-examples = {examples} }}

        # An Idempotency-Key that came before with another body is 422, however well both are formed.
        [[operations]]
        include-operation-id = "createTask"
        checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "422"]
    """)
    run = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--checks=all", "--no-color",
         "--report=json", "--report-json-path=report.json"],
        cwd=folder, env=uncovered(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    output = run.stdout + run.stderr
    assert (folder / "report.json").exists(), output
    return output, json.loads((folder / "report.json").read_text())


@pytest.mark.timeout(HANG_SECONDS)
@pytest.mark.spec("FR-014", "FR-015", "SC-002", "SC-003", "SC-008")
def test_schemathesis_finds_nothing(alice: User, bob: User, base_url: str, tmp_path: Path) -> None:
    output, report = schemathesis(tmp_path, base_url, 25, caller=alice, other=bob, owner=alice.id)

    assert report["exit_code"] == 0, output
    assert {phase["status"] for phase in report["phases"].values()} == {"success"}, output
    assert [kind for kind, found in report["warnings"].items() if found] == []
    accepted = {
        operation: sum(phase["accepted"] for phase in phases.values())
        for operation, phases in report["valid_rates"].items()
    }
    assert len(accepted) == report["operations"]["total"]
    assert min(accepted.values()) > 0, accepted


@pytest.mark.timeout(HANG_SECONDS)
@pytest.mark.spec("FR-005", "FR-015", "SC-002")
def test_schemathesis_finds_nothing_at_another_users_path(
    alice: User, bob: User, base_url: str, tmp_path: Path
) -> None:
    his = bob.add()

    output, report = schemathesis(tmp_path, base_url, 10, caller=alice, other=alice, owner=bob.id)

    assert report["exit_code"] == 0, output
    assert report["operations"]["tested"] == report["operations"]["total"] >= 9
    assert bob.list() == [his]
