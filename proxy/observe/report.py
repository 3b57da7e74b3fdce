"""What the status page tells in words: why an upstream is down, what the detectors found and what cures it.

Plain JSON values, as they go from worker to parent. Bounded by the number of upstreams and of symptoms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Iterable


class UpstreamWords(TypedDict):
    """``reason``: why it is down, or what the last bad probe met; empty: nothing is wrong."""

    url: str
    reason: str


class Warned(TypedDict):
    """A symptom that was seen, with the moment (wall clock, seconds) of the last time."""

    event: str
    at: float
    about: dict[str, str]
    cure: str


class Report(TypedDict):
    """What one process has to say; ``warnings`` by symptom."""

    upstreams: dict[str, UpstreamWords]
    warnings: dict[str, Warned]


def merged(reports: Iterable[Report]) -> Report:
    """Return what several processes say as one: of the same warning the latest."""
    total: Report = {"upstreams": {}, "warnings": {}}
    for report in reports:
        for name, words in report["upstreams"].items():
            if name not in total["upstreams"] or words["reason"]:
                total["upstreams"][name] = words
        for symptom, warned in report["warnings"].items():
            known = total["warnings"].get(symptom)
            if known is None or known["at"] < warned["at"]:
                total["warnings"][symptom] = warned
    return total
