"""The alert rules and the dashboard that are shipped: valid for Prometheus, and made of what is exported."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from proxy.observe.exposition import HELP
from proxy.observe.lifetime import Lifetime
from proxy.observe.metrics import HISTOGRAMS, PREFIX, Counters, Tally
from tests.support.clock import HandClock
from tests.support.parts import find

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "posthog-proxy.rules.yml"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "posthog-proxy.json").read_text("utf-8"))
COLUMNS = 24

GRAFANA = {"$__rate_interval": "5m", "$__interval": "1m", "$instance": ".*"}
"""What Grafana puts in."""

OF_PROMETHEUS = {"job", "instance", "le"}
"""Labels that Prometheus and histograms bring."""

pytestmark = pytest.mark.needs("promtool")


def promtool(*arguments: str | Path) -> str:
    run = subprocess.run([find("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def rule_expressions() -> list[str]:
    """The expressions of the rules, on one line or in a block."""
    text = RULES.read_text("utf-8")
    return [block or line for line, block in re.findall(r" expr: (?:([^|\n].*)|\|\n((?: {10,}.*\n)+))", text)]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def dashboard_expressions() -> list[str]:
    said = [target["expr"] for panel in panels() for target in panel["targets"]]
    said += [each["expr"] for each in DASHBOARD["annotations"]["list"]]
    return [re.sub(r"\$\w+", lambda match: GRAFANA[match[0]], each) for each in said]


def exported_labels() -> dict[str, set[str]]:
    """The labels of every name, but those of gauges that are made elsewhere: from the page about them, which
    has a line for each."""
    page = (DEPLOY.parent / "docs" / "observing.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (?:counter|gauge|histogram) \| ([a-z, ]*)\|", page, re.MULTILINE)
    return {PREFIX + name: {word for word in labels.strip().split(", ") if word} for name, labels in rows}


def test_the_labels_that_the_page_gives_are_those_that_are_counted_by() -> None:
    counters = Counters()
    tallies = [each for each in vars(counters).values() if isinstance(each, Tally)]
    for tally in tallies:
        tally.add(*tally.names)
    given = exported_labels()
    for name, counts in (counters.snapshot() | Lifetime(HandClock(), "1").snapshot()).items():
        if isinstance(counts, dict) and counts and name in HELP and name not in HISTOGRAMS:
            assert set(re.findall(r'(\w+)="', next(iter(counts)))) == given[name], name


def test_promtool_takes_the_rules() -> None:
    assert f"{len(rule_expressions())} rules found" in promtool("check", "rules", RULES)


def test_every_alert_fires_when_it_should_and_no_earlier() -> None:
    tests = RULES.with_name("posthog-proxy.test.yml")
    promtool("test", "rules", tests)
    tested = re.findall(r'alertname="(\w+)", alertstate', tests.read_text("utf-8"))
    assert set(tested) == set(re.findall(r"alert: (\w+)", RULES.read_text("utf-8")))


def test_every_alert_has_a_severity_a_summary_and_a_cure() -> None:
    for alert in RULES.read_text("utf-8").split("- alert: ")[1:]:
        assert re.search(r"labels: \{severity: (?:critical|warning)\}\n", alert), alert
        assert re.search(r'annotations:\n +summary: ".+"\n +cure: ".+"\n', alert), alert


def test_promtool_takes_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": each} for number, each in enumerate(dashboard_expressions())
    ]
    file = tmp_path / "dashboard.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
    assert f"{len(rules)} rules found" in promtool("check", "rules", file)


@pytest.mark.parametrize("expression", [*rule_expressions(), *dashboard_expressions()])
def test_every_metric_and_label_is_one_that_is_exported(expression: str) -> None:
    histograms = {name + part for name in HISTOGRAMS for part in ("_bucket", "_sum", "_count")}
    known = exported_labels()
    labels = set(OF_PROMETHEUS)
    for name in re.findall(rf"{PREFIX}\w+", expression):
        assert name in (HELP.keys() - HISTOGRAMS) | histograms
        labels |= known[re.sub(r"_(?:bucket|sum|count)\Z", "", name) if name in histograms else name]
    matched = {
        label
        for braces in re.findall(r"\{(.*?)\}", expression)
        for label in re.findall(r"(\w+)\s*[=!]", braces)
    }
    grouped = {
        word.strip()
        for words in re.findall(r"\b(?:by|on) \((.*?)\)", expression)
        for word in words.split(",")
    }
    assert matched | grouped <= labels


def test_the_dashboard_s_legends_name_labels_that_are_left() -> None:
    for target in (target for panel in panels() for target in panel["targets"]):
        kept = {
            word.strip() for words in re.findall(r"by \((.*?)\)", target["expr"]) for word in words.split(",")
        }
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) == kept - {"le"}


def test_the_dashboard_s_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    every = DASHBOARD["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in every)
        for x, y in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        )
    ]
    assert len(taken) == len(set(taken))
    assert all(0 <= x < COLUMNS for x, _ in taken)
