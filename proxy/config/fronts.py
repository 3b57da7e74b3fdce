"""What stands in front of this proxy: `[[fronts]]`, and the words that `behind` knows.

The words and their networks are data with a source and a date (data/fronts.toml), because the networks
of a CDN change. `trust.ranges_file` names a file of the same form whose entries replace those.
"""

# ruff: noqa: TC001 -- the annotations are evaluated: keys.py reads each key's type from them.
from __future__ import annotations

import datetime
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from proxy.config.declaration import key
from proxy.config.values import IPNetwork

if TYPE_CHECKING:
    from collections.abc import Mapping

STALE_AFTER = datetime.timedelta(days=365)
"""The age at which networks with a date are warned about."""

MAX_WORDS = 1000


@dataclass(frozen=True, slots=True)
class FrontConfig:
    """`[[fronts]]`: proxies in front of this one that do more than append to X-Forwarded-For. Their networks
    count as `trust.proxies`, but for those that speak the PROXY protocol. `behind` writes these entries."""

    networks: tuple[IPNetwork, ...] = key(minimum=1, doc="Where they connect from.")
    client_header: str = key(
        "",
        form="header",
        doc="The header in which they name the client; believed from these networks only.",
        why="Whoever else sends it may have made it up.",
    )
    own_address: bool = key(
        False,
        doc="The last element of their X-Forwarded-For is their own address: not looked at.",
        why="Google's load balancers append the client and then the address that it connected to.",
    )
    proxy_protocol: bool = key(
        False,
        doc="They begin each connection with a PROXY protocol header (`listeners.proxy_protocol`, on every "
        "listener that names no peers of its own). Nothing else of what they send is believed.",
        why="A TCP balancer passes header lines on as the client wrote them.",
    )


@dataclass(frozen=True, slots=True)
class Known:
    """One word of `behind`: ``entry`` is one of `[[fronts]]` as TOML has it, ``date`` is when its networks
    were compared with ``source`` (``None``: they do not age)."""

    entry: Mapping[str, Any]
    date: datetime.date | None
    source: str


def shipped() -> Mapping[str, Known]:
    """Return the words that this release knows."""
    data = resources.files("proxy.config").joinpath("data/fronts.toml").read_text("utf-8")
    return read_ranges(tomllib.loads(data))


def read_ranges(document: Mapping[str, Any]) -> Mapping[str, Known]:
    """Read the tables of a ranges file. Raises ``ValueError`` where one has not its form; what stands in
    their entries is checked by whoever makes ``FrontConfig`` of them."""
    if len(document) > MAX_WORDS:
        raise ValueError(f"has more than {MAX_WORDS} tables")
    return {word: _known(word, table) for word, table in document.items()}


def _known(word: str, table: object) -> Known:
    if not isinstance(table, dict):
        raise ValueError(f"must have tables: [{word}]")
    entry = dict(table)
    date, source = entry.pop("date", None), entry.pop("source", "")
    if date is not None and type(date) is not datetime.date:
        raise ValueError(f"must have a date such as 2026-09-29 as {word}.date")
    if not isinstance(source, str):
        raise ValueError(f"must have a text as {word}.source")
    return Known(entry, date, source)


def staleness(word: str, known: Known, today: datetime.date) -> str | None:
    """Return a warning where the networks behind ``word`` are older than a year."""
    if known.date is None or today - known.date <= STALE_AFTER:
        return None
    return (
        f'behind = "{word}": its networks are those of {known.date}; what was added since is not trusted. '
        f"Compare them with {known.source or 'their source'}, and name newer ones in trust.ranges_file"
    )
