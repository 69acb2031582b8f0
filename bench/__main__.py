"""How does this backend compare with its peers? `make bench` asks, and writes docs/performance.md."""

import os
import platform
import shutil
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import httpx
import orjson
import psutil
import typer
from databases import ask
from relay import Relay

from backend.errors import OperatorError
from bench import dataset, long_lists, report
from bench.contestants import BARE, CONTESTANTS, FASTIFY, OURS, WORKERS, Contestant
from bench.measure import ADDRESS, CONNECTIONS, MANY, URL, Bench, Sample, database, serving, started, through
from bench.service import Service
from bench.workloads import BIG, TASK, WORKLOADS, Workload, chosen

LIBRARIES = ("fastapi", "starlette", "sqlmodel", "sqlalchemy", "asyncpg", "psycopg", "uvicorn", "uvloop", "orjson")
FAR = (0.010, 0.030)
FAR_WORKLOADS = ("get one", "list 10", "create", "mixed")
TRIES = 20
STARTS = 5


def main(
    *,
    rounds: Annotated[int, typer.Option(min=1, help="How often everybody does everything.")] = 5,
    seconds: Annotated[int, typer.Option(min=1, help="How long each measurement takes.")] = 2,
    only: Annotated[str, typer.Option(help="Only those whose name contains this; writes nothing.")] = "",
    workload: Annotated[str, typer.Option(help="Only the workloads whose name contains this; writes nothing.")] = "",
    far: Annotated[bool, typer.Option("--far", help="Measure the far databases again, and nothing else.")] = False,
) -> None:
    """Measure this backend beside its peers on one machine, and write docs/performance.md."""
    if not shutil.which("wrk"):
        raise SystemExit("wrk is missing: install it (Debian: apt-get install wrk; macOS: brew install wrk).")
    try:
        with database() as url:
            dataset.fill(url)
            if only or workload:
                contestants = [each for each in CONTESTANTS if only in each.name or each is OURS]
                workloads = [each for each in WORKLOADS if workload in each.name]
                print(report.ratios(_some(url, contestants, workloads, rounds, seconds)))
                return
            if far:
                results = orjson.loads(report.RESULTS.read_bytes()) | {"far": _far(url, seconds)}
            else:
                results = _all(url, rounds, seconds)
    except OperatorError as error:
        raise SystemExit(str(error)) from None
    report.RESULTS.write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    report.write(results)


def _some(
    url: str, contestants: list[Contestant], workloads: list[Workload], rounds: int, seconds: int
) -> list[dict[str, Any]]:
    with serving(contestants, URL) as services:
        bench = Bench(url, services, seconds)
        return [_told(each) for each in bench.rounds(contestants, workloads, connections=CONNECTIONS, count=rounds)]


def _all(url: str, rounds: int, seconds: int) -> dict[str, Any]:
    results: dict[str, Any] = {"about": _about(rounds, seconds)}
    results["versions"] = _versions(url)
    results["starts"] = {each.name: [_start(each) for _ in range(STARTS)] for each in CONTESTANTS}
    with serving(CONTESTANTS, URL) as services:
        bench = Bench(url, services, seconds)
        idle = {each: service.memory for each, service in services.items()}
        near = bench.rounds(CONTESTANTS, WORKLOADS, connections=CONNECTIONS, count=rounds)
        results["near"] = [_told(sample) for sample in near]
        hardy = [each for each in CONTESTANTS if each.most >= MANY]
        many = bench.rounds(hardy, WORKLOADS, connections=MANY, count=min(rounds, 2))
        results["many"] = [_told(sample) for sample in many]
        results["memory"] = {each.name: [idle[each], service.memory] for each, service in services.items()}
    with Relay((ADDRESS, 5432)).running() as relay, serving(CONTESTANTS, through(relay.port)) as services:
        results["round_trips"] = {each.name: _round_trips(service, relay) for each, service in services.items()}
    results["far"] = _far(url, seconds)
    with serving(WORKERS, URL) as services:
        bench = Bench(url, services, seconds)
        shared = bench.rounds(WORKERS, chosen("mixed"), connections=CONNECTIONS, count=rounds)
        results["workers"] = [_told(sample) for sample in shared]
    with started(OURS, URL) as service:
        results["long"] = long_lists.measured(url, service, rounds, seconds)
    return results


def _far(url: str, seconds: int) -> list[dict[str, Any]]:
    """Measure this backend, a pool that does not grow, and pipelining, at each distance."""
    samples: list[dict[str, Any]] = []
    three = [OURS, BARE, FASTIFY]
    with Relay((ADDRESS, 5432)).running() as relay, serving(three, through(relay.port)) as services:
        bench = Bench(url, services, seconds)
        for distance in FAR:
            relay.delay = distance / 2
            for connections in (CONNECTIONS, MANY):
                # A pool that grows has the time to do so.
                list(bench.rounds(three, chosen("get one"), connections=connections, count=1))
                rounds = bench.rounds(three, chosen(*FAR_WORKLOADS), connections=connections, count=1)
                where = {"distance": distance, "connections": connections}
                samples += [_told(sample) | where for sample in rounds]
    return samples


def _told(sample: Sample) -> dict[str, Any]:
    print(f"{sample.workload}, {sample.contestant}: {sample.cpu * 1e6:.0f} µs", flush=True)
    return asdict(sample)


def _start(contestant: Contestant) -> float:
    with started(contestant, URL) as service:
        return service.ready_after


def _round_trips(service: Service, relay: Relay) -> dict[str, float]:
    """Return how often a request waits for the database, for one of each kind, on average."""
    owner = BIG[0]
    tasks, counts = f"{service.url}/api/{owner.id}/tasks", {}
    with httpx.Client(headers={"Authorization": f"Bearer {owner.token}"}, trust_env=False) as client:

        def average(method: str, paths: list[str], **content: Any) -> float:
            before = relay.turns
            for path in paths:
                client.request(method, tasks + path, **content).raise_for_status()
            return round((relay.turns - before) / len(paths), 1)

        # Connections learn statements one by one; let all of them know these.
        for name, method, suffix in (("get", "GET", ""), ("PUT", "PUT", ""), ("toggle", "PATCH", "/complete")):
            paths = [f"/{task}{suffix}" for task in owner.tasks[:TRIES]]
            content = {"json": TASK} if method == "PUT" else {}
            average(method, paths * 3, **content)
            counts[name] = average(method, paths, **content)
        average("GET", [""] * TRIES)
        counts["list"] = average("GET", [""] * TRIES)
        average("POST", [""] * TRIES, json=TASK)
        counts["create"] = average("POST", [""] * TRIES, json=TASK)
        ids = [task["id"] for task in client.get(tasks).json() if task["id"] > dataset.ROWS]
        average("DELETE", [f"/{task}" for task in ids[TRIES:]])
        counts["delete"] = average("DELETE", [f"/{task}" for task in ids[:TRIES]])
    return counts


def _about(rounds: int, seconds: int) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{_processor()}, {os.cpu_count()} cores shared by application, database and load generator, "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB; {platform.system()} {platform.release().partition('-')[0]}",
        "rounds": rounds,
        "seconds": seconds,
    }


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in file.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _versions(url: str) -> str:
    libraries = [f"{name} {version(name)}" for name in LIBRARIES]
    node, go = (
        _said("node", "--version").replace("v", "Node.js "),
        _said("go", "version").replace("go version go", "Go "),
    )
    return ", ".join(
        [
            f"PostgreSQL {ask(url, 'SHOW server_version')[0][0]}",
            f"Python {platform.python_version()}",
            *libraries,
            node,
            go,
        ]
    )


def _said(*command: str) -> str:
    if not shutil.which(command[0]):
        return f"no {command[0]}"
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    typer.run(main)
