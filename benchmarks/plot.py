"""The picture of the main table: for each load a bar per proxy, nginx being 1. Needs matplotlib, which is
optional."""

from __future__ import annotations

import importlib
import importlib.util
from itertools import cycle
from typing import TYPE_CHECKING, Any

from benchmarks.results import BASELINE, ratios

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.results import Results, Spread

GREYS = {"haproxy": "#8c8c8c", "caddy": "#c4c4c4"}
COLOURS = ("#1d4aff", "#f54e00", "#f9bd2b", "#36a3a0")
"""Of our builds, in turn."""

INCHES_PER_LOAD = 0.55


def available() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def draw(results: Results, path: Path) -> bool:
    """Write the picture; false when matplotlib is missing or there is nothing to compare with."""
    others = [peer for peer in results.peers if peer != BASELINE]
    if BASELINE not in results.peers or not others or not available():
        return False
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "measured"  # the same picture gives the same file
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(figsize=(8, 1.5 + INCHES_PER_LOAD * len(results.loads)))
    height = 0.8 / len(others)
    colours = dict(zip((peer for peer in others if peer not in GREYS), cycle(COLOURS))) | GREYS
    for index, peer in enumerate(others):
        found = {at: value for at, load in enumerate(results.loads) if (value := _ratio(results, load, peer))}
        axes.barh(
            [at + index * height for at in found],
            [value.median for value in found.values()],
            height * 0.9,
            xerr=[
                [value.median - value.low for value in found.values()],
                [value.high - value.median for value in found.values()],
            ],
            error_kw={"elinewidth": 0.8},
            label=peer,
            color=colours[peer],
        )
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(
        [at + 0.4 - height / 2 for at in range(len(results.loads))],
        [results.titles[load] for load in results.loads],
    )
    axes.invert_yaxis()
    axes.set_xlabel("processor time per request, nginx = 1 (less is better)")
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return True


def _ratio(results: Results, load: str, peer: str) -> Spread | None:
    return ratios(
        results.samples_of(load, peer), results.samples_of(load, BASELINE), lambda sample: sample.cpu
    )
