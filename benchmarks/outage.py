"""An outage of PostHog, in real time, under live requests: `python -m benchmarks.outage` (`make outage`).

nginx stands in for PostHog and is stopped for `--seconds` while requests come at `--rate`; then it is back,
and what was kept is delivered while they go on coming. Reported are the live latency before, during and
after, how quickly the spool was emptied, and whether every request that was answered with 200 has arrived.
Exit status: 1 where one has not, or where one was answered with anything else.

The proxy is one process on a core of its own, as shipped but for `pool.*` and keep-alive (benchmarks/peers).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from array import array
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.loads import requests
from benchmarks.loads.lasting import PLACE
from benchmarks.loads.steady import quantile
from benchmarks.machine import choose_cores, raise_descriptor_limit, resident
from benchmarks.needs import advice, extend_path, missing
from benchmarks.peers import Ours, Setting
from benchmarks.process import LOOPBACK, ROOT, Child, StartError, on_free_port
from benchmarks.templates import render
from proxy.spool.inventory import Inventory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.machine import Cores
    from benchmarks.peers import Running

NEEDED = ("nginx", "taskset", "setpriv")
CONNECTIONS = 64
DISTINCT = 2_000
LOOK_INTERVAL = 0.25
DRAINED_WITHIN = 600.0


@dataclass
class Course:
    """When what happened: moments in seconds of the epoch."""

    moments: dict[str, float] = field(default_factory=dict)
    kept: int = 0
    """What waited when PostHog came back."""
    most: int = 0
    """The most that ever waited."""
    dead: list[str] = field(default_factory=list)
    memory: int = 0
    """The proxy's greatest resident memory that was seen, in bytes."""

    def note(self, name: str) -> None:
        self.moments[name] = time.time()


class Posthog:
    """nginx, at an address that it has again."""

    def __init__(self, folder: Path, core: int) -> None:
        self._folder, self._core = folder, core
        self.log = folder / "arrived.log"
        self._child, self.port = on_free_port(self._start)

    def _start(self, port: int) -> Child:
        config = self._folder / "posthog.conf"
        template = Path(__file__).parent / "origins" / "outage.conf"
        config.write_text(render(template, port=port, log=self.log))
        argv = ["nginx", "-p", str(self._folder), "-c", str(config)]
        return Child(argv, name="posthog", core=self._core, folder=self._folder)

    def stop(self) -> None:
        self._child.stop()

    def start(self) -> None:
        self._child = self._start(self.port)

    def arrived(self) -> list[int]:
        """The numbers of all requests, in order."""
        return [int(line) for line in self.log.read_text().split() if line.isdigit()]


def dead_letters(running: Running) -> list[str]:
    """Why each of them is one."""
    assert running.spool is not None
    return [f"{held.status} {held.reason}" for held in Inventory(running.spool).records(dead=True)]


def watch(course: Course, running: Running, seconds: float) -> None:
    """Let time pass."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        course.memory = max(course.memory, resident(running.pid))
        time.sleep(min(LOOK_INTERVAL, max(0.0, until - time.monotonic())))


def drain(course: Course, running: Running) -> None:
    """Wait until nothing is kept any more. Raises ``StartError`` where that takes too long."""
    until = time.monotonic() + DRAINED_WITHIN
    while left := running.waiting:
        if left < course.most and "noticed" not in course.moments:
            course.note("noticed")
        course.most = max(course.most, left)
        if time.monotonic() > until:
            raise StartError(f"{left} records still wait")
        course.memory = max(course.memory, resident(running.pid))
        time.sleep(LOOK_INTERVAL)


def run_course(
    options: argparse.Namespace, folder: Path, cores: Cores
) -> tuple[Course, array[float], Posthog]:
    course = Course()
    file, output = folder / "requests.bin", folder / "answers.bin"
    sent = requests.distinct(requests.ingest, DISTINCT)
    number = b"\r\nX-Number: " + PLACE + b"\r\n"
    requests.write([request.replace(b"\r\n", number, 1) for request in sent], file)
    with ExitStack() as stack:
        posthog = Posthog(folder, cores.load)
        stack.callback(posthog.stop)
        descriptors = raise_descriptor_limit()
        setting = Setting(posthog.port, False, 4 * CONNECTIONS, descriptors, folder, cores.peer)
        running = Ours("ours", Path(sys.executable), spool=options.mode).start(setting)
        stack.enter_context(running.child)
        argv = [sys.executable, "-m", "benchmarks.loads.lasting", LOOPBACK, str(running.address[1])]
        argv += [str(options.rate), str(CONNECTIONS), str(file), str(output)]
        environment = {"PYTHONPATH": str(ROOT)}
        load = Child(argv, name="load", core=cores.load, folder=folder, env=environment)
        stack.enter_context(load)
        watch(course, running, options.before / 4)  # connections are made, code gets warm
        course.note("before")
        watch(course, running, options.before)
        course.note("outage")
        posthog.stop()
        watch(course, running, options.seconds)
        course.kept = running.waiting
        posthog.start()
        course.note("back")
        drain(course, running)
        course.note("drained")
        course.moments.setdefault("noticed", course.moments["drained"])
        watch(course, running, options.before)
        course.note("end")
        load.stop(DRAINED_WITHIN)
        drain(course, running)
        course.dead = dead_letters(running)
    answers: array[float] = array("d")
    answers.frombytes(output.read_bytes())
    return course, answers, posthog


def report(course: Course, answers: Sequence[float], arrived: Sequence[int], rate: float) -> int:
    """Print what was found; return the exit status."""
    moments = course.moments
    phases = (
        ("before", "before", "outage"),
        ("outage", "outage", "back"),
        ("until it is noticed", "back", "noticed"),
        ("while it is delivered", "noticed", "drained"),
        ("afterwards", "drained", "end"),
    )
    usual = 0.0
    for name, begin, end in phases:
        moments_and_times = zip(answers[::3], answers[1::3], strict=True)
        took = [time_ for moment, time_ in moments_and_times if moments[begin] <= moment < moments[end]]
        p50, p99 = (quantile(took, share) * 1e3 for share in (0.5, 0.99))
        usual = usual or p99
        times = f"p50 {p50:6.2f} ms  p99 {p99:6.2f} ms ({p99 / usual:.2f} x)"
        print(f"{name:<22} {len(took):>8,} answers  {times}")
    numbers = list(map(int, answers[2::3]))
    refused = numbers.count(-1)
    lost = len(set(numbers) - {-1} - set(arrived))
    emptying = moments["drained"] - moments["back"]
    noticing = moments["noticed"] - moments["back"]
    delivered = course.most / max(LOOK_INTERVAL, emptying - noticing)
    print(
        f"{course.kept:,} waited when it was back, {course.most:,} when delivery began {noticing:.1f} s later"
    )
    print(
        f"all were gone after {emptying - noticing:.1f} s more: {delivered:,.0f} a second"
        f" ({delivered / rate:.1f} x the rate at which they came) beside {rate:,.0f} live ones"
    )
    print(f"{len(numbers):,} answered, {refused} not with 200; {lost} of the others have not arrived")
    for why in sorted(set(course.dead)):
        print(f"dead letters: {course.dead.count(why)}: {why}")
    twice = len(arrived) - len(set(arrived))
    print(f"{twice} arrived twice; resident memory {course.memory / 2**20:.0f} MiB at most")
    return 1 if lost or refused else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outage", description=__doc__)
    add = parser.add_argument
    add("--rate", type=int, default=2000, help="live requests a second; default: 2000")
    add("--seconds", type=float, default=120.0, help="of the outage; default: 120")
    add("--before", type=float, default=20.0, help="seconds before it, and after all; default: 20")
    add("--mode", choices=("fallback", "first"), default="fallback", help="default: fallback")
    add("--directory", help="on the disk that is to hold the spool; default: the temporary directory")
    options = parser.parse_args(arguments)
    extend_path()
    if lacking := missing(NEEDED):
        print(f"missing:\n{advice(lacking)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="outage-") as folder:
        Path(folder).chmod(0o755)  # nginx's worker is another user where its master is root
        try:
            course, answers, posthog = run_course(options, Path(folder), choose_cores())
        except StartError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        return report(course, answers, posthog.arrived(), options.rate)


if __name__ == "__main__":
    sys.exit(main())
