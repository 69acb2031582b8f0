"""Clients who come through a proxy: each from an address of its own, with TLS where the proxy speaks it."""

import asyncio
import ssl
import threading
import time
from typing import Any

from faults.load import Client, Line, Load, Tally
from people import ORIGIN, signed

CLIENTS = 12
# What a loop needs to close the last connections before it ends.
CLOSING = 0.1


class ProxiedLine(Line):
    """A keep-alive connection to a proxy."""

    def __init__(self, address: tuple[str, int], token: str, source: str, tls: ssl.SSLContext | None) -> None:
        super().__init__(address, token)
        self._source, self._tls = source, tls

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._streams = await asyncio.open_connection(
            *self._address,
            ssl=self._tls,
            local_addr=(self._source, 0),
            server_hostname="localhost" if self._tls else None,
        )
        return self._streams

    def close(self) -> None:
        """At once, as TLS would say goodbye first, to a loop that ends."""
        if self._streams:
            self._streams[1].transport.abort()
        self._streams = None


class ProxiedClient(Client):
    """A deletion that the proxy has sent twice is answered 404; a refusal counts as a failure, too."""

    def __init__(
        self, tally: Tally, address: tuple[str, int], seed: int, tls: ssl.SSLContext | None, origin: str
    ) -> None:
        super().__init__(address, tally, seed)
        token = signed(self.user, iss=origin, aud=origin, exp=int(time.time()) + 86_400)
        self._line = ProxiedLine(address, token, f"127.0.1.{seed + 1}", tls)

    async def _call(self, method: str, path: str, body: object = None, key: str | None = None) -> tuple[int, Any]:
        status, answer = await super()._call(method, path, body, key)
        if status in {401, 403, 429}:
            self._tally.failed += 1
            self._tally.failures[f"{method} {status}"] += 1
        return status, answer

    async def work(self, stopping: threading.Event, pause: float) -> None:
        await super().work(stopping, pause)
        await asyncio.sleep(CLOSING)

    async def verify(self, address: tuple[str, int] | None = None) -> None:
        await super().verify(address)
        await asyncio.sleep(CLOSING)

    async def _delete(self) -> None:
        if task := self._any():
            status, _ = await self._call("DELETE", f"{self._path}/{task}")
            if status in {204, 404}:
                del self.tasks[task]
                self.deleted.add(task)
            else:
                self.tasks[task].gone = True


class ThroughProxy(Load):
    """Clients who make some 300 requests a second together, few enough from each address for the proxy's limits."""

    def __init__(self, address: tuple[str, int], tls: ssl.SSLContext | None = None, origin: str = ORIGIN) -> None:
        super().__init__(address, 0, pause=0.06)
        self._clients = [ProxiedClient(self.tally, address, seed, tls, origin) for seed in range(CLIENTS)]
