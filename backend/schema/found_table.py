"""What has another backend left here: which tables of tasks, with which columns, and what hangs on them?"""

from dataclasses import dataclass

from sqlalchemy import Connection

from backend.database.failures import beyond_calendar

# How others write our columns, without underscores and in lower case; the first that is there counts.
SPELLINGS = {
    "id": ("id", "taskid", "todoid"),
    "user_id": ("userid", "ownerid", "authorid", "createdby", "createdbyid", "user", "owner"),
    "title": ("title", "name", "task", "text", "content"),
    "description": ("description", "details", "notes", "content", "text", "body"),
    "completed": ("completed", "iscompleted", "done", "isdone", "complete", "iscomplete"),
    "created_at": ("createdat", "created", "createdon", "insertedat", "datecreated"),
    "updated_at": ("updatedat", "updated", "modifiedat", "modified", "updatedon", "lastmodified"),
}
TIMES = ("created_at", "updated_at")
# What tells a table of tasks from others.
TELLING = ("user_id", "title", "completed")

COLUMNS = """
    SELECT attname::text, format_type(atttypid, atttypmod), typcategory::text, NOT attnotnull,
           pg_get_expr(adbin, adrelid), attidentity::text <> '', attgenerated::text <> ''
    FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attrelid = to_regclass(quote_ident($1::text)) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""

# A key that has the id in it can never be taken already. Other tables' references count where they forbid a deletion.
OBSTACLES = """
    WITH target AS (
        SELECT pg_class.oid, relrowsecurity, attnum AS id FROM pg_class
        LEFT JOIN pg_attribute ON attrelid = pg_class.oid AND attname = $2::text
        WHERE pg_class.oid = to_regclass(quote_ident($1::text))
    )
    SELECT conname::text, pg_get_constraintdef(c.oid) || ' on ' || conrelid::regclass,
           format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname),
           format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(c.oid))
    FROM pg_constraint c, target
    WHERE conrelid = target.oid AND contype IN ('c', 'f')
       OR conrelid = target.oid AND contype IN ('u', 'x') AND coalesce(NOT id = ANY (conkey), true)
       OR conrelid = target.oid AND contype = 'p' AND coalesce(conkey <> ARRAY[id], true)
       OR confrelid = target.oid AND conrelid <> target.oid AND confdeltype IN ('a', 'r')
    UNION ALL
    SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid), format('DROP INDEX %s', indexrelid::regclass),
           pg_get_indexdef(indexrelid)
    FROM pg_index i, target
    WHERE indrelid = target.oid AND indisunique AND coalesce(NOT id = ANY (indkey), true)
      AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
    UNION ALL
    SELECT tgname::text, pg_get_triggerdef(t.oid), format('DROP TRIGGER %I ON %s', tgname, target.oid::regclass),
           pg_get_triggerdef(t.oid)
    FROM pg_trigger t, target WHERE tgrelid = target.oid AND NOT tgisinternal AND tgenabled <> 'D'
    UNION ALL
    SELECT rulename::text, pg_get_ruledef(r.oid), format('DROP RULE %I ON %s', rulename, target.oid::regclass),
           pg_get_ruledef(r.oid)
    FROM pg_rewrite r, target WHERE ev_class = target.oid
    UNION ALL
    SELECT 'row level security', 'ROW LEVEL SECURITY on ' || oid::regclass,
           format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', oid::regclass),
           format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', oid::regclass)
    FROM target WHERE relrowsecurity
    ORDER BY 1
"""

LOOK_ALIKES = """
    SELECT relname::text, array_agg(lower(replace(attname, '_', '')))
    FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
    WHERE relkind = 'r' AND NOT relispartition AND relnamespace = current_schema()::text::regnamespace
      AND relname <> 'task' AND attnum > 0 AND NOT attisdropped
    GROUP BY relname ORDER BY relname
"""

# Whether every row finds a partition, by its owner alone. Indexes are built on each by its name.
WELL_PARTITIONED = """
    SELECT relkind <> 'p' OR pg_get_partkeydef(whole.oid) = 'HASH (user_id)' AND (
        SELECT round(sum(1.0 / substring(pg_get_expr(relpartbound, oid) FROM 'modulus ([0-9]+)')::int), 6) = 1
               AND bool_and(relkind = 'r' AND relnamespace = whole.relnamespace)
        FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = whole.oid)
    FROM pg_class whole WHERE oid = to_regclass('task')
"""


@dataclass(frozen=True)
class Column:
    """A column as PostgreSQL writes it; the category is one letter of its documentation's table 53.65."""

    name: str
    kind: str
    category: str
    nullable: bool
    default: str | None
    identity: bool
    generated: bool

    @property
    def must_be_given(self) -> bool:
        return not (self.nullable or self.default or self.identity or self.generated)


@dataclass(frozen=True)
class Obstacle:
    """Something that can turn a good request into a failure, with the SQL that removes it and brings it back."""

    name: str
    definition: str
    drop: str
    restore: str


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def columns(connection: Connection, table: str) -> dict[str, Column]:
    """Return the columns of a table by their names; none where there is no such table."""
    found = [Column(*row) for row in connection.exec_driver_sql(COLUMNS, (table,))]
    return {column.name: column for column in found}


def obstacles(connection: Connection, table: str, id_column: str = "id") -> list[Obstacle]:
    return [Obstacle(*row) for row in connection.exec_driver_sql(OBSTACLES, (table, id_column))]


def known_spelling(field: str, names: list[str]) -> str | None:
    """Return the name under which a field is found among these; its own name comes first."""
    if field in names:
        return field
    plain = {name.replace("_", "").lower(): name for name in reversed(names)}
    return next((plain[spelling] for spelling in SPELLINGS[field] if spelling in plain), None)


def look_alikes(connection: Connection) -> list[str]:
    """Return the tables beside `task` that look as if another backend kept its tasks there."""
    tables = connection.exec_driver_sql(LOOK_ALIKES)
    return [name for name, names in tables if all(known_spelling(field, list(names)) for field in TELLING)]


def why_not_as_it_is(connection: Connection) -> list[str]:
    """Return what in a table `task` of somebody else's, if there is one, would turn good requests into failures.

    The first migration itself looks at the primary key.
    """
    if not columns(connection, "task"):
        return []
    hanging = [each for each in obstacles(connection, "task") if not each.definition.startswith("PRIMARY KEY")]
    found = [f"{each.name} ({each.definition})" for each in hanging]
    if not connection.exec_driver_sql(WELL_PARTITIONED).scalar():
        found.append("it must have its partitions by HASH (user_id), all of them ordinary tables beside it, and no gap")
    times = [each.name for each in columns(connection, "task").values() if each.name in TIMES and each.category == "D"]
    count = connection.exec_driver_sql(f"SELECT count(*) FROM task WHERE {beyond_calendar(*times) or 'false'}").scalar()
    return found + ([f"{count} rows with a date before the year 1 or after 9999"] if count else [])
