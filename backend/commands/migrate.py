"""How is the schema brought up to date, or another backend's table taken over, from the command line?"""

from typing import Annotated

import typer

from backend.errors import OperatorError
from backend.settings import load_database_url


def migrate(
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; fail when the schema is not current.")
    ] = False,
    new: Annotated[
        str | None,
        typer.Option(
            metavar="WORDS",
            help="Write the next migration instead: what models.py has and the others do not make. Starts an embedded "
            "PostgreSQL for it; needs no setting, and touches no other database.",
        ),
    ] = None,
    to: Annotated[str, typer.Option(help="Go to this revision, up or down; base is before the first.")] = "head",
    down: Annotated[bool, typer.Option("--down", help="Go back by one revision.")] = False,
    drop_rows: Annotated[bool, typer.Option("--drop-rows", help="Allow the way back to lose what it names.")] = False,
    partitions: Annotated[
        int, typer.Option(min=0, max=1024, help="Make the new table in so many partitions, by hash of the owner.")
    ] = 0,
    sql: Annotated[bool, typer.Option("--sql", help="Change nothing; print the SQL.")] = False,
    grant: Annotated[
        str | None,
        typer.Option(metavar="ROLE", help="Only give this role the rights that `serve` needs, and print their SQL."),
    ] = None,
    adopt: Annotated[str | None, typer.Option(metavar="TABLE", help="Take over the tasks of another backend.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="--adopt: only print what would be done.")] = False,
    assume_utc: Annotated[bool, typer.Option("--assume-utc", help="--adopt: times without a zone are UTC.")] = False,
    time_zone: Annotated[str | None, typer.Option(help="--adopt: the zone of times that have none.")] = None,
    new_ids: Annotated[bool, typer.Option("--new-ids", help="--adopt: number the tasks anew.")] = False,
    keep_long: Annotated[bool, typer.Option("--keep-long", help="--adopt: keep texts above our limits.")] = False,
    owner: Annotated[str | None, typer.Option(help="--adopt: the user who gets the tasks that nobody has.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="OURS=THEIRS", help="--adopt: where a field is found.")
    ] = None,
    drop_not_null: Annotated[
        list[str] | None, typer.Option(help="--adopt: a column that may be null from now on.")
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="--adopt: a constraint, index, trigger or rule to drop.")
    ] = None,
    keep: Annotated[list[str] | None, typer.Option(help="--adopt: one to keep.")] = None,
) -> None:
    """Bring the schema of the database at NEON_DATABASE_URL up to date, while others are served from it.

    Asks the environment for nothing else. Goes to Neon's direct host also where the URL names the pooled one.
    Running it twice, or at several places at once, does no harm.
    """
    from backend.database.failures import BEHIND
    from backend.schema.adopt import adopt as take_over
    from backend.schema.grant import grant as grant_to
    from backend.schema.migrate import is_current, move, plan, tables_like_ours, write_next
    from backend.schema.plan import Choices

    if new is not None:
        write_next(new)
        print("Read it, put it into its form with `make format`, and run `migrate` without --new.")
        return
    url = load_database_url()
    if grant is not None:
        print("\n".join(grant_to(url, grant, dry_run=sql)))
        return
    choices = Choices(
        "UTC" if assume_utc else time_zone, owner, new_ids, keep_long, dict(_pair(each) for each in column or ()),
        frozenset(drop_not_null or ()), frozenset(drop or ()), frozenset(keep or ()),
    )  # fmt: skip
    if partitions and (adopt or down):
        raise typer.BadParameter("only makes a new table", param_hint="--partitions")
    if adopt is not None:
        print("\n".join(take_over(url, adopt, choices, dry_run=dry_run)), flush=True)
        # The rest is as for a table that was fit from the start.
        print("\n".join([] if dry_run else move(url, "head", adopted=True)))
        return
    if dry_run or choices != Choices():
        raise typer.BadParameter("name the table with --adopt TABLE", param_hint="--adopt")
    target = "-1" if down else to
    if sql:
        print(plan(url, target, partitions=partitions), end="")
    elif check:
        if not is_current(url):
            raise OperatorError(f"The database schema {BEHIND}.")
        print("The database schema is up to date.")
    else:
        done = move(url, target, drop_rows=drop_rows, partitions=partitions)
        print("\n".join(done) or f"The database schema is already {'up to date' if target == 'head' else 'there'}.")
        for table in tables_like_ours(url):
            print(f"The table {table} looks like tasks, too: migrate --adopt {table} --dry-run tells how to move in.")


def _pair(text: str) -> tuple[str, str]:
    ours, equals, theirs = text.partition("=")
    if not equals:
        raise typer.BadParameter("write it as title=heading", param_hint="--column")
    return ours, theirs
