"""Which trace does a request belong to, and does anybody take its spans?

The client's `traceparent` stands in the log in any case. Spans are made where OpenTelemetry was set up in this process.
"""

import asyncio
import re
from threading import Thread
from typing import Any

from opentelemetry.trace import Tracer, get_tracer, get_tracer_provider

# W3C Trace Context, section 3.2: lower-case hexadecimal, and neither id is all zeros.
PARENT = re.compile(rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")
# Seconds for which a process that ends waits for the collector. FastAPI would wait 10 for each 512 spans.
LAST_SPANS_SECONDS = 5.0


def ids(parent: bytes) -> dict[str, str]:
    """Return what a line of the log says of the span that a `traceparent` names; nothing for what is malformed."""
    found = PARENT.fullmatch(parent)
    return {"trace_id": found[1].decode(), "span_id": found[2].decode()} if found else {}


def tracer() -> Tracer | None:
    """Return what makes spans, where somebody takes them: FastAPI sets OpenTelemetry's SDK up as OTEL_… asks for it.

    Only the provider of an SDK can be shut down.
    """
    return get_tracer("backend") if hasattr(get_tracer_provider(), "shutdown") else None


async def finish() -> None:
    """Send the last spans, and give them up if nobody takes them in time."""
    provider: Any = get_tracer_provider()
    sending = Thread(target=provider.shutdown, daemon=True)
    sending.start()
    await asyncio.to_thread(sending.join, LAST_SPANS_SECONDS)
