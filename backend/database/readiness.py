"""Can this process serve, and how many connections may it have?"""

import asyncio
import logging
import math
from contextvars import Context

from backend.database import failures
from backend.database.connection import APPLICATION_NAME, Connection
from backend.database.pool import Pool
from backend.database.statements import COLUMNS
from backend.errors import Overloaded

logger = logging.getLogger(__name__)

# Better Auth, migrations and other services need some of the server's connections, too.
OUR_SHARE = 0.9
# Seconds between two looks at the server while something is wrong, and while more connections would be of use.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
LOOK_FOR_MORE = 2.0


def rights(role: str) -> str:
    """Return SQL for the rights that serving needs, each with its target and whether a role, an SQL expression, has it.

    A column's right counts like the table's. A `serial` needs its sequence, an identity does not.
    """
    # A schema that the role may not use is left out of its search path, so that `task` alone would not be found there.
    return f"""WITH task AS (
  SELECT oid, relnamespace, relnamespace::regnamespace AS schema FROM pg_class
   WHERE oid = coalesce(to_regclass('task')::oid, (
           SELECT oid FROM pg_class WHERE relname = 'task' AND relnamespace = to_regnamespace('public'))))
SELECT 'CONNECT' AS wanted, format('DATABASE %I', current_database()) AS target,
       has_database_privilege({role}, current_database(), 'CONNECT') AS held
UNION ALL
SELECT 'USAGE', format('SCHEMA %s', schema), has_schema_privilege({role}, relnamespace, 'USAGE') FROM task
UNION ALL
SELECT wanted, format('TABLE %s.task', schema), CASE wanted
         WHEN 'DELETE' THEN has_table_privilege({role}, oid, wanted)
         ELSE has_any_column_privilege({role}, oid, wanted) END
  FROM task, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS wanted
UNION ALL
SELECT 'USAGE', format('SEQUENCE %s.%I', sequence.relnamespace::regnamespace, sequence.relname),
       has_sequence_privilege({role}, sequence.oid, 'USAGE, UPDATE')
  FROM task JOIN pg_attrdef ON adrelid = task.oid
  JOIN pg_depend ON classid = 'pg_attrdef'::regclass AND objid = pg_attrdef.oid
  JOIN pg_class AS sequence ON refclassid = 'pg_class'::regclass AND refobjid = sequence.oid AND relkind = 'S'"""  # noqa: S608 - the role is one of two expressions of ours


# Connections that the server keeps back: for superusers and, since PostgreSQL 16, for roles that may use reserved ones.
RESERVED = """(current_setting('superuser_reserved_connections')::int
               + coalesce(current_setting('reserved_connections', true), '0')::int)"""
# What the server grants to everybody together, how many processes of this backend share it, and what keeps it from
# serving us. pg_stat_activity shows the names of our own role's sessions to everybody.
EXAMINE = f"""SELECT current_setting('max_connections')::int - {RESERVED} AS granted,
       (SELECT count(DISTINCT application_name)::int FROM pg_stat_activity
         WHERE application_name LIKE $2) AS instances,
       CASE WHEN EXISTS (SELECT FROM ({rights("current_user")}) AS needed WHERE NOT held) THEN 'rights'
            WHEN (SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('task') AND NOT attisdropped
                     AND attname = ANY ($1::text[])) < cardinality($1) THEN 'schema'
            WHEN current_setting('transaction_read_only')::bool THEN 'read-only' END AS obstacle"""  # noqa: S608 - see above


class Readiness:
    """Looks at the server with the first connection, while something is wrong, and where more connections would be of
    use; never while all is well, so that an idle database can sleep.

    `obstacle` is what keeps this process from serving: "starting" or a word of `failures.OBSTACLES`; None is nothing.
    """

    def __init__(self, pool: Pool, *, fixed_size: int | None, workers: int, deadline: float) -> None:
        self.obstacle: str | None = "starting"
        self._pool = pool
        pool.want_more = self._look_for_more
        self._fixed_size = fixed_size
        self._workers = workers
        self._deadline = deadline
        self._looked_at = -math.inf
        self._looking: asyncio.Task[None] | None = None

    async def check(self, connection: Connection) -> None:
        """Look with the first connection, before it is used."""
        if self._looked_at == -math.inf:
            await self._examine(connection)

    def failed(self, error: BaseException) -> None:
        self._found(failures.obstacle(error))
        self.look()

    def look(self) -> None:
        """Look at the server in the background; again and again while something is wrong, until it is not."""
        if not self._looking or self._looking.done():
            self._looking = asyncio.create_task(self._look_until_ready(), context=Context())

    async def close(self) -> None:
        if self._looking:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _examine(self, connection: Connection) -> None:
        found = await connection.ask(EXAMINE, COLUMNS, f"{APPLICATION_NAME} %", seconds=self._deadline)
        # A process without any connection could not be counted: where the size is fixed, one is left for it.
        ours = found["granted"] - 1 if self._fixed_size else found["granted"] * OUR_SHARE
        share = max(1, int(ours / max(found["instances"], self._workers) + 0.5))
        self._pool.limit(min(share, self._fixed_size or share))
        self._looked_at = connection.heard
        self._found(found["obstacle"])

    def _found(self, obstacle: str | None) -> None:
        """Keep in mind what keeps us from serving, and say so where it has changed: probes leave no line in the log."""
        nobodys = {"request_id": "-"}
        if obstacle and obstacle != self.obstacle:
            logger.warning("not ready: %s", obstacle, extra={"event": "not-ready", "reason": obstacle, **nobodys})
        elif self.obstacle and not obstacle:
            logger.info("ready", extra={"event": "ready", **nobodys})
        self.obstacle = obstacle

    def _look_for_more(self) -> None:
        """See whether more connections are to be had than last time."""
        if asyncio.get_running_loop().time() - self._looked_at > LOOK_FOR_MORE:
            self.look()

    async def _look_until_ready(self) -> None:
        pause = FIRST_PAUSE
        while not await self._look_once():
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _look_once(self) -> bool:
        loop = asyncio.get_running_loop()
        try:
            connection = await self._pool.acquire("", loop.time() + self._deadline)
            since = loop.time()
            try:
                await self._examine(connection)
            finally:
                self._pool.release(connection, since)
        except Overloaded:
            pass
        except failures.NOT_CONNECTED as error:
            self._found(failures.obstacle(self._pool.failure or error))
        return not self.obstacle
