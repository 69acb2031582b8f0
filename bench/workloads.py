"""What is asked of a contestant?"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle

import orjson

from bench.dataset import Owner, owners

REQUESTS = 20_000
TASK = {"title": "Write to the landlord about the window", "description": "It does not shut since the storm in March."}
BIG, SMALL = owners()


def request(method: str, owner: Owner, path: str = "", body: object = None) -> bytes:
    """Return a whole request as it goes over the wire, on the owner's tasks."""
    content = b"" if body is None else orjson.dumps(body)
    head = (
        f"{method} /api/{owner.id}/tasks{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {owner.token}\r\n"
    )
    if content:
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    return head.encode() + b"\r\n" + content


Make = Callable[[Owner, Owner, random.Random], bytes]


def _get(big: Owner, _small: Owner, chance: random.Random) -> bytes:
    return request("GET", big, f"/{chance.choice(big.tasks)}")


def _list_10(_big: Owner, small: Owner, _chance: random.Random) -> bytes:
    return request("GET", small)


def _list_100(big: Owner, _small: Owner, _chance: random.Random) -> bytes:
    return request("GET", big)


def _create(big: Owner, _small: Owner, _chance: random.Random) -> bytes:
    return request("POST", big, body=TASK)


def _put(big: Owner, _small: Owner, chance: random.Random) -> bytes:
    return request("PUT", big, f"/{chance.choice(big.tasks)}", TASK)


def _toggle(big: Owner, _small: Owner, chance: random.Random) -> bytes:
    return request("PATCH", big, f"/{chance.choice(big.tasks)}/complete")


@dataclass(frozen=True, eq=False)
class Workload:
    """A mix of requests: how many of a hundred are made by which function; `writes` leaves rows behind."""

    name: str
    shares: dict[Make, int]
    writes: bool = False

    @cached_property
    def requests(self) -> list[bytes]:
        """REQUESTS requests, the same for everybody."""
        chance = random.Random(self.name)
        kinds = [make for make, share in self.shares.items() for _ in range(share)]
        many = [make for _ in range(REQUESTS // 100) for make in kinds]
        chance.shuffle(many)
        pairs: Iterator[tuple[Owner, Owner]] = zip(cycle(BIG), cycle(SMALL), strict=False)
        return [make(big, small, chance) for make, (big, small) in zip(many, pairs, strict=False)]


DELETE = Workload("delete", {}, writes=True)
WORKLOADS = [
    Workload("get one", {_get: 100}),
    Workload("list 10", {_list_10: 100}),
    Workload("list 100", {_list_100: 100}),
    Workload("create", {_create: 100}, writes=True),
    Workload("PUT", {_put: 100}, writes=True),
    Workload("toggle", {_toggle: 100}, writes=True),
    DELETE,
    Workload("mixed", {_get: 40, _list_10: 20, _list_100: 10, _create: 10, _toggle: 12, _put: 8}, writes=True),
]


def chosen(*names: str) -> list[Workload]:
    """Return the workloads of these names."""
    return [each for each in WORKLOADS if each.name in names]


def deletions(spare: list[tuple[Owner, int]]) -> list[bytes]:
    """Return a request for each of these tasks."""
    return [request("DELETE", owner, f"/{task_id}") for owner, task_id in spare]
