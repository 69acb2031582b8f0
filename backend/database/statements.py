"""Which SQL does the application send?

All of it: seven statements, and one of a command, built once from the model, each of them limited to its owner. What a
client may set comes from `TaskCreate` and `TaskUpdate`, what it is shown from `TaskRead`.
"""

import hashlib
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Any

from sqlalchemy import BigInteger, ClauseElement, ColumnElement, DateTime, bindparam, case, func, text, tuple_
from sqlalchemy.dialects.postgresql import asyncpg, insert
from sqlmodel import col, delete, select, update

from backend.models import Task, TaskCreate, TaskRead, TaskUpdate


class Again(Enum):
    """Whether a statement may be sent once more, after the connection broke and nobody knows if it was done."""

    IDEMPOTENT = "yes: done twice, it leaves and answers the same as done once"
    GONE_IS_DONE = "yes: where the second one finds no row, the first one has deleted it"
    NOT_REPEATABLE = "no: done twice, it changes twice"


@dataclass(frozen=True)
class Statement:
    """SQL with the names of its parameters in the order of $1, $2, …

    `again` is for our own second try, `client_again` tells whether a client may try again without looking first,
    `label` names it for people: in the metrics, and in the prepared statement's name.
    """

    sql: str
    parameters: tuple[str, ...]
    again: Again
    client_again: bool = True
    label: str = "other"

    @cached_property
    def name(self) -> str:
        """The prepared statement's name. It is derived from the SQL: behind a pooler that shares server connections, a
        counter's name could run another process's statement."""
        return f"todo_{self.label}_{hashlib.sha256(self.sql.encode()).hexdigest()[:16]}"

    @cached_property
    def reads(self) -> bool:
        return self.sql.startswith("SELECT")

    def arguments(self, values: dict[str, Any]) -> list[Any]:
        return [values[parameter] for parameter in self.parameters]


# The statements of the API: each connection begins with preparing them.
ALL: list[Statement] = []


def _compiled(
    label: str, query: ClauseElement, again: Again = Again.IDEMPOTENT, *, client_again: bool = True
) -> Statement:
    ALL.append(_unprepared(label, query, again, client_again=client_again))
    return ALL[-1]


def _unprepared(label: str, query: ClauseElement, again: Again, *, client_again: bool = True) -> Statement:
    compiled: Any = query.compile(dialect=asyncpg.dialect(paramstyle="numeric_dollar"))  # type: ignore[no-untyped-call]
    return Statement(str(compiled), tuple(compiled.positiontup), again, client_again, label)


def _sent(name: str) -> ColumnElement[Any]:
    """The value that was sent, or the one that is there; where null is a value, `set_…` tells whether it was sent."""
    column = _table.columns[name]
    value = bindparam(name, type_=column.type)
    return case((bindparam(f"set_{name}"), value), else_=column) if column.nullable else func.coalesce(value, column)


_table = Task.metadata.tables["task"]
# Every column that the statements need.
COLUMNS = _table.columns.keys()
_columns = [_table.columns[name] for name in TaskRead.model_fields]
_of_owner = col(Task.user_id) == bindparam("user_id")
_this_task = (col(Task.id) == bindparam("id")) & _of_owner

# The clock may stand still or step back between two changes; the microsecond keeps updated_at growing all the same.
# Citus takes no function on a column that depends on the session's time zone, as adding to a timestamptz does.
_utc = text("'UTC'")
_later = func.greatest(
    func.now(), func.timezone(_utc, func.timezone(_utc, col(Task.updated_at)) + text("interval '1 microsecond'"))
)

# A list comes in pages; most have one, which is not full. That its size is an argument also helps the planner: of a
# limit that it does not know it expects little, and follows the index rather than sort all that is left.
_newest_first = (
    select(*_columns).where(_of_owner).order_by(col(Task.created_at).desc(), col(Task.id).desc())
    .limit(bindparam("page_size", type_=BigInteger))
)  # fmt: skip
_after = tuple_(col(Task.created_at), col(Task.id)) < tuple_(
    bindparam("created_at", type_=DateTime(timezone=True)), bindparam("id", type_=BigInteger)
)


def _pages(label: str, *conditions: ColumnElement[bool]) -> tuple[Statement, Statement]:
    """Return what reads a list's first page, and what reads those after a task, whether or not that still exists."""
    chosen = _newest_first.where(*conditions)
    return _compiled(label, chosen), _compiled(f"{label}_after", chosen.where(_after))


LIST, LIST_AFTER = _pages("list")
GET = _compiled("get", select(*_columns).where(_this_task))
# A key that is there already is a retry: its task is answered, unless another body was sent with it (no row then).
_new = insert(Task).values(
    {name: bindparam(name) for name in ("user_id", *TaskCreate.model_fields, "creation_key", "creation_hash")}
)
CREATE_ONCE = _compiled(
    "create",
    _new.on_conflict_do_update(
        index_elements=["user_id", "creation_key"],
        set_={"creation_key": _new.excluded.creation_key},
        where=col(Task.creation_hash) == _new.excluded.creation_hash,
    ).returning(*_columns),
)
# The same, with a key of our own, which the client does not know.
CREATE = replace(CREATE_ONCE, client_again=False)
UPDATE = _compiled(
    "update",
    update(Task)
    .where(_this_task)
    .values({name: _sent(name) for name in TaskUpdate.model_fields} | {"updated_at": _later})
    .returning(*_columns),
)
TOGGLE = _compiled(
    "toggle",
    update(Task).where(_this_task).values(completed=~col(Task.completed), updated_at=_later).returning(*_columns),
    Again.NOT_REPEATABLE,
    client_again=False,
)
DELETE = _compiled("delete", delete(Task).where(_this_task).returning(*_columns), Again.GONE_IS_DONE)
# `user erase` alone sends it.
ERASE = _unprepared("erase", delete(Task).where(_of_owner), Again.IDEMPOTENT)
