"""What does a client cost that asks for its list and does not read it, or reads it slowly?"""

import asyncio
import http.client
import json
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from databases import ask, execute
from lists import asked, give, memory, narrow_listener
from people import User
from running import StatementLog
from servers import Application, application, until

from backend.tasks import Pages
from backend.web.answers import AHEAD, PAGE, PIECE, Listing

# A character of four bytes in UTF-8: what a task of the longest kind is made of.
WIDE = 1_000 * "\U0001f600"
LONGEST_TITLE = "UPDATE task SET title = repeat('\U0001f600', 200) WHERE user_id = $1"
KIB = 1 / 1_024


@pytest.fixture(scope="module")
def app(database_url: str) -> Iterator[Application]:
    with narrow_listener() as listener, application(database_url, listener=listener) as app:
        yield app


@pytest.fixture
def carol(app: Application) -> Iterator[User]:
    """Somebody whose client has little room for what it has not read."""
    user = User(app.base_url)
    with user.http:
        yield user


class Rows:
    """A list in memory: `pages` reads it as the database would be read, and notes how much was asked for."""

    def __init__(self, count: int, longest: int) -> None:
        sizes = random.Random(count)
        self.all = [{"id": each, "text": sizes.randrange(longest) * "x"} for each in range(count)]
        self.asked: list[int] = []

    async def pages(self, after: Any | None, size: int) -> list[Any]:
        self.asked.append(size)
        first = 0 if after is None else after["id"] + 1
        return self.all[first : first + size]


@pytest.mark.spec("FR-021")
@pytest.mark.parametrize("longest", [1, 400, 7_000])
@pytest.mark.parametrize("forgetting", [0, 0.3, 1])
@pytest.mark.parametrize("count", [1, PAGE - 1, PAGE, PAGE + 1, 3_000])
async def test_every_row_is_in_one_piece_whatever_is_forgotten(count: int, forgetting: float, longest: int) -> None:
    rows, chance = Rows(count, longest), random.Random(longest)
    listing, pieces = Listing(await rows.pages(None, PAGE), Pages(rows.pages, asyncio.Lock)), []

    async for piece in listing.pieces():
        pieces.append(piece)
        if chance.random() < forgetting:
            listing.forget()

    assert json.loads(b"".join(pieces) + b"]") == rows.all
    assert max(map(len, pieces)) <= PIECE
    assert max(rows.asked) <= PAGE


@pytest.mark.spec("FR-021")
async def test_for_a_client_that_stops_and_goes_on_no_more_is_read_than_it_takes() -> None:
    rows = Rows(3_000, 7_000)
    listing, read = Listing(await rows.pages(None, PAGE), Pages(rows.pages, asyncio.Lock)), 0

    async for _ in listing.pieces():
        read += 1
        listing.forget()

    first, *further = rows.asked
    assert first == PAGE
    assert sum(further) < 2 * len(rows.all)
    assert max(further) < PIECE // 3_000 * AHEAD
    assert read == len(rows.asked)


@pytest.mark.spec("FR-021", "SC-011")
@pytest.mark.parametrize(("count", "version"), [(PAGE - 1, "1.1"), (3 * PAGE, "1.0")])
def test_who_does_not_read_makes_little_wait(database_url: str, count: int, version: str) -> None:
    clients = 40
    with ExitStack() as stack:
        app = stack.enter_context(application(database_url, listener=stack.enter_context(narrow_listener())))
        rude, other = User(app.base_url), User(app.base_url)
        stack.enter_context(rude.http)
        stack.enter_context(other.http)
        give(database_url, rude, count, text=WIDE)
        ask(database_url, LONGEST_TITLE, rude.id)
        task = other.add()

        def come(clients: int) -> float:
            for _ in range(clients):
                stack.enter_context(asked(app, rude, version))
                assert other.list() == [task]
            until(lambda: len(app.events("request")) >= clients, "the others were not answered")
            time.sleep(1)
            return memory(app)

        # What is under way while a list is read is taken once, however many come after.
        before = come(10)
        rise = come(clients) - before
    print(f"{clients} clients took {rise:.1f} MiB")
    assert rise < clients * 256 * KIB + 25


@pytest.mark.spec("FR-021", "SC-011")
@pytest.mark.long
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_five_hundred_who_do_not_read(database_url: str, version: str) -> None:
    with ExitStack() as stack:
        app = stack.enter_context(application(database_url, listener=stack.enter_context(narrow_listener())))
        rude, other = User(app.base_url), User(app.base_url)
        stack.enter_context(rude.http)
        stack.enter_context(other.http)
        give(database_url, rude, 5_000, text=WIDE)
        ask(database_url, LONGEST_TITLE, rude.id)
        task, before = other.add(), memory(app)

        for _ in range(500):
            stack.enter_context(asked(app, rude, version))
        for _ in range(100):
            assert other.list() == [task]
            time.sleep(0.1)

        rise = memory(app) - before
    print(f"500 clients took {rise:.1f} MiB")
    assert rise < 150


@pytest.mark.spec("FR-021")
@pytest.mark.parametrize(("count", "version"), [(120, "1.0"), (PAGE, "1.1"), (400, "1.1")])
def test_a_slow_reader_gets_all_that_stays_once_and_in_its_place(  # noqa: PLR0917 - two tables
    app: Application, carol: User, database_url: str, statement_log: StatementLog, count: int, version: str
) -> None:
    newest_first = give(database_url, carol, count, text=WIDE)
    gone = {newest_first[1], newest_first[count // 2], newest_first[-2]}
    statement_log.new()

    with asked(app, carol, version) as wire:
        answer = http.client.HTTPResponse(wire)
        answer.begin()
        time.sleep(0.5)
        execute(
            database_url,
            f"DELETE FROM task WHERE id IN ({', '.join(map(str, gone))})",
            f"INSERT INTO task (user_id, title) VALUES ('{carol.id}', 'Newest')",
            f"UPDATE task SET title = 'Changed' WHERE user_id = '{carol.id}' AND title <> 'Newest'",
        )
        received = b""
        while piece := answer.read(32_768):
            received += piece
            time.sleep(0.03)

    further = [statement for statement in statement_log.new() if ") < (" in statement]
    listed = [task["id"] for task in json.loads(received)]
    assert [task_id for task_id in listed if task_id not in gone] == [each for each in newest_first if each not in gone]
    assert len(set(listed)) == len(listed)
    assert len(further) > 2  # what was read ahead had been let go, and was read again
    assert newest_first[-2] not in listed
    assert json.loads(received)[-1]["title"] == "Changed"


@pytest.mark.spec("FR-021")
def test_few_long_tasks_come_in_pieces_and_few_short_ones_at_once(
    carol: User, database_url: str, statement_log: StatementLog
) -> None:
    newest_first = give(database_url, carol, PAGE - 1, text=WIDE)
    statement_log.new()

    answer = carol.http.get(carol.tasks)
    head = carol.http.head(carol.tasks)
    statements = statement_log.new()
    ask(database_url, "UPDATE task SET description = NULL WHERE user_id = $1", carol.id)
    short = carol.http.get(carol.tasks)

    assert [task["id"] for task in answer.json()] == newest_first
    assert "content-length" not in answer.headers
    assert (head.status_code, head.content, "content-length" in head.headers) == (200, b"", False)
    assert statements
    assert short.headers["content-length"] == str(len(short.content))
