"""Does it bend and come back, when more is asked than it can serve, or when the database stands still?

What a scenario is called is also how pytest's -k finds it, with _ for everything that is no letter or figure.
"""

import re

import pytest
from faults.crowd import capacity, run
from faults.outcome import Phase, Result, Scenario
from servers import Postgres


def slug(scenario: object) -> str:
    return re.sub(r"\W+", "_", scenario.name if isinstance(scenario, Scenario) else str(scenario))


def served_again(result: Result) -> bool:
    return result.after.share >= 0.99


MEASURED = [
    Scenario("stall of 12 s, 100 ms, 60 requests/s", 0.1, (Phase(60, 60),), 100, stall=(5, 12)),
    Scenario("stall of 12 s, 20 ms, 250 requests/s", 0.02, (Phase(60, 250),), 500, stall=(5, 12)),
    Scenario("40 clients, then 500, 60 ms", 0.06, (Phase(8, clients=40), Phase(20, clients=500)), 167, deadline=2),
    Scenario("10 clients, then 300, 20 ms", 0.02, (Phase(5, clients=10), Phase(15, clients=300)), 500, deadline=2),
    Scenario("100, 700, 100 requests/s, 20 ms, clients leave after 4 s", 0.02,
             (Phase(5, 100), Phase(20, 700), Phase(20, 100)), 500, patience=4),
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("scenario", MEASURED, ids=slug)
def test_what_was_an_outage_costs_what_cannot_be_served(server: Postgres, scenario: Scenario) -> None:
    result = run(scenario, server)

    if scenario.stall[1]:
        assert served_again(result)
    else:
        assert result.goodput >= 0.5
        assert not result.after.requests or served_again(result)


def burst(round_trip: float, factor: float, patience: float | None, pool: int, able: float) -> Scenario:
    who = f"clients leave after {patience:g} s" if patience else "patient clients"
    phases = (Phase(5, able / 2), Phase(15, factor * able), Phase(15, able / 2))
    name = f"{factor:g} times the capacity, {round_trip * 1000:g} ms, {who}"
    return Scenario(name, round_trip, phases, able, patience=patience, pool=pool)


FAR_BURSTS = [
    burst(round_trip, factor, patience, pool, pool / round_trip)
    for round_trip, pool in ((0.02, 4), (0.1, 10))
    for factor in (2, 10)
    for patience in (None, 2)
]


def bends(result: Result) -> None:
    assert result.goodput >= 0.8
    assert result.during.percentile(99) < 1.5
    assert result.during.percentile(99, served=False) <= 1.1
    assert served_again(result)


@pytest.mark.long
@pytest.mark.parametrize("scenario", FAR_BURSTS, ids=slug)
def test_a_crowd_costs_what_cannot_be_served(server: Postgres, scenario: Scenario) -> None:
    bends(run(scenario, server))


@pytest.mark.long
@pytest.mark.parametrize("patience", [None, 2])
@pytest.mark.parametrize("factor", [2, 10])
def test_a_crowd_before_a_database_that_is_near(server: Postgres, factor: float, patience: float | None) -> None:
    """Here the processor is the limit, which the crowd shares, so that the capacity has to be measured, and only a part
    of it can be reached (decision 0016)."""
    result = run(burst(0.001, factor, patience, 10, capacity(server, 0.001, 10)), server)

    assert result.goodput >= 0.2
    assert served_again(result)


def stalled(round_trip: float, times: float, deadline: float) -> Scenario:
    able, lasts = 10 / round_trip, times * deadline
    name = f"stall of {times:g} times the deadline of {deadline:g} s, {round_trip * 1000:g} ms"
    return Scenario(
        name, round_trip, (Phase(lasts + 20, 0.6 * able),), able, stall=(3, lasts), deadline=deadline, pool=10
    )


STALLS = [
    stalled(round_trip, times, deadline)
    for deadline in (2, 10)
    for times in (0.5, 1, 3)
    for round_trip in (0.02, 0.06, 0.1)
]


@pytest.mark.long
@pytest.mark.parametrize("scenario", STALLS, ids=slug)
def test_a_stall_is_over_when_it_ends(server: Postgres, scenario: Scenario) -> None:
    result = run(scenario, server)

    assert scenario.pool
    # In one that ends before the deadline hardly anybody hears a no: those for whom the queue was full before its half
    # second of silence told it that this is no crowd.
    rejected = len(result.during.times(served=False)) / len(result.during.requests)
    assert rejected < 0.05 or scenario.stall[1] >= scenario.deadline
    assert served_again(result)
    assert result.opened <= 3 * scenario.pool
    assert result.most_at_server <= scenario.pool + result.cancels


@pytest.mark.spec("EC-9")
def test_twice_the_capacity_in_short(server: Postgres) -> None:
    phases = (Phase(1, 30), Phase(4, 200), Phase(4, 30))

    result = run(Scenario("short: twice the capacity", 0.02, phases, 100, pool=2, deadline=2, recovery=2), server)

    assert result.during.share > 0.1
    assert result.after.share > 0.9


@pytest.mark.spec("EC-10")
def test_a_stall_of_one_deadline_in_short(server: Postgres) -> None:
    phases = (Phase(7, 60),)

    result = run(Scenario("short: a stall", 0.02, phases, 100, stall=(1, 1), pool=2, deadline=1, recovery=3), server)

    assert result.after.share > 0.9
    assert result.opened <= 6
