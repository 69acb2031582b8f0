"""How does a migration change a table that others are using?"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
# What is 0 while an index is built or dropped beside others.
FOR_CONCURRENT_WORK = ("lock_timeout", "statement_timeout", "max_parallel_maintenance_workers")
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
    built anew. PostgreSQL builds none concurrently on a partitioned table: there each partition gets its own, and the
    table's then takes those in, at once.
    """
    partitions = _partitions(table)
    if partitions is None:
        _build(name, table, columns, unique=unique)
        return
    if not _ask("SELECT to_regclass(:name)::oid", name=name):
        for number, partition in enumerate(partitions):
            _build(f"{name}_{number:02}", partition, columns, unique=unique)
    op.create_index(name, table, columns, unique=unique, if_not_exists=True)


def drop_index(name: str, table: str) -> None:
    """Drop an index while others read and write; what was done before in this migration is committed."""
    if _partitions(table) is not None:
        # Concurrently PostgreSQL does not; it is done as soon as the lock is there.
        op.drop_index(name, table, if_exists=True)
        return
    with _concurrently():
        op.drop_index(name, table, postgresql_concurrently=True, if_exists=True)


def refuse_to_lose(what: str, query: str) -> None:
    """End the way back here, unless it may drop the rows that this query counts."""
    count = _ask(query)
    if count and not context.config.attributes.get("drop_rows"):
        raise MigrationError(f"Going back would lose {what}: {count}. Nothing was dropped; --drop-rows allows it.")


def _ask(query: str, **values: str) -> Any:
    # Also where the SQL is only printed.
    return context.config.attributes["connection"].scalar(sa.text(query), values)


def _partitions(table: str) -> list[str] | None:
    """Return the names of a table's partitions; None where it is not partitioned."""
    query = (
        "SELECT array_agg(relname::text ORDER BY relname) FROM pg_partition_tree(to_regclass(:table)) JOIN pg_class "
        "ON oid = relid WHERE level = 1"
    )
    # Those that are to be made are not there yet where the SQL is only printed.
    return _ask(query, table=table) or ([] if context.config.attributes.get("partitions") else None)


def _build(name: str, table: str, columns: Sequence[Any], *, unique: bool) -> None:
    unfinished = _ask("SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)", name=name)
    with _concurrently():
        if unfinished:
            op.drop_index(name, table, postgresql_concurrently=True)
        op.create_index(name, table, columns, unique=unique, postgresql_concurrently=True, if_not_exists=True)


@contextmanager
def _concurrently() -> Iterator[None]:
    """Commit, and set no limits: it waits for transactions that began before it. One process of the server does it, as
    those who work meanwhile need the processors and the disk, too."""
    with op.get_context().autocommit_block():
        for each in FOR_CONCURRENT_WORK:
            op.execute(f"SET {each} = 0")
        yield
        for each in FOR_CONCURRENT_WORK:
            op.execute(f"RESET {each}")
