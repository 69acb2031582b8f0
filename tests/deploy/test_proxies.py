"""Do the files in deploy/proxies keep what docs/deploy.md says, while instances are replaced and killed?"""

import os
import signal
import ssl
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from deploy.through_proxy import CLIENTS, ThroughProxy
from deploy.tools import path
from faults.befall import GUARD
from faults.load import Tally
from people import User
from servers import (
    NGINX,
    ROOT,
    Application,
    Postgres,
    answers,
    application,
    debian_postgres,
    folder,
    free_port,
    listening,
    program,
)

from backend.schema.migrate import upgrade

LONG = os.environ.get("FAULTS") == "1"
RESTARTS, KILLS = (100, 20) if LONG else (2, 2)
RECIPES = ROOT / "deploy/proxies"


class Instances:
    """Two instances, each on a port of its own that refuses connections while it is not there."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self.ports = [free_port(), free_port()]
        self._running: dict[int, tuple[Application, ExitStack]] = {}

    def start(self, port: int) -> None:
        stack = ExitStack()
        app = stack.enter_context(application(self._url, port=port, TRUSTED_PROXIES="127.0.0.1"))
        self._running[port] = app, stack

    def end(self, port: int, number: signal.Signals) -> int:
        app, stack = self._running.pop(port)
        app.process.send_signal(number)
        code = app.process.wait(GUARD)
        stack.close()
        return code

    def log(self) -> str:
        return "".join(app.log() for app, _ in self._running.values())

    @contextmanager
    def running(self) -> Iterator["Instances"]:
        try:
            for port in self.ports:
                self.start(port)
            yield self
        finally:
            for port in [*self._running]:
                self.end(port, signal.SIGTERM)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with debian_postgres(fsync="off") as server:
        upgrade(server.url())
        yield server


@pytest.fixture(scope="module")
def instances(server: Postgres) -> Iterator[Instances]:
    with Instances(server.url()).running() as instances:
        yield instances


class Proxy:
    """A proxy with the recipe's file, in which only addresses and places are others."""

    def __init__(self, name: str, home: Path, authority: Path, ports: list[int]) -> None:
        self.port = free_port()
        self.address = ("127.0.0.1", self.port)
        self.tls = None if name == "caddy" else ssl.create_default_context(cafile=authority)
        self.url = f"http{'s' if self.tls else ''}://localhost:{self.port}"
        self._home, certificates = home, authority.parent
        (home / "todo.pem").write_text(
            (certificates / "server.crt").read_text() + (certificates / "server.key").read_text()
        )
        places = {
            "127.0.0.1:8001": f"127.0.0.1:{ports[0]}",
            "127.0.0.1:8002": f"127.0.0.1:{ports[1]}",
            "listen 443": f"listen 127.0.0.1:{self.port}",
            "bind :443": f"bind 127.0.0.1:{self.port}",
            "/etc/ssl/todo.crt": str(certificates / "server.crt"),
            "/etc/ssl/todo.key": str(certificates / "server.key"),
            "/etc/ssl/todo.pem": str(home / "todo.pem"),
            "todo.example {": f"{{\n\tadmin off\n}}\nhttp://localhost:{self.port} {{",
        }
        file = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg", "caddy": "Caddyfile"}[name]
        text = (RECIPES / file).read_text()
        for old, new in places.items():
            text = text.replace(old, new)
        (home / "todo.conf").write_text(text)
        (home / "nginx.conf").write_text(NGINX.replace("SITE", "include todo.conf;"))
        self._command = {
            "nginx": ["-p", str(home), "-e", "stderr", "-c", str(home / "nginx.conf")],
            "haproxy": ["-db", "-f", str(home / "todo.conf")],
            "caddy": ["run", "--adapter", "caddyfile", "--config", str(home / "todo.conf")],
        }[name]
        self._command.insert(0, path(name) if name == "caddy" else program(name))

    def running(self) -> AbstractContextManager[None]:
        return listening(self.port, self._home / "proxy.log", "env", f"HOME={self._home}", *self._command)


@pytest.fixture(params=["nginx", "haproxy", "caddy"])
def proxy(request: pytest.FixtureRequest, server: Postgres, instances: Instances) -> Iterator[Proxy]:
    with folder() as home:
        proxy = Proxy(request.param, home, server.authority, instances.ports)
        with proxy.running():
            yield proxy


def report(what: str, tally: Tally, seconds: float) -> None:
    rate = tally.requests / seconds
    print(f"\n{what}: {tally.requests} requests ({rate:.0f}/s), failed {tally.failed} {dict(tally.failures)}")
    assert tally.wrong == {}, tally.examples[:5]


@pytest.mark.timeout(3_600)
def test_replacing_both_instances_again_and_again_fails_no_request(proxy: Proxy, instances: Instances) -> None:
    load = ThroughProxy(proxy.address, proxy.tls)
    began = time.monotonic()
    with load.running():
        time.sleep(0.5)
        codes = []
        for restart in range(RESTARTS):
            port = instances.ports[restart % 2]
            codes.append(instances.end(port, signal.SIGTERM))
            instances.start(port)
        time.sleep(0.5)

    report(f"{RESTARTS} rolling restarts", load.verify(), time.monotonic() - began)
    assert codes == [0] * RESTARTS
    assert load.tally.failures == {}


@pytest.mark.timeout(3_600)
def test_when_one_is_killed_only_what_may_not_be_repeated_fails(proxy: Proxy, instances: Instances) -> None:
    load = ThroughProxy(proxy.address, proxy.tls)
    began = time.monotonic()
    with load.running():
        for kill in range(KILLS):
            time.sleep(0.5)
            port = instances.ports[kill % 2]
            instances.end(port, signal.SIGKILL)
            time.sleep(0.2)
            instances.start(port)
        time.sleep(0.5)

    report(f"{KILLS} times kill -9", load.verify(), time.monotonic() - began)
    assert {failure.split()[0] for failure in load.tally.failures} <= {"POST", "PATCH"}
    # No more than what each client had under way.
    assert load.tally.failed <= KILLS * CLIENTS


def test_a_long_list_comes_whole_and_in_pieces(proxy: Proxy, server: Postgres) -> None:
    context = ssl.create_default_context(cafile=server.authority) if proxy.tls else True
    user = User(proxy.url)
    rows = f"INSERT INTO task (user_id, title) SELECT '{user.id}', 'x' FROM generate_series(1, 3000)"
    server.ask(rows)
    with httpx.Client(verify=context, headers={"Authorization": f"Bearer {user.token}"}) as client:
        response = client.get(f"{proxy.url}{user.tasks}", timeout=GUARD)

    assert response.headers.get("transfer-encoding") == "chunked"
    assert len(response.json()) == 3000


def test_one_address_is_limited_alone(proxy: Proxy, server: Postgres, instances: Instances) -> None:
    if not proxy.tls:
        pytest.skip("Caddy has no limit without a plugin")
    context = ssl.create_default_context(cafile=server.authority)

    def asked(times: int, source: str) -> set[int]:
        transport = httpx.HTTPTransport(verify=context, local_address=source)
        with httpx.Client(transport=transport) as client:
            return {client.get(f"{proxy.url}/livez").status_code for _ in range(times)}

    assert asked(1_200, "127.0.2.1") == {200, 429}
    assert asked(20, "127.0.2.2") == {200}
    assert answers(f"http://127.0.0.1:{instances.ports[0]}")
