"""How is the application run by uvicorn?"""

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import Timer
from typing import Any, NoReturn, cast

import uvicorn
from uvicorn.server import ServerState
from uvicorn.supervisors import ChangeReload, Multiprocess

from backend.errors import OperatorError
from backend.server.clients import Clients
from backend.server.limits import Limits
from backend.server.protocol import HttpConnection

logger = logging.getLogger(__name__)

APPLICATION = "backend.main:app"
ACCEPTED_PER_ITERATION = 8
# How many more objects there must be than at the last collection, and every how many times the older ones are scanned.
COLLECT_AFTER = (20_000, 10, 50)


class Http:
    """Makes a connection for each client. uvicorn gets it as its protocol class, and passes it to the workers."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._clients: Clients | None = None

    def announce_stop(self) -> None:
        """Make `/readyz` fail, and continue to serve."""
        logger.info("not ready: stopping", extra={"event": "not-ready", "reason": "stopping"})
        if self._clients:
            self._clients.stopping_soon = True

    def __call__(
        self, config: uvicorn.Config, server_state: ServerState, app_state: dict[str, Any], _loop: object = None
    ) -> HttpConnection:
        if self._clients is None:
            self._clients = Clients(self._limits, cast("set[HttpConnection]", server_state.connections))
            if metrics := app_state.get("metrics"):
                metrics.clients, metrics.most_clients = server_state.connections, self._limits.connections
        return HttpConnection(self._clients, config.loaded_app, app_state, server_state.tasks)


class _Config(uvicorn.Config):
    """Makes garbage collection cheap: it leaves out the loaded application, which takes 50 ms to scan, and comes less
    often: in a crowd, whose requests it finds in use each time, it took a tenth of the processor's time."""

    stop_delay = 0.0

    def load(self) -> None:
        gc.disable()
        super().load()
        gc.freeze()
        gc.enable()
        gc.set_threshold(*COLLECT_AFTER)
        if self.stop_delay:
            stop = signal.getsignal(signal.SIGTERM)
            signal.signal(signal.SIGTERM, partial(self._stop_later, stop))

    def _stop_later(self, stop: Any, number: int, _frame: object) -> None:
        """Stop when load balancers have had time to ask `/readyz`; another signal meanwhile stops at once."""
        signal.signal(number, stop)
        cast("Http", self.http).announce_stop()
        timer = Timer(self.stop_delay, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()


class _Server(uvicorn.Server):
    """Calls back once it listens."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if sockets:
            try:
                sockets[0].listen(self.config.backlog)
            except OSError as error:
                # Another process had taken the port, too, and was faster; uvloop would not say so.
                host, port, *_ = sockets[0].getsockname()
                raise _not_to_be_had(host, port, error) from None
        await super().startup(sockets)
        if self.started:
            self._listening()


@contextmanager
def listener(host: str, port: int) -> Iterator[socket.socket]:
    """Take the port, before anything is done that would have to be undone if it is in use; raises OperatorError.

    Until the server listens connections are refused, so that a proxy sends what comes meanwhile to another instance.
    The host `::` is every address, those of IPv4 included where the system can.
    """
    taken = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    with taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if taken.family == socket.AF_INET6:
            taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::" or not socket.has_dualstack_ipv6())
        try:
            taken.bind((host, port))
        except OSError as error:
            raise _not_to_be_had(host, port, error) from None
        yield taken


def _not_to_be_had(host: str, port: int, error: OSError) -> OperatorError:
    # Without the address that Python adds.
    reason = (error.strerror or type(error).__name__).partition(" (while")[0]
    return OperatorError(f"Cannot listen on {host}:{port}: {reason}. Is it in use? Take another with --port.")


@contextmanager
def inherited(number: int) -> Iterator[socket.socket]:
    """Take over a listening socket, so that an old and a new instance can share one; raises OperatorError."""
    try:
        taken = socket.socket(fileno=number)
        listens = taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise OperatorError(f"There is no socket under number {number}: {error.strerror}.") from None
    with taken:
        if not listens:
            raise OperatorError(f"The socket under number {number} does not listen.")
        yield taken


def several(taken: socket.socket) -> list[socket.socket]:
    """Return the socket and copies of it: libuv accepts one connection from each in an iteration of the event loop.

    In a crowd the iterations are long, and new clients would wait for seconds.
    """
    return [taken, *(taken.dup() for _ in range(1, ACCEPTED_PER_ITERATION))]


def run(
    taken: socket.socket,
    listening: Callable[[], None],
    limits: Limits,
    *,
    stop_delay: float = 0,
    drain_seconds: int = 30,
    **options: Any,
) -> NoReturn:
    """Serve until SIGINT or SIGTERM and finish what is under way; ends with SystemExit.

    The application reads its settings from the environment, in this process or in those that it starts.
    """
    config = _Config(
        APPLICATION,
        http=cast("type[asyncio.Protocol]", Http(limits)),
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=drain_seconds,
        **options,
    )
    config.stop_delay = stop_delay
    sockets = several(taken)
    if config.should_reload or config.workers > 1:
        listening()
        if config.should_reload:
            ChangeReload(config, target=uvicorn.Server(config).run, sockets=sockets).run()
        else:
            Multiprocess(config, sockets=sockets).run()
        raise SystemExit(0)
    # uvicorn raises the signal that stopped it once more; its default action would end the process without clean-up.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _exit)
    server = _Server(config, listening)
    server.run(sockets=sockets)
    raise SystemExit(0 if server.started else 1)


def _exit(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(0)
