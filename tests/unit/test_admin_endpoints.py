"""Which path answers what."""

from __future__ import annotations

import json

import pytest

from proxy.admin.endpoints import Endpoints
from proxy.config.schema import LogLevel
from tests.support.asking import request
from tests.support.facts import PlainFacts


@pytest.fixture
def facts() -> PlainFacts:
    return PlainFacts()


@pytest.fixture
def endpoints(facts: PlainFacts) -> Endpoints:
    return Endpoints(facts, facts.clock)


@pytest.mark.parametrize(("state", "status"), [("starting", 503), ("ready", 200), ("draining", 503)])
def test_ready_is_one_state_and_healthy_are_all(
    facts: PlainFacts, endpoints: Endpoints, state: str, status: int
) -> None:
    facts.state = state
    answer = endpoints.answer(request("/readyz"))
    assert (answer.status, answer.body) == (status, f"{state}\n".encode())
    assert endpoints.answer(request("/healthz")).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/metrics", 200),
        ("HEAD", "/metrics?x=1", 200),
        ("POST", "/metrics", 405),
        ("GET", "/drain", 405),
        ("PUT", "/log-level", 405),
        ("GET", "/nowhere", 404),
        ("POST", "/nowhere", 404),
        ("GET", "/metrics/", 404),
    ],
)
def test_paths_and_methods(endpoints: Endpoints, method: str, path: str, status: int) -> None:
    assert endpoints.answer(request(path, method=method)).status == status


def test_a_wrong_method_is_told_the_right_one(endpoints: Endpoints) -> None:
    assert endpoints.answer(request("/drain")).fields == ((b"Allow", b"POST"),)


def test_commands(facts: PlainFacts, endpoints: Endpoints) -> None:
    assert endpoints.answer(request("/drain", method="POST")).status == 202
    assert facts.drained == 1
    assert endpoints.answer(request("/log-level", method="POST", body="warning\n")).status == 200
    assert facts.log_level is LogLevel.WARNING
    assert endpoints.answer(request("/log-level", method="POST", body="shout")).status == 400
    assert facts.log_level is LogLevel.WARNING


def test_whoever_may_not_ask_gets_nothing(facts: PlainFacts, endpoints: Endpoints) -> None:
    endpoints.ask_for(b"0123456789abcdef", unix=False)
    for path, method in (("/metrics", "GET"), ("/config", "GET"), ("/status", "GET"), ("/drain", "POST")):
        assert endpoints.answer(request(path, method=method)).status == 401
    assert facts.drained == 0


def test_the_page_is_for_browsers_and_json_for_all_others(endpoints: Endpoints) -> None:
    page = endpoints.answer(request("/status", fields={"Accept": "text/html,*/*;q=0.8"}))
    assert page.content_type == "text/html; charset=utf-8"
    assert b"Content-Security-Policy" in dict(page.fields)
    for fields in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
        assert json.loads(endpoints.answer(request("/status", fields=fields)).body)["version"] == "1.2.3"


def test_an_event_is_the_figures_on_one_line(facts: PlainFacts, endpoints: Endpoints) -> None:
    facts.words["upstreams"]["a\nb"] = {"url": "http://x", "reason": "two\nlines"}
    first = endpoints.answer(request("/status/events"))
    assert first.streams
    assert first.body == endpoints.event()
    assert first.body.startswith(b"data: {")
    assert first.body.index(b"\n\n") == len(first.body) - 2
    assert json.loads(first.body[6:]) == endpoints.figures()


def test_samples_are_taken_now_and_then(facts: PlainFacts, endpoints: Endpoints) -> None:
    for _ in range(7):
        facts.counters.request("/e", "ingest_v0", b"POST", 200)
        endpoints.tick()
        facts.clock.now += 1
    (cls,) = endpoints.figures()["classes"]
    assert cls["spark"] == [1.0, 1.0, 1.0]
    assert cls["per_second"] == 1.0
