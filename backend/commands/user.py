"""How does an operator get all that is kept of one user, and how is it erased?"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer

from backend.database.url import connect_arguments, direct, host
from backend.errors import OperatorError
from backend.settings import load_database_url

user = typer.Typer(
    no_args_is_help=True, help="Export or erase what is kept of one user; needs NEON_DATABASE_URL alone."
)

UserId = Annotated[str, typer.Argument(metavar="USER_ID", help="The user's id, as it stands in the path of the API.")]


@user.command()
def export(user_id: UserId) -> None:
    """Print every task of a user as JSON, newest first, each as the API shows it."""
    asyncio.run(_export(load_database_url(), user_id))


@user.command()
def erase(user_id: UserId, *, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Erase every task of a user for good, and say how many there were.

    A token of theirs can still create tasks until it expires: take the account away first.
    """
    url = load_database_url()
    if not yes:
        typer.confirm(f"Erase every task of the user {user_id!a} at {host(url)}?", abort=True, err=True)
    print(f"Tasks erased: {asyncio.run(_erase(url, user_id))}")


async def _export(url: str, user_id: str) -> None:
    write, before = sys.stdout.buffer.write, b"["
    async for task in _tasks(url, user_id):
        write(before + b"\n" + task)
        before = b","
    write(b"[]\n" if before == b"[" else b"\n]\n")


async def _tasks(url: str, user_id: str) -> AsyncIterator[bytes]:
    from backend.database.statements import LIST
    from backend.web.answers import PAGE, encoded

    # A limit of null is none. The cursor reads page by page, and all of it as it was at the start.
    arguments = LIST.arguments({"user_id": user_id, "page_size": None})
    async with _connection(url) as connection, connection.transaction():
        async for task in connection.cursor(LIST.sql, *arguments, prefetch=PAGE):
            yield encoded(task)


async def _erase(url: str, user_id: str) -> int:
    from backend.database.statements import ERASE

    async with _connection(url) as connection:
        done: str = await connection.execute(ERASE.sql, *ERASE.arguments({"user_id": user_id}))
    return int(done.removeprefix("DELETE "))


@asynccontextmanager
async def _connection(url: str) -> AsyncIterator[Any]:
    import asyncpg

    from backend.database.failures import NOT_CONNECTED, describe, unreadable_date

    try:
        connection = await asyncpg.connect(**{"timeout": 10} | connect_arguments(direct(url)))
        try:
            yield connection
        finally:
            await connection.close()
    except NOT_CONNECTED as error:
        raise OperatorError(f"The database could not do it: {describe(error)}") from error
    except OverflowError:
        raise OperatorError(unreadable_date()) from None
