"""As many requests as get through, for a while: by wrk, or by bulk.py where bodies are large."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.process import run

if TYPE_CHECKING:
    from benchmarks.loads import Load
    from benchmarks.process import Address

SCRIPT = Path(__file__).with_name("wrk.lua")

TROUBLES = ("not_200", "connect", "read", "write", "timeout")

PATIENCE = 30
"""Seconds after which wrk counts an answer as a time-out."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a generator saw. ``p50`` and ``p99`` are microseconds, ``troubles`` counts what must not
    happen."""

    requests: int
    seconds: float
    p50: float
    p99: float
    troubles: dict[str, int]


def command(load: Load, address: Address, requests: Path, *, seconds: int) -> list[str]:
    """The generator's command line."""
    host, port = address
    if load.bulk:
        module = ["-m", "benchmarks.loads.bulk"]
        return [sys.executable, *module, host, str(port), str(seconds), str(load.connections), str(requests)]
    argv = [
        "wrk",
        "-t1",
        f"-c{load.connections}",
        f"-d{seconds}s",
        f"--timeout={PATIENCE}s",
        "-s",
        str(SCRIPT),
    ]
    return [*argv, f"{load.scheme}://{host}:{port}", "--", str(requests)]


def saturate(load: Load, address: Address, requests: Path, *, seconds: int, core: int) -> Outcome:
    """Let the generator ask for ``seconds`` whole seconds. Raises ``StartError`` when it fails."""
    argv = command(load, address, requests, seconds=seconds)
    said = run(argv, core=core, timeout=seconds + 2 * PATIENCE)
    counts = json.loads(said.strip().rpartition("\n")[2])
    return Outcome(
        requests=counts["requests"],
        seconds=counts["microseconds"] / 1e6,
        p50=counts["p50"],
        p99=counts["p99"],
        troubles={name: counts[name] for name in TROUBLES if counts.get(name)},
    )
