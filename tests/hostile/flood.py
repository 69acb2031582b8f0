"""Asks the server as a flood of forgers and as an honest user: each a process that shares no lock with the server.

Takes its part and the port as arguments, and reads a line of JSON. The flood reads `{"templates": [{"alg", "kid",
"bytes"}], "count"}`, a null kid being one of its own for each token, and writes how many answers had which status. The
honest user reads `{"path", "token", "count"}`, and writes how long each of so many requests took, and at the end of the
input the same of those since; none but a 200 is an answer.
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
PIPELINED = 4
# 100,000 in fifty seconds, spread evenly; a slower server gets the next one when it has answered.
RATE = 2_000
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


async def send(port: int, number: int, requests: list[bytes], statuses: Counter[str]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    started = time.monotonic()
    for start in range(0, len(requests), PIPELINED):
        due = started + (start * CONNECTIONS + number * PIPELINED) / RATE
        await asyncio.sleep(max(0, due - time.monotonic()))
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
    await asyncio.gather(*(send(port, each, requests[each::CONNECTIONS], statuses) for each in range(CONNECTIONS)))
    return statuses


async def timed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> float:
    started = time.perf_counter()
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(re.findall(rb"content-length: (\d+)", head)[0]))
    if not head.startswith(b"HTTP/1.1 200"):
        raise ConnectionError(head.decode())
    return time.perf_counter() - started


async def honest(port: int, path: str, token: str, count: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    print(json.dumps([await timed(reader, writer, request) for _ in range(count)]), flush=True)
    end = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    durations = []
    while not end.done():
        durations.append(await timed(reader, writer, request))
    print(json.dumps(durations))
    writer.close()
    await writer.wait_closed()


if __name__ == "__main__":
    work = json.loads(sys.stdin.readline())
    if sys.argv[1] == "honest":
        asyncio.run(honest(int(sys.argv[2]), **work))
    else:
        print(json.dumps(asyncio.run(flood(int(sys.argv[2]), **work))))
