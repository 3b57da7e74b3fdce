"""The numbers that the benchmark draws from its measurements, and the tables that it makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.report import MIB, cell, document, notes, table, tables
from benchmarks.results import (
    Footprint,
    Results,
    Sample,
    Spread,
    Steady,
    good,
    load_results,
    ratios,
    spread,
)

if TYPE_CHECKING:
    from pathlib import Path


def sample(peer: str, number: int, cpu: float, **others: object) -> Sample:
    values: dict[str, object] = {
        "load": "ingest",
        "requests": 1000,
        "seconds": 1.0,
        "rate": 1000.0,
        "busy": 0.98,
        "foreign": 0.01,
        "p50": 500.0,
        "p99": 900.0,
    }
    return Sample(**(values | {"peer": peer, "round": number, "cpu": cpu} | others))  # type: ignore[arg-type]


def steady(peer: str, number: int, p99: float, late: float = 50.0) -> Steady:
    return Steady("ingest", peer, number, 500.0, 400, p99 / 2, p99, late, 20.0)


def results(*samples: Sample) -> Results:
    return Results(
        began="2026-11-25T10:00:00+00:00",
        host={"kernel": "Linux 6"},
        versions={"nginx": "nginx/1.22.1"},
        settings={"rounds": 3, "seconds": 2},
        titles={"ingest": "events"},
        samples=list(samples),
    )


# --- numbers ---------------------------------------------------------------------------------------


def test_the_spread_of_nothing_one_and_many() -> None:
    assert spread([]) is None
    assert spread([3.0]) == Spread(3.0, 3.0, 3.0, 1)
    many = spread(float(value) for value in range(11))
    assert many == Spread(5.0, 1.0, 9.0, 11)


def test_ratios_are_those_of_the_same_round() -> None:
    ours = [sample("ours", 0, 20.0), sample("ours", 1, 60.0), sample("ours", 2, 44.0)]
    nginx = [sample("nginx", 2, 22.0), sample("nginx", 0, 10.0), sample("nginx", 1, 30.0)]
    assert ratios(ours, nginx, lambda one: one.cpu) == Spread(2.0, 2.0, 2.0, 3)


def test_a_spoiled_sample_counts_nowhere() -> None:
    ours = [sample("ours", 0, 20.0), sample("ours", 1, 999.0, troubles={"not_200": 3})]
    nginx = [sample("nginx", 0, 10.0), sample("nginx", 1, 1.0)]
    assert ratios(ours, nginx, lambda one: one.cpu) == Spread(2.0, 2.0, 2.0, 1)
    assert ratios(nginx, ours, lambda one: one.cpu) == Spread(0.5, 0.5, 0.5, 1)
    assert good(ours, lambda one: one.cpu) == Spread(20.0, 20.0, 20.0, 1)


def test_results_are_read_as_they_were_saved(tmp_path: Path) -> None:
    saved = results(sample("nginx", 0, 10.0, troubles={"read": 1}))
    saved.steady.append(steady("nginx", 0, 3000.0))
    saved.footprints.append(Footprint("ingest", "nginx", 1, 2, 3, 200.0))
    saved.save(tmp_path / "results.json")
    assert load_results(tmp_path / "results.json") == saved


def test_results_of_another_format_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results().save(path)
    path.write_text(path.read_text().replace('"format": 1', '"format": 0'))
    with pytest.raises(ValueError, match="format"):
        load_results(path)


# --- tables ----------------------------------------------------------------------------------------


def test_a_table_is_aligned() -> None:
    assert table(["load", "a"], [["events", "1.5"], ["x", "10"]]).splitlines() == [
        "| load   |   a |",
        "| ------ | --: |",
        "| events | 1.5 |",
        "| x      |  10 |",
    ]


def test_cells() -> None:
    assert cell(None, ".1f") == "–"
    assert cell(Spread(1.25, 1.25, 1.25, 1), ".2f") == "1.25"
    assert cell(Spread(1500.0, 1200.0, 1800.0, 9), ".1f", 1e-3) == "1.5 (1.2–1.8)"


def test_the_tables_compare_with_nginx() -> None:
    found = results(sample("nginx", 0, 10.0), sample("ours", 0, 12.5))
    found.ceilings["ingest"] = 5000.0
    found.steady += [steady("nginx", 0, 2000.0), steady("ours", 0, 2600.0)]
    found.footprints += [
        Footprint("ingest", "nginx", 8 * MIB, 8 * MIB, 9 * MIB, 200.0),
        Footprint("ingest", "ours", 30 * MIB, 30 * MIB, 33 * MIB, 800.0),
        Footprint("idle", "ours", 30 * MIB, 55 * MIB, 60 * MIB, 800.0, idle=9000, left=9000),
    ]
    text = tables(found)
    assert "| events |      10.0 |          1.25 |" in text
    assert "| events | 1,000 (98%) | 1,000 (98%) |           5,000 |" in text
    assert "| events |        500 | 1.00 / 2.00 | 1.30 / 2.60, ×1.30 |" in text
    rows = [[word.strip() for word in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["just started", "8.0", "30.0"] in rows
    assert ["after all rounds, at most", "9.0", "33.0"] in rows
    assert ["9,000 idle connections add", "–", "25.0"] in rows
    assert ["events", "200", "800"] in rows
    assert "## Notes" not in text


def test_without_nginx_there_are_no_ratios() -> None:
    text = tables(results(sample("ours", 0, 12.5)))
    assert "× nginx" not in text
    assert "| events |     12.5 |" in text
    assert "## Latency" not in text


def test_a_load_that_nginx_was_not_measured_with_is_in_microseconds() -> None:
    found = results(
        *(sample("nginx", 0, 10.0), sample("haproxy", 0, 11.0), sample("ours", 0, 12.5)),
        *(sample("haproxy", 0, 9.9, load="tcp"), sample("ours", 0, 10.6, load="tcp")),
    )
    found.titles["tcp"] = "bytes"
    rows = [[word.strip() for word in line.split("|")[1:-1]] for line in tables(found).splitlines()]
    assert ["events", "10.0", "1.10", "1.25"] in rows
    assert ["bytes", "–", "9.9 µs", "10.6 µs"] in rows


def test_notes_tell_what_spoils_the_tables() -> None:
    found = results(
        sample("nginx", 0, 10.0, foreign=0.4), sample("ours", 0, 1.0, troubles={"not_200": 2}, foreign=0.4)
    )
    found.steady.append(steady("nginx", 0, 2000.0, late=4000.0))
    found.footprints.append(Footprint("ingest", "ours", 1, 2, 3, 0.0, idle=10, left=7))
    assert notes(found) == [
        "spoiled, left out: ingest, ours, round 1: not_200 2",
        "ingest: others used 40% of the proxies' core",
        "ingest: the generator at the fixed rate was 4.0 ms late (p99)",
        "ingest, ours: 3 of 10 idle connections were lost",
        "ingest, ours: nothing in the access log",
    ]


def test_the_page_says_where_and_how() -> None:
    page = document(results(sample("nginx", 0, 10.0)), "measured.svg")
    assert "in 3 rounds" in page
    assert "* kernel: Linux 6" in page
    assert "![Processor time per request](measured.svg)" in page
