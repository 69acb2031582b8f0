"""How does a test run the application, and see what it asks the database?"""

import asyncio
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from backend.database.connection import APPLICATION_NAME, SYNC
from backend.database.readiness import EXAMINE
from backend.main import create_app
from backend.server.limits import Limits
from backend.server.run import Http, listener
from backend.settings import Settings, load_settings

_SCOPED = re.compile(r"WHERE ((?! OR ).)*\btask\.user_id = \$\d((?! OR ).)*$|^INSERT INTO task \([^)]*\buser_id\b")


@contextmanager
def serving(
    settings: Settings | None,
    limits: Limits = Limits(),  # noqa: B008 - it is frozen
    app: ASGIApp | None = None,
    **options: Any,
) -> Iterator[str]:
    """Serve the application, or another one, on a free port until the block ends; yields its base URL."""
    config = uvicorn.Config(
        app or create_app(settings or load_settings()),
        http=cast("type[asyncio.Protocol]", Http(limits)),
        log_config=None,
        access_log=False,
        ws="none",
        **options,
    )
    server = uvicorn.Server(config)
    with listener("127.0.0.1", 0) as taken:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{taken.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


class StatementLog:
    """The statements that the application has sent, as PostgreSQL wrote them down (log_line_prefix is "%a: ")."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read = self._seen = 0
        self._statements: list[str] = []

    def all(self) -> list[str]:
        with self._file.open("rb") as file:
            file.seek(self._read)
            lines = file.read()
        lines = lines[: lines.rfind(b"\n") + 1]
        self._read += len(lines)
        text = lines.decode().replace("\n\t", " ")
        sent = re.findall(rf"^{APPLICATION_NAME} \w+: LOG:  (?:execute [^:]+|statement): (.*)$", text, re.MULTILINE)
        # What a connection asks for itself comes whenever one is opened, in the middle of any test.
        own = {SYNC, EXAMINE.replace("\n", " ")}
        self._statements += [statement for statement in sent if statement not in own]
        return self._statements

    def new(self) -> list[str]:
        """Return what has come since the last call."""
        statements = self.all()
        new, self._seen = statements[self._seen :], len(statements)
        return new


def unscoped(statements: list[str]) -> list[str]:
    """Return those statements on the task table that are not limited to one owner."""
    return [each for each in statements if re.search(r"\btask\b", each) and not _SCOPED.search(each)]
