"""What is known of another backend's table, and what will be done with it?"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from backend.auth.claims import MAX_USER_ID_LENGTH
from backend.database.failures import beyond_calendar
from backend.models import MAX_DESCRIPTION, MAX_TITLE
from backend.schema.found_table import SPELLINGS, TIMES, Column, columns, known_spelling, look_alikes, quoted
from backend.schema.migrate import BASE, current_revision

# What a client may send at most.
TEXTS = {"user_id": MAX_USER_ID_LENGTH, "title": MAX_TITLE, "description": MAX_DESCRIPTION}


@dataclass(frozen=True)
class Choices:
    """What only the operator can know or allow."""

    time_zone: str | None = None
    owner: str | None = None
    new_ids: bool = False
    keep_long: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    drop: frozenset[str] = frozenset()
    keep: frozenset[str] = frozenset()


class Plan:
    """What will be done with one table: SQL and its way back, what to tell about it, and what stands against it.

    `rows` and `facts` are there unless there are problems from the start.
    """

    def __init__(self, connection: Connection, table: str, choices: Choices) -> None:
        self.connection, self.table, self.choices = connection, table, choices
        self.said: list[str] = []
        self.problems: list[str] = []
        self._steps: list[tuple[str, str]] = []
        self.found = columns(connection, table)
        self.names = self._mapping()
        if self._may_begin():
            self.facts = self._count()
            self.rows: int = self.facts["rows"]

    @property
    def sql(self) -> list[str]:
        return [do for do, _ in self._steps if do]

    @property
    def way_back(self) -> list[str]:
        return [undo for _, undo in reversed(self._steps) if undo]

    def step(self, do: str, undo: str = "") -> None:
        self._steps.append((do, undo))

    def alter(self, do: str, undo: str = "") -> None:
        self.step(f"ALTER TABLE task {do}", undo and f"ALTER TABLE task {undo}")

    def ask(self, query: str, *values: Any) -> Any:
        return self.connection.exec_driver_sql(query, values).scalar()

    def _mapping(self) -> dict[str, str]:
        """Return under which name each of our fields is found; no column is taken twice."""
        names: dict[str, str] = {}
        for ours in SPELLINGS:
            left = [name for name in self.found if name not in {*names.values(), *self.choices.columns.values()}]
            theirs = self.choices.columns.get(ours) or known_spelling(ours, left)
            names |= {ours: theirs} if theirs else {}
        return names

    def _may_begin(self) -> bool:
        others = ", ".join(look_alikes(self.connection)) or "none"
        if not self.found:
            self.problems.append(f"there is no table of this name; tables that look like tasks: {others}")
        elif self.table == "task" and current_revision(self.connection) != BASE:
            self.problems.append("this backend uses it already")
        elif unknown := sorted(set(self.names.values()) - set(self.found) | set(self.choices.columns) - set(SPELLINGS)):
            self.problems.append(f"--column names what is not there: {', '.join(unknown)}")
        elif self.ask("SELECT relkind <> 'r' FROM pg_class WHERE oid = to_regclass(quote_ident($1))", self.table):
            self.problems.append("it is no ordinary table")
        elif self.choices.time_zone and not self.ask(
            "SELECT count(*) FROM pg_timezone_names WHERE name = $1", self.choices.time_zone
        ):
            self.problems.append("--time-zone takes a name such as Europe/Berlin")
        return not self.problems

    def column(self, ours: str) -> Column | None:
        return self.found[self.names[ours]] if ours in self.names else None

    def _count(self) -> dict[str, Any]:
        """Count, in one look at the rows, all that may stand against them."""
        asked = {"rows": "count(*)"}
        for ours, theirs in self.names.items():
            name = quoted(theirs)
            asked[f"{ours} null"] = f"count(*) FILTER (WHERE {name} IS NULL)"
            if ours in TEXTS:
                asked[f"{ours} long"] = f"count(*) FILTER (WHERE length({name}::text) > {TEXTS[ours]})"
            if ours in TIMES and self.found[theirs].category == "D":
                asked[f"{ours} beyond"] = f"count(*) FILTER (WHERE {beyond_calendar(name)})"
            if ours == "id" and self.has_number():
                asked |= {"first id": f"min({name})", "last id": f"max({name})"}
        row = self.connection.exec_driver_sql(f"SELECT {', '.join(asked.values())} FROM {quoted(self.table)}").one()
        return dict(zip(asked, row, strict=True))

    def has_number(self) -> bool:
        column = self.column("id")
        return column is not None and column.kind in {"smallint", "integer", "bigint"}

    def retype(self, ours: str, kind: str, using: str, back: str) -> None:
        was = self.found[self.names[ours]].kind
        self.alter(f"ALTER {ours} TYPE {kind} USING {using}", f"ALTER {ours} TYPE {was} USING {back}")
        self.said.append(f"{ours} becomes {kind}, from {was}")

    def own_default(self, ours: str, column: Column | None) -> None:
        if column and column.default:
            self.alter(f"ALTER {ours} DROP DEFAULT", f"ALTER {ours} SET DEFAULT {column.default}")
