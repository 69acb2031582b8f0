"""Whose tasks are in the database, and who asks for them?

1,000 users with 100 tasks each and 100 users with 10, 101,000 rows, written as if all had been busy at once: the rows
of one user lie apart.
"""

import time
from dataclasses import dataclass

import jwt
from databases import ask, execute

SECRET = "a secret of the benchmark, 32 bytes or more"
ORIGIN = "http://localhost:3000"
BIG, SMALL = 1_000, 100
ROWS = BIG * 100 + SMALL * 10
TOKENS = 1_000

FILL = """\
INSERT INTO task (user_id, title, description, completed, created_at, updated_at)
SELECT 'user-' || lpad(owner::text, 27, '0'), 'Buy milk and bread, number ' || turn,
       CASE WHEN turn % 3 > 0 THEN 'Two bottles of milk, a loaf of rye bread, and ask for the ripe cheese' END,
       turn % 4 = 0, moment, moment
FROM generate_series(1, 100) AS turn, generate_series(1, $1::int) AS owner,
     LATERAL (SELECT timestamptz '2026-01-01' + turn * interval '1 day' + owner * interval '1.234567 s' AS moment)
WHERE owner <= $2 OR turn <= 10
ORDER BY turn, owner
"""
# What a round of writes has added goes away again; every contestant meets the same table.
RESTORE = f"DELETE FROM task WHERE id > {ROWS}"
SPARE = """\
INSERT INTO task (user_id, title, completed)
SELECT 'user-' || lpad((1 + number % $2)::text, 27, '0'), 'To be deleted', false
FROM generate_series(0, $1::int - 1) AS number RETURNING id
"""


@dataclass(frozen=True)
class Owner:
    """A user with a token; `tasks` are the ids of the dataset's rows that are theirs."""

    id: str
    token: str
    tasks: list[int]


def fill(url: str) -> None:
    """Write the dataset into the empty table."""
    execute(url, "TRUNCATE task RESTART IDENTITY")
    ask(url, FILL, BIG + SMALL, BIG)
    execute(url, "VACUUM (ANALYZE) task")


def restore(url: str) -> None:
    """Bring the table back to the dataset's rows, and let no contestant pay for what another has left to be done."""
    execute(url, RESTORE, "VACUUM (ANALYZE) task", "CHECKPOINT")


def spare(url: str, count: int, owners: list[Owner]) -> list[tuple[Owner, int]]:
    """Add tasks that may be deleted; returns whose they are, and their ids."""
    ids = ask(url, SPARE, count, len(owners))
    return [(owners[number % len(owners)], task_id) for number, (task_id,) in enumerate(ids)]


def owners() -> tuple[list[Owner], list[Owner]]:
    """Return those with 100 tasks, and those with 10, TOKENS in all, each with a token of their own."""
    big = [owner(number, 100) for number in range(1, TOKENS - SMALL + 1)]
    return big, [owner(number, 10) for number in range(BIG + 1, BIG + SMALL + 1)]


def owner(number: int, tasks: int) -> Owner:
    """Return the user of this number, with a token for a day; they have at least so many tasks in the dataset."""
    user_id, now = f"user-{number:027}", int(time.time())
    claims = {"sub": user_id, "iss": ORIGIN, "aud": ORIGIN, "iat": now, "exp": now + 24 * 3_600}
    claims |= {"email": f"{number}@example.com", "name": f"User {number}"}
    return Owner(user_id, jwt.encode(claims, SECRET, algorithm="HS256"), [_row(turn, number) for turn in range(tasks)])


def _row(turn: int, number: int) -> int:
    """Return the id that FILL gives to an owner's task: ten turns of everybody, and then of those with 100."""
    before = turn * (BIG + SMALL) if turn <= 10 else 10 * (BIG + SMALL) + (turn - 10) * BIG
    return before + number
