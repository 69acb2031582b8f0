"""Runs the migrations on the connection that `backend.commands.migrate` hands over."""

from typing import Any

from alembic import context
from sqlmodel import AutoString, SQLModel

from backend.commands.migrate import MIGRATION_LOCK, VERSION_TABLE


def rendered(kind: str, thing: Any, _context: object) -> Any:
    """Write SQLModel's own type for text as SQLAlchemy's, which a migration imports."""
    return f"sa.String({thing.length or ''})" if kind == "type" and isinstance(thing, AutoString) else False


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=SQLModel.metadata,
    version_table=VERSION_TABLE,
    render_item=rendered,
    # Better Auth keeps its own tables in the same database.
    include_name=lambda name, kind, _parents: kind != "table" or name in SQLModel.metadata.tables,
)
with context.begin_transaction():
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
    context.run_migrations()
