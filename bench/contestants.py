"""Who is compared?"""

import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
POOL_SIZE = 10


@dataclass(frozen=True, eq=False)
class Contestant:
    """One implementation of the API; PORT in a word of its command stands for the port.

    `most` is with how many connections at once it can still be measured.
    """

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    most: int = 10_000


def _python(name: str, module: str, **environment: str) -> Contestant:
    """The server that this backend has, too, with the access log off."""
    app = ["-m", "uvicorn", "--app-dir", str(PEERS), f"{module}:app", "--port", "PORT"]
    server = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    return Contestant(name, [sys.executable, *app, *server], environment)


def _node(name: str, folder: str) -> Contestant:
    return Contestant(name, ["node", str(PEERS / folder / "server.js")], {"NODE_ENV": "production"})


OURS = Contestant("this backend", [sys.executable, "-m", "backend", "serve", "--port", "PORT"])
BARE = _python("bare Starlette + asyncpg", "starlette_asyncpg")
FASTIFY = _node("Fastify + postgres.js", "fastify")
# With 50 requests at once its threads and its pool lock each other out for 30 s at a time (peers/README.md), and those
# that the load before has left behind count, too.
TUTORIAL = replace(_python("FastAPI, as its tutorial", "tutorial"), most=20)

CONTESTANTS = [
    OURS,
    BARE,
    _python("bare Starlette, tuned by hand", "starlette_asyncpg", TOKEN_CACHE="1", NO_RESET="1"),
    FASTIFY,
    _node("Express + Drizzle", "express"),
    _python("FastAPI, careful async", "careful"),
    TUTORIAL,
]
WORKERS = [replace(OURS, name=f"{count}", command=[*OURS.command, "--workers", f"{count}"]) for count in (1, 2)]
GO = PEERS / "go" / "peer"
if GO.exists() and shutil.which("go"):
    CONTESTANTS.append(Contestant("Go + pgx", [str(GO)]))
