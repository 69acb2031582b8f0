"""What every test stands on: a real PostgreSQL, the real application on a real socket, and users with real tokens."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
from databases import upgrade
from people import ORIGIN, SECRET, User
from relay import Relay, relayed
from running import StatementLog, serving, unscoped

from backend.development.embedded import embedded_postgres
from backend.settings import Settings, load_settings

# What takes longest begins first: begun last, it would keep one worker busy while the others have nothing left to do.
LONGEST = ("test_browser.py", "test_contract.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)
    if os.environ.get("FAULTS") != "1":
        long = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if item not in long]
        config.hook.pytest_deselected(items=long)


@pytest.fixture(scope="session")
def postgres() -> Iterator[tuple[str, StatementLog]]:
    """One server for the whole run; at the end, no statement of the application may have reached beyond its owner."""
    settings = {"log_statement": "all", "log_line_prefix": "%a: ", "log_parameter_max_length": "0"}
    settings |= {"max_connections": "200", "reserved_connections": "2", "fsync": "off"}
    # Not pytest's own directory: when root runs the tests, PostgreSQL's account could not go there.
    with TemporaryDirectory() as directory, embedded_postgres(Path(directory), settings=settings) as url:
        log = StatementLog(Path(directory, "server.log"))
        yield url, log
        assert unscoped(log.all()) == []


@pytest.fixture(scope="session")
def database_url(postgres: tuple[str, StatementLog]) -> str:
    upgrade(postgres[0])
    return postgres[0]


@pytest.fixture(scope="module")
def line(database_url: str) -> Iterator[tuple[Relay, str]]:
    """A relay between the application and its database, and the URL through it."""
    with relayed(database_url) as line:
        yield line


@pytest.fixture(scope="session")
def statement_log(postgres: tuple[str, StatementLog]) -> StatementLog:
    return postgres[1]


@pytest.fixture(scope="session")
def settings(database_url: str) -> Settings:
    return load_settings(
        _env_file=None,
        better_auth_secret=SECRET,
        better_auth_url=ORIGIN,
        better_auth_mode="secret",  # whatever listens at ORIGIN on this machine is not asked for its keys
        neon_database_url=database_url,
        api_docs=True,
    )


@pytest.fixture(scope="session")
def base_url(settings: Settings) -> Iterator[str]:
    with serving(settings) as url:
        yield url


@pytest.fixture
def anonymous(base_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base_url, timeout=30, verify=False) as client:
        yield client


@pytest.fixture
def alice(base_url: str) -> Iterator[User]:
    user = User(base_url)
    with user.http:
        yield user


@pytest.fixture
def bob(base_url: str) -> Iterator[User]:
    user = User(base_url)
    with user.http:
        yield user
