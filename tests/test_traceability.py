"""Is each requirement of the specification proven by a test, and each claim of a test in the specification?

Read from the sources, so that a run of a few tests gives the same answer as a run of all.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
SPECIFICATION = TESTS.parent / "specs/002-fastapi-backend/spec.md"


def defined() -> set[str]:
    """Return the ids that spec.md gives to scenarios, requirements, criteria and edge cases."""
    return set(
        re.findall(r"^- \*\*(US\d+\.\d+|FR-\d{3}|SC-\d{3}|EC-\d+)\*\* ", SPECIFICATION.read_text(), re.MULTILINE)
    )


def marked() -> dict[str, set[str]]:
    """Return, for each id on a `pytest.mark.spec(…)`, the files in which it stands."""
    files: dict[str, set[str]] = {}
    for file in TESTS.rglob("*.py"):
        for name in _ids(ast.parse(file.read_text())):
            files.setdefault(name, set()).add(str(file.relative_to(TESTS)))
    return files


def _ids(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.spec":
            yield from (ast.literal_eval(argument) for argument in node.args)


def test_the_specification_is_read() -> None:
    assert {"US1.1", "US6.7", "FR-001", "FR-020", "SC-001", "SC-010", "EC-1", "EC-8"} <= defined()


def test_every_requirement_is_proven_by_a_test() -> None:
    assert sorted(defined() - marked().keys()) == []


def test_every_mark_names_a_requirement() -> None:
    assert {name: files for name, files in marked().items() if name not in defined()} == {}


def test_every_scenario_has_a_test_of_its_name() -> None:
    """US2.5 is told by a function test_us2_5_… of the file of its story."""
    stories = {name for name in defined() if name.startswith("US")}

    told = {
        f"US{story}.{scenario}"
        for file in TESTS.glob("stories/test_us*.py")
        for story, scenario in re.findall(r"^(?:async )?def test_us(\d+)_(\d+)_", file.read_text(), re.MULTILINE)
        if file.name.startswith(f"test_us{story}_")
    }

    assert told == stories
