"""Does each fault raise its alert within two minutes, and no other? All at once, each in a deployment of its own."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import yaml
from deploy.test_observe import DASHBOARD, OBSERVE
from faults.load import Line, Load, NoAnswer
from faults.report import ALERTS, Alarm
from issuer import Signer, answering, issuing, key_set
from people import lasting, signed
from relay import Relay, error_response
from servers import Application, Postgres, application, debian_postgres, folder, free_port, listening, program, until
from test_unread_log import ENOUGH, NOWHERE, Pipe, asked

from backend.database import statements
from backend.schema.migrate import upgrade

# In seconds: what is promised of an alert; how long all is well before; what only tells that an alert does not end.
WITHIN, BEFORE, GUARD = 120, 90, 480
# Between two requests of one client.
PAUSE = 0.2
END_ALL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'"

Deployment = Iterator[None]


class Site:
    """Where one deployment runs: its instances, their clients, and whatever is between them and the database."""

    def __init__(self, stack: ExitStack, server: Postgres) -> None:
        self._stack = stack
        self.server = server
        self.metrics: list[int] = []

    def enter(self, context: Any) -> Any:
        return self._stack.enter_context(context)

    def serve(self, url: str | None = None, port: int = 0, **options: Any) -> Application:
        """Start an instance, which has its metrics on a port of its own, or on that of one before."""
        if not port:
            self.metrics.append(port := free_port())
        settings: dict[str, Any] = {"DATABASE_POOL_SIZE": "2", "METRICS_PORT": str(port), **options}
        app: Application = self.enter(application(url or self.server.url(), **settings))
        return app

    def relay(self) -> Relay:
        relay: Relay = self.enter(Relay(("127.0.0.1", self.server.port)).running())
        return relay

    def used(self, app: Application) -> Application:
        """Let two people work."""
        self.enter(Load(app.address, 2, PAUSE).running())
        return app

    def database(self, name: str) -> str:
        """Make a database of this deployment's own; returns its URL."""
        self.server.ask(f"CREATE DATABASE {name}")
        upgrade(url := self.server.url(database=name))
        return url

    def visit(self, app: Application, user: str, token: str, pause: float = PAUSE) -> None:
        """Let somebody with this token look at a list again and again."""
        self.enter(visiting(app, user, token, pause))


@contextmanager
def visiting(app: Application, user: str, token: str, pause: float) -> Iterator[None]:
    async def visit() -> None:
        line = Line(app.address, token)
        while not stopping.is_set():
            with suppress(NoAnswer):
                await line.call("GET", f"/api/{user}/tasks")
            await asyncio.sleep(pause)
        line.close()

    stopping = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(visit()))
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


# Each deployment: it is well until the first yield, in trouble until the second, and then well again.


def calm(site: Site) -> Deployment:
    site.used(site.serve())
    yield
    yield


def short_trouble(site: Site) -> Deployment:
    """What the backend bridges by itself."""
    relay = site.relay()
    site.used(site.serve(site.server.url(relay.port)))
    yield
    relay.reset()
    relay.frozen = True
    time.sleep(2)
    relay.frozen = False
    yield


def database_away(site: Site) -> Deployment:
    server = site.enter(debian_postgres(fsync="off"))
    upgrade(server.url())
    site.used(site.serve(server.url()))
    yield
    server.stop()
    yield
    server.start()


def database_stalled(site: Site) -> Deployment:
    relay = site.relay()
    site.used(site.serve(site.server.url(relay.port)))
    yield
    relay.frozen = True
    yield
    relay.frozen = False


def black_hole(site: Site) -> Deployment:
    relay = site.relay()
    site.used(site.serve(site.server.url(relay.port)))
    yield
    relay.hole = True
    relay.lose()
    yield
    relay.hole = False


def connections_refused(site: Site) -> Deployment:
    site.used(site.serve(site.database("refusing")))
    yield
    site.server.ask("ALTER DATABASE refusing ALLOW_CONNECTIONS false", END_ALL.format("refusing"))
    yield
    site.server.ask("ALTER DATABASE refusing ALLOW_CONNECTIONS true")


def read_only(site: Site) -> Deployment:
    site.used(site.serve(site.database("reading")))
    yield
    site.server.ask("ALTER DATABASE reading SET default_transaction_read_only = on", END_ALL.format("reading"))
    yield
    site.server.ask("ALTER DATABASE reading RESET default_transaction_read_only", END_ALL.format("reading"))


def disk_full(site: Site) -> Deployment:
    relay = site.relay()
    site.used(site.serve(site.server.url(relay.port, options="sslmode=disable")))
    names = [each.name.encode() for each in statements.ALL if not each.reads]
    full = error_response("53100", "could not extend file: No space left on device")
    yield
    relay.refuse = lambda sent: full if sent[:1] == b"B" and any(name in sent for name in names) else None
    yield
    relay.refuse = None


def schema_missing(site: Site) -> Deployment:
    """A new start tells by itself: nobody sends a request to what is not ready."""
    app = site.serve(url := site.database("bare"))
    yield
    app.stop()
    site.server.ask("DROP DATABASE bare", "CREATE DATABASE bare")
    site.serve(url, port=site.metrics[0])
    yield
    upgrade(url)


def too_many_requests(site: Site) -> Deployment:
    relay = site.relay()
    relay.delay = 0.1
    app = site.used(site.serve(site.server.url(relay.port), DATABASE_POOL_SIZE="1"))
    yield
    with Load(app.address, 20, 0.02).running():
        yield


def slow_database(site: Site) -> Deployment:
    relay = site.relay()
    site.used(site.serve(site.server.url(relay.port)))
    yield
    relay.delay = 0.7
    yield
    relay.delay = 0


def instance_killed(site: Site) -> Deployment:
    site.used(site.serve())
    app = site.serve()
    yield
    app.process.kill()
    yield
    site.serve(port=site.metrics[1])


def all_killed(site: Site) -> Deployment:
    app = site.serve()
    yield
    app.process.kill()
    yield
    site.serve(port=site.metrics[0])


def instance_cut_off(site: Site) -> Deployment:
    """Of two instances, one loses its way to the database, and gets no request any more once it has said so."""
    relay = site.relay()
    site.used(site.serve())
    app = site.serve(site.server.url(relay.port), REQUEST_DEADLINE="1")
    yield
    relay.hole = True
    relay.lose()
    with visiting(app, "somebody", lasting("somebody"), PAUSE):
        until(lambda: httpx.get(f"{app.base_url}/readyz").status_code == 503, "it stays ready")
    yield
    relay.hole = False


def bugs(site: Site) -> Deployment:
    app = site.used(site.serve())
    user, far = "far-future", "'20000-01-01'"
    site.visit(app, user, lasting(user))
    yield
    columns = "(user_id, title, completed, created_at, updated_at)"
    site.server.ask(f"INSERT INTO task {columns} VALUES ('{user}', 'Buy milk', false, {far}, {far})")
    yield
    site.server.ask(f"DELETE FROM task WHERE user_id = '{user}'")


def keys_unreachable(site: Site) -> Deployment:
    """A key set that is replaced, and cannot be fetched."""
    old, new, hour = Signer("EdDSA", "old"), Signer("EdDSA", "new"), int(time.time()) + 3_600
    issuer = site.enter(issuing(answering(key_set(old))))
    app = site.serve(BETTER_AUTH_MODE="jwks", BETTER_AUTH_JWKS_URL=issuer.url)
    site.visit(app, "old", old.token("old", exp=hour))
    yield
    issuer.answer = answering(b"", 502)
    site.visit(app, "new", new.token("new", exp=hour))
    yield
    issuer.answer = answering(key_set(old, new))


def refusals(site: Site) -> Deployment:
    app = site.used(site.serve())
    site.visit(app, "visitor", "", PAUSE)
    yield
    with visiting(app, "somebody", signed("somebody", secret="x" * 32), PAUSE / 10):
        yield


def clients_at_maximum(site: Site) -> Deployment:
    app = site.used(site.serve(MAX_CONNECTIONS="20", KEEP_ALIVE="600"))
    yield
    with ExitStack() as idle:
        for _ in range(17):
            idle.enter_context(socket.create_connection(app.address))
        yield


def log_unread(site: Site) -> Deployment:
    pipe = Pipe()
    site.enter(closing(pipe))
    app = site.used(site.serve(errors=pipe.input))
    yield
    asked(app, range(ENOUGH), NOWHERE)
    yield
    pipe.read()


EXPECTED: dict[Callable[[Site], Deployment], str] = {
    calm: "",
    short_trouble: "",
    database_away: "TodoDatabaseUnavailable",
    database_stalled: "TodoDatabaseUnavailable",
    black_hole: "TodoDatabaseUnavailable",
    connections_refused: "TodoDatabaseUnavailable",
    read_only: "TodoDatabaseUnavailable",
    disk_full: "TodoDatabaseUnavailable",
    schema_missing: "TodoDatabaseUnavailable",
    too_many_requests: "TodoOverloaded",
    slow_database: "TodoSlow",
    instance_killed: "TodoInstanceOut",
    instance_cut_off: "TodoInstanceOut",
    all_killed: "TodoDown",
    bugs: "TodoErrors",
    keys_unreachable: "TodoKeySetUnreachable",
    refusals: "TodoRefusals",
    clients_at_maximum: "TodoClientsAtMaximum",
    log_unread: "TodoLogLinesDropped",
}


@dataclass
class Prometheus:
    """Debian's, with the files of deploy/observe; `fired` and `ended` say when an alert of a job was seen so first."""

    url: str
    fired: dict[tuple[str, str], float] = field(default_factory=dict)
    ended: dict[tuple[str, str], float] = field(default_factory=dict)

    def ask(self, query: str) -> list[dict[str, str]]:
        """Return the labels of what there is."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}, timeout=30).json()
        return [each["metric"] for each in answer["data"]["result"]]

    def watch(self, seconds: float, enough: Callable[[set[tuple[str, str]]], bool] = lambda _: False) -> None:
        """Note what fires, until it is enough or the time is over."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            alerts = self.ask('ALERTS{alertstate="firing"}')
            firing = {(each.get("job", ""), each["alertname"]) for each in alerts}
            for each in firing:
                self.fired.setdefault(each, time.time())
            for each in self.fired.keys() - firing:
                self.ended.setdefault(each, time.time())
            if enough(firing):
                return
            time.sleep(1)


@contextmanager
def prometheus(sites: dict[str, Site]) -> Iterator[Prometheus]:
    """Watch each deployment as a job; only the targets are others than in the recipe."""
    port, content = free_port(), yaml.safe_load((OBSERVE / "prometheus.yml").read_text())
    del content["alerting"]
    content["rule_files"] = [str(OBSERVE / "alerts.yml")]
    content["scrape_configs"] = [
        {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{each}" for each in site.metrics]}]}
        for name, site in sites.items()
    ]
    with folder() as home:
        (home / "prometheus.yml").write_text(yaml.safe_dump(content))
        files = f"--config.file={home}/prometheus.yml", f"--storage.tsdb.path={home}/data"
        address = f"127.0.0.1:{port}"
        with listening(port, home / "log", program("prometheus"), *files, f"--web.listen-address={address}"):
            yield Prometheus(f"http://{address}")


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_each_fault_raises_its_alert_within_two_minutes_and_no_other(server: Postgres) -> None:
    began, ended = {}, {}
    with ExitStack() as stack:
        sites = {f"todo-{fault.__name__}": Site(stack, server) for fault in EXPECTED}
        expected = {(job, alert) for job, alert in zip(sites, EXPECTED.values(), strict=True) if alert}
        courses = [fault(site) for fault, site in zip(EXPECTED, sites.values(), strict=True)]
        for course in courses:
            next(course)
        seen = stack.enter_context(prometheus(sites))
        seen.watch(BEFORE)
        early = dict(seen.fired)

        for job, course in zip(sites, courses, strict=True):
            began[job] = time.time()
            next(course)
        seen.watch(WITHIN)
        queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
        queries = [each.replace('"$job"', '~"todo.*"').replace("$__rate_interval", "1m") for each in queries]
        without_answer = [query for query in queries if not seen.ask(query)]
        for job, course in zip(sites, courses, strict=True):
            ended[job] = time.time()
            next(course, None)
        seen.watch(GUARD, lambda firing: not firing)

    assert early == {}
    assert set(seen.fired) == expected == set(seen.ended)
    assert {each for each, fired in seen.fired.items() if fired > began[each[0]] + WITHIN} == set()
    assert without_answer == []
    for each in sorted(expected):
        job, alert = each
        times = seen.fired[each] - began[job], seen.ended[each] - ended[job]
        ALERTS.rows.append(Alarm(job.removeprefix("todo-"), alert, *times))
