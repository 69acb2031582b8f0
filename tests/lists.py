"""How does a test make a long list, and measure what sending it takes?"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from databases import ask
from people import User
from servers import Application

IDS = "SELECT id FROM task WHERE user_id = $1 ORDER BY created_at DESC, id DESC"
SMALL = 4_096


def give(url: str, user: User, count: int, *, at_once: int = 7, text: str = "") -> list[int]:
    """Give the user so many tasks, every few of them created at the same instant; return their ids, newest first."""
    ask(
        url,
        """
        INSERT INTO task (user_id, title, description, created_at)
        SELECT $1, 'Task ' || n, $4, now() - n * 7919 % $2 / $3 * interval '1.000001 seconds'
        FROM generate_series(1, $2) n
        """,
        user.id, count, at_once, text,
    )  # fmt: skip
    return [task_id for (task_id,) in ask(url, IDS, user.id)]


def memory(app: Application) -> float:
    """Return the most that the process has ever had, in MiB."""
    status = Path(f"/proc/{app.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@contextmanager
def narrow_listener() -> Iterator[socket.socket]:
    """Listen with small buffers of the system, so that what a client does not read soon waits in the process."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1_024)
        yield listener


def asked(app: Application, user: User, version: str = "1.1") -> socket.socket:
    """Ask for the list on a connection with a small buffer, and read nothing of the answer."""
    wire = socket.socket()
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
    wire.settimeout(60)
    wire.connect(app.address)
    head = f"GET {user.tasks} HTTP/{version}\r\nHost: x\r\nAuthorization: Bearer {user.token}\r\n\r\n"
    wire.sendall(head.encode())
    return wire
