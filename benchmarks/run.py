"""The command: `python -m benchmarks.run` measures every load with every proxy and prints the tables.

It installs nothing. What is missing is named with the command that brings it, and the exit status is 2.
SIGINT and SIGTERM end it and everything it started; what was measured until then is in the file of `--json`.
"""

from __future__ import annotations

import argparse
import signal
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from benchmarks.loads import BY_NAME
from benchmarks.machine import CoresError, choose_cores, describe, raise_descriptor_limit
from benchmarks.needs import ALWAYS, HOW, advice, extend_path, missing
from benchmarks.peers import Ours, choose, parse_ours
from benchmarks.plot import available
from benchmarks.process import StartError, run
from benchmarks.profiling import profile
from benchmarks.report import tables, write_documents
from benchmarks.results import Results
from benchmarks.rounds import Plan, measure
from benchmarks.stage import WrongAnswerError, stage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from benchmarks.loads import Load
    from benchmarks.machine import Cores
    from benchmarks.peers import Peer

PEERS = "nginx,haproxy,caddy,ours"
ROUNDS = 9
SECONDS = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and return the exit status: 0, 1 where a proxy failed, 2 for a wrong command line or missing
    programs."""
    parser = _parser()
    options = parser.parse_args(arguments)
    extend_path()
    try:
        ours = [parse_ours(text) for text in options.ours] or [Ours("ours", Path(sys.executable))]
        peers = choose(options.peers.split(","), ours)
        loads = _loads(options.loads, options.distinct)
        cores = choose_cores(options.cores)
    except (ValueError, CoresError) as error:
        parser.error(str(error))
    lacking = missing([*ALWAYS, *(program for peer in peers for program in peer.programs)])
    if lacking:
        print(f"missing:\n{advice(lacking)}\n(--peers leaves proxies out)", file=sys.stderr)
        return 2
    if options.write_docs and not available():
        _say(f"no picture: matplotlib is missing ({HOW['matplotlib']})")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        results = _run(options, loads, peers, cores)
    except (StartError, WrongAnswerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    _show(results)
    if options.write_docs:
        _say("written: " + " ".join(map(str, write_documents(results))))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description="Measure the proxy beside nginx, HAProxy and Caddy.",
        epilog="loads: " + ", ".join(f"{load.name} ({load.title})" for load in BY_NAME.values()),
    )
    add = parser.add_argument
    add("--loads", default=",".join(BY_NAME), metavar="LIST", help="with commas; default: all")
    add("--peers", default=PEERS, metavar="LIST", help=f"with commas; default: {PEERS}")
    add(
        "--ours",
        action="append",
        default=[],
        metavar="NAME=[VAR=VALUE ...] PYTHON [ARGUMENT ...]",
        help="a build of ours: its name, variables, the Python that has it, further arguments of "
        "`posthog-proxy run`; may be repeated; default: this Python as `ours`",
    )
    add("--rounds", type=_positive, default=ROUNDS, metavar="N", help=f"default: {ROUNDS}")
    add(
        "--seconds", type=_positive, default=SECONDS, metavar="S", help=f"per measurement; default: {SECONDS}"
    )
    add("--warm-up", type=int, default=1, metavar="S", help="before the rounds, discarded; default: 1")
    add(
        "--distinct",
        type=_positive,
        metavar="N",
        help="different requests of a load, at most; default: thousands, more than a cache holds",
    )
    add("--no-steady", action="store_true", help="leave out latency at a fixed rate")
    add(
        "--rate",
        type=_positive,
        metavar="N",
        help="requests a second for latency; default: half of what ours gets through",
    )
    add("--cores", metavar="PEER,LOAD", help="default: the last and the first one")
    add("--json", type=Path, metavar="FILE", help="write everything that was measured")
    add("--profile", action="store_true", help="at the end of each load show where the time of ours goes")
    add("--write-docs", action="store_true", help="write docs/measured.md, and the picture with matplotlib")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _loads(text: str, distinct: int | None) -> list[Load]:
    names = text.split(",")
    if unknown := [name for name in names if name not in BY_NAME]:
        raise ValueError(f"no such load: {', '.join(unknown)} (there are {', '.join(BY_NAME)})")
    loads = [BY_NAME[name] for name in names]
    return [replace(load, distinct=min(load.distinct, distinct or load.distinct)) for load in loads]


def _run(options: argparse.Namespace, loads: list[Load], peers: list[Peer], cores: Cores) -> Results:
    descriptors = raise_descriptor_limit()
    steady, rate = not options.no_steady, options.rate
    plan = Plan(options.rounds, options.seconds, options.warm_up, steady=steady, rate=rate)
    results = Results(
        began=datetime.now(UTC).isoformat(timespec="seconds"),
        host=describe(),
        versions={peer.name: _version(peer, cores.load) for peer in peers},
        settings={
            "rounds": plan.rounds,
            "seconds": plan.seconds,
            "warm_up": plan.warm_up,
            "distinct": {load.name: load.distinct for load in loads},
            "descriptors": descriptors,
            "cores": {"peer": cores.peer, "load": cores.load},
            "command": sys.argv,
        },
    )
    for load in loads:
        with stage(load, peers, cores, descriptors) as made:
            measure(made, plan, results, _say)
            if options.profile:
                results.profiles[load.name] = {
                    running.name: profile(made, running, plan.seconds)
                    for running in made.peers
                    if running.ours
                }
        if options.json is not None:
            results.save(options.json)
    return results


def _version(peer: Peer, core: int) -> str:
    said = run(["sh", "-c", 'exec "$@" 2>&1', "sh", *peer.version()], core=core, timeout=20)
    return said.strip().partition("\n")[0]


def _show(results: Results) -> None:
    print(tables(results))
    for by_peer in results.profiles.values():
        print("\n".join(by_peer.values()))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Leave every context on the way out, so that nothing stays behind."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
