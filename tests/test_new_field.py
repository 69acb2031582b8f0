"""Is a new field of a task four lines of the model, and a migration that is written for it?"""

from collections.abc import Iterator

import httpx
import pytest
from commands import scratch_tree
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

# What is added, and behind which line of each class.
LINES = [
    ("    creation_hash: bytes | None = Field(sa_type=LargeBinary)\n", "    priority: int | None\n"),
    ("    completed: StrictBool = False\n", "    priority: int | None = None\n"),
    (
        "    completed: StrictBool = Field(default_factory=bool)\n",
        "    priority: int | None = Field(default_factory=int)\n",
    ),
    ("    updated_at: datetime\n", "    priority: int | None\n"),
]


@pytest.fixture
def database(database_url: str) -> Iterator[str]:
    with own_database(database_url) as url:
        upgrade(url)
        yield url


def test_a_nullable_field_is_four_lines_and_a_migration(database: str, settings: Settings) -> None:
    milk, once = {"title": "Milk"}, {"Idempotency-Key": "before"}
    with serving(using(settings, database)) as base_url:
        user = User(base_url)
        with user.http as http:
            before = http.post(user.tasks, json=milk, headers=once).json()
    with scratch_tree() as tree, httpx.Client(headers=user.http.headers, timeout=30) as http:
        variables = {"NEON_DATABASE_URL": database, "BETTER_AUTH_SECRET": SECRET, "BETTER_AUTH_URL": ORIGIN}
        models = tree.root / "backend/models.py"
        text = models.read_text()
        for line, added in LINES:
            assert text.count(line) == 1
            text = text.replace(line, line + added)
        models.write_text(text)

        written = tree.run("backend", "migrate", "--new", "How urgent a task is")
        migrated = tree.run("backend", "migrate", variables=variables)

        (migration,) = tree.root.glob("migrations/versions/0003_*.py")
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

    assert (written.returncode, migrated.returncode) == (0, 0), written.stderr + migrated.stderr
    assert migration.name == "0003_how_urgent_a_task_is.py"
    assert again == before | {"priority": None}
    assert [each.status_code for each in created] == [201, 201, 422, 422]
    assert task == created[1].json()
    assert [task["priority"], *(each["priority"] for each in changed)] == [3, 5, 5, 5, None]
    assert task["updated_at"] < changed[0]["updated_at"] == changed[1]["updated_at"] < changed[2]["updated_at"]
    assert (read, listed) == (changed[3], [changed[3], again])


def test_a_new_migration_is_put_into_our_form() -> None:
    behind, _ = LINES[0]
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


def test_every_statement_is_prepared() -> None:
    names = {each.name for each in vars(statements).values() if isinstance(each, Statement)}

    assert {each.name for each in statements.ALL} == names
    assert len(statements.ALL) == len(names)
