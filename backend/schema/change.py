"""How does a migration change a table that others are using?"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.exc import DBAPIError

from backend.errors import OperatorError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# Whoever comes after a statement that waits for a lock waits behind it, so it waits no longer than this.
LOCK_TIMEOUT = "2s"
# Seconds between the tries. Others get their turn meanwhile.
PAUSES = (1, 2, 4, 8, *[15] * 8)
# PostgreSQL documentation, appendix A: lock_not_available, deadlock_detected.
LOCKED = {"55P03", "40P01"}
WAY_ON = "`python -m backend migrate --adopt task --dry-run` shows how it can be changed"


class MigrationError(OperatorError):
    """The schema could not be brought to where it should be. The message is for the operator."""


def patiently(work: Callable[[], Result]) -> Result:
    """Do it again while somebody else holds the table; in the end, give up."""
    for pause in PAUSES:
        try:
            return work()
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) not in LOCKED:
                raise
            text = "A long transaction holds the table; trying again in %d s."
            logger.warning(text, pause, extra={"event": "table-held"})
            time.sleep(pause)
    raise MigrationError(
        "A long transaction holds the table (a dump, or one that was forgotten: see pg_stat_activity). "
        "What was done is complete, and the next run goes on from there."
    )


def create_index(name: str, table: str, columns: Sequence[Any], *, unique: bool = False) -> None:
    """Build an index while others read and write; what was done before in this migration is committed.

    The migration must be able to run again from its start. An index that an interrupted run has left unfinished is
    built anew.
    """
    with op.get_context().autocommit_block():
        _without_limits()
        if not context.is_offline_mode() and _is_unfinished(name):
            op.drop_index(name, table, postgresql_concurrently=True)
        op.create_index(name, table, columns, unique=unique, postgresql_concurrently=True, if_not_exists=True)
        _with_limits()


def drop_index(name: str, table: str) -> None:
    """Drop an index while others read and write; what was done before in this migration is committed."""
    with op.get_context().autocommit_block():
        _without_limits()
        op.drop_index(name, table, postgresql_concurrently=True, if_exists=True)
        _with_limits()


def refuse_to_lose(what: str, query: str) -> None:
    """End the way back here, unless it may drop the rows that this query counts."""
    config = context.config
    count = config.attributes["connection"].scalar(sa.text(query))
    if count and not config.attributes.get("drop_rows"):
        raise MigrationError(f"Going back would lose {what}: {count}. Nothing was dropped; --drop-rows allows it.")


def _is_unfinished(name: str) -> bool:
    query = sa.text("SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
    return bool(op.get_bind().scalar(query, {"name": name}))


def _without_limits() -> None:
    # It waits for transactions that began before it, and nobody waits behind it.
    op.execute("SET lock_timeout = 0")
    op.execute("SET statement_timeout = 0")


def _with_limits() -> None:
    op.execute("RESET lock_timeout")
    op.execute("RESET statement_timeout")
