"""Does `migrate --grant` give a role what `serve` needs and nothing else, and does `doctor` name what is missing?"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote
from uuid import uuid4

import asyncpg
import pytest
from databases import execute, own_database, using
from people import ORIGIN, SECRET, User
from running import serving
from servers import ROOT, until
from test_migrations import COMPATIBLE
from typer.testing import CliRunner

from backend.commands.cli import cli
from backend.errors import OperatorError
from backend.schema.found_table import quoted
from backend.schema.migrate import upgrade
from backend.settings import Settings

pytestmark = pytest.mark.spec("FR-034")


@dataclass
class Place:
    """A database as Neon hands it out, whose owner is no superuser, and a role that serves; PUBLIC may do nothing."""

    administrator: str
    owner: str
    role: str
    url: str

    def granted(self, *options: str, role: str | None = None, by: str | None = None) -> str:
        """Return what `migrate --grant` says, its refusal too."""
        arguments = ["migrate", "--grant", role or self.role, *options]
        result = CliRunner().invoke(cli, arguments, env={"NEON_DATABASE_URL": by or self.owner})
        assert result.exception is None or isinstance(result.exception, OperatorError)
        return result.stdout or str(result.exception)

    def diagnosis(self) -> dict[str, tuple[str, str]]:
        """Return what `doctor` finds with the role that serves."""
        variables = {"BETTER_AUTH_SECRET": SECRET, "BETTER_AUTH_URL": ORIGIN, "BETTER_AUTH_MODE": "secret"}
        result = CliRunner().invoke(cli, ["doctor", "--json"], env=variables | {"NEON_DATABASE_URL": self.url})
        return {each["subject"]: (each["verdict"], each["text"]) for each in json.loads(result.stdout)}


@pytest.fixture
def place(database_url: str) -> Iterator[Place]:
    name = uuid4().hex
    owner, role = f"owner_{name}", f"the \"servants' röle {name}"
    execute(database_url, f"CREATE ROLE {owner} LOGIN CREATEROLE", f"CREATE ROLE {quoted(role)} LOGIN")
    with own_database(database_url) as url:
        database = url.partition("?")[0].rpartition("/")[2]
        execute(
            url,
            f"ALTER DATABASE {database} OWNER TO {owner}",
            f"REVOKE ALL ON DATABASE {database} FROM PUBLIC",
            "REVOKE ALL ON SCHEMA public FROM PUBLIC",
        )
        yield Place(url, url.replace("//app@", f"//{owner}@"), role, url.replace("//app@", f"//{quote(role)}@"))
    execute(database_url, f"DROP ROLE {owner}", f"DROP ROLE {quoted(role)}")


def use_all_six(base_url: str) -> None:
    user = User(base_url)
    with user.http:
        task = user.add()
        path = f"{user.tasks}/{task['id']}"
        changed = user.http.put(path, json={"title": "Buy bread"})
        statuses = [
            changed.status_code,
            user.http.patch(f"{path}/complete").status_code,
            user.http.get(path).status_code,
            user.http.get(user.tasks).status_code,
            user.http.delete(path).status_code,
        ]
    assert statuses == [200, 200, 200, 200, 204]


@pytest.mark.parametrize("table", ["ours", "integer serial"])
def test_a_role_with_this_grant_serves_and_may_do_nothing_else(place: Place, settings: Settings, table: str) -> None:
    execute(place.owner, *[COMPATIBLE[each] for each in [table] if each in COMPATIBLE])
    upgrade(place.owner)

    said = place.granted()

    rights = [
        "CONNECT ON DATABASE",
        "USAGE ON SCHEMA",
        *(f"{each} ON TABLE" for each in ("SELECT", "INSERT", "UPDATE", "DELETE")),
    ]
    rights += [] if table == "ours" else ["USAGE ON SEQUENCE"]
    paragraph = (ROOT / "docs/operations.md").read_text().split("**Least privilege.**")[1].split("\n\n**")[0]
    lines = said.splitlines()
    assert [line.split(" TO ")[0].rpartition(" ")[0] for line in lines] == [f"GRANT {each}" for each in rights]
    assert {line.split()[1] for line in lines} == set(
        re.findall("CONNECT|USAGE|SELECT|INSERT|UPDATE|DELETE|TRUNCATE", paragraph)
    )
    with serving(using(settings, place.url)) as base_url:
        use_all_six(base_url)
        user = User(base_url)
        with user.http:
            assert user.http.get("/readyz").status_code == 200
    for beyond in (
        "TRUNCATE task",
        "SELECT FROM todo_schema_version",
        "CREATE TABLE mine ()",
        "ALTER TABLE task ADD x int",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            execute(place.url, beyond)
    findings = place.diagnosis()
    assert (findings["rights"][0], findings["schema"]) == ("good", ("good", "is up to date"))


@pytest.mark.parametrize(
    "right",
    ["SELECT ON TABLE public.task", "INSERT ON TABLE public.task", "UPDATE ON TABLE public.task",
     "DELETE ON TABLE public.task", "USAGE ON SCHEMA public", "USAGE ON SEQUENCE public.task_id_seq"],
)  # fmt: skip
def test_what_is_missing_is_named_with_its_cure(place: Place, settings: Settings, right: str) -> None:
    execute(place.owner, COMPATIBLE["integer serial"])
    upgrade(place.owner)
    place.granted()
    execute(place.owner, f"REVOKE {right} FROM {quoted(place.role)}")

    # In a schema that may not be used, no table is seen.
    word = "schema" if right == "USAGE ON SCHEMA public" else "rights"

    findings = place.diagnosis()
    with serving(using(settings, place.url)) as base_url:
        user = User(base_url)
        with user.http:
            until(lambda: user.http.get("/readyz").json() == {"detail": f"Not ready: {word}."}, "it finds no obstacle")
            place.granted()
            until(lambda: user.http.get("/readyz").status_code == 200, "it is never ready")
        use_all_six(base_url)

    assert findings["rights"][0] == "bad"
    assert f"lacks {right}: run `python -m backend migrate --grant " in findings["rights"][1]
    assert "schema" not in findings
    assert place.diagnosis()["rights"][0] == "good"


def test_with_sql_nothing_is_granted(place: Place) -> None:
    upgrade(place.owner)

    printed = place.granted("--sql")

    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        execute(place.url, "SELECT 1")
    execute(place.owner, printed)
    assert place.diagnosis()["rights"][0] == "good"
    assert place.granted() == printed


def test_what_cannot_be_granted_is_one_sentence(place: Place) -> None:
    before = place.granted()
    upgrade(place.owner)
    unknown, everybody = place.granted(role="nobody"), place.granted(role="public")
    execute(place.administrator, f"GRANT SELECT ON task TO {quoted(place.role)}")
    place.granted(by=place.administrator)
    execute(place.owner, f"REVOKE DELETE ON task FROM {quoted(place.role)}")
    by_itself = place.granted(by=place.url)

    assert before == "There is no table task yet: run `python -m backend migrate` first."
    assert unknown == """There is no such role: CREATE ROLE "nobody" LOGIN PASSWORD '…' makes one."""
    assert everybody.startswith("There is no such role")
    assert "would still lack DELETE ON TABLE public.task, so nothing was granted" in by_itself
