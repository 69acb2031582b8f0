"""What does OpenTelemetry learn of a statement?

All names are those of its semantic conventions for databases. No value is told: the SQL has placeholders.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from asyncpg import Record
from opentelemetry.trace import SpanKind, StatusCode, Tracer

from backend.database.connection import Connection
from backend.database.statements import Statement
from backend.database.url import place

# The only one.
TABLE = "task"
Fetch = Callable[[Connection, Statement, list[Any], float], Awaitable[list[Record]]]


def traced(fetch: Fetch, tracer: Tracer, url: str) -> Fetch:
    """Return what does the same as `fetch`, with a span around it."""
    host, port, database = place(url)
    server: dict[str, str | int] = {
        "db.system.name": "postgresql",
        "db.namespace": database,
        "db.collection.name": TABLE,
        "server.address": host,
        "server.port": port,
    }

    async def fetch_traced(
        connection: Connection, statement: Statement, arguments: list[Any], seconds: float
    ) -> list[Record]:
        facts = {
            **server,
            "db.operation.name": statement.sql.partition(" ")[0],
            "db.query.summary": statement.label,
            "db.query.text": statement.sql,
        }
        with tracer.start_as_current_span(
            statement.label, None, SpanKind.CLIENT, facts, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                return await fetch(connection, statement, arguments, seconds)
            except BaseException as error:
                if code := getattr(error, "sqlstate", None):
                    span.set_attribute("db.response.status_code", code)
                span.set_attribute("error.type", code or type(error).__qualname__)
                span.set_status(StatusCode.ERROR)
                raise

    return fetch_traced
