"""Which limits and time-outs hold for a request, and the configuration key that sets each.

Which key it is follows from the routing table itself: the one whose change would change the route. So it
cannot differ from what routes are made of.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from proxy.config.notation import duration_text, size_text
from proxy.message import FramingKind, Route, SpoolMode
from proxy.rules.limits import limited_network
from proxy.rules.routing import RoutingTable
from proxy.serve.spooling import KEPT_METHODS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.config.schema import Config
    from proxy.message import ClientAddress, RequestHead
    from proxy.rules.decide import Tables


@dataclass(frozen=True, slots=True)
class Holds:
    """A limit or time-out that holds for the request, and the key that sets it."""

    what: str
    value: str
    key: str


_BODY = (("body_limit", "limits", "the body"), ("body_timeout", "timeouts", "the body arrives within"))
_ANSWER = (
    ("connect_timeout", "timeouts", "connecting to the upstream"),
    ("first_byte_timeout", "timeouts", "the answer begins within"),
    ("answer_stall_timeout", "timeouts", "the answer pauses for at most"),
)


_KEPT = {
    SpoolMode.FALLBACK: "if PostHog does not take it, it is kept in",
    SpoolMode.FIRST: "it is answered as soon as it is kept in",
}


def holding(
    head: RequestHead, client: ClientAddress | None, route: Route | None, config: Config, tables: Tables
) -> Iterator[Holds]:
    """Tell all that hold for a request on this route."""
    limits, timeouts = config.limits, config.timeouts
    yield Holds("the head", size_text(limits.head_bytes), "limits.head_bytes")
    yield Holds("the head arrives within", duration_text(timeouts.head), "timeouts.head")
    if limits.rate_per_client:
        network = None if client is None else limited_network(client, tables.trust)
        value = "not counted: a proxy" if network is None else f"{limits.rate_per_client:g}/s"
        yield Holds("requests of this client", value, "limits.rate_per_client")
    if route is None:
        return
    body = () if head.framing.kind is FramingKind.NONE else _BODY
    for word, section, what in (*body, *_ANSWER):
        value = getattr(route, word)
        shown = size_text(value) if section == "limits" else duration_text(value)
        yield Holds(what, shown, _key(config, head.target, word, section, value))
    if route.spool is not SpoolMode.OFF and head.method in KEPT_METHODS:
        yield Holds(_KEPT[route.spool], config.spool.directory, "spool.mode")


def _key(config: Config, target: bytes, word: str, section: str, value: float) -> str:
    for part in (section, "spool"):
        table = getattr(config, part)
        for each in fields(table):
            if getattr(table, each.name) == value:
                other = replace(config, **{part: replace(table, **{each.name: value + 1})})
                route = RoutingTable.of(other).route(target)
                if isinstance(route, Route) and getattr(route, word) != value:
                    return f"{part}.{each.name}"
    return f"routes[].{word}"
