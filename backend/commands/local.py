"""How is it served on a laptop?"""

import logging
import os
import secrets
import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from backend.commands.serve import limits
from backend.commands.token import signed
from backend.errors import OperatorError
from backend.server import run as server
from backend.settings import ENV_FILE, Settings, load_settings
from backend.telemetry import logs

DATA = Path(__file__).resolve().parents[2] / ".data" / "postgres"
DEMO_USER = "demo-user"
DAY = 86_400

Port = Annotated[int, typer.Option(min=1, max=65_535, help="TCP port to listen on.")]


def dev(
    *,
    port: Port = 8000,
    reload: Annotated[bool, typer.Option("--reload", help="Start again whenever a source file changes.")] = False,
) -> None:
    """Serve on this machine for development, and print a demo user's token to try it with.

    Without NEON_DATABASE_URL an embedded PostgreSQL keeps the tasks in .data/. Migrates by itself, and
    shows the API's documentation at /docs.
    """
    from backend.schema.migrate import upgrade

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
            limits(settings),
            reload=reload,
            reload_dirs=[str(ENV_FILE.parent)] if reload else None,
        )


def demo(
    *,
    port: Port = 8000,
    frontend_port: Annotated[int, typer.Option(min=1, max=65_535, help="TCP port of the frontend.")] = 3000,
) -> None:
    """Serve the reference frontend in frontend/ and this backend, on one embedded PostgreSQL in .data/.

    Needs Node.js; installs and builds the frontend where that has not been done. JWT_ALGORITHM=HS256 makes it sign
    tokens with the shared secret instead of a key pair of its own.
    """
    from backend.development import frontend
    from backend.development.embedded import embedded_postgres
    from backend.schema.migrate import upgrade

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

        server.run(listener, listening, limits(settings))


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


def _welcome(address: str, database: str, settings: Settings) -> str:
    token = signed(settings, DEMO_USER, DAY)
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
