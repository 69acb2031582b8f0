"""A frontend that is not ours, and the backend that trusts it."""

import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import pytest
from foreign_origin import Origin
from people import SECRET, User
from running import serving

from backend.settings import load_settings


@pytest.fixture(scope="session")
def origin() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Origin) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def api(origin: str, database_url: str) -> Iterator[str]:
    settings = load_settings(
        _env_file=None,
        better_auth_secret=SECRET,
        better_auth_url=origin,
        neon_database_url=database_url,
        better_auth_audiences=f"{origin},https://api.example.com",
    )
    with serving(settings) as url:
        yield url


@pytest.fixture
def person(api: str, origin: str) -> Iterator[User]:
    """Somebody whose frontend signs with the shared secret, and names itself in the token."""
    user = User(api, iss=origin, aud=origin)
    with user.http:
        yield user
