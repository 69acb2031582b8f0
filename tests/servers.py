"""Which programs does a test start? Debian's PostgreSQL with TLS, PgBouncer, and the application itself."""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import randbelow
from typing import IO, Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from people import ORIGIN, SECRET

ROOT = Path(__file__).parent.parent
ACCOUNT = "postgres" if os.geteuid() == 0 else None
PATIENCE = 60


def program(name: str) -> str:
    """Return the path of one of Debian's programs, or leave the test out, which CI does not allow."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    found = str(places[0]) if places else shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if found:
        return found
    message = f"left out: {name} is not installed (.ci/run names Debian's packages)"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def uncovered() -> dict[str, str]:
    """The environment of a program that is not ours, or that coverage would slow down for nothing."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COV")}


def free_port() -> int:
    """Return a free port, below those that the system gives to clients, so that none of them takes it meanwhile."""
    while True:
        port = 10_000 + randbelow(20_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def until(condition: Any, what: str, seconds: float = PATIENCE) -> None:
    """Wait for something that must happen; the limit only keeps a broken run from hanging."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@contextmanager
def folder() -> Iterator[Path]:
    """A folder where also PostgreSQL's account can go."""
    with tempfile.TemporaryDirectory(prefix="todo-test-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def _lend(path: Path) -> None:
    if ACCOUNT:
        shutil.chown(path, ACCOUNT, pwd.getpwnam(ACCOUNT).pw_gid)


def certificates(directory: Path) -> Path:
    """Write an authority's certificate, and the server's for localhost signed by it; return the authority's."""
    now, span = datetime.now(UTC), timedelta(days=1)

    def build(name: str, key: Any, issuer: str, signer: Any, *, authority: bool) -> x509.Certificate:
        subject, by = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, each)]) for each in (name, issuer))
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(by).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - span)
        builder = builder.not_valid_after(now + span)
        builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        alternatives = x509.SubjectAlternativeName([x509.DNSName("localhost")])
        return builder.add_extension(alternatives, critical=False).sign(signer, hashes.SHA256())

    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = build("Test authority", authority_key, "Test authority", authority_key, authority=True)
    certificate = build("localhost", key, "Test authority", authority_key, authority=False)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for name, content in {"ca.crt": authority.public_bytes(pem), "server.crt": certificate.public_bytes(pem),
                          "server.key": private}.items():  # fmt: skip
        file = directory / name
        file.write_bytes(content)
        file.chmod(0o600 if name == "server.key" else 0o644)
        _lend(file)
    return directory / "ca.crt"


class Postgres:
    """Debian's PostgreSQL on a port of its own, with TLS; it can be stopped, killed and started again."""

    def __init__(self, home: Path, settings: Mapping[str, str]) -> None:
        self._postgres, initdb = program("postgres"), program("initdb")
        self.home, self.port = home, free_port()
        self.data = home / "data"
        self.authority = certificates(home)
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "ssl": "on",
            "ssl_cert_file": str(home / "server.crt"),
            "ssl_key_file": str(home / "server.key"),
            **settings,
        }
        _lend(home)
        self._run(initdb, "-U", "app", "-A", "trust", "-E", "UTF8", "--locale=C", "-N", str(self.data))
        self.process: subprocess.Popen[bytes] | None = None

    def _run(self, *command: str) -> None:
        subprocess.run(command, check=True, user=ACCOUNT, cwd="/", stdout=subprocess.DEVNULL)

    def url(self, port: int | None = None, database: str = "postgres", options: str = "sslmode=require") -> str:
        return f"postgresql://app@localhost:{port or self.port}/{database}?{options}"

    def start(self) -> None:
        """Start the server, and return when it accepts connections; to be called from a thread that stays."""
        bound = ["setpriv", "--pdeathsig", "QUIT"] if shutil.which("setpriv") else []
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*bound, self._postgres, "-D", str(self.data), *options],
                user=ACCOUNT, cwd="/", stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        until(self.accepts, "PostgreSQL does not start")

    def accepts(self) -> bool:
        command = [program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", "app", "-d", "postgres"]
        return subprocess.run(command, check=False).returncode == 0

    def stop(self, with_signal: signal.Signals = signal.SIGINT) -> None:
        """SIGINT is a fast shutdown, SIGQUIT an immediate one."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(with_signal)
            self.process.wait(PATIENCE)

    def kill(self) -> None:
        """End the whole server with kill -9, as when the machine's memory has run out."""
        assert self.process
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in (self.process.pid, *map(int, children)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(PATIENCE)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "a backend survived")

    def ask(self, *statements: str) -> str:
        """Run statements as psql does, and return what the last one printed."""
        command = [program("psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", self.url()]
        for statement in statements:
            command += ["-c", statement]
        return subprocess.check_output(command, text=True).strip()

    @contextmanager
    def locked(self, seconds: float) -> Iterator[None]:
        """Keep everybody else from the table for so long."""
        held = f"BEGIN; LOCK TABLE task; SELECT pg_sleep({seconds}); COMMIT"
        query = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted"
        with subprocess.Popen([program("psql"), "-XqAt", self.url(), "-c", held], stdout=subprocess.DEVNULL):
            until(lambda: self.ask(query) != "0", "the table is not locked")
            yield


@contextmanager
def debian_postgres(**settings: str) -> Iterator[Postgres]:
    with folder() as home:
        server = Postgres(home, settings)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def pgbouncer(home: Path, target_port: int, command: str = "pgbouncer", **settings: str) -> Iterator[int]:
    """Run PgBouncer in transaction mode with TLS, in front of the server at this port; yields its own port."""
    port = int(settings.get("listen_port", free_port()))
    lines = {
        "listen_addr": "127.0.0.1", "listen_port": str(port), "unix_socket_dir": "", "auth_type": "any",
        "pool_mode": "transaction", "default_pool_size": "4", "max_client_conn": "200",
        "client_tls_sslmode": "allow", "client_tls_cert_file": str(home / "server.crt"),
        "client_tls_key_file": str(home / "server.key"), **settings,
    }  # fmt: skip
    file = home / f"pgbouncer-{port}.ini"
    databases = f"[databases]\n* = host=127.0.0.1 port={target_port} user=app\n[pgbouncer]\n"
    file.write_text(databases + "".join(f"{name} = {value}\n" for name, value in lines.items()))
    with listening(port, home / "pgbouncer.log", program(command), str(file), user=ACCOUNT):
        yield port


# A whole configuration of nginx around SITE, that writes to no place of Debian's.
NGINX = """\
daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events { worker_connections 1024; }
http {
    access_log off;
    client_body_temp_path waiting; proxy_temp_path waiting;
    fastcgi_temp_path waiting; uwsgi_temp_path waiting; scgi_temp_path waiting;
    SITE
}
"""


@contextmanager
def listening(port: int, log: Path, *command: str, user: str | None = None) -> Iterator[None]:
    """Run a server of others until the block ends; that begins when it listens on this port."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, user=user, cwd=log.parent, stdout=output, stderr=output, start_new_session=True
        )  # fmt: skip
    try:
        until(lambda: _listens(port) or process.poll() is not None, f"{command[0]} does not start")
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


class Application:
    """`python -m backend serve` as a process, with the log that it writes."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, address: tuple[str, int]) -> None:
        self.process, self._log, self.address = process, log, address
        self.base_url = f"http://{address[0]}:{address[1]}"

    def log(self) -> str:
        return self._log.read_text()

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the lines of the log, which must be JSON, all of them or those of one event."""
        lines = [json.loads(line) for line in self.log().splitlines()]
        return [line for line in lines if name in {None, line["event"]}]

    def lines_of(self, request_id: str | None) -> list[dict[str, Any]]:
        """Return the lines that tell of this request; those of its answer are written before that is sent."""
        return [line for line in self.events() if line["request_id"] == request_id]

    def wait_until_started(self, processes: int = 1) -> None:
        def started() -> bool:
            assert self.process.poll() is None, self.log()
            return self.log().count("Application startup complete") >= processes

        until(started, "the application does not start")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@contextmanager
def application(
    database_url: str,
    *arguments: str,
    listener: socket.socket | None = None,
    port: int | None = None,
    processes: int = 1,
    program: tuple[str, ...] = ("-m", "backend"),
    errors: int | None = None,
    **variables: str,
) -> Iterator[Application]:
    """Serve in production on a port, or on an inherited socket, or on one made for it; killed at the end if it lives.

    With `errors`, that is its standard error, and `log` is empty.
    """
    with ExitStack() as stack:
        home = stack.enter_context(folder())
        if port:
            address, files, place = ("127.0.0.1", port), [], ["--host", "127.0.0.1", "--port", str(port)]
        else:
            listener = listener or stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
            address, files = listener.getsockname()[:2], [listener.fileno()]
            place = ["--fd", str(files[0])]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "DATABASE_"))}
        environment |= {
            "NEON_DATABASE_URL": database_url, "BETTER_AUTH_SECRET": SECRET, "BETTER_AUTH_URL": ORIGIN,
            "PYTHONPATH": str(ROOT), **variables,
        }  # fmt: skip
        log = home / "application.log"
        command = [sys.executable, *program, "serve", *place, *arguments]
        with log.open("ab") as output:
            process = _start(command, environment, files, output, output.fileno() if errors is None else errors)
        running = Application(process, log, address)
        try:
            if errors is None:
                running.wait_until_started(processes)
            else:
                until(lambda: answers(running.base_url), "the application does not start")
            yield running
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


def _start(
    command: list[str], environment: dict[str, str], files: list[int], output: IO[bytes], errors: int
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=output, stderr=errors, pass_fds=files,
        start_new_session=True,
    )  # fmt: skip


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez", timeout=5, verify=False).is_success
    except httpx.TransportError:
        return False
