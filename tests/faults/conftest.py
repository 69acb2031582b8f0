"""The servers that the faults befall."""

from collections.abc import Iterator

import pytest
from databases import upgrade
from faults import report
from relay import Relay
from servers import Postgres, debian_postgres


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """Debian's PostgreSQL as it comes: nothing is switched off that keeps what was written."""
    with debian_postgres(max_connections="60") as server:
        upgrade(server.url())
        yield server


@pytest.fixture
def relay(server: Postgres) -> Iterator[Relay]:
    with Relay(("127.0.0.1", server.port)).running() as relay:
        yield relay


@pytest.fixture(scope="session", autouse=True)
def published() -> Iterator[None]:
    yield
    report.publish()
