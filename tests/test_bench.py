"""Can the benchmark be believed: is everybody checked, and does the document show what was measured?"""

from collections.abc import Iterator

import httpx
import orjson
import pytest
from databases import own_database

from backend.schema.migrate import upgrade
from bench import dataset, report
from bench.check import WrongAnswerError, check
from bench.contestants import BARE, OURS
from bench.measure import serving
from bench.service import Service
from bench.workloads import BIG, SMALL, WORKLOADS, Workload


@pytest.fixture(scope="module")
def services(database_url: str) -> Iterator[list[Service]]:
    """Ours, and the peer that needs nothing but Python, on the whole dataset; both have passed the check."""
    with own_database(database_url) as url:
        upgrade(url)
        dataset.fill(url)
        with serving([OURS, BARE], url) as running:
            yield list(running.values())


def test_the_check_notices_wrong_answers(services: list[Service]) -> None:
    for service in services:
        with pytest.raises(WrongAnswerError, match="200 instead of 403"):
            check(service.url, SMALL[1], SMALL[1])


@pytest.mark.parametrize("workload", [each for each in WORKLOADS if each.shares], ids=lambda each: each.name)
def test_every_request_succeeds(services: list[Service], workload: Workload) -> None:
    requests = workload.requests[:100]

    for service in services:
        with httpx.Client(base_url=service.url, verify=False) as client:
            for each in requests:
                head, _, body = each.partition(b"\r\n\r\n")
                line, *headers = head.decode().split("\r\n")
                method, path, _ = line.split(" ")
                names = dict(header.split(": ", 1) for header in headers)
                answer = client.request(method, path, headers=names, content=body)
                assert answer.is_success, (line, answer.text)


def test_a_list_of_ten_and_one_of_a_hundred_are_what_they_say(services: list[Service]) -> None:
    for service in services:
        for owner, count in ((SMALL[0], 10), (BIG[-1], 100)):
            headers = {"Authorization": f"Bearer {owner.token}"}
            listed = httpx.get(f"{service.url}/api/{owner.id}/tasks", headers=headers, verify=False).json()
            assert {task["id"] for task in listed} >= set(owner.tasks)
            assert len(owner.tasks) == count


def test_the_cpu_of_a_service_is_counted(services: list[Service]) -> None:
    for service in services:
        before = service.cpu
        with httpx.Client(base_url=service.url, verify=False) as client:
            for _ in range(200):
                client.get("/api/x/tasks")

        assert before < service.cpu
        assert service.memory > 1


def test_the_performance_document_shows_what_was_measured() -> None:
    results = orjson.loads(report.RESULTS.read_bytes())

    assert report.DOCUMENT.read_text() == report.document(results)
    assert report.PICTURE.read_text() == report.picture(results["near"])
