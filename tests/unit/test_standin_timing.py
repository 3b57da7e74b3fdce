"""The moment that PostHog gives an event."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.standin.timing import event_time, iso, parse_millis, parse_time

ARRIVED = 1_000_000.0


@pytest.mark.parametrize(
    ("timestamp", "sent_at", "offset", "moment"),
    [
        (None, None, None, ARRIVED),
        (None, 900.0, None, ARRIVED),
        (500.0, None, None, 500.0),
        (500.0, 530.0, None, ARRIVED - 30),
        (530.0, 500.0, None, ARRIVED + 30),
        (500.0, 530.0, 4000, ARRIVED - 4),
        (500.0, None, 2500.0, ARRIVED - 2.5),
        (500.0, 530.0, "4000", ARRIVED - 30),
        (500.0, 530.0, True, ARRIVED - 30),
    ],
)
def test_event_time(timestamp: float | None, sent_at: float | None, offset: Any, moment: float) -> None:
    assert event_time(ARRIVED, timestamp, sent_at, offset) == moment


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1970-01-01T00:00:10Z", 10.0),
        ("1970-01-01T01:00:10.5+01:00", 10.5),
        ("1970-01-01T00:00:10", 10.0),
        ("yesterday", None),
        (10, None),
        (None, None),
    ],
)
def test_parse_time(text: Any, moment: float | None) -> None:
    assert parse_time(text) == moment


@pytest.mark.parametrize(
    ("text", "moment"), [("1500", 1.5), ("-1500", None), ("", None), ("²", None), (None, None)]
)
def test_parse_millis(text: str | None, moment: float | None) -> None:
    assert parse_millis(text) == moment


def test_iso_is_read_back() -> None:
    assert iso(10.25) == "1970-01-01T00:00:10.250Z"
    assert parse_time(iso(1_795_569_647.5)) == 1_795_569_647.5
