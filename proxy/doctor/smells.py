"""What can be seen without asking anybody: the configuration, and the limits of this machine."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.config.notation import size_text
from proxy.doctor.findings import Finding, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from proxy.config.schema import Config

MIB = 1024 * 1024

CAPS = (("body_ingest", 20 * MIB, "/batch"), ("body_replay", 25 * MIB, "/s"))
"""What PostHog itself takes at most (capture's limits); less here refuses what it would take."""

SOMAXCONN = Path("/proc/sys/net/core/somaxconn")

_DESCRIPTORS_EACH = 2
_DESCRIPTORS_KEPT = 256


def configuration(config: Config, warnings: Iterable[str]) -> Iterator[Finding]:
    """Judge a configuration that loads; ``warnings`` are the loader's own."""
    found = [*(_from_loader(text) for text in warnings), *_everybody(config), *_caps(config)]
    yield from found or [ok("config", "config", "it loads, and nothing in it looks unintended")]


def _from_loader(text: str) -> Finding:
    what, semicolon, cure = text.rpartition("; ")
    return warning("config", "config", what if semicolon else text, cure)


def _everybody(config: Config) -> Iterator[Finding]:
    for network in config.trust.proxies:
        if network.prefixlen == 0:
            yield warning(
                "trust",
                "config",
                f"trust.proxies has {network}: every client can say which address it has",
                "list only the proxies in front",
            )


def _caps(config: Config) -> Iterator[Finding]:
    for name, cap, path in CAPS:
        limit = getattr(config.limits, name)
        if limit < cap:
            yield warning(
                "limits",
                "config",
                f"limits.{name} = {size_text(limit)}, while PostHog takes {size_text(cap)} on {path}",
                f"raise limits.{name} to {size_text(cap)} or more: SDKs drop what is refused with 413",
            )


def machine(config: Config) -> Iterator[Finding]:
    """Judge the limits that this process would have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield descriptors(config, soft, hard)
    try:
        backlog = int(SOMAXCONN.read_text())
    except (OSError, ValueError):  # not Linux
        return
    yield queue(config, backlog)


def descriptors(config: Config, soft: int, hard: int) -> Finding:
    """Judge the limit on open files; a connection takes two, one on each side."""
    wanted = config.limits.connections * _DESCRIPTORS_EACH + _DESCRIPTORS_KEPT
    if resource.RLIM_INFINITY != soft < wanted:
        fits = max(1, (soft - _DESCRIPTORS_KEPT) // _DESCRIPTORS_EACH)
        return warning(
            "descriptors",
            "machine",
            f"{soft} open files are allowed here, enough for {fits} connections of the "
            f"{config.limits.connections} of limits.connections",
            f"LimitNOFILE={wanted} in the unit, or ulimit -n {wanted}"
            + (
                ""
                if hard == resource.RLIM_INFINITY or hard >= wanted
                else f" (root only: {hard} is the most)"
            ),
        )
    return ok("descriptors", "machine", f"{soft} open files are allowed")


def queue(config: Config, somaxconn: int) -> Finding:
    """Judge the longest queue of connections that wait to be accepted."""
    if somaxconn < config.limits.backlog:
        return warning(
            "somaxconn",
            "machine",
            f"net.core.somaxconn = {somaxconn} cuts limits.backlog = {config.limits.backlog}",
            f"sysctl -w net.core.somaxconn={config.limits.backlog}",
        )
    return ok("somaxconn", "machine", f"net.core.somaxconn = {somaxconn}")
