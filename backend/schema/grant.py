"""How does a role get the rights that serving needs, and no others, and which of them does one lack?"""

from sqlalchemy import Connection

from backend.database.readiness import rights
from backend.schema.change import MigrationError
from backend.schema.found_table import quoted
from backend.schema.migrate import LOOK_LIMIT, on_database


def grant(url: str, role: str, *, dry_run: bool = False) -> list[str]:
    """Grant the role what serving needs, and return the SQL; what it has besides stays."""
    return list(on_database(url, lambda connection: _grant(connection, role, dry_run=dry_run)))


def lacking(url: str) -> tuple[str, list[str]]:
    """Return the role of this URL, and what it lacks to serve."""

    def found(connection: Connection) -> tuple[str, list[str]]:
        role = str(connection.exec_driver_sql("SELECT current_user::text").scalar())
        return role, _lacking(connection, role)

    role, missing = on_database(url, found, seconds=LOOK_LIMIT)
    return role, missing


def _grant(connection: Connection, role: str, *, dry_run: bool) -> list[str]:
    # Never "public", which is everybody: no role has this name.
    if not connection.exec_driver_sql("SELECT 1 FROM pg_roles WHERE rolname = $1::text", (role,)).all():
        raise MigrationError(f"There is no such role: CREATE ROLE {quoted(role)} LOGIN PASSWORD '…' makes one.")
    needed = _needed(connection, role)
    if not any(target.startswith("TABLE") for _, target, _ in needed):
        raise MigrationError("There is no table task yet: run `python -m backend migrate` first.")
    sql = [f"GRANT {wanted} ON {target} TO {quoted(role)};" for wanted, target, _ in needed]
    if not dry_run:
        for each in sql:
            connection.exec_driver_sql(each)
        # To who may not grant a right, PostgreSQL says so in a warning alone.
        if rest := _lacking(connection, role):
            text = f"The role {role} would still lack {', '.join(rest)}, so nothing was granted"
            raise MigrationError(f"{text}: let NEON_DATABASE_URL name the role that owns them.")
        connection.commit()
    return sql


def _lacking(connection: Connection, role: str) -> list[str]:
    return [f"{wanted} ON {target}" for wanted, target, held in _needed(connection, role) if not held]


def _needed(connection: Connection, role: str) -> list[tuple[str, str, bool]]:
    return [tuple(row) for row in connection.exec_driver_sql(rights("$1::name"), (role,))]
