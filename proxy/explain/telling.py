"""An explanation as text for a person, and as JSON for a program."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from proxy.explain.trail import Explanation

_SIGNS = {"kept": " ", "rewritten": "~", "removed": "-", "added": "+"}

_OUTCOMES = {
    "forward": "is sent upstream",
    "refuse": "is refused",
    "reject": "is no request that is read at all",
    "pass": "is passed on unread",
}


def as_text(told: Explanation, left_out: str = "") -> str:
    """Return the trail in sections; ``left_out``: what the source of the request did not hold."""
    return "\n".join([*_sections(told, left_out), ""])


def _sections(told: Explanation, left_out: str) -> Iterator[str]:
    status = f" with {told.status} {told.reason}" if told.status else ""
    yield f"{told.request}"
    yield f"{_OUTCOMES[told.outcome]}{status}"
    if left_out:
        yield f"(note: {left_out})"
    yield from _section("came in", [f"at {told.listener}, from {told.peer}"])
    if told.client is not None:
        yield from _section("the client", _client(told))
    yield from _section("why", _rest_of_trail(told))
    if told.route is not None:
        yield from _section("the route", _route(told))
    if told.checks:
        yield from _section("asked before it goes on", told.checks)
    if told.lines:
        yield from _section("header lines (- removed, + added, ~ rewritten)", _lines(told))
    if told.upstream_head:
        yield from _section(f"sent to upstream {told.upstream}", _bytes(told.upstream_head))
    if told.answer:
        yield from _section("the client is answered", _bytes(told.answer))
    if told.path_why:
        path = "fast path" if told.fast else "general path"
        yield from _section(
            "how", [f"{path}: {told.path_why}", *([f"the asset cache {told.cache}"] * bool(told.cache))]
        )
    if told.holds:
        yield from _section("what holds", [f"{one.what}: {one.value}  ({one.key})" for one in told.holds])


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    yield ""
    yield f"{title}:"
    yield from (f"  {line}" for line in lines)


def _client(told: Explanation) -> Iterator[str]:
    client = told.client
    assert client is not None
    yield f"{'unnamed' if client.ip is None else client.ip}, from {client.source.value}"
    yield f"the peer is {'trusted' if client.peer_trusted else 'not trusted'}"
    yield from (f"hop {number}: {hop.text}: {hop.verdict}" for number, hop in enumerate(client.trail, 1))


def _rest_of_trail(told: Explanation) -> tuple[str, ...]:
    """The steps behind those that led to the client."""
    return told.because if told.client is None else told.because[len(told.client.trail) + 1 :]


def _route(told: Explanation) -> Iterator[str]:
    route = told.route
    assert route is not None
    yield f"{route.name}, class {route.cls.value}"
    yield f"access {route.access.value}: {told.access}"


def _lines(told: Explanation) -> Iterator[str]:
    for line in told.lines:
        yield f"{_SIGNS[line.verdict]} {line.name}: {line.value}" + (f"   [{line.why}]" if line.why else "")


def _bytes(data: bytes) -> list[str]:
    return data.decode("ascii", "backslashreplace").replace("\r\n", "\n").rstrip("\n").split("\n")


def as_json(told: Explanation, left_out: str = "") -> str:
    """Return the same as one JSON object; bytes as text, with escapes for what is not ASCII."""
    client, route = told.client, told.route
    said: dict[str, Any] = {
        "request": told.request,
        "outcome": told.outcome,
        "status": told.status or None,
        "reason": told.reason,
        "detail": told.detail,
        "left_out": left_out,
        "listener": told.listener,
        "peer": told.peer,
        "client": None
        if client is None
        else {
            "ip": None if client.ip is None else str(client.ip),
            "source": client.source.value,
            "peer_trusted": client.peer_trusted,
            "hops": [{"text": hop.text, "verdict": hop.verdict} for hop in client.trail],
        },
        "because": list(told.because),
        "route": None
        if route is None
        else {
            "name": route.name,
            "class": route.cls.value,
            "access": route.access.value,
            "access_why": told.access,
        },
        "checks": list(told.checks),
        "lines": [
            {"verdict": line.verdict, "name": line.name, "value": line.value, "why": line.why}
            for line in told.lines
        ],
        "upstream": told.upstream,
        "upstream_head": told.upstream_head.decode("ascii", "backslashreplace"),
        "answer": told.answer.decode("ascii", "backslashreplace"),
        "path": {"fast": told.fast, "why": told.path_why, "cache": told.cache},
        "holds": [{"what": one.what, "value": one.value, "key": one.key} for one in told.holds],
    }
    return json.dumps(said, indent=2) + "\n"
