"""The terminal view: what is shown of which figures. Asking is tested before a real proxy."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from proxy.admin.endpoints import Endpoints
from proxy.config.schema import TcpAddress, UnixAddress
from proxy.net.breaker import BreakerState
from proxy.net.gauges import UpstreamState, upstream_gauges
from proxy.top import AskError, ask, duration, span, sparkline, view
from tests.support.facts import PlainFacts


def figures(facts: PlainFacts) -> dict[str, Any]:
    endpoints = Endpoints(facts, facts.clock)
    for _ in range(3):
        endpoints.tick()
        facts.counters.request("/e", "ingest_v0", b"POST", 200)
        facts.clock.now += 2
    return endpoints.figures()


def shown(found: dict[str, Any], trouble: str = "") -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(view(found, trouble))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_quiet_proxy_fills_a_few_lines() -> None:
    text = shown(figures(PlainFacts()))
    assert "ready" in text
    assert "ingest_v0" in text
    assert "2xx 3 (0.5/s)" in text
    assert len(text.splitlines()) < 15


def test_what_is_wrong_is_on_top_with_its_cure() -> None:
    facts = PlainFacts(state="draining")
    facts.lifetime.workers = 2
    facts.lifetime.reloaded(good=False)
    facts.counters.fast_path = 3
    facts.counters.tls_certs_not_after["a.example",] = int(facts.clock.wall() + 3.5 * 86_400)
    pool = UpstreamState("web", "http://a", False, "", BreakerState.OPEN, 0, 0, 0, 0)
    facts.gauges = upstream_gauges([pool]) | {"posthog_proxy_spool_requests": 7}
    facts.words = {
        "upstreams": {"web": {"url": "http://a", "reason": "answers [red]500"}},
        "warnings": {
            "slash": {
                "event": "redirect_loop",
                "at": 1.0,
                "about": {"path": "/e", "kind": ""},
                "cure": "[[routes]]",
            }
        },
    }
    text = shown(figures(facts), "the admin listener does not answer")
    for word in (
        *(
            "draining",
            "2 workers",
            "does not answer",
            "reload was refused",
            "redirect loop",
            "[[routes]]",
            "path /e",
        ),
        *("100% on the fast path", "down answers [red]500", "open 1", "a.example 3 days", "spool 7 requests"),
    ):
        assert word in text
    assert "kind" not in text


def test_a_sparkline_ends_with_now_and_its_highest_is_whole() -> None:
    assert sparkline([]) == ""
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([0, 1, 2]) == "▁▅█" or sparkline([0, 1, 2]) == "▁▄█"
    assert sparkline([9] + [1] * 40) == "█" * 30


@pytest.mark.parametrize(("seconds", "text"), [(None, "-"), (0.0123, "12 ms"), (2.0, "2.0 s")])
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (90, "1 min"), (7200, "2 h"), (200_000, "2 d")])
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize("address", [UnixAddress("/proc/absent/admin.sock"), TcpAddress("127.0.0.1", 1)])
def test_nobody_there_is_said_with_the_address(address: UnixAddress | TcpAddress) -> None:
    with pytest.raises(AskError, match="does not answer") as caught:
        ask(address)
    assert str(address) in str(caught.value)
