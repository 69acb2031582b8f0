"""What do clients experience while something breaks, and what is left of what they were told?

Each client has a user of its own and works through one request after the other, so that it knows exactly which tasks
there must be, which there may be, and which there must not be.
"""

import asyncio
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from people import lasting

HANG = 60
UNCHANGED = "nothing was changed"
SAFE = "It is safe to try again"
LOOK = "Look before you try again"
# With more tasks a client only deletes, so that a list has a length, and costs the same after hours.
MOST_TASKS = 100


class NoAnswer(Exception):
    """The connection ended before an answer came."""


class Line:
    """A keep-alive connection to the application."""

    def __init__(self, address: tuple[str, int], token: str) -> None:
        self._address = address
        self._head = f"Host: localhost\r\nAuthorization: Bearer {token}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, method: str, path: str, body: object = None, key: str | None = None) -> tuple[int, Any]:
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\n{self._head}Content-Length: {len(content)}\r\n"
        head += f"Idempotency-Key: {key}\r\n" if key else ""
        try:
            async with asyncio.timeout(HANG):
                reader, writer = self._streams or await self._connected()
                writer.write(f"{head}\r\n".encode() + content)
                status, headers = _parsed(await reader.readuntil(b"\r\n\r\n"))
                answer = await reader.readexactly(int(headers.get("content-length", "0")))
        except (OSError, asyncio.IncompleteReadError) as error:
            self.close()
            raise NoAnswer(type(error).__name__) from error
        if headers.get("connection") == "close":
            self.close()
        # A proxy's own answers are pages.
        return status, json.loads(answer) if "json" in headers.get("content-type", "") else {"detail": str(answer)}

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._streams = await asyncio.open_connection(*self._address)
        return self._streams

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
        self._streams = None


def _parsed(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines if line)
    return int(first.split(" ")[1]), {name.lower(): value for name, value in headers.items()}


@dataclass
class Tally:
    """What all clients have counted together; times are of `time.monotonic`."""

    requests: int = 0
    failed: int = 0
    unanswered: int = 0
    writes: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    slowest: float = 0
    wrong: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    answered_at: list[float] = field(default_factory=list)
    failed_at: list[float] = field(default_factory=list)

    def accuse(self, what: str, example: str) -> None:
        self.wrong[what] += 1
        self.examples.append(f"{what}: {example}")


@dataclass
class Known:
    """A task as its client knows it: every value that it may have."""

    title: set[str]
    completed: set[bool]
    gone: bool = False  # perhaps


class Client:
    """One user who reads and writes, and looks or tries again when an answer says so."""

    def __init__(self, address: tuple[str, int], tally: Tally, seed: int) -> None:
        self.user = uuid4().hex
        self._token = lasting(self.user)
        self._line = Line(address, self._token)
        self._tally = tally
        self._random = random.Random(seed)
        self._path = f"/api/{self.user}/tasks"
        self.tasks: dict[int, Known] = {}
        self.perhaps_created: set[str] = set()
        self.not_created: set[str] = set()
        self.deleted: set[int] = set()

    async def work(self, stopping: threading.Event, pause: float) -> None:
        actions = [self._list, self._get, self._create, self._create_with_key, self._put, self._toggle, self._delete]
        while not stopping.is_set():
            (action,) = self._random.choices(actions, [2, 3, 4, 3, 3, 4, 1])
            await (action if len(self.tasks) < MOST_TASKS else self._delete)()
            await asyncio.sleep(pause * self._random.random())
        self._line.close()

    async def verify(self, address: tuple[str, int] | None = None) -> None:
        """Look what there is when everything is well again, perhaps through another process, and compare."""
        line = Line(address, self._token) if address else self._line
        status, listed = await line.call("GET", self._path)
        line.close()
        assert status == 200, listed
        self._check(listed)

    def _check(self, listed: list[Any]) -> None:
        """Compare the list with all that is known of it."""
        found = {task["id"]: task for task in listed}
        for task_id, known in self.tasks.items():
            if task := found.pop(task_id, None):
                self._compare(known, task)
            elif not known.gone:
                self._tally.accuse("lost", f"task {task_id}")
        self._explain(found)
        titles = Counter(task["title"] for task in listed if task["title"].startswith("new"))
        for title, count in titles.items():
            if count > 1:
                self._tally.accuse("duplicate", f"{count} of {title}")

    def _explain(self, found: dict[int, Any]) -> None:
        """Say how tasks can be there that no answer has named."""
        for task_id, task in found.items():
            if task_id in self.deleted:
                self._tally.accuse("lost", f"the deletion of task {task_id}")
            elif task["title"] in self.not_created:
                self._tally.accuse("denied", f"a task of which was said that it is not there: {task}")
            elif task["title"] not in self.perhaps_created:
                self._tally.accuse("unexplained", str(task))

    async def _call(self, method: str, path: str, body: object = None, key: str | None = None) -> tuple[int, Any]:
        """Return status and answer, (0, None) where none came."""
        tally, started = self._tally, time.monotonic()
        tally.requests += 1
        try:
            status, answer = await self._line.call(method, path, body, key)
        except NoAnswer:
            status, answer = 0, None
            tally.unanswered += 1
            await asyncio.sleep(0.02)
        ended = time.monotonic()
        tally.slowest = max(tally.slowest, ended - started)
        if status == 0 or status >= 500:
            tally.failed += 1
            tally.failed_at.append(ended)
            tally.failures[f"{method} {status}"] += 1
            if status == 500:
                tally.accuse("bug", f"{method} {path}: {answer}")
            if status == 503 and method != "GET":
                self._check_detail(method, key, answer["detail"])
        else:
            tally.answered_at.append(ended)
            tally.writes += method != "GET" and status < 300
        return status, answer

    def _check_detail(self, method: str, key: str | None, detail: str) -> None:
        """A 503 on a write tells whether to try again; it is not safe for a toggle, nor for a POST without key."""
        safe = method in {"PUT", "DELETE"} or key is not None
        if UNCHANGED not in detail and (SAFE if safe else LOOK) not in detail:
            self._tally.accuse("vague", f"{method}: {detail}")

    async def _list(self) -> None:
        status, listed = await self._call("GET", self._path)
        if status == 200:
            self._check(listed)

    async def _get(self) -> None:
        if task := self._any():
            status, answer = await self._call("GET", f"{self._path}/{task}")
            self._learn(task, status, answer)

    async def _create(self) -> None:
        title = f"new {uuid4().hex}"
        status, answer = await self._call("POST", self._path, {"title": title})
        self._created(title, status, answer)

    async def _create_with_key(self) -> None:
        """With a key it is tried again until it is done; by a client that may have given its answer up."""
        title, key = f"new {uuid4().hex}", uuid4().hex
        for _ in range(3):
            status, answer = await self._call("POST", self._path, {"title": title}, key)
            self._created(title, status, answer)
            if status == 201:
                return
            await asyncio.sleep(0.1)

    def _created(self, title: str, status: int, answer: Any) -> None:
        if status == 201:
            self.tasks[answer["id"]] = Known({title}, {False})
            self.perhaps_created.discard(title)
            self.not_created.discard(title)
            if answer["title"] != title:
                self._tally.accuse("foreign", f"{answer} for {title}")
        elif _unchanged(status, answer):
            if title not in self.perhaps_created:
                self.not_created.add(title)
        else:
            self.not_created.discard(title)
            self.perhaps_created.add(title)

    async def _put(self) -> None:
        if task := self._any():
            known, title = self.tasks[task], f"put {uuid4().hex}"
            status, answer = await self._call("PUT", f"{self._path}/{task}", {"title": title})
            if not _unchanged(status, answer) and status != 404:
                known.title = {title} if status == 200 else known.title | {title}
            self._learn(task, status, answer)

    async def _toggle(self) -> None:
        if task := self._any():
            known = self.tasks[task]
            status, answer = await self._call("PATCH", f"{self._path}/{task}/complete")
            if status == 200:
                known.completed = {not each for each in known.completed}
            elif status != 404 and not _unchanged(status, answer):
                known.completed = {True, False}
            self._learn(task, status, answer)

    async def _delete(self) -> None:
        if task := self._any():
            status, answer = await self._call("DELETE", f"{self._path}/{task}")
            known = self.tasks[task]
            if status == 204 or (status == 404 and known.gone):
                del self.tasks[task]
                self.deleted.add(task)
            elif status == 404:
                self._tally.accuse("lost", f"task {task}")
            elif not _unchanged(status, answer):
                known.gone = True

    def _any(self) -> int | None:
        return self._random.choice(list(self.tasks)) if self.tasks else None

    def _learn(self, task: int, status: int, answer: Any) -> None:
        """Compare an answer with what is known, which is one thing only from now on."""
        known = self.tasks[task]
        if status == 404:
            if not known.gone:
                self._tally.accuse("lost", f"task {task}")
            del self.tasks[task]
        elif status == 200:
            self._compare(known, answer)
            known.gone, known.title, known.completed = False, {answer["title"]}, {answer["completed"]}

    def _compare(self, known: Known, task: Any) -> None:
        if task["title"] not in known.title:
            self._tally.accuse("lost", f"a title: {task['title']}, not {known.title}")
        if task["completed"] not in known.completed:
            self._tally.accuse("miscounted", f"a toggle of {task['id']}")


def _unchanged(status: int, answer: Any) -> bool:
    return status == 503 and UNCHANGED in answer["detail"]


class Load:
    """Clients at work in a thread of their own, until the block ends."""

    def __init__(self, address: tuple[str, int], clients: int, pause: float) -> None:
        self.tally = Tally()
        self._clients = [Client(address, self.tally, seed) for seed in range(clients)]
        self._pause = pause
        self._stopping = threading.Event()
        self._failure: BaseException | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        self._stopping.clear()
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            thread.join()
        if self._failure:
            raise self._failure

    def verify(self, address: tuple[str, int] | None = None) -> Tally:
        """Compare what is there with what the clients were told; returns the counts."""

        async def verify() -> None:
            await asyncio.gather(*(client.verify(address) for client in self._clients))

        asyncio.run(verify())
        return self.tally

    def _run(self) -> None:
        async def work() -> None:
            async with asyncio.TaskGroup() as group:
                for client in self._clients:
                    group.create_task(client.work(self._stopping, self._pause))

        try:
            asyncio.run(work())
        except BaseException as failure:  # noqa: BLE001 - belongs to the thread of the test
            self._failure = failure
