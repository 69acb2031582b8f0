"""Do alerts, runbook, dashboard and metrics agree, and does each alert fire in its case alone?"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from servers import ROOT, folder, program
from test_operations import listed

OBSERVE = ROOT / "deploy/observe"
RULES = {rule["alert"]: rule for rule in yaml.safe_load((OBSERVE / "alerts.yml").read_text())["groups"][0]["rules"]}
DASHBOARD = json.loads((OBSERVE / "dashboard.json").read_text())
RUNBOOK = (ROOT / "docs/runbook.md").read_text()

# A busy day of two instances with some trouble, as promtool writes series: at first, and added every 15 s. It is not
# worth an alert: of 1,000 requests 40 fail for each reason, and 400 are refused.
CALM = {
    'up{instance="a"}': "1+0",
    'up{instance="b"}': "1+0",
    'todo_processes{instance="a"}': "2+0",
    'todo_processes{instance="b"}': "2+0",
    'todo_ready{instance="a"}': "2+0",
    'todo_ready{instance="b"}': "1+0",
    'todo_requests_total{status="200"}': "0+440",
    'todo_requests_total{status="401"}': "0+400",
    'todo_requests_total{status="500"}': "0+40",
    'todo_requests_total{status="503"}': "0+120",
    "todo_unavailable_total": "0+40",
    "todo_shed_total": "0+40",
    'todo_refusals_total{reason="signature"}': "0+400",
    'todo_refusals_total{reason="expired"}': "0+600",
    "todo_request_seconds_count": "0+1000",
    'todo_request_seconds_bucket{le="1.0"}': "0+870",
    'todo_clients{instance="a"}': "1800+0",
    'todo_clients_maximum{instance="a"}': "2000+0",
    "todo_log_lines_dropped_total": "7+0",
}
GONE = "_"  # no sample
# A quiet night: four requests a minute, all of them refused.
QUIET = {
    **{name: "0+0" for name in CALM if "_total" in name or "_seconds" in name},
    **dict.fromkeys(('todo_requests_total{status="401"}', 'todo_refusals_total{reason="signature"}',
                 "todo_request_seconds_count", 'todo_request_seconds_bucket{le="1.0"}'), "0+1"),
}  # fmt: skip
# What is different when an alert must fire.
CASES = [
    ("TodoDown", {name: "0+0" if name.startswith("up") else GONE for name in CALM}),
    ("TodoDown", dict.fromkeys(CALM, GONE)),
    ("TodoInstanceOut", {'up{instance="a"}': "0+0", 'todo_ready{instance="a"}': GONE}),
    ("TodoInstanceOut", {'todo_ready{instance="a"}': "0+0"}),
    ("TodoDatabaseUnavailable", {"todo_unavailable_total": "0+60", 'todo_requests_total{status="503"}': "0+140"}),
    ("TodoDatabaseUnavailable", {f'todo_ready{{instance="{each}"}}': "0+0" for each in "ab"}),
    ("TodoOverloaded", {"todo_shed_total": "0+60", 'todo_requests_total{status="503"}': "0+140"}),
    # Who is one of too many has waited for a second.
    ("TodoOverloaded", {"todo_shed_total": "0+200", 'todo_requests_total{status="503"}': "0+280",
                        'todo_request_seconds_bucket{le="1.0"}': "0+600"}),
    ("TodoErrors", {'todo_requests_total{status="500"}': "0+60"}),
    ("TodoKeySetUnreachable", {'todo_requests_total{status="503"}': "0+140"}),
    ("TodoRefusals", {'todo_refusals_total{reason="signature"}': "0+600"}),
    ("TodoSlow", {'todo_request_seconds_bucket{le="1.0"}': "0+840"}),
    ("TodoClientsAtMaximum", {'todo_clients{instance="a"}': "1810+0"}),
    ("TodoLogLinesDropped", {"todo_log_lines_dropped_total": "7+1"}),
]  # fmt: skip


@pytest.fixture
def home() -> Iterator[Path]:
    with folder() as home:
        yield home


def promtool(*arguments: str | Path) -> None:
    command = [program("promtool"), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def labelled(series: str) -> str:
    """Add the job's name."""
    return series[:-1] + ',job="todo"}' if series.endswith("}") else series + '{job="todo"}'


def case(changes: dict[str, str], firing: list[str]) -> dict[str, object]:
    """Return a test for promtool: with these changes, these alerts alone fire after two minutes."""
    series = [
        {"series": labelled(name), "values": f"{values}x16" if values != GONE else f"{GONE}x16"}
        for name, values in (CALM | changes).items()
    ]
    expected = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in firing]
    query = 'count by (alertname) (ALERTS{alertstate="firing"})'
    return {
        "interval": "15s",
        "input_series": series,
        "promql_expr_test": [{"expr": query, "eval_time": "2m", "exp_samples": expected}],
    }


def test_each_alert_fires_in_its_case_alone_and_none_on_a_usual_day(home: Path) -> None:
    tests = [case({}, []), case(QUIET, []), *(case(changes, [alert]) for alert, changes in CASES)]
    content = {"rule_files": [str(OBSERVE / "alerts.yml")], "evaluation_interval": "15s", "tests": tests}
    (home / "test.yml").write_text(yaml.safe_dump(content))

    promtool("test", "rules", home / "test.yml")

    assert {alert for alert, _ in CASES} == set(RULES)


def test_prometheus_takes_rules_configuration_and_the_queries_of_the_dashboard(home: Path) -> None:
    queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    rules = [{"record": f"query:{n}", "expr": each.replace("$__rate_interval", "1m")} for n, each in enumerate(queries)]
    (home / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))

    promtool("check", "config", OBSERVE / "prometheus.yml")
    promtool("check", "rules", OBSERVE / "alerts.yml", home / "queries.yml")


def test_each_alert_has_its_section_of_the_runbook_and_the_other_way_round() -> None:
    names, *sections = re.split(r"^## (?=Todo)", RUNBOOK, flags=re.MULTILINE)
    severities = {"page": "**Page.**", "ticket": "**Ticket.**"}

    assert [section.split("\n")[0] for section in sections] == [*RULES]
    for section, (alert, rule) in zip(sections, RULES.items(), strict=True):
        parts = re.findall(r"^\*\*[A-Z][a-z ]+[.:,]?\*\*", section, re.MULTILINE)
        assert [re.sub(r"[:,]\*\*", "**", part) for part in parts] == [
            severities[rule["labels"]["severity"]], "**First look**", "**What to do**", "**Over**",
        ]  # fmt: skip
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{alert.lower()}"
    assert set(re.findall(r"\| \[(Todo\w+)\]", (OBSERVE / "README.md").read_text())) == set(RULES)
    assert "Todo" not in names


def test_every_metric_and_event_that_is_named_is_there() -> None:
    texts = [RUNBOOK, *((OBSERVE / name).read_text() for name in ("alerts.yml", "dashboard.json"))]
    metrics = {name for text in texts for name in re.findall(r"\btodo_[a-z_]+", text)}
    events = set(re.findall(r'\.event == "([^"]+)"', RUNBOOK))

    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in metrics} - listed("Metrics") == set()
    assert events
    assert events - listed("Log") == set()
