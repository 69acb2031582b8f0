"""What is a task, what may come in, what goes out?"""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, StrictBool, StringConstraints
from pydantic import Field as Documented
from pydantic_core import PydanticCustomError
from sqlalchemy import BigInteger, DateTime, Identity, Index, LargeBinary, String, Text, false, func, text
from sqlmodel import Field, SQLModel

# The characters with the property White_Space (Unicode Character Database, PropList.txt). str.isspace() also
# counts U+001C to U+001F.
WHITE_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029"
    "\u202f\u205f\u3000"
)

MAX_ID = 2**63 - 1
MAX_TITLE, MAX_DESCRIPTION = 200, 1000


def _not_blank(value: str) -> str:
    if not value.strip(WHITE_SPACE):
        raise PydanticCustomError("blank", "Input should not be blank")
    return value


def _storable(value: str) -> str:
    if "\0" in value:
        raise PydanticCustomError("null_character", "Input should not contain the null character")
    return value


# What the validators above check, in the words of JSON Schema (ECMA-262), for the API document alone.
STORABLE = r"^[^\u0000]*$"
NOT_BLANK = r"^[^\u0000]*[^\u0000\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000][^\u0000]*$"

Title = Annotated[
    str,
    StringConstraints(strict=True, min_length=1, max_length=MAX_TITLE),
    AfterValidator(_not_blank),
    AfterValidator(_storable),
    Documented(json_schema_extra={"pattern": NOT_BLANK}),
]
Description = Annotated[
    str,
    StringConstraints(strict=True, max_length=MAX_DESCRIPTION),
    AfterValidator(_storable),
    Documented(json_schema_extra={"pattern": STORABLE}),
]


class Task(SQLModel, table=True):
    """The table; rows are written and read by `statements`, never through a session."""

    __table_args__ = (
        Index("task_owner_newest_first", "user_id", text("created_at DESC"), text("id DESC")),
        Index("task_created_once", "creation_key", "user_id", unique=True),
        {"comment": "Created by the Todo backend."},
    )

    id: int = Field(primary_key=True, sa_type=BigInteger, sa_column_args=[Identity()])
    user_id: str = Field(sa_type=Text)
    title: str = Field(sa_type=String(MAX_TITLE))
    description: str | None = Field(sa_type=String(MAX_DESCRIPTION))
    completed: bool = Field(sa_column_kwargs={"server_default": false()})
    created_at: datetime = Field(sa_type=DateTime(timezone=True), sa_column_kwargs={"server_default": func.now()})
    updated_at: datetime = Field(sa_type=DateTime(timezone=True), sa_column_kwargs={"server_default": func.now()})
    creation_key: str | None = Field(sa_type=Text)
    creation_hash: bytes | None = Field(sa_type=LargeBinary)


class TaskCreate(BaseModel):
    """What a client may set on a new task. Everything else it sends is ignored."""

    title: Title
    description: Description | None = None
    completed: StrictBool = False


class TaskUpdate(BaseModel):
    """Only the fields that are sent are changed; the rest stays."""

    # A default factory keeps "null" out of the API document: absent is allowed here, null is not.
    title: Title = Documented(default_factory=str)
    description: Description | None = Documented(default_factory=str)
    completed: StrictBool = Documented(default_factory=bool)


class TaskRead(BaseModel):
    """A task as every answer shows it."""

    id: int
    user_id: str
    title: str
    description: str | None
    completed: bool
    created_at: datetime
    updated_at: datetime
