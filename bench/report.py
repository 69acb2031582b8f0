"""What do the measurements say, in tables and in a picture?"""

from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from bench.contestants import BARE, CONTESTANTS, FASTIFY, OURS, TUTORIAL

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results.json"
DOCUMENT = ROOT / "docs" / "performance.md"
PICTURE = ROOT / "docs" / "pictures" / "performance.svg"
Samples = list[dict[str, Any]]

# Least ratio of the peer's CPU to ours, for each workload.
GOALS: dict[str, dict[str, float]] = {
    BARE.name: {"get one": 0.9, "list 10": 0.9, "list 100": 0.9, "create": 0.85, "toggle": 0.9, "mixed": 0.9},
    FASTIFY.name: {"get one": 0.7, "list 10": 1.0, "list 100": 1.3, "create": 0.7, "toggle": 0.9, "mixed": 1.0},
    TUTORIAL.name: {"get one": 12, "list 10": 11, "list 100": 10, "create": 16, "toggle": 18, "mixed": 11},
}


def write(results: dict[str, Any]) -> None:
    """Write the document and the picture."""
    DOCUMENT.write_text(document(results))
    PICTURE.write_text(picture(results["near"]))


def document(results: dict[str, Any]) -> str:
    about = results["about"]
    return f"""\
# Performance

What a request costs here, and what the same request costs when others write the same API. Written by `make bench` on
{about["date"]}.

![CPU time for one request of a mixed load]({PICTURE.relative_to(DOCUMENT.parent)})

## How it is measured

- One PostgreSQL with default durability and 101,000 tasks: 1,000 users with 100 each and 100 users with 10, their rows
  interleaved. 1,000 users ask, each with a token of their own. The mixed load is 40 % get one, 20 % list 10, 10 % list
  100, 10 % create, 12 % toggle, 8 % PUT.
- Everybody serves the same API from one process with ten connections to the database, verifies each token, and passes
  the same check before being measured. Ours runs as in production: access log on. The others write none.
- The figure is CPU time of the whole process tree, user and kernel, divided by the requests that wrk counted, because
  it does not depend on who else uses the machine's other core. Everybody does each workload in every one of
  {about["rounds"]} rounds, {about["seconds"]} s each, and who comes first changes. A ratio is taken within a round;
  tables show the median, and the least and the greatest in brackets.
- [The peers](../bench/peers/README.md) are written as their libraries' documentation advises. "Tuned by hand" is the
  bare Starlette one that also keeps verified tokens and spares the pool's reset. The tutorial's has 20 connections
  where others have 50: with more it locks itself up.

Machine: {about["machine"]}.
Versions: {results["versions"]}.

To run it again: `apt-get install wrk`, then `make bench` (Node.js ≥ 20 for its two peers; Go, with the packages named
in bench/peers/go/main.go, for its one). It takes about half an hour, and nothing else should run meanwhile.

## CPU time for each request

In µs, with 50 connections.

{_table(results["near"], lambda own, _: f"{median(own) * 1e6:.0f}", "cpu")}

## Times our CPU time

Above 1 is dearer than ours.

{ratios(results["near"])}

What was aimed at, and whether it was reached:

{_goals(results["near"])}

CPU time of PostgreSQL for each request, in µs:

{_table(results["near"], lambda own, _: f"{median(own) * 1e6:.0f}", "database_cpu")}

## Throughput and latency

Application, database and wrk share the cores, so throughput tells less than CPU time. Requests a second, and p50 / p95
/ p99 in ms, with 50 connections:

{_latencies(results["near"])}

With 256 connections:

{_latencies(results["many"])}

Failed requests: {_failed(results["near"] + results["many"] + results["far"])}.

## A database that is far away

Requests a second, and p50 / p95 / p99 in ms, without a setting for the pool. Ten connections that wait for each answer
carry ten requests in the time of a round trip and a statement; who asks twice carries half. postgres.js does not wait:
it sends further statements over the same connection (pipelining). asyncpg cannot: here the pool grows instead
([0017](decisions/0017-the-pool-finds-its-size.md)).

{_distances(results["far"])}

## Start, memory, round trips

Seconds from the start of the process to the first 200, the median of {len(results["starts"][OURS.name])} starts; MiB of
the process tree (PSS), idle and after the load; round trips to the database for one request.

{_services(results)}

## Workers

The mixed load on this backend with one worker and with two. They share nothing; on this machine they also share their
cores with the database and with wrk, which leaves less than a core to the second.

{_workers(results["workers"])}

## Long lists

One user has 10,000 tasks and another 100,000. Ten connections of others read single tasks; in every second measurement
the list of 100,000 is read over and over beside them. Milliseconds; MiB of the process (RSS) at the peak.

{_long(results["long"])}
"""


def ratios(samples: Samples) -> str:
    """Return how many times our CPU time everybody needs; our own must be among the samples."""

    def cell(own: list[float], ours: list[float]) -> str:
        each = _by_round(own, ours)
        return "1" if own == ours else f"{median(each):.2f} ({min(each):.2f}–{max(each):.2f})"

    return _table(samples, cell, "cpu")


def _goals(samples: Samples) -> str:
    def cell(name: str, workload: str, goal: float) -> str:
        ours = _values(samples, OURS.name, workload, "cpu")
        reached = median(_by_round(_values(samples, name, workload, "cpu"), ours))
        return f"{reached:.2f} of {goal:g} {'✓' if reached >= goal else '✗'}"

    rows = [[name, *(cell(name, each, goal) for each, goal in goals.items())] for name, goals in GOALS.items()]
    return _markdown(["against", *GOALS[BARE.name]], rows)


def _by_round(own: list[float], ours: list[float]) -> list[float]:
    return [one / other for one, other in zip(own, ours, strict=True)]


def _table(samples: Samples, cell: Callable[[list[float], list[float]], str], figure: str) -> str:
    def figures(name: str, workload: str) -> list[float]:
        return _values(samples, name, workload, figure)

    workloads = _kinds(samples, "workload")
    rows = [
        [name, *(cell(figures(name, each), figures(OURS.name, each)) for each in workloads)]
        for name in _kinds(samples, "contestant")
    ]
    return _markdown(["", *workloads], rows)


def _latencies(samples: Samples) -> str:
    def cell(name: str, workload: str) -> str:
        figures = [median(_values(samples, name, workload, figure)) for figure in ("throughput", "p50", "p95", "p99")]
        return f"{figures[0]:,.0f}/s · " + " / ".join(f"{each:.1f}" for each in figures[1:])

    workloads = _kinds(samples, "workload")
    rows = [[name, *(cell(name, each) for each in workloads)] for name in _kinds(samples, "contestant")]
    return _markdown(["", *workloads], rows)


def _distances(samples: Samples) -> str:
    kinds = sorted({(each["distance"], each["connections"]) for each in samples})
    parts = []
    for distance, connections in kinds:
        those = [each for each in samples if (each["distance"], each["connections"]) == (distance, connections)]
        parts.append(f"A round trip of {distance * 1000:g} ms, {connections} connections:\n\n{_latencies(those)}")
    return "\n\n".join(parts)


def _services(results: dict[str, Any]) -> str:
    kinds = list(results["round_trips"][OURS.name])
    rows = []
    for name, (idle, loaded) in results["memory"].items():
        trips = [f"{results['round_trips'][name][kind]:g}" for kind in kinds]
        rows.append([name, f"{median(results['starts'][name]):.2f}", f"{idle:.0f}", f"{loaded:.0f}", *trips])
    return _markdown(["", "first 200", "idle", "loaded", *kinds], rows)


def _workers(samples: Samples) -> str:
    def row(name: str) -> list[str]:
        cpu, throughput, p50, p99 = (
            median(_values(samples, name, "mixed", figure)) for figure in ("cpu", "throughput", "p50", "p99")
        )
        return [name, f"{cpu * 1e6:.0f}", f"{throughput:,.0f}", f"{p50:.1f}", f"{p99:.1f}"]

    head = ["workers", "CPU µs for each request", "requests a second", "p50 ms", "p99 ms"]
    return _markdown(head, [row(name) for name in dict.fromkeys(each["contestant"] for each in samples)])


def _long(figures: dict[str, float]) -> str:
    return _markdown(["", "ms, MiB"], [[name, f"{figure:.1f}"] for name, figure in figures.items()])


def _failed(samples: Samples) -> str:
    failed = {name: sum(_values(samples, name, None, "failed")) for name in _kinds(samples, "contestant")}
    return ", ".join(f"{name} {count:.0f}" for name, count in failed.items() if count) or "none"


def _values(samples: Samples, name: str, workload: str | None, figure: str) -> list[float]:
    return [each[figure] for each in samples if each["contestant"] == name and workload in {None, each["workload"]}]


def _kinds(samples: Samples, key: str) -> list[str]:
    """Return the values of `key`, contestants in their usual order."""
    seen = dict.fromkeys(each[key] for each in samples)
    usual = [each.name for each in CONTESTANTS]
    return sorted(seen, key=lambda each: usual.index(each) if each in usual else len(usual))


def _markdown(head: Iterable[str], rows: list[list[str]]) -> str:
    lines = [list(head), ["---"] * len(rows[0]), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def picture(samples: Samples) -> str:
    """Return a bar for everybody: µs of CPU for a request of the mixed load."""
    costs = {name: median(_values(samples, name, "mixed", "cpu")) * 1e6 for name in _kinds(samples, "contestant")}
    scale = 400 / max(costs.values())
    bars = []
    for row, (name, cost) in enumerate(sorted(costs.items(), key=lambda each: each[1])):
        y, ours = 78 + row * 34, name == OURS.name
        colour, weight = ("#0969da", "bold") if ours else ("#b6bfc9", "normal")
        bars.append(
            f'<g font-weight="{weight}"><text x="226" y="{y + 16}" text-anchor="end">{name}</text>'
            f'<rect x="236" y="{y}" width="{max(cost * scale, 2):.0f}" height="22" rx="3" fill="{colour}"/>'
            f'<text x="{244 + cost * scale:.0f}" y="{y + 16}">{cost:,.0f} µs</text></g>'
        )
    height = 96 + len(costs) * 34
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{height}" viewBox="0 0 760 {height}" role="img" \
aria-label="CPU time for one request of a mixed load, less is better" \
font-family="system-ui, sans-serif" font-size="14" fill="#1f2328">
<rect width="760" height="{height}" rx="8" fill="#ffffff"/>
<text x="24" y="34" font-size="18" font-weight="bold">CPU time for one request</text>
<text x="24" y="56" fill="#59636e">Mixed load on the same API and database. A shorter bar is better.</text>
{chr(10).join(bars)}
</svg>
"""


if __name__ == "__main__":
    write(orjson.loads(RESULTS.read_bytes()))
