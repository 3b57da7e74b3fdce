"""`posthog-proxy routes`: where each path goes and what holds there, from the table that requests are
routed by.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.config.notation import duration_text, size_text
from proxy.config.presets import DEFAULT_ROUTE
from proxy.config.schema import Satisfy
from proxy.message import Access, Route

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.config.schema import Config
    from proxy.rules.decide import Tables
    from proxy.rules.routing import RoutingTable

EVERYTHING_ELSE = "(everything else)"

_TITLES = (
    *("PATH", "ROUTE", "CLASS", "ACCESS", "BODY CAP", "BODY", "CONNECT", "FIRST BYTE", "STALL"),
    *("UPSTREAM", "FAST"),
)
_WILDCARDS = re.compile(r"<[^/<>]*>|\*\Z")
_STRANGER = "~"
"""What stands for a wildcard when its route is looked up: no pattern is about this word."""


@dataclass(frozen=True, slots=True)
class Line:
    """A pattern, and the route that a path of its shape takes: another pattern's where that one is
    stronger."""

    path: str
    route: Route
    fast: bool


def table_lines(config: Config, table: RoutingTable) -> Iterator[Line]:
    """Return a line for every pattern, configured ones first, and the one for what matches none."""
    rest = f"/{_STRANGER}"
    samples = {pattern: _WILDCARDS.sub(_STRANGER, pattern) for pattern in table.patterns}
    for pattern, sample in [*samples.items(), (EVERYTHING_ELSE, rest)]:
        route = table.route(sample.encode())
        assert isinstance(route, Route)  # patterns are plain (RoutingTable.of)
        if pattern != EVERYTHING_ELSE or route.name == DEFAULT_ROUTE:
            yield Line(pattern, route, route.fast and config.fast_path)


def as_text(config: Config, tables: Tables) -> str:
    """Return the table in columns, and below it what protected paths demand."""
    rows = [_TITLES, *(_row(line) for line in table_lines(config, tables.routing))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_TITLES))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, "", f"{Access.PROTECTED.value}: {demanded(config, tables)}", ""])


def _row(line: Line) -> tuple[str, ...]:
    route = line.route
    return (
        line.path,
        route.name,
        route.cls.value,
        route.access.value,
        size_text(route.body_limit),
        duration_text(route.body_timeout),
        duration_text(route.connect_timeout),
        duration_text(route.first_byte_timeout),
        duration_text(route.answer_stall_timeout),
        route.upstream,
        "yes" if line.fast else "no",
    )


def demanded(config: Config, tables: Tables) -> str:
    """Return what protected paths demand, in a sentence."""
    demands = [f"access.{word}" for word in tables.access.demands]
    if not demands:
        return "everybody may ask, because nothing in [access] demands anything"
    joint = " or " if config.access.satisfy is Satisfy.ANY else " and "
    return f"demands {joint.join(demands)}"


def as_json(config: Config, tables: Tables) -> str:
    """Return the same as one JSON object; sizes in bytes, times in seconds."""
    routes = [
        {
            "path": line.path,
            "route": line.route.name,
            "class": line.route.cls.value,
            "access": line.route.access.value,
            "body_limit": line.route.body_limit,
            "body_timeout": line.route.body_timeout,
            "connect_timeout": line.route.connect_timeout,
            "first_byte_timeout": line.route.first_byte_timeout,
            "answer_stall_timeout": line.route.answer_stall_timeout,
            "upstream": line.route.upstream,
            "websocket": line.route.websocket,
            "fast": line.fast,
        }
        for line in table_lines(config, tables.routing)
    ]
    protected = {"demands": list(tables.access.demands), "satisfy": config.access.satisfy.value}
    return json.dumps({"protected": protected, "routes": routes}, indent=2) + "\n"
