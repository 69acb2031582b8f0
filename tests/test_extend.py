"""Are the changes of docs/extend.md as short as they should be, and do they work, all of them in one tree?"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from commands import REPOSITORY, scratch_tree
from databases import own_database, using
from people import ORIGIN, SECRET, User
from running import serving
from servers import free_port

from backend.database import statements
from backend.database.statements import Statement
from backend.models import TaskCreate
from backend.schema.migrate import upgrade
from backend.settings import Settings
from backend.tasks import creation_hash

GUIDE = (REPOSITORY / "docs/extend.md").read_text()
CHANGES = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```diff\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE))
COLUMN = "A column that clients may set"
# The most lines that a change may add, and the most files; the migration that is written for a column included.
BOUNDS = {
    COLUMN: (25, 4),
    "A filter on the list": (15, 3),
    "An endpoint with a statement": (20, 3),
    "A middleware, a handler of errors": (4, 1),
    "A dependency": (10, 1),
}


def apply(diff: str, root: Path) -> Counter[str]:
    """Make the change in this tree; returns how many lines it adds to which file."""
    added: Counter[str] = Counter()
    for part in diff.split("--- a/")[1:]:
        name, *hunks = re.split(r"^@@.*\n", part, flags=re.MULTILINE)
        file = root / name.splitlines()[0]
        for hunk in hunks:
            lines = hunk.splitlines()
            before, after = (
                "\n".join(line[1:] for line in lines if line[:1] not in sign) + "\n" for sign in ("+", "-")
            )
            text = file.read_text()
            assert text.count(before) == 1, f"{file}:\n{before}"
            file.write_text(text.replace(before, after))
            added[str(file)] += sum(line.startswith("+") for line in lines)
    return added


@pytest.fixture
def database(database_url: str) -> Iterator[str]:
    with own_database(database_url) as url:
        upgrade(url)
        yield url


def test_all_changes_of_the_guide_are_short_and_work(database: str, settings: Settings) -> None:
    milk, once = {"title": "Milk"}, {"Idempotency-Key": "before"}
    with serving(using(settings, database)) as base_url:
        user = User(base_url)
        with user.http as http:
            before = http.post(user.tasks, json=milk, headers=once).json()
    with scratch_tree() as tree, httpx.Client(headers=user.http.headers, timeout=30) as http:
        variables = {"NEON_DATABASE_URL": database, "BETTER_AUTH_SECRET": SECRET, "BETTER_AUTH_URL": ORIGIN}
        added = {heading: apply(diff, tree.root) for heading, diff in CHANGES.items()}

        written = tree.run("backend", "migrate", "--new", "How urgent a task is")
        migrated = tree.run("backend", "migrate", variables=variables)

        (migration,) = tree.root.glob("migrations/versions/*_how_urgent_a_task_is.py")
        added[COLUMN][str(migration)] = len(migration.read_text().splitlines())
        port = free_port()
        with tree.running("backend", "serve", "--port", str(port), variables=variables) as server:
            server.answers(f"http://127.0.0.1:{port}/health")
            http.base_url = f"http://127.0.0.1:{port}"
            again = http.post(user.tasks, json=milk, headers=once).json()
            bodies = [milk | {"priority": 3}] * 2 + [milk | {"priority": 4}, milk]
            created = [http.post(user.tasks, json=body, headers={"Idempotency-Key": "k"}) for body in bodies]
            task = created[0].json()
            path = f"{user.tasks}/{task['id']}"
            sent = [{"priority": 5}, {}, {"title": "Bread"}, {"priority": None}]
            changed = [http.put(path, json=body).json() for body in sent]
            read, listed = http.get(path).json(), http.get(user.tasks).json()
            hurried = http.post(user.tasks, json=milk, headers={"X-Hurry": "10"})
            done = http.patch(f"{path}/complete").json()
            chosen = [http.get(user.tasks, params={"completed": value}).json() for value in ("true", "false")]
            refused = http.get(user.tasks, params={"completed": "banana"})
            http.post(user.tasks, json={"title": "Long", "description": "x" * 1000})
            packed = http.get(user.tasks).headers
            deleted = http.delete(user.tasks).status_code
            rest = [each["title"] for each in http.get(user.tasks).json()]

    assert (written.returncode, migrated.returncode) == (0, 0), written.stderr + migrated.stderr
    assert {
        heading: (added[heading].total() <= lines, len(added[heading]) <= files)
        for heading, (lines, files) in BOUNDS.items()
    } == dict.fromkeys(BOUNDS, (True, True)), added
    assert again == before | {"priority": None}
    assert [each.status_code for each in created] == [201, 201, 422, 422]
    assert task == created[1].json()
    assert [task["priority"], *(each["priority"] for each in changed)] == [3, 5, 5, 5, None]
    assert task["updated_at"] < changed[0]["updated_at"] == changed[1]["updated_at"] < changed[2]["updated_at"]
    assert (read, listed) == (changed[3], [changed[3], again])
    assert (hurried.status_code, hurried.headers["retry-after"]) == (429, "1")
    assert chosen == [[done], [again]]
    assert (refused.status_code, type(refused.json()["detail"])) == (422, str)
    assert packed["content-encoding"] == "gzip"
    assert (deleted, rest) == (204, ["Long", "Milk"])


def test_a_new_migration_is_put_into_our_form() -> None:
    behind = "    creation_hash: bytes | None = Field(sa_type=LargeBinary)\n"
    with scratch_tree() as tree:
        models = tree.root / "backend/models.py"
        models.write_text(models.read_text().replace(behind, f"{behind}    place: str = Field(max_length=50)\n"))

        tree.run("backend", "migrate", "--new", "where.")
        formatted = [tree.run("ruff", *command, "migrations") for command in (["check", "--fix"], ["format"])]

        text = (tree.root / "migrations/versions/0003_where.py").read_text()

    assert [each.returncode for each in formatted] == [0, 0], formatted
    assert text.startswith('"""Where."""\n')
    assert 'revision = "0003"\ndown_revision = "0002"\n' in text
    assert 'op.add_column("task", sa.Column("place", sa.String(50), nullable=False))' in text
    assert len(text.splitlines()) <= 21


def test_the_hash_of_a_body_is_what_it_has_always_been() -> None:
    bodies = [TaskCreate(title="Milk"), TaskCreate(title="Ünï \N{PILE OF POO}\n", description="x", completed=True)]

    assert [creation_hash(body).hex() for body in bodies] == [
        "2dfea6692ab58872d4d9a7fd9171668edc264b679d811b7b0e6c36cc7f0c7f00",
        "6c2821b919aa7fea1dc2f5258247906cf3c680ffbd17cf68cd1c5979601e98ba",
    ]


def test_every_statement_of_the_api_is_prepared() -> None:
    names = {each.name for each in vars(statements).values() if isinstance(each, Statement)} - {statements.ERASE.name}

    assert names == {each.name for each in statements.ALL}
