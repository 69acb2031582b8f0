"""Runs the migrations on the connection that `backend.schema.migrate` hands over."""

from collections.abc import Callable
from typing import Any

from alembic import context
from sqlmodel import AutoString

from backend.models import Task
from backend.schema.migrate import VERSION_TABLE


def rendered(kind: str, thing: Any, _context: object) -> Any:
    """Write SQLModel's own type for text as SQLAlchemy's, which a migration imports."""
    return f"sa.String({thing.length or ''})" if kind == "type" and isinstance(thing, AutoString) else False


attributes = context.config.attributes


def _tell(step: Any, **_others: Any) -> None:
    verb = "Applied" if step.is_upgrade else "Took back"
    attributes["done"].append(f"{verb} {step.up_revision.revision}: {step.up_revision.doc}")


tell: Callable[..., None] = _tell
context.configure(
    connection=attributes["connection"],
    target_metadata=Task.metadata,
    version_table=VERSION_TABLE,
    render_item=rendered,
    # An index that is built while others write commits what came before it.
    transaction_per_migration=True,
    on_version_apply=tell,
    # Better Auth keeps its own tables in the same database.
    include_name=lambda name, kind, _parents: kind != "table" or name in Task.metadata.tables,
)
with context.begin_transaction():
    context.run_migrations()
