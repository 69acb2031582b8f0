"""Sends forged tokens as fast as the server answers: a process of its own, so that it shares no lock with it.

Reads `{"templates": [{"alg", "kid", "bytes"}], "count"}` from standard input, a null kid being one of its own for each
token; takes the port as its argument, and writes how many answers had which status.
"""

import asyncio
import base64
import json
import re
import secrets
import sys
import time
from collections import Counter
from typing import Any

CONNECTIONS = 8
PIPELINED = 16
STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")


def segment(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")


def request(template: dict[str, Any]) -> bytes:
    """Return a request with a token that has all that a good one has, but for the signature."""
    header = json.dumps({"alg": template["alg"], "kid": template["kid"] or secrets.token_hex(16)})
    now = int(time.time())
    claims = {
        "sub": "ann",
        "iss": "http://localhost:3000",
        "aud": "http://localhost:3000",
        "iat": now,
        "exp": now + 900,
    }
    token = b".".join(
        map(segment, (header.encode(), json.dumps(claims).encode(), secrets.token_bytes(template["bytes"])))
    )
    return b"GET /api/ann/tasks HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + token + b"\r\n\r\n"


async def send(port: int, requests: list[bytes], statuses: Counter[str]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for start in range(0, len(requests), PIPELINED):
        batch = requests[start : start + PIPELINED]
        writer.write(b"".join(batch))
        received, missing = b"", len(batch)
        while len(found := STATUS.findall(received)) < missing:
            if not (chunk := await reader.read(65_536)):
                raise ConnectionError("the server has hung up")
            received += chunk
        statuses.update(status.decode() for status in found)
    writer.close()
    await writer.wait_closed()


async def flood(port: int, templates: list[dict[str, Any]], count: int) -> Counter[str]:
    statuses: Counter[str] = Counter()
    requests = [request(templates[each % len(templates)]) for each in range(count)]
    await asyncio.gather(*(send(port, requests[first::CONNECTIONS], statuses) for first in range(CONNECTIONS)))
    return statuses


if __name__ == "__main__":
    print(json.dumps(asyncio.run(flood(int(sys.argv[1]), **json.load(sys.stdin)))))
