"""The moment that PostHog gives an event (PostHog fact: "Time, duplicates, late delivery").

``arrived - (sent_at - timestamp)`` where both are known, so that a client's wrong clock cancels out;
``offset`` (milliseconds before arrival) overrides; a ``timestamp`` alone stands; with nothing it is
the arrival. All results are seconds since the Unix epoch.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def parse_time(value: Any) -> float | None:
    """An ISO 8601 text, or ``None`` where it is not one. Text without a zone is UTC."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def parse_millis(value: str | None) -> float | None:
    """The query's ``sent_at`` or ``_``: an integer of milliseconds."""
    return int(value) / 1000 if value is not None and value.isascii() and value.isdigit() else None


def event_time(arrived: float, timestamp: float | None, sent_at: float | None, offset: Any = None) -> float:
    """When the event happened, by PostHog's rules. ``offset`` is the event's own, as it was parsed."""
    if isinstance(offset, int | float) and not isinstance(offset, bool):
        return arrived - offset / 1000
    if timestamp is None:
        return arrived
    return timestamp if sent_at is None else arrived - (sent_at - timestamp)


def iso(moment: float) -> str:
    """``2026-11-25T10:00:00.000Z``, as PostHog prints times."""
    text = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
