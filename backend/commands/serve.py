"""How is it served in production?"""

import logging
import os
import socket
from contextlib import ExitStack
from functools import partial
from typing import Annotated

import typer

from backend import __version__
from backend.server import run as server
from backend.server.limits import Limits, most_connections
from backend.settings import Settings, load_settings
from backend.telemetry import logs
from backend.telemetry.metrics import publish

logger = logging.getLogger(__name__)


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
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that share the port. [default: WORKERS, or 1]")
    ] = None,
) -> None:
    """Serve in production; BETTER_AUTH_SECRET, BETTER_AUTH_URL and NEON_DATABASE_URL must be set.

    Run `migrate` first: serving never changes the schema.
    """
    os.environ["ENVIRONMENT"] = "production"
    options = {"host": host, "port": port, "workers": workers}
    settings = load_settings(**{name: value for name, value in options.items() if value is not None})
    proxies = list(settings.trusted_proxies)
    os.environ["WORKERS"] = str(settings.workers)
    logs.configure(as_json=settings.log_format == "json", level=settings.log_level)
    with ExitStack() as stack:
        listener = stack.enter_context(
            server.listener(settings.host, settings.port) if fd is None else server.inherited(fd)
        )
        if settings.metrics_port:
            stack.enter_context(publish(settings.metrics_host or settings.host, settings.metrics_port))
        server.run(
            listener,
            partial(_say_started, listener, settings.workers, settings.database_pool_size),
            limits(settings),
            stop_delay=settings.stop_delay,
            drain_seconds=settings.drain_seconds,
            workers=settings.workers,
            proxy_headers=bool(proxies),
            forwarded_allow_ips=proxies,
        )


def _say_started(listener: socket.socket, workers: int, pool: int | None) -> None:
    name = listener.getsockname()
    address = name if isinstance(name, str) else f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
    facts = {"address": address, "version": __version__, "workers": workers, "pool": pool}
    text = "started: address %s, version %s, %d workers, each with %s connections to the database"
    logger.info(
        text, address, __version__, workers, pool or "as many as are of use", extra={"event": "started", **facts}
    )


def limits(settings: Settings) -> Limits:
    """Return what clients may take; raise OperatorError where the files do not suffice for MAX_CONNECTIONS."""
    from backend.db import FIRST_POOL_SIZE

    room = most_connections(settings.max_connections, settings.database_pool_size or FIRST_POOL_SIZE)
    return Limits(connections=room, keep_alive=settings.keep_alive)
