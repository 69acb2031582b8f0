"""Does docs/operations.md list every setting, signal, log event and metric, and nothing that is not there?"""

import re
from dataclasses import fields
from pathlib import Path

import typer
from uvicorn.supervisors import Multiprocess

from backend.commands.cli import cli
from backend.commands.user import user
from backend.database.failures import MISTAKEN
from backend.server.limits import Limits
from backend.settings import Settings

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/operations.md").read_text()
SOURCES = {str(file.relative_to(ROOT / "backend")): file.read_text() for file in (ROOT / "backend").rglob("*.py")}
# Logged by way of a variable, or given to the lines of libraries.
OTHERS = {event for event, _ in MISTAKEN.values()} | {"request", "broken-off", "unavailable", "server", "other"}


def listed(section: str) -> set[str]:
    """Return the names in the first column of the section's table."""
    rows = PAGE.split(f"## {section}\n")[1].split("\n## ")[0]
    return {name for row in re.findall(r"^\| (`.*?) \|", rows, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)}


def test_every_setting_is_listed() -> None:
    assert listed("Settings") == {name.upper() for name in Settings.model_fields}


def test_every_setting_can_be_found_in_the_example_file() -> None:
    example = (ROOT / "backend/.env.example").read_text()

    assert {name.upper() for name in Settings.model_fields} == set(
        re.findall(r"^#? ?([A-Z_]+)=", example, re.MULTILINE)
    )


def test_every_event_is_listed() -> None:
    logged = {event for source in SOURCES.values() for event in re.findall(r'"event": "([a-z-]+)"', source)}

    assert listed("Log") == logged | OTHERS


def test_every_line_of_ours_carries_an_event() -> None:
    calls = [
        call
        for name, source in SOURCES.items()
        if not name.startswith("development/")
        for call in re.findall(r"logger\.(?:info|warning|error|exception)\((?:[^()]|\([^()]*\))*\)", source)
    ]

    assert calls
    assert [call for call in calls if "extra=" not in call] == []


def test_every_limit_is_listed_with_its_value() -> None:
    rows = PAGE.split("## Limits\n")[1].split("\n## ")[0]
    values = {name: float(value) for name, value in re.findall(r"^\| `(\w+)` \| (\d+) \|", rows, re.MULTILINE)}

    assert values == {field.name: field.default for field in fields(Limits)}


def test_every_signal_is_listed() -> None:
    handled = {f"SIG{name.removeprefix('handle_').upper()}" for name in dir(Multiprocess) if name.startswith("handle_")}

    signals = {name.split()[0] for name in listed("Start, stop, replace") if name.startswith("SIG")}

    assert signals == handled - {"SIGSIGNALS", "SIGBREAK"}  # Windows has the latter


def test_every_option_of_migrate_is_listed() -> None:
    parameters = typer.main.get_command(cli).commands["migrate"].params  # type: ignore[attr-defined]  # it is a group
    options = {each.opts[0] for each in parameters if "--adopt:" not in (each.help or "")}

    told = {name.split()[0] for name in listed("Start, stop, replace") if name.startswith("--")}

    assert told == options - {"--new", "--drop-rows"}  # for who changes the code, and in the row of --to


def test_every_command_about_a_user_is_listed() -> None:
    commands = typer.main.get_command(user).commands  # type: ignore[attr-defined]  # it is a group

    assert listed("What is kept of a user") == {f"user {name} USER_ID" for name in commands}
