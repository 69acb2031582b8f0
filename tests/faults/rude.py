"""Who is rude, and what has each to get for it? A process of its own that holds one client of each kind, all the time.

It is told what to do as JSON on standard input, and writes JSON to standard output: how often each kind has come, and
what it got that it should not.
"""

import asyncio
import json
import re
import secrets
import socket
import sys
from collections import Counter
from typing import Any, NamedTuple

# What is left of a client's room where it does not read.
SMALL = 4_096


class Kind(NamedTuple):
    """What it sends, what must come back, and the seconds before it reads (None: it leaves), and comes again."""

    sends: bytes
    gets: str
    reads_after: float | None = 0
    again_after: float = 1


def kinds(path: str, token: str, count: int) -> dict[str, Kind]:
    """Return all kinds, for an owner of so many tasks."""

    def request(method: str, *lines: str, version: str = "1.1", who: str = token) -> bytes:
        first = f"{method} {path} HTTP/{version}"
        return "\r\n".join([first, "Host: x", f"Authorization: Bearer {who}", *lines, "\r\n"]).encode()

    livez = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
    chunked = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n"
    whole, broken = rf"{head(200)}\[(\{{[^}}]*\}},?){{{count}}}\]", rf"({head(200)}[^\]]*)?"
    return {
        "says nothing": Kind(b"", ""),
        "half a head": Kind(livez, answers(408)),
        "half a body": Kind(request("POST", "Content-Length: 20") + b"{", answers(408)),
        "reads nothing of a list": Kind(request("GET"), broken, reads_after=40),
        "asks for a list and leaves": Kind(request("GET"), "", reads_after=None),
        "comes and leaves": Kind(b"", "", reads_after=None, again_after=0.1),
        "HTTP/1.0": Kind(request("GET", version="1.0"), whole, again_after=10),
        "a token in a trailer": Kind(f"{chunked}Authorization: Bearer {token}\r\n\r\n?".encode(), answers(401, 400)),
        "a huge head": Kind(livez + 200_000 * b"y", answers(431)),
        "a length and chunks": Kind(request("POST", "Content-Length: 2", "Transfer-Encoding: chunked"), answers(400)),
        "many at once": Kind(50 * (livez + b"\r\n") + b"?", answers(*50 * [200], 400)),
        "a forged token": Kind(request("GET", "Connection: close", who="FORGED"), answers(401), again_after=0.05),
    }


def head(status: int) -> str:
    return rf"HTTP/1\.1 {status} ((?!\r\n\r\n).)*\r\n\r\n"


def answers(*statuses: int) -> str:
    return "".join(rf"{head(status)}\{{((?!HTTP/\d).)*\}}" for status in statuses)


async def meet(kind: Kind, address: tuple[str, int], forged: str) -> bytes:
    """Be of this kind once, and return all that came back."""
    with socket.socket() as wire:
        if kind.reads_after:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        wire.setblocking(False)  # noqa: FBT003 - the socket's own words
        await asyncio.get_running_loop().sock_connect(wire, address)
        return await _exchange(kind, wire, forged)


async def _exchange(kind: Kind, wire: socket.socket, forged: str) -> bytes:
    loop, received = asyncio.get_running_loop(), b""
    try:
        await loop.sock_sendall(wire, kind.sends.replace(b"FORGED", forged.encode()))
        if kind.reads_after is None:
            return b""
        await asyncio.sleep(kind.reads_after)
        while more := await loop.sock_recv(wire, 65_536):
            received += more
    except ConnectionError:
        pass  # whoever is rude may be cut off
    return received


async def stay(name: str, kind: Kind, order: dict[str, Any], came: Counter[str], wrong: list[str]) -> None:
    """Be of this kind again and again."""
    pattern = re.compile(kind.gets, re.DOTALL)
    unsigned = order["token"].rpartition(".")[0]
    while True:
        came[name] += 1
        received = await meet(kind, tuple(order["address"]), f"{unsigned}.{secrets.token_urlsafe(32)}")
        if not pattern.fullmatch(received.decode()):
            wrong.append(f"{name}: {received[:500]!r} … {received[-100:]!r}")
        await asyncio.sleep(kind.again_after)


async def be_rude(order: dict[str, Any]) -> tuple[Counter[str], list[str]]:
    came: Counter[str] = Counter()
    wrong: list[str] = []
    everybody = kinds(order["path"], order["token"], order["count"])
    clients = [asyncio.create_task(stay(*each, order, came, wrong)) for each in everybody.items()]
    await asyncio.wait(clients, timeout=order["seconds"], return_when=asyncio.FIRST_EXCEPTION)
    for client in clients:
        if client.done():
            client.result()
        client.cancel()
    return came, wrong


if __name__ == "__main__":
    json.dump(asyncio.run(be_rude(json.load(sys.stdin))), sys.stdout)
