"""Which commands are there?"""

import asyncio
import logging
import os
import re
import secrets
import signal
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import jwt
import typer

from backend.errors import OperatorError
from backend.server import run as server
from backend.server.limits import Limits, most_connections
from backend.settings import ENV_FILE, Settings, load_database_url, load_settings
from backend.telemetry import logs
from backend.telemetry.metrics import publish

DATA = Path(__file__).resolve().parents[2] / ".data" / "postgres"
DEMO_USER = "demo-user"
SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Port = Annotated[int, typer.Option(min=1, max=65_535, help="TCP port to listen on.")]


@cli.callback()
def commands() -> None:
    """The Todo backend: `dev` on a laptop; `migrate`, then `serve`, in production."""


@cli.command()
def dev(
    *,
    port: Port = 8000,
    reload: Annotated[bool, typer.Option("--reload", help="Start again whenever a source file changes.")] = False,
) -> None:
    """Serve on this machine for development, and print a demo user's token to try it with.

    Without NEON_DATABASE_URL an embedded PostgreSQL keeps the tasks in .data/. Migrates by itself, and
    shows the API's documentation at /docs.
    """
    from backend.commands.migrate import upgrade

    with ExitStack() as stack:
        listener = stack.enter_context(server.listener("127.0.0.1", port))
        progress = _prepare(stack)
        settings = load_settings(environment="development")
        if settings.neon_database_url:
            database, url = "the one that NEON_DATABASE_URL names", settings.database_url
        else:
            from backend.development.embedded import embedded_postgres

            url = stack.enter_context(embedded_postgres(DATA, report=progress.show))
            database = "embedded PostgreSQL, for development only"
        progress.show("Migrating the database")
        upgrade(url)
        progress.show("Loading the application")
        os.environ |= {"ENVIRONMENT": "development", "NEON_DATABASE_URL": url, "API_DOCS": "true", "LOG_FORMAT": "text"}

        def listening() -> None:
            progress.stop()
            print(_welcome(f"http://127.0.0.1:{port}", database, settings), flush=True)

        server.run(
            listener,
            listening,
            _limits(settings),
            reload=reload,
            reload_dirs=[str(ENV_FILE.parent)] if reload else None,
        )


@cli.command()
def demo(
    *,
    port: Port = 8000,
    frontend_port: Annotated[int, typer.Option(min=1, max=65_535, help="TCP port of the frontend.")] = 3000,
) -> None:
    """Serve the reference frontend in frontend/ and this backend, on one embedded PostgreSQL in .data/.

    Needs Node.js; installs and builds the frontend where that has not been done. JWT_ALGORITHM=HS256 makes it sign
    tokens with the shared secret instead of a key pair of its own.
    """
    from backend.commands.migrate import upgrade
    from backend.development import frontend
    from backend.development.embedded import embedded_postgres

    with ExitStack() as stack:
        listener = stack.enter_context(server.listener("127.0.0.1", port))
        frontend.require_node()
        frontend.require_port(frontend_port)
        progress = _prepare(stack)
        logging.getLogger("backend.access").setLevel(logging.WARNING)
        address = f"http://localhost:{frontend_port}"
        settings = load_settings(environment="development", better_auth_url=address)
        frontend.build(progress.show)
        url = stack.enter_context(embedded_postgres(DATA, report=progress.show))
        progress.show("Migrating the database")
        upgrade(url)
        shared = {
            "BETTER_AUTH_SECRET": settings.better_auth_secret.get_secret_value(),
            "BETTER_AUTH_URL": address,
            "DATABASE_URL": url,
            "API_URL": f"http://localhost:{port}",
        }
        frontend.migrate(shared)
        progress.show("Starting the frontend")
        stack.enter_context(frontend.serving(frontend_port, shared, on_end=_stop_with_frontend))
        os.environ |= {
            "ENVIRONMENT": "development",
            "NEON_DATABASE_URL": url,
            "BETTER_AUTH_URL": address,
            "LOG_FORMAT": "text",
        }

        def listening() -> None:
            progress.stop()
            print(f"\n  Todo  {address}\n  API   http://127.0.0.1:{port}\n\nPress Ctrl-C to stop.", flush=True)

        server.run(listener, listening, _limits(settings))


@cli.command()
def serve(
    *,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; 0.0.0.0 is every interface. [default: HOST, or 127.0.0.1]")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65_535, help="TCP port to listen on. [default: PORT, or 8000]")
    ] = None,
    fd: Annotated[
        int | None, typer.Option(min=3, help="Serve on the listening socket that is inherited under this number.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the port.")] = 1,
) -> None:
    """Serve in production; BETTER_AUTH_SECRET, BETTER_AUTH_URL and NEON_DATABASE_URL must be set.

    Run `migrate` first: serving never changes the schema.
    """
    os.environ["ENVIRONMENT"] = "production"
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = load_settings(**given)
    proxies = list(settings.trusted_proxies)
    os.environ["WORKERS"] = str(workers)
    logs.configure(as_json=settings.log_format == "json")
    with ExitStack() as stack:
        listener = stack.enter_context(
            server.listener(settings.host, settings.port) if fd is None else server.inherited(fd)
        )
        if settings.metrics_port:
            stack.enter_context(publish(settings.host, settings.metrics_port))
        server.run(
            listener,
            lambda: None,
            _limits(settings),
            stop_delay=settings.stop_delay,
            drain_seconds=settings.drain_seconds,
            workers=workers,
            proxy_headers=bool(proxies),
            forwarded_allow_ips=proxies,
        )


@cli.command()
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
    sql: Annotated[bool, typer.Option("--sql", help="Change nothing; print the SQL.")] = False,
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
    from backend.commands.adopt import adopt as take_over
    from backend.commands.adoption import Choices
    from backend.commands.migrate import is_current, move, plan, tables_like_ours, write_next
    from backend.database.failures import BEHIND

    if new is not None:
        write_next(new)
        print("Read it, put it into its form with `make format`, and run `migrate` without --new.")
        return
    url = load_database_url()
    choices = Choices(
        "UTC" if assume_utc else time_zone, owner, new_ids, keep_long, dict(_pair(each) for each in column or ()),
        frozenset(drop_not_null or ()), frozenset(drop or ()), frozenset(keep or ()),
    )  # fmt: skip
    if adopt is not None:
        print("\n".join(take_over(url, adopt, choices, dry_run=dry_run)), flush=True)
        # The rest is as for a table that was fit from the start.
        print("\n".join([] if dry_run else move(url, "head", adopted=True)))
        return
    if dry_run or choices != Choices():
        raise typer.BadParameter("name the table with --adopt TABLE", param_hint="--adopt")
    target = "-1" if down else to
    if sql:
        print(plan(url, target), end="")
    elif check:
        if not is_current(url):
            raise OperatorError(f"The database schema {BEHIND}.")
        print("The database schema is up to date.")
    else:
        done = move(url, target, drop_rows=drop_rows)
        print("\n".join(done) or f"The database schema is already {'up to date' if target == 'head' else 'there'}.")
        for table in tables_like_ours(url):
            print(f"The table {table} looks like tasks, too: migrate --adopt {table} --dry-run tells how to move in.")


@cli.command()
def token(
    user: Annotated[str, typer.Argument(help="The user's id, as it stands in the path of the API.")],
    expires: Annotated[str, typer.Option(help="How long it is valid: a number and s, m, h or d.")] = "1h",
) -> None:
    """Print an HS256 token for development, signed with BETTER_AUTH_SECRET as a frontend would sign it."""
    lifetime = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", expires)
    if not lifetime:
        raise typer.BadParameter("write a number and s, m, h or d, such as 15m or 7d", param_hint="--expires")
    print(_token(load_settings(environment="development"), user, int(lifetime[1]) * SECONDS[lifetime[2]]))


@cli.command()
def doctor(
    token: Annotated[
        str | None, typer.Argument(help="A token to walk through the verifier; - reads it from standard input.")
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON array on standard output, for machines.")] = False,
) -> None:
    """Say why a token is refused, or anything else does not work, and what to change.

    Checks the environment, the database, Better Auth's key set and the clock. Prints no secret and no token; fails when
    something is wrong.
    """
    from backend.commands.doctor import report

    if token == "-":  # noqa: S105 - standard input's usual name
        token = sys.stdin.read()
    raise typer.Exit(0 if asyncio.run(report(token, as_json=as_json)) else 1)


def run() -> None:
    """Run the command line; what a person can put right is said in a sentence, without a traceback."""
    try:
        cli()
    except OperatorError as error:
        sys.exit(str(error))


def _pair(text: str) -> tuple[str, str]:
    ours, equals, theirs = text.partition("=")
    if not equals:
        raise typer.BadParameter("write it as title=heading", param_hint="--column")
    return ours, theirs


def _limits(settings: Settings) -> Limits:
    from backend.db import FIRST_POOL_SIZE

    room = most_connections(settings.max_connections, settings.database_pool_size or FIRST_POOL_SIZE)
    return Limits(connections=room, keep_alive=settings.keep_alive)


def _stop_with_frontend() -> None:
    print("The frontend has ended by itself, so the rest stops too.", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


class _Progress:
    """Says what is going on once it has taken longer than a second."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def show(self, text: str) -> None:
        self.stop()
        self._timer = threading.Timer(1, print, [f"{text} …"], {"file": sys.stderr, "flush": True})
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        if self._timer:
            self._timer.cancel()


def _prepare(stack: ExitStack) -> _Progress:
    """What a start for development begins with: a quiet log, and backend/.env."""
    logs.configure(as_json=False)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    _write_env_file()
    progress = _Progress()
    stack.callback(progress.stop)
    return progress


def _write_env_file() -> None:
    """Write backend/.env with a secret of its own where there is none."""
    if ENV_FILE.exists():
        return
    example = ENV_FILE.with_name(".env.example").read_text()
    try:
        ENV_FILE.touch(mode=0o600)
        ENV_FILE.write_text(example.replace("BETTER_AUTH_SECRET=", f"BETTER_AUTH_SECRET={secrets.token_hex(32)}", 1))
    except OSError as error:
        raise OperatorError(f"{ENV_FILE} cannot be written: {error.strerror}.") from None
    print(f"Wrote {ENV_FILE} with a fresh secret.")


def _token(settings: Settings, user: str, lifetime: int) -> str:
    now = int(time.time())
    claims = {
        "sub": user,
        "iss": settings.better_auth_url,
        "aud": settings.better_auth_url,
        "iat": now,
        "exp": now + lifetime,
    }
    return jwt.encode(claims, settings.better_auth_secret.get_secret_value().encode(), algorithm="HS256")


def _welcome(address: str, database: str, settings: Settings) -> str:
    token = _token(settings, DEMO_USER, SECONDS["d"])
    tasks = f"{address}/api/{DEMO_USER}/tasks"
    return f"""
  Todo API        {address}
  Documentation   {address}/docs
  Database        {database}
  Demo user       {DEMO_USER}, with this token for a day:

{token}

Create a task:

curl -X POST {tasks} -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json' -d '{{"title": "Buy milk"}}'

Give the frontend the same BETTER_AUTH_SECRET: it is in {ENV_FILE}.
Press Ctrl-C to stop.
"""
