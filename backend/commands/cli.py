"""Which commands are there?"""

import asyncio
import platform
import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from backend import __version__
from backend.commands.local import demo, dev
from backend.commands.migrate import migrate
from backend.commands.serve import serve
from backend.commands.token import token
from backend.commands.user import user
from backend.errors import OperatorError

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _show_version(wanted: bool) -> None:  # noqa: FBT001  typer passes it so
    if wanted:
        print(f"todo-backend {__version__}, Python {platform.python_version()}")
        raise typer.Exit


@cli.callback()
def commands(
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version, and nothing else."),
    ] = False,
) -> None:
    """The Todo backend: `dev` on a laptop; `migrate`, then `serve`, in production."""


def doctor(
    token: Annotated[
        str | None, typer.Argument(help="A token to walk through the verifier; - reads it from standard input.")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON array on standard output, for machines.")] = False,
) -> None:
    """Say why a token is refused, or anything else does not work, and what to change.

    Checks the environment, the database, where the frontend is, its keys and its clock, and CORS. Prints no secret and
    no token; fails when something is wrong.
    """
    from backend.commands.doctor import report

    if token == "-":  # noqa: S105 - standard input's usual name
        token = sys.stdin.buffer.read().decode(errors="replace")
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not know all that is said
    raise typer.Exit(0 if asyncio.run(report(token, as_json=as_json)) else 1)


for each in (dev, demo, serve, migrate, token, doctor):
    cli.command()(each)
cli.add_typer(user, name="user")


def run() -> None:
    """Run the command line; what a person can put right is said in a sentence, without a traceback."""
    try:
        cli()
    except OperatorError as error:
        sys.exit(str(error))
