"""Runs the whole application for the browser's tests, and stops or starts its parts when they ask for it.

Better Auth in two frontends (a key pair, and the shared secret), one backend, one PostgreSQL. Prints its addresses as
a line of JSON, then takes orders by POST, such as /backend/stop; ends when standard input does.
"""

import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import asyncpg
import httpx

from backend.development import frontend
from backend.development.embedded import embedded_postgres
from backend.schema.migrate import upgrade

ROTATE = """UPDATE jwks SET "expiresAt" = now() - interval '1 second'"""


def free_ports(count: int) -> list[int]:
    servers = [HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) for _ in range(count)]
    for server in servers:
        server.server_close()
    return [server.server_port for server in servers]


class Stack:
    """The parts; each can be stopped and started by itself."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        backend, key_pair, shared_secret = free_ports(3)
        self.backend_port = backend
        self.origins = {
            "FRONTEND": f"http://localhost:{key_pair}",
            "FRONTEND_HS256": f"http://localhost:{shared_secret}",
        }
        self.secret = secrets.token_hex(32)
        self.parts = {"database": ExitStack(), "backend": ExitStack()}
        self.url = ""

    def start_database(self) -> None:
        self.url = self.parts["database"].enter_context(embedded_postgres(self.directory, settings={"fsync": "off"}))

    def start_backend(self) -> None:
        key_pair, shared_secret = self.origins.values()
        environment = {
            **os.environ,
            "BETTER_AUTH_SECRET": self.secret,
            "BETTER_AUTH_URL": key_pair,
            "BETTER_AUTH_ISSUERS": f"{key_pair},{shared_secret}",
            "BETTER_AUTH_AUDIENCES": f"{key_pair},{shared_secret}",
            "CORS_ORIGINS": shared_secret,
            "NEON_DATABASE_URL": self.url,
            "REQUEST_DEADLINE": "3",
        }
        command = [sys.executable, "-m", "backend", "serve", "--port", str(self.backend_port)]
        with (self.directory.parent / "backend.log").open("ab") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        self.parts["backend"].callback(process.wait)
        self.parts["backend"].callback(process.terminate)
        while process.poll() is None:
            try:
                httpx.get(f"http://127.0.0.1:{self.backend_port}/health")
            except httpx.TransportError:
                time.sleep(0.05)
            else:
                return
        raise RuntimeError("the backend did not start")

    def rotate(self) -> None:
        async def run() -> None:
            connection = await asyncpg.connect(self.url)
            await connection.execute(ROTATE)
            await connection.close()

        asyncio.run(run())

    def obey(self, order: str) -> None:
        if order == "/rotate":
            self.rotate()
            return
        _, part, verb = order.split("/")
        self.parts[part].close()
        if verb == "start":
            getattr(self, f"start_{part}")()

    def run(self) -> None:
        frontend.build(lambda text: print(f"{text} …", file=sys.stderr, flush=True))
        with ExitStack() as whole:
            for part in self.parts.values():
                whole.callback(part.close)
            self.start_database()
            upgrade(self.url)
            key_pair, shared_secret = self.origins.values()
            frontend.migrate(self.settings(key_pair))
            for settings in (self.settings(key_pair), self.settings(shared_secret, algorithm="HS256", lifetime="2s")):
                port = int(settings["BETTER_AUTH_URL"].rpartition(":")[2])
                whole.enter_context(frontend.serving(port, settings))
            self.start_backend()
            self.serve(whole)

    def settings(self, origin: str, *, algorithm: str = "EdDSA", lifetime: str = "15m") -> dict[str, str]:
        return {
            "BETTER_AUTH_SECRET": self.secret,
            "BETTER_AUTH_URL": origin,
            "DATABASE_URL": self.url,
            "API_URL": f"http://localhost:{self.backend_port}",
            "JWT_ALGORITHM": algorithm,
            "JWT_LIFETIME": lifetime,
        }

    def serve(self, whole: ExitStack) -> None:
        stack = self

        class Orders(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                stack.obey(self.path)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        control = HTTPServer(("127.0.0.1", 0), Orders)
        whole.callback(control.server_close)
        addresses = self.origins | {
            "BACKEND": f"http://localhost:{self.backend_port}",
            "CONTROL": f"http://127.0.0.1:{control.server_port}",
        }
        print(json.dumps(addresses), flush=True)

        def end_with_input() -> None:
            sys.stdin.read()
            control.shutdown()

        threading.Thread(target=end_with_input, daemon=True).start()
        control.serve_forever()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        Stack(Path(place) / "postgres").run()
