"""Tables of what was measured, in Markdown that also reads well in a terminal: `python -m benchmarks.report
FILE.json`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.plot import draw
from benchmarks.process import ROOT
from benchmarks.results import BASELINE, Results, Spread, good, load_results, ratios

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from benchmarks.results import Footprint, Sample, Steady

DOCUMENT = ROOT / "docs" / "measured.md"
PICTURE = ROOT / "docs" / "measured.svg"

MIB = 1024 * 1024

NOISE = 0.1
"""A share of the proxies' core used by others above which a note says so."""

LATE = 1_000.0
"""Lateness of the generator in µs above which a note says so."""

NONE = "–"


# --- cells and tables ------------------------------------------------------------------------------


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with aligned columns: text left in the first, the others right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]

    def row(cells: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join([first, *rest])} |"

    rule = [f"{'-' * widths[0]}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    return "\n".join([row(lines[0]), f"| {' | '.join(rule)} |", *map(row, lines[1:])])


def cell(value: Spread | None, form: str, scale: float = 1.0) -> str:
    """The median and, of several values, where the middle 80 % lie."""
    if value is None:
        return NONE
    text = f"{value.median * scale:{form}}"
    return text if value.count == 1 else f"{text} ({value.low * scale:{form}}–{value.high * scale:{form}})"


def _median(value: Spread | None, form: str, scale: float = 1.0) -> str:
    return NONE if value is None else f"{value.median * scale:{form}}"


# --- the tables ------------------------------------------------------------------------------------


def processor_table(results: Results) -> str:
    """Processor time per request: of the baseline in µs, of the others as ratios to it."""
    return _processor(results, results.loads, results.samples_of)


def steady_processor_table(results: Results) -> str:
    """The same at the fixed rate."""
    return _processor(results, dict.fromkeys(one.load for one in results.steady), results.steady_of)


def _processor(
    results: Results, loads: Iterable[str], samples_of: Callable[[str, str], Sequence[Sample | Steady]]
) -> str:
    others = [peer for peer in results.peers if peer != BASELINE]
    with_baseline = BASELINE in results.peers

    def row(load: str) -> list[str]:
        base = samples_of(load, BASELINE)
        cells = [results.titles[load]]
        if with_baseline:
            cells.append(cell(good(base, _cpu), ".1f"))
        for peer in others:
            samples = samples_of(load, peer)
            if base:
                cells.append(cell(ratios(samples, base, _cpu), ".2f"))
            else:
                alone = cell(good(samples, _cpu), ".1f")
                cells.append(f"{alone} µs" if with_baseline and samples else alone)
        return cells

    unit = "× nginx" if with_baseline else "µs"
    header = ["load", *[f"{BASELINE}, µs"] * with_baseline, *(f"{peer}, {unit}" for peer in others)]
    return table(header, map(row, loads))


def _cpu(sample: Sample | Steady) -> float:
    return sample.cpu


def rate_table(results: Results) -> str:
    """Requests a second at saturation, and what the load's side can do by itself."""

    def row(load: str) -> list[str]:
        ceiling = results.ceilings.get(load)
        rates = [good(results.samples_of(load, peer), lambda sample: sample.rate) for peer in results.peers]
        busy = [good(results.samples_of(load, peer), lambda sample: sample.busy) for peer in results.peers]
        return [
            results.titles[load],
            *(
                NONE if rate is None else f"{rate.median:,.0f} ({_median(used, '.0%')})"
                for rate, used in zip(rates, busy, strict=True)
            ),
            NONE if ceiling is None else f"{ceiling:,.0f}",
        ]

    return table(["load", *results.peers, "without a proxy"], map(row, results.loads))


def latency_table(results: Results) -> str:
    """p50 and p99 at a fixed rate, and the ratio of p99 to the baseline's."""

    def latency(load: str, peer: str) -> str:
        samples = results.steady_of(load, peer)
        text = f"{_median(good(samples, _p50), '.2f', 1e-3)} / {_median(good(samples, _p99), '.2f', 1e-3)}"
        if peer == BASELINE:
            return text
        ratio = ratios(samples, results.steady_of(load, BASELINE), _p99)
        return text if ratio is None else f"{text}, ×{cell(ratio, '.2f')}"

    def row(load: str) -> list[str]:
        rate = next(sample.rate for sample in results.steady if sample.load == load)
        return [results.titles[load], f"{rate:,.0f}", *(latency(load, peer) for peer in results.peers)]

    loads = dict.fromkeys(sample.load for sample in results.steady)
    return table(["load", "requests/s", *results.peers], map(row, loads))


def _p50(sample: Steady) -> float:
    return sample.p50


def _p99(sample: Steady) -> float:
    return sample.p99


def memory_table(results: Results) -> str:
    """Resident memory: idle, and what idle connections add."""

    def mebibytes(peer: str, number: Callable[[Footprint], int], *, holding: bool) -> str:
        found = [one for one in results.footprints if one.peer == peer and bool(one.idle) == holding]
        return NONE if not found else f"{max(map(number, found)) / MIB:.1f}"

    held = max((one.idle for one in results.footprints), default=0)
    rows = [
        ["just started", *(mebibytes(peer, _started, holding=False) for peer in results.peers)],
        ["after all rounds, at most", *(mebibytes(peer, _ended, holding=False) for peer in results.peers)],
    ]
    if held:
        added = (mebibytes(peer, _added, holding=True) for peer in results.peers)
        rows.append([f"{held:,} idle connections add", *added])
    return table(["resident memory, MiB", *results.peers], rows)


def _started(one: Footprint) -> int:
    return one.started


def _ended(one: Footprint) -> int:
    return one.ended


def _added(one: Footprint) -> int:
    return one.holding - one.started


def log_table(results: Results) -> str:
    """Bytes of access log per request: the proof that everybody wrote one."""
    rows = [
        [results.titles[load], *(_log_cell(results, load, peer) for peer in results.peers)]
        for load in results.loads
    ]
    return table(["bytes of access log per request", *results.peers], rows)


def _log_cell(results: Results, load: str, peer: str) -> str:
    found = [one.log for one in results.footprints if (one.load, one.peer) == (load, peer)]
    return f"{found[0]:.0f}" if found else NONE


# --- notes -----------------------------------------------------------------------------------------


def notes(results: Results) -> list[str]:
    """What a reader has to know before believing the tables: spoiled rounds, noise, connections that were
    lost."""
    found = []
    measured: list[Sample | Steady] = [*results.samples, *results.steady]
    for sample in measured:
        if not sample.good:
            troubles = ", ".join(f"{name} {count}" for name, count in sample.troubles.items())
            found.append(
                f"spoiled, left out: {sample.load}, {sample.peer}, round {sample.round + 1}: {troubles}"
            )
    for load in results.loads:
        foreign = good(
            [sample for sample in results.samples if sample.load == load], lambda sample: sample.foreign
        )
        if foreign is not None and foreign.median > NOISE:
            found.append(f"{load}: others used {foreign.median:.0%} of the proxies' core")
        late = good([sample for sample in results.steady if sample.load == load], lambda sample: sample.late)
        if late is not None and late.median > LATE:
            found.append(f"{load}: the generator at the fixed rate was {late.median / 1e3:.1f} ms late (p99)")
    for one in results.footprints:
        if one.left < one.idle:
            found.append(
                f"{one.load}, {one.peer}: {one.idle - one.left} of {one.idle} idle connections were lost"
            )
        if not one.log:
            found.append(f"{one.load}, {one.peer}: nothing in the access log")
    return found


# --- the report ------------------------------------------------------------------------------------

SECTIONS: dict[str, tuple[Callable[[Results], str], str]] = {
    "Processor time per request": (
        processor_table,
        """\
Median over the rounds, in brackets where the middle 80 % lie. A ratio is that of two measurements of the same
round, right after each other.
""",
    ),
    "Requests a second": (
        rate_table,
        """\
As many as get through one core; in brackets the share of that core that the proxy used. Where it is well
below 100 %, the load's side (last column: the same load straight at the origin) or the upstream's delay was
what everyone waited for.
""",
    ),
    "Latency": (
        latency_table,
        """\
p50 / p99 in ms at a fixed rate (half of our own saturation, unless told), the same for all; × is the ratio of
p99 to nginx's.
""",
    ),
    "Processor time per request at that rate": (
        steady_processor_table,
        """More than at saturation, for everybody: there is less that one waking can do.
""",
    ),
    "Memory": (memory_table, "Of the process and its children.\n"),
    "Access log": (log_table, "Everybody writes one to a file.\n"),
}


def tables(results: Results) -> str:
    """All tables with their headings, and the notes."""
    parts = [
        f"## {heading}\n\n{explanation}\n{make(results)}\n"
        for heading, (make, explanation) in SECTIONS.items()
        if results.steady or make not in (latency_table, steady_processor_table)
    ]
    if found := notes(results):
        parts.append("## Notes\n\n" + "\n".join(f"* {note}" for note in found) + "\n")
    return "\n".join(parts)


METHOD = """\
The load is made by wrk (by a generator of our own where bodies are large) over {connections} keep-alive
connections, unless a load says otherwise. All proxies take turns within each round, in changing order, for
{seconds} s each, in {rounds} rounds. The proxies run on one core, generator and origin on another one, over
loopback. Processor time is the kernel's own account of a process and its children
(`/proc/PID/task/*/schedstat`). Requests are thousands of different ones in turn, as browsers, SDKs and
balancers write them (`benchmarks/loads/`). Every proxy sets the same forwarding headers, keeps connections
to the upstream and writes its access log to a file. A measurement with an answer other than 200 or a socket
error does not count. Every proxy is configured for its best (`benchmarks/peers/`); ours is as shipped but
for longer keep-alive and more connections, which the others have too.

Latency is measured by a generator that sends at random times of a fixed mean rate, whatever the answers do
(`benchmarks/loads/steady.py` says why no other one would do).
"""


def document(results: Results, picture: str | None = None) -> str:
    """The page for docs/."""
    method = METHOD.format(
        connections=64, seconds=results.settings["seconds"], rounds=results.settings["rounds"]
    )
    facts = [f"* {name}: {value}" for name, value in (results.host | results.versions).items()]
    shown = f"\n![Processor time per request]({picture})\n" if picture else ""
    return (
        "# How fast it is\n\n"
        "<!-- Generated by `python -m benchmarks.run --write-docs`. -->\n\n"
        f"{method}{shown}\n{tables(results)}\n"
        f"## Where this was measured\n\n{results.began}\n\n" + "\n".join(facts) + "\n"
    )


def write_documents(results: Results) -> list[Path]:
    """Write docs/measured.md, and the picture if matplotlib is there; return what was written."""
    drawn = draw(results, PICTURE)
    DOCUMENT.write_text(document(results, PICTURE.name if drawn else None), "utf-8")
    return [DOCUMENT, *[PICTURE] * drawn]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("file", type=Path, help="what `benchmarks.run --json` wrote")
    parser.add_argument("--write-docs", action="store_true", help=f"write {DOCUMENT.relative_to(ROOT)} too")
    options = parser.parse_args()
    results = load_results(options.file)
    print(tables(results))
    if options.write_docs:
        print("written:", *write_documents(results))


if __name__ == "__main__":
    main()
