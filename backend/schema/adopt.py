"""How do the tasks of another backend come along?

Its table is renamed and changed in place, in one transaction: what we do not know of it stays as it is.
"""

from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from backend.schema.change import MigrationError, patiently
from backend.schema.columns import convert_columns
from backend.schema.found_table import obstacles, quoted
from backend.schema.ids import give_ids
from backend.schema.migrate import VERSION_TABLE, alembic_config, on_database
from backend.schema.plan import Choices, Plan

# The mark of the first migration on a table that it has made.
CREATED = "Created by the Todo backend."


def adopt(url: str, table: str, choices: Choices, *, dry_run: bool = False) -> list[str]:
    """Make this table ours, with all its rows, and fit for the migrations; return what was done, and the way back.

    With `dry_run` nothing is changed and nobody has to wait; what would be done is returned.
    """
    if dry_run:
        return list(on_database(url, lambda connection: _look(connection, table, choices)))
    return list(on_database(url, lambda connection: patiently(lambda: _adopt(connection, table, choices)), alone=True))


def _look(connection: Connection, table: str, choices: Choices) -> list[str]:
    plan = _planned(connection, table, choices)
    return [*_told(plan), "Nothing was changed. This would be done:", _transaction(plan.sql)]


def _adopt(connection: Connection, table: str, choices: Choices) -> list[str]:
    with connection.begin():
        for name in sorted({table, "task"}):
            if connection.exec_driver_sql("SELECT to_regclass(quote_ident($1))::oid", (name,)).scalar():
                connection.exec_driver_sql(f"LOCK TABLE {quoted(name)}")
        connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
        plan = _planned(connection, table, choices)
        for statement in plan.sql:
            connection.exec_driver_sql(statement)
        _verify(connection, plan.rows)
    return [*_told(plan), "The way back, as long as nothing else has changed the table:",
            _transaction(plan.way_back)]  # fmt: skip


def _planned(connection: Connection, table: str, choices: Choices) -> Plan:
    plan = Plan(connection, table, choices)
    if not plan.problems:
        triggers = _clear(plan)
        _rename(plan)
        for trigger in triggers:
            plan.alter(f"DISABLE TRIGGER {quoted(trigger)}", f"ENABLE TRIGGER {quoted(trigger)}")
        convert_columns(plan)
        give_ids(plan)
        for trigger in triggers:
            plan.alter(f"ENABLE TRIGGER {quoted(trigger)}", f"DISABLE TRIGGER {quoted(trigger)}")
        _prepare_way_back(plan)
    if plan.problems:
        problems = "".join(f"\n  - {problem}" for problem in plan.problems)
        raise MigrationError(f"The table {table} cannot be adopted yet, and nothing was changed:{problems}")
    return plan


def _clear(plan: Plan) -> list[str]:
    """Drop what may be dropped; return the triggers that stay, which must not see what we do."""
    hanging = obstacles(plan.connection, plan.table, plan.names.get("id", "id"))
    for each in hanging:
        if each.name in plan.choices.drop:
            plan.step(each.drop, each.restore)
            plan.said.append(f"{each.name} is dropped: {each.definition}")
        elif each.name not in plan.choices.keep:
            plan.problems.append(
                f"{each.name} may turn a good request into a failure ({' '.join(each.definition.split())}): "
                f'--drop "{each.name}" removes it ({each.drop}), --keep "{each.name}" leaves it'
            )
    if unknown := sorted((plan.choices.drop | plan.choices.keep) - {each.name for each in hanging}):
        plan.problems.append(f"--drop and --keep name what is not there: {', '.join(unknown)}")
    return [each.name for each in hanging if each.drop.startswith("DROP TRIGGER") and each.name in plan.choices.keep]


def _rename(plan: Plan) -> None:
    if plan.ask("SELECT to_regclass($1) IS NOT NULL", VERSION_TABLE):
        plan.step(f"DELETE FROM {VERSION_TABLE}")
    if plan.table != "task":
        if plan.ask("SELECT to_regclass('task') IS NOT NULL"):
            _make_room(plan)
        plan.step(
            f"ALTER TABLE {quoted(plan.table)} RENAME TO task", f"ALTER TABLE task RENAME TO {quoted(plan.table)}"
        )
    for ours, theirs in plan.names.items():
        if ours != theirs:
            plan.alter(f"RENAME {quoted(theirs)} TO {ours}", f"RENAME {ours} TO {quoted(theirs)}")
            plan.said.append(f"{theirs} becomes {ours}")


def _make_room(plan: Plan) -> None:
    count = plan.ask("SELECT count(*) FROM task")
    if count or not plan.ask("SELECT obj_description(to_regclass('task'), 'pg_class') = $1", CREATED):
        plan.problems.append(
            f"there is a table task, too, with {count} rows: rename it (ALTER TABLE task RENAME TO task_newer), "
            "adopt, and then INSERT INTO task (user_id, title, description, completed, created_at, updated_at) "
            "SELECT user_id, title, description, completed, created_at, updated_at FROM task_newer ORDER BY id"
        )
    plan.step("DROP TABLE task")
    plan.said.append("the empty table task makes room")


def _prepare_way_back(plan: Plan) -> None:
    """The way back begins with what the migrations will have added."""
    for name, default in {"completed": "false", "created_at": "now()", "updated_at": "now()"}.items():
        plan.alter(f"ALTER {name} SET DEFAULT {default}", f"ALTER {name} DROP DEFAULT")
    for name in sorted({"creation_key", "creation_hash"} - set(plan.found)):
        plan.step("", f"ALTER TABLE task DROP COLUMN IF EXISTS {name}")
    plan.step("", "DROP INDEX IF EXISTS task_owner_newest_first, task_created_once")
    plan.step("", f"DROP TABLE IF EXISTS {VERSION_TABLE}")


def _verify(connection: Connection, rows: int) -> None:
    """End here, with everything undone, unless all rows are there and the first migration will take the table."""
    after = connection.exec_driver_sql("SELECT count(*) FROM task").scalar()
    first = ScriptDirectory.from_config(alembic_config(connection)).get_revision("0001")
    left = first.module.complaints(inspect(connection)) if first else []
    if after != rows or left:
        problems = "; ".join([f"{rows} rows became {after}"] * (after != rows) + left)
        raise MigrationError(f"The table did not become what it should, and everything was undone: {problems}.")


def _told(plan: Plan) -> list[str]:
    return [f"The table {plan.table} becomes task, with {plan.rows} rows:", *(f"  {each}" for each in plan.said)]


def _transaction(statements: list[str]) -> str:
    return "\n".join(["BEGIN;", *(f"{statement};" for statement in statements), "COMMIT;"])
