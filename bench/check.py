"""Does a contestant do the work that it is measured at?"""

from typing import Any

import httpx

from bench.dataset import Owner

FIELDS = {"id", "user_id", "title", "description", "completed", "created_at", "updated_at"}


class WrongAnswerError(Exception):
    """The contestant's answer is not what the contract asks; it is not measured."""


def check(url: str, owner: Owner, other: Owner) -> None:
    """Ask for everything once; raises WrongAnswerError."""
    own, foreign = f"{url}/api/{owner.id}/tasks", f"{url}/api/{other.id}/tasks"
    with httpx.Client(headers={"Authorization": f"Bearer {owner.token}"}, trust_env=False) as client:

        def answer(status: int, method: str, address: str, **content: Any) -> Any:
            response = client.request(method, address, **content)
            if response.status_code != status:
                raise WrongAnswerError(f"{method} {address}: {response.status_code} instead of {status}")
            return response.json() if response.content else None

        listed = answer(200, "GET", own)
        _same({task["id"] for task in listed}, set(owner.tasks), "the owner's tasks")
        _same(listed, sorted(listed, key=lambda task: (task["created_at"], task["id"]), reverse=True), "newest first")
        _same(answer(200, "GET", f"{own}/{listed[0]['id']}"), listed[0], "one task")
        task = answer(201, "POST", own, json={"title": "Buy milk"})
        _same(FIELDS - set(task), set(), "a task's missing fields")
        address = f"{own}/{task['id']}"
        changed = answer(200, "PUT", address, json={"title": "Buy bread"})
        _same((changed["title"], changed["description"], changed["completed"]), ("Buy bread", None, False), "a change")
        toggled = answer(200, "PATCH", f"{address}/complete")
        _same(toggled, changed | {"completed": True, "updated_at": toggled["updated_at"]}, "a toggle")
        answer(204, "DELETE", address)
        answer(404, "GET", address)
        for refused in ({"title": ""}, {"title": "x" * 201}, {}):
            if client.post(own, json=refused).status_code not in {400, 422}:
                raise WrongAnswerError(f"created {refused}")
        answer(403, "GET", foreign)
        hidden = f"{own}/{other.tasks[0]}"
        for method, address in (("GET", hidden), ("DELETE", hidden), ("PATCH", f"{hidden}/complete")):
            answer(404, method, address)
        answer(404, "PUT", hidden, json={"title": "Mine"})
        forged = owner.token[:-4] + ("AAAA" if owner.token[-4:] != "AAAA" else "BBBB")
        answer(401, "GET", own, headers={"Authorization": f"Bearer {forged}"})
        client.headers.pop("Authorization")
        answer(401, "GET", own)


def _same(seen: object, expected: object, what: str) -> None:
    if seen != expected:
        raise WrongAnswerError(f"{what}: {seen!r} instead of {expected!r}")
