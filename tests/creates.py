"""Creates tasks one after the other over one connection, as cheaply as Python can: create.py URL PATH TOKEN COUNT."""

import socket
import sys
from urllib.parse import urlsplit


def main(url: str, path: str, token: str, count: str) -> None:
    parts = urlsplit(url)
    body = b'{"title":"Buy milk"}'
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: {len(body)}"
    with socket.create_connection((str(parts.hostname), parts.port or 80)) as line:
        for _ in range(int(count)):
            line.sendall(f"{head}\r\n\r\n".encode() + body)
            answer = line.recv(65_536)
            while not answer.endswith(b"}"):
                answer += line.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 201"), answer


if __name__ == "__main__":
    main(*sys.argv[1:])
