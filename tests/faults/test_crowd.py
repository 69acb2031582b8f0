"""Does it bend and come back, when more is asked than it can serve, or when the database stands still?"""

import re

import pytest
from faults.crowd import Phase, Scenario, run
from servers import Postgres


def slug(scenario: Scenario) -> str:
    """Return the scenario's name in a form that pytest's -k takes."""
    return re.sub(r"\W+", "_", scenario.name)


SHORT = {"REQUEST_DEADLINE": "2"}

MEASURED = [
    Scenario("stall of 12 s, 100 ms, 60 requests/s", 0.1, (Phase(60, 60),), 100, stall=(5, 12)),
    Scenario("stall of 12 s, 20 ms, 250 requests/s", 0.02, (Phase(60, 250),), 450, stall=(5, 12)),
    Scenario("40 clients, then 500, 60 ms", 0.06, (Phase(8, clients=40), Phase(20, clients=500)), 160, settings=SHORT),
    Scenario("300 clients, 20 ms", 0.02, (Phase(5, clients=10), Phase(15, clients=300)), 450, settings=SHORT),
    Scenario("100, 700, 100 requests/s, 20 ms, clients leave after 4 s", 0.02,
             (Phase(5, 100), Phase(20, 700), Phase(20, 100)), 400, patience=4),
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("scenario", MEASURED, ids=slug)
def test_what_was_an_outage_costs_what_cannot_be_served(server: Postgres, scenario: Scenario) -> None:
    result = run(scenario, server)

    assert result.before.share > 0.99
