"""What was kept since nothing waited, in memory: whoever delivers at the pace of what comes needs not read it
from the disk again.

For each upstream either all that waits is known here, in its order, or nothing. It begins when nothing waits;
it ends when there is more than fits, when the figures of the writer say that something waits which did not
come by here (files that were adopted, dead letters that a command revived), or when something came out of its
turn.

Memory: ``MOST_RECORDS`` records and ``MOST_BYTES`` of their heads and bodies.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from proxy.spool.record import Stored

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from proxy.spool.record import RecordId, SpoolRecord, UpstreamFigures

MOST_RECORDS = 512
MOST_BYTES = 1024 * 1024


class Recent:
    """See the module."""

    def __init__(self) -> None:
        self._known: dict[str, dict[RecordId, Stored]] = {}
        self._unknown: set[str] = set()
        """Upstreams for which something waits of which nothing is known."""
        self._records = 0
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<Recent {self._records} records, {self._bytes} bytes>"

    def kept(self, id_: RecordId, record: SpoolRecord, length: int, body: bytes | None) -> None:
        """A record is durable. ``body``: ``None`` where it went to the disk in pieces."""
        name = record.upstream
        if name in self._unknown:
            return
        known = self._known.setdefault(name, {})
        if known and next(reversed(known)) > id_:
            self._lose(name)
            return
        head, inline = record.head, b"" if length == 0 else body
        known[id_] = Stored(id_, record.arrived, name, record.route, record.client, head, length, 0, inline)
        self._records += 1
        self._bytes += _size(known[id_])
        if self._records > MOST_RECORDS or self._bytes > MOST_BYTES:
            self._lose(name)

    def gone(self, ids: Iterable[RecordId]) -> None:
        """Records wait no more."""
        for known in self._known.values():
            for id_ in ids:
                stored = known.pop(id_, None)
                if stored is not None:
                    self._records -= 1
                    self._bytes -= _size(stored)

    def postponed(self, id_: RecordId) -> None:
        """One more attempt to deliver it has failed."""
        for known in self._known.values():
            if id_ in known:
                known[id_] = replace(known[id_], attempts=known[id_].attempts + 1)

    def settle(self, upstreams: Mapping[str, UpstreamFigures]) -> None:
        """What waits according to the writer, after all the above was told."""
        for name, known in list(self._known.items()):
            if len(known) != _depth(upstreams, name):
                self._lose(name)
        self._unknown = {name for name in upstreams if _depth(upstreams, name) and name not in self._known}

    def oldest(self, upstream: str, count: int, after: RecordId | None = None) -> list[Stored] | None:
        """Return the first that wait behind ``after``; ``None``: that has to be read."""
        if upstream in self._unknown:
            return None
        waiting = self._known.get(upstream, {}).values()
        return list(islice((stored for stored in waiting if after is None or stored.id > after), count))

    def _lose(self, name: str) -> None:
        lost = self._known.pop(name)
        self._records -= len(lost)
        self._bytes -= sum(map(_size, lost.values()))
        self._unknown.add(name)


def _size(stored: Stored) -> int:
    return len(stored.head) + len(stored.inline or b"")


def _depth(upstreams: Mapping[str, UpstreamFigures], name: str) -> int:
    return upstreams[name].depth if name in upstreams else 0
