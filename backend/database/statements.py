"""Which SQL does the application send?

All of it: seven statements, built once from the model, each of them limited to its owner.
"""

import hashlib
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Any

from sqlalchemy import BigInteger, Boolean, ClauseElement, DateTime, String, bindparam, case, func, text, tuple_
from sqlalchemy.dialects.postgresql import asyncpg, insert
from sqlmodel import col, delete, select, update

from backend.models import Task, TaskRead


class Again(Enum):
    """What happens when a statement is sent once more, after the connection broke and nobody knows if it was done."""

    SAME = "the outcome is that of once"
    GONE = "it may find nothing left to do, which is success then"
    OTHER = "it would be done twice"


@dataclass(frozen=True)
class Statement:
    """SQL with the names of its parameters in the order of $1, $2, …

    `again` is for our own second try, `client_again` tells whether a client may try again without looking first.
    """

    sql: str
    parameters: tuple[str, ...]
    again: Again
    client_again: bool = True

    @cached_property
    def name(self) -> str:
        """The prepared statement's name. It is derived from the SQL: behind a pooler that shares server connections, a
        counter's name could run another process's statement."""
        return f"todo_{hashlib.sha256(self.sql.encode()).hexdigest()[:16]}"

    @cached_property
    def reads(self) -> bool:
        return self.sql.startswith("SELECT")

    def arguments(self, values: dict[str, Any]) -> list[Any]:
        return [values[parameter] for parameter in self.parameters]


def _compiled(query: ClauseElement, again: Again = Again.SAME) -> Statement:
    compiled: Any = query.compile(dialect=asyncpg.dialect(paramstyle="numeric_dollar"))  # type: ignore[no-untyped-call]
    return Statement(str(compiled), tuple(compiled.positiontup), again)


# Every column that the statements need.
COLUMNS = Task.metadata.tables["task"].columns.keys()
_columns = [col(getattr(Task, name)) for name in TaskRead.model_fields]
_of_owner = col(Task.user_id) == bindparam("user_id")
_this_task = (col(Task.id) == bindparam("id")) & _of_owner

# The clock may stand still or step back between two changes; the microsecond keeps updated_at growing all the same.
_later = func.greatest(func.clock_timestamp(), col(Task.updated_at) + text("interval '1 microsecond'"))

# A list comes in pages; most have one, which is not full. That its size is an argument also helps the planner: of a
# limit that it does not know it expects little, and follows the index rather than sort all that is left.
_newest_first = (
    select(*_columns).where(_of_owner).order_by(col(Task.created_at).desc(), col(Task.id).desc())
    .limit(bindparam("page_size", type_=BigInteger))
)  # fmt: skip
LIST = _compiled(_newest_first)
# What comes after this task, whether or not it is still there.
LIST_AFTER = _compiled(
    _newest_first.where(
        tuple_(col(Task.created_at), col(Task.id))
        < tuple_(bindparam("created_at", type_=DateTime(timezone=True)), bindparam("id", type_=BigInteger))
    )
)
GET = _compiled(select(*_columns).where(_this_task))
# A key that is there already is a retry: its task is answered, unless another body was sent with it (no row then).
_new = insert(Task).values(
    {
        name: bindparam(name)
        for name in ("user_id", "title", "description", "completed", "creation_key", "creation_hash")
    }
)
CREATE_ONCE = _compiled(
    _new.on_conflict_do_update(
        index_elements=["user_id", "creation_key"],
        set_={"creation_key": _new.excluded.creation_key},
        where=col(Task.creation_hash) == _new.excluded.creation_hash,
    ).returning(*_columns),
)
# The same, with a key of our own, which the client does not know.
CREATE = replace(CREATE_ONCE, client_again=False)
UPDATE = _compiled(
    update(Task).where(_this_task).values(
        title=func.coalesce(bindparam("title", type_=String), col(Task.title)),
        description=case(
            (bindparam("set_description"), bindparam("description", type_=String)),
            else_=col(Task.description),
        ),
        completed=func.coalesce(bindparam("completed", type_=Boolean), col(Task.completed)),
        updated_at=_later,
    ).returning(*_columns),
)  # fmt: skip
TOGGLE = _compiled(
    update(Task).where(_this_task).values(completed=~col(Task.completed), updated_at=_later).returning(*_columns),
    Again.OTHER,
)
TOGGLE = replace(TOGGLE, client_again=False)
DELETE = _compiled(delete(Task).where(_this_task).returning(*_columns), Again.GONE)

ALL = (LIST, LIST_AFTER, GET, CREATE, UPDATE, TOGGLE, DELETE)
