"""The machine: cores, descriptors, what processes have used, and how to describe it all."""

from __future__ import annotations

import os
import platform
import resource
from dataclasses import dataclass
from pathlib import Path

DESCRIPTORS = 65_536
"""Wanted for each process. Ours takes half as many clients, so that each can have an upstream connection."""

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

Task = tuple[int, int]
"""A thread: its process and its own number."""


@dataclass(frozen=True, slots=True)
class Cores:
    """``peer`` runs the proxies, one at a time; ``load`` runs the generator and the origin."""

    peer: int
    load: int


class CoresError(ValueError):
    """There are not two cores to be had."""


def choose_cores(wanted: str | None = None) -> Cores:
    """Return the cores named as `PEER,LOAD`, or the last one and the first one that this process may use.

    Raises ``CoresError`` for anything else than two different cores that may be used.
    """
    usable = sorted(os.sched_getaffinity(0))
    if wanted is None:
        if len(usable) < 2:
            raise CoresError("two cores are needed: one for the proxies, one for load and origin")
        return Cores(peer=usable[-1], load=usable[0])
    peer, _, load = wanted.partition(",")
    if not (peer.isdigit() and load.isdigit()) or peer == load or not {int(peer), int(load)} <= set(usable):
        raise CoresError(f"--cores {wanted}: PEER,LOAD must be two different ones of {usable}")
    return Cores(int(peer), int(load))


def raise_descriptor_limit(wanted: int = DESCRIPTORS) -> int:
    """Raise this process's limit (children inherit it) as far as allowed and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return soft
    try:  # only root may raise the hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    except (ValueError, OSError):
        wanted = hard
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


# --- what processes have used ----------------------------------------------------------------------


def family(pid: int) -> list[int]:
    """Return the process and everything that descends from it."""
    found = [pid]
    for process in found:
        for task in Path(f"/proc/{process}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def processor_time(pid: int) -> dict[Task, int]:
    """Return the nanoseconds that each thread of the process and of its descendants has run.

    The kernel's own account (first field of schedstat), exact to the nanosecond; it includes the time that
    the kernel works on their behalf.
    """
    used: dict[Task, int] = {}
    for process in family(pid):
        for task in Path(f"/proc/{process}/task").iterdir():
            used[process, int(task.name)] = int((task / "schedstat").read_text().split()[0])
    return used


def spent(before: dict[Task, int], after: dict[Task, int]) -> int:
    """Nanoseconds between two accounts. Raises ``LookupError`` when a thread ended: its time is lost."""
    if ended := before.keys() - after.keys():
        raise LookupError(f"threads ended meanwhile: {sorted(ended)}")
    return sum(after.values()) - sum(before.values())


def resident(pid: int) -> int:
    """Bytes of memory of the process and its descendants (shared pages count for each)."""
    return sum(_status(process, "VmRSS") for process in family(pid)) * 1024


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise LookupError(f"no {name} in /proc/{pid}/status")


def busy_time(core: int) -> float:
    """Seconds since boot that the core was not idle, counted in ticks (10 ms): user, nice, system,
    interrupts, and what the hypervisor took."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, ticks[:8])
            return (user + nice + system + irq + softirq + steal) / CLOCK_TICKS
    raise LookupError(f"no cpu{core} in /proc/stat")


# --- description -----------------------------------------------------------------------------------


def describe() -> dict[str, str]:
    """What a reader must know to compare: kernel, processor, number of cores, memory, distribution."""
    return {
        "kernel": f"{platform.system()} {platform.release()}",
        "processor": _first("/proc/cpuinfo", "model name"),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": _first("/proc/meminfo", "MemTotal"),
        "distribution": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
        "virtual": "yes" if " hypervisor " in Path("/proc/cpuinfo").read_text() else "no",
    }


def _first(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"
