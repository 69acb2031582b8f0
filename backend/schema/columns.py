"""How does each column of another backend become one of ours?"""

import re

from backend.database.failures import beyond_calendar
from backend.schema.found_table import TIMES, columns, quoted
from backend.schema.plan import TEXTS, Plan

# The rows in which a null was filled, as they were.
KEPT_ASIDE = "task_before_adoption"
MISSING = {
    "description": "varchar(1000)",
    "completed": "boolean",
    "created_at": "timestamptz",
    "updated_at": "timestamptz",
}
FILLED = {
    "title": "'Untitled'",
    "completed": "false",
    "created_at": "coalesce(updated_at, now())",
    "updated_at": "coalesce(created_at, now())",
}
STRANGERS = """SELECT count(*) FROM {} t WHERE NOT EXISTS (SELECT FROM "user" u WHERE u.id::text = t.{}::text)"""


def convert_columns(plan: Plan) -> None:
    """Plan how each column gets our type and our nulls; what others have to decide becomes a problem."""
    _texts(plan)
    _strangers(plan)
    _completed(plan)
    _times(plan)
    _extras(plan)
    _fill(plan)


def _texts(plan: Plan) -> None:
    for ours, most in TEXTS.items():
        column = plan.column(ours)
        if column is None:
            continue
        long = plan.facts[f"{ours} long"]
        if long and not (plan.choices.keep_long and ours != "user_id"):
            plan.problems.append(
                f"{long} rows have a {ours} of more than {most} characters: nothing is cut; shorten them, or let "
                "--keep-long show them as they are, though a client cannot send them back"
            )
        if column.category not in ("SUN" if ours == "user_id" else "S"):
            plan.problems.append(f"{plan.names[ours]} is {column.kind}, which is no text")
        elif not _holds(column.kind, most):
            kind = "text" if long or ours == "user_id" else f"varchar({most})"
            plan.retype(ours, kind, f"{ours}::text", f"{ours}::{column.kind}")


def _strangers(plan: Plan) -> None:
    """Tell of tasks that nobody will see, where Better Auth keeps its users beside them."""
    if "user_id" in plan.names and "id" in columns(plan.connection, "user"):
        query = STRANGERS.format(quoted(plan.table), quoted(plan.names["user_id"]))
        if count := plan.ask(query):
            plan.said.append(f'NOTE: {count} rows belong to users whom the table "user" does not have')


def _completed(plan: Plan) -> None:
    column = plan.column("completed")
    if column is None or column.category == "B":
        plan.own_default("completed", column)
    elif column.kind in {"smallint", "integer", "bigint"}:
        plan.own_default("completed", column)
        plan.retype("completed", "boolean", "completed <> 0", f"completed::integer::{column.kind}")
    else:
        plan.problems.append(f"{plan.names['completed']} is {column.kind}, which is neither true nor false")


def _times(plan: Plan) -> None:
    for ours in TIMES:
        column = plan.column(ours)
        if column is None:
            continue
        zone = plan.choices.time_zone
        if beyond := plan.facts.get(f"{ours} beyond"):
            where = beyond_calendar(quoted(column.name))
            plan.problems.append(
                f"{beyond} rows have a date before the year 1 or after 9999: find them by WHERE {where}"
            )
        plan.own_default(ours, column)
        if column.kind == "date" or re.fullmatch(r"timestamp(\(\d\))? without time zone", column.kind):
            if zone is None:
                plan.problems.append(f"{column.name} has no time zone ({column.kind}): say --assume-utc or --time-zone")
            at = f"AT TIME ZONE '{zone}'"
            plan.retype(ours, "timestamptz", f"{ours}::timestamp {at}", f"({ours} {at})::{column.kind}")
        elif not re.fullmatch(r"timestamp(\(\d\))? with time zone", column.kind):
            plan.problems.append(f"{column.name} is {column.kind}, which is no time")
        elif "(" in column.kind:
            plan.retype(ours, "timestamptz", ours, ours)


def _extras(plan: Plan) -> None:
    for column in plan.found.values():
        if column.name in plan.names.values() or not column.must_be_given:
            continue
        name = quoted(column.name)
        if column.name in plan.choices.optional:
            plan.alter(f"ALTER {name} DROP NOT NULL", f"ALTER {name} SET NOT NULL")
            plan.said.append(f"{column.name} may be null from now on")
        else:
            plan.problems.append(
                f"{column.name} must be given, and this backend does not know it: --drop-not-null {column.name}, "
                f"or give it a default (ALTER TABLE {quoted(plan.table)} ALTER {name} SET DEFAULT …)"
            )


def _fill(plan: Plan) -> None:
    if "title" not in plan.names:
        plan.problems.append("no column looks like a title: --column title=NAME names it")
    for ours, kind in {"user_id": "text", **MISSING}.items():
        if ours not in plan.names:
            plan.alter(f"ADD COLUMN {ours} {kind}", f"DROP COLUMN {ours}")
            plan.said.append(f"{ours} is added")
    nulls = {ours: plan.facts.get(f"{ours} null", plan.rows) for ours in ("user_id", *FILLED)}
    if nulls["user_id"] and plan.choices.owner is None:
        plan.problems.append(f"{nulls['user_id']} rows belong to nobody: --owner USER_ID gives them to one user")
    filled = FILLED | {"user_id": "'" + (plan.choices.owner or "").replace("'", "''") + "'"}
    needed = {ours: filled[ours] for ours, count in nulls.items() if count}
    if needed:
        _keep_aside(plan, [ours for ours in needed if ours in plan.names])
        new = ", ".join(f"{ours} = coalesce({ours}, {value})" for ours, value in needed.items())
        plan.step(f"UPDATE task SET {new} WHERE {' OR '.join(f'{ours} IS NULL' for ours in needed)}")
        plan.said += [f"{ours} is {value} where it was null: {nulls[ours]} rows" for ours, value in needed.items()]
    _nulls(plan)


def _keep_aside(plan: Plan, names: list[str]) -> None:
    if not names or "id" not in plan.names:
        return
    where = " OR ".join(f"{name} IS NULL" for name in names)
    plan.step(
        f"CREATE TABLE {KEPT_ASIDE} AS SELECT id, {', '.join(names)} FROM task WHERE {where}",
        f"DROP TABLE {KEPT_ASIDE}",
    )
    for name in names:
        plan.step("", f"UPDATE task SET {name} = NULL FROM {KEPT_ASIDE} b WHERE b.id = task.id AND b.{name} IS NULL")
    plan.said.append(f"{KEPT_ASIDE} keeps which rows those were, for the way back; drop it when all is well")


def _nulls(plan: Plan) -> None:
    for ours in ("user_id", *FILLED):
        column = plan.column(ours)
        if column is None or column.nullable:
            plan.alter(f"ALTER {ours} SET NOT NULL", f"ALTER {ours} DROP NOT NULL")
    description = plan.column("description")
    if description and not description.nullable:
        plan.step("", "ALTER TABLE task ALTER description SET NOT NULL")
        plan.alter("ALTER description DROP NOT NULL")
        plan.step("", "UPDATE task SET description = '' WHERE description IS NULL")


def _holds(kind: str, most: int) -> bool:
    limit = re.fullmatch(r"character varying(?:\((\d+)\))?", kind)
    return kind == "text" or (limit is not None and int(limit[1] or most) >= most)
