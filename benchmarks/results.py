"""What a run found, as plain values, and the numbers drawn from them. To JSON and back."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

FORMAT = 1
"""Of the JSON; another number is another meaning of some field."""

BASELINE = "nginx"


@dataclass(frozen=True, slots=True)
class Sample:
    """One proxy under one load for some seconds, as fast as it can.

    ``cpu``: its processor time per request in µs. ``rate``: requests a second. ``busy``: the share of its
    core that it used; ``foreign``: the share that anything else used meanwhile. ``p50``, ``p99``: µs, as wrk
    saw them. ``troubles``: what must not happen, such as answers other than 200; any of them spoils the
    sample.
    """

    load: str
    peer: str
    round: int
    requests: int
    seconds: float
    cpu: float
    rate: float
    busy: float
    foreign: float
    p50: float
    p99: float
    troubles: dict[str, int] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return not self.troubles


@dataclass(frozen=True, slots=True)
class Steady:
    """One proxy at a fixed rate. ``p50``, ``p99``: latency in µs; ``late``: 99 of 100 requests were sent no
    more µs than this after they were due; ``cpu``: µs per request."""

    load: str
    peer: str
    round: int
    rate: float
    requests: int
    p50: float
    p99: float
    late: float
    cpu: float
    troubles: dict[str, int] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return not self.troubles


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of a proxy in bytes: just started, with the load's idle connections open, after all rounds.

    ``log``: bytes of access log per request. ``idle``, ``left``: idle connections at first and at the end.
    """

    load: str
    peer: str
    started: int
    holding: int
    ended: int
    log: float
    idle: int = 0
    left: int = 0


@dataclass(slots=True)
class Results:
    """Everything of one run. ``ceilings``: requests a second of each load straight at its origin.
    ``configs``: by load and proxy. ``profiles``: text, by load and proxy."""

    began: str
    host: dict[str, str]
    versions: dict[str, str]
    settings: dict[str, Any]
    titles: dict[str, str] = field(default_factory=dict)
    ceilings: dict[str, float] = field(default_factory=dict)
    configs: dict[str, dict[str, str]] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    steady: list[Steady] = field(default_factory=list)
    footprints: list[Footprint] = field(default_factory=list)
    profiles: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def peers(self) -> list[str]:
        return list(dict.fromkeys(sample.peer for sample in self.samples))

    @property
    def loads(self) -> list[str]:
        return list(dict.fromkeys(sample.load for sample in self.samples))

    def samples_of(self, load: str, peer: str) -> list[Sample]:
        return [sample for sample in self.samples if (sample.load, sample.peer) == (load, peer)]

    def steady_of(self, load: str, peer: str) -> list[Steady]:
        return [sample for sample in self.steady if (sample.load, sample.peer) == (load, peer)]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps({"format": FORMAT} | asdict(self), indent=1) + "\n", "utf-8")


def load_results(path: Path) -> Results:
    """Read what ``Results.save`` wrote. Raises ``ValueError`` for another format."""
    data = json.loads(path.read_text("utf-8"))
    if data.pop("format", None) != FORMAT:
        raise ValueError(f"{path} is not of format {FORMAT}")
    data["samples"] = [Sample(**sample) for sample in data["samples"]]
    data["steady"] = [Steady(**sample) for sample in data["steady"]]
    data["footprints"] = [Footprint(**one) for one in data["footprints"]]
    return Results(**data)


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of ``count`` values, and where the middle 80 % of them lie."""

    median: float
    low: float
    high: float
    count: int


def spread(values: Iterable[float]) -> Spread | None:
    """Return the spread of ``values``, ``None`` of none."""
    ordered = sorted(values)
    if not ordered:
        return None
    if len(ordered) == 1:
        return Spread(ordered[0], ordered[0], ordered[0], 1)
    tenths = statistics.quantiles(ordered, n=10, method="inclusive")
    return Spread(statistics.median(ordered), tenths[0], tenths[-1], len(ordered))


def good(samples: Sequence[Sample | Steady], number: Callable[[Any], float]) -> Spread | None:
    """The spread of a number over the samples that nothing spoiled."""
    return spread(number(sample) for sample in samples if sample.good)


def ratios(
    samples: Sequence[Sample | Steady],
    baseline: Sequence[Sample | Steady],
    number: Callable[[Any], float],
) -> Spread | None:
    """The spread of the ratios to the baseline, each of two good samples of the same round."""
    below = {sample.round: number(sample) for sample in baseline if sample.good}
    return spread(
        number(sample) / below[sample.round] for sample in samples if sample.good and below.get(sample.round)
    )
