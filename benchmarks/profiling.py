"""Where the processor time of a proxy goes: `perf` by binary and symbol, `py-spy` by Python function.

perf sees the kernel, the interpreter and compiled modules, but Python functions only as the interpreter's;
py-spy sees those. Each is used where it is installed; who lacks one is told how to get it.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.loads.saturation import command
from benchmarks.machine import family
from benchmarks.needs import HOW
from benchmarks.process import Child, StartError, run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.peers import Running
    from benchmarks.stage import Stage

FREQUENCY = 997
"""Samples a second: a prime, so that no timer beats with it."""

SYMBOLS = 25
"""Symbols and functions that are shown."""

BEGIN = 1
"""Seconds of load before sampling begins."""

GROUPS = (
    ("kernel", re.compile(r"^\[|\.ko\b")),
    ("uvloop", re.compile(r"uvloop|^loop\.cpython")),
    ("interpreter", re.compile(r"^libpython|^python")),
    ("libc", re.compile(r"^libc[.-]|^libpthread|^libm[.-]")),
    ("other compiled modules", re.compile(r"\.cpython-.*\.so|\.abi3\.so")),
)
"""Names of binaries (perf's `dso`): the first that fits holds."""


def grouped(shares: Iterable[tuple[float, str]]) -> dict[str, float]:
    """Sum shares by kind of binary, the largest first; what fits none is `other`."""
    sums: dict[str, float] = {}
    for share, binary in shares:
        group = next((name for name, fits in GROUPS if fits.search(binary)), "other")
        sums[group] = sums.get(group, 0.0) + share
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def parse_shares(report: str) -> list[tuple[float, str]]:
    """Read lines such as `  61.20%  [kernel.kallsyms]  [k] tcp_sendmsg  -  -` of `perf report --stdio`."""
    found = re.findall(r"^ +(\d+\.\d+)% +(\S.*?)(?: +-)* *$", report, re.MULTILINE)
    return [(float(share), " ".join(rest.split())) for share, rest in found]


def parse_stacks(collapsed: str) -> Counter[str]:
    """Count samples by innermost function, of collapsed stacks (`outer (file:1);inner (file:9) 17`) as in
    py-spy's raw format."""
    counts: Counter[str] = Counter()
    for line in collapsed.splitlines():
        stack, _, count = line.rpartition(" ")
        innermost = stack.rpartition(";")[2]
        if count.isdigit() and not innermost.startswith("process "):
            counts[innermost] += int(count)
    return counts


def by_file(functions: Counter[str]) -> Counter[str]:
    """Sum the samples of functions such as `inner (proxy/net/stream.py:9)` by file."""
    files: Counter[str] = Counter()
    for function, count in functions.items():
        files[function.rpartition("(")[2].partition(":")[0]] += count
    return files


def profile(stage: Stage, running: Running, seconds: int) -> str:
    """Profile a proxy under the stage's load, first with perf, then with py-spy, ``seconds`` each."""
    return "\n".join([_perf(stage, running, seconds), _py_spy(stage, running, seconds)])


def _perf(stage: Stage, running: Running, seconds: int) -> str:
    if shutil.which("perf") is None:
        return f"perf is missing: {HOW['perf']}"
    data = stage.folder / "perf.data"
    pids = ",".join(map(str, family(running.pid)))
    record = ["perf", "record", "-e", "cpu-clock", "-F", str(FREQUENCY), "-p", pids, "-o", str(data)]
    try:
        _under_load(stage, running, [*record, "--", "sleep", str(seconds)], seconds)
        by_binary = parse_shares(_report(stage, data, "dso"))
        by_symbol = parse_shares(_report(stage, data, "dso,symbol"))
    except StartError as error:
        return f"perf failed: {error}"
    lines = [f"{running.name} under {stage.load.name}, share of its processor time (perf):"]
    lines += [f"  {share:5.1f} %  {name}" for name, share in grouped(by_binary).items()]
    lines += ["by symbol:", *(f"  {share:5.1f} %  {symbol}" for share, symbol in by_symbol[:SYMBOLS])]
    return "\n".join(lines)


def _report(stage: Stage, data: Path, sort: str) -> str:
    argv = ["perf", "report", "--stdio", "--no-children", "--sort", sort, "-i", str(data)]
    return run(argv, core=stage.cores.load, timeout=60)


def _py_spy(stage: Stage, running: Running, seconds: int) -> str:
    beside = Path(sys.executable).with_name("py-spy")
    program = shutil.which("py-spy") or (str(beside) if beside.exists() else None)
    if program is None:
        return f"py-spy is missing: {HOW['py-spy']} (it shows the Python functions)"
    stacks = stage.folder / "stacks"
    argv = [program, "record", "--rate", str(FREQUENCY), "--duration", str(seconds), "--format", "raw"]
    argv += [
        "--function",
        "--nonblocking",
        "--subprocesses",
        "--pid",
        str(running.pid),
        "--output",
        str(stacks),
    ]
    try:
        _under_load(stage, running, argv, seconds)
    except StartError as error:
        return f"py-spy failed: {error}"
    functions = parse_stacks(stacks.read_text("utf-8"))
    lines = ["by Python file and function, what they call outside Python included (py-spy):"]
    for counts in (by_file(functions), functions):
        total = max(1, counts.total())
        lines += [f"  {100 * count / total:5.1f} %  {name}" for name, count in counts.most_common(SYMBOLS)]
        lines.append("")
    return "\n".join(lines)


def _under_load(stage: Stage, running: Running, argv: list[str], seconds: int) -> None:
    """Run ``argv`` while ``running`` is asked. Raises ``StartError`` when it fails."""
    load = command(stage.load, running.address, stage.requests, seconds=seconds + 2 * BEGIN + 2)
    with ExitStack() as stack:
        asking = stack.enter_context(Child(load, name="asking", core=stage.cores.load, folder=stage.folder))
        run(
            ["sh", "-c", f'sleep {BEGIN} && exec "$@"', "sh", *argv],
            core=stage.cores.load,
            timeout=seconds + 60,
        )
        if not asking.alive:
            raise StartError(f"the load ended before: {asking.report()}")
