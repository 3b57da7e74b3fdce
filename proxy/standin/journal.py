"""The last events and requests that reached the stand-in, bounded in number and in bytes."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from proxy.standin.timing import iso

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

MAX_KEPT = 1_000
"""Events, and as many requests, that are kept."""

MAX_KEYS = 100_000
"""Events that are remembered, to tell which come twice."""

MAX_BYTES = 16 * 1024 * 1024
"""Bytes of all kept events together, and of all kept requests."""

MAX_PROPERTIES = 64 * 1024
"""Bytes of JSON of one event's properties; larger ones (replay snapshots) are only measured."""

T = TypeVar("T")


@dataclass(slots=True)
class Request:
    """One request as it arrived. ``status`` is ``None`` while it is being answered and 0 if the
    client left or the connection was dropped; ``fields`` are the header lines in order, as received;
    ``body_bytes`` counts what was read of the body, ``ip`` is the client by each PostHog service."""

    number: int
    arrived: float
    method: str
    target: str
    version: str
    peer: str
    fields: tuple[tuple[str, str], ...]
    ip: Mapping[str, str]
    status: int | None = None
    body_bytes: int = 0

    def header(self, name: str) -> str | None:
        """The first line called ``name`` (given in lower case)."""
        return next((value for key, value in self.fields if key.lower() == name), None)

    def as_dict(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "arrived": iso(self.arrived),
            "method": self.method,
            "target": self.target,
            "version": self.version,
            "peer": self.peer,
            "status": self.status,
            "body_bytes": self.body_bytes,
            "ip": dict(self.ip),
            "fields": [list(line) for line in self.fields],
        }


@dataclass(frozen=True, slots=True)
class Event:
    """One event as PostHog would store it. ``time`` is when it happened by PostHog's rules, ``ip`` the
    address that it is filed under: ``$ip`` of its properties before what capture saw."""

    number: int
    token: str
    name: str
    distinct_id: str
    uuid: str
    time: float
    properties: Mapping[str, Any]
    ip: str
    request: Request = field(repr=False)

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """What ClickHouse de-duplicates on: (token, day, event, distinct_id, uuid)."""
        return (self.token, iso(self.time)[:10], self.name, self.distinct_id, self.uuid)

    def as_dict(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "token": self.token,
            "event": self.name,
            "distinct_id": self.distinct_id,
            "uuid": self.uuid,
            "time": iso(self.time),
            "ip": self.ip,
            "properties": dict(self.properties),
            "request": self.request.as_dict(),
        }


def bounded_properties(properties: Mapping[str, Any]) -> tuple[Mapping[str, Any], int]:
    """The properties with their size in bytes of JSON, or a note of it where they are too large."""
    size = len(json.dumps(properties))
    if size <= MAX_PROPERTIES:
        return properties, size
    note = {"$left_out": f"{size} bytes of properties"}
    return note, len(json.dumps(note))


class Kept(Generic[T]):
    """The newest items: at most ``MAX_KEPT``, and at most ``MAX_BYTES`` by the sizes given."""

    def __init__(self) -> None:
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: T, size: int) -> None:
        self._items.append((item, size))
        self._bytes += size
        while len(self._items) > MAX_KEPT or (self._bytes > MAX_BYTES and len(self._items) > 1):
            self._bytes -= self._items.popleft()[1]

    def list(self) -> list[T]:
        """Oldest first."""
        return [item for item, _ in self._items]

    def clear(self) -> None:
        self._items.clear()
        self._bytes = 0


class Journal:
    """What arrived. ``event_count`` and ``request_count`` go on counting beyond what is kept; ``duplicates``
    are the events that had come before, by what PostHog tells them apart by (``Event.key``).

    :param file: gets a line of JSON for each event before its sender is answered, and so outlives this
        process, however it ends.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = None if file is None else file.open("ab", buffering=0)
        self._keys: OrderedDict[tuple[str, ...], None] = OrderedDict()
        self.duplicates = 0
        self._events: Kept[Event] = Kept()
        self._requests: Kept[Request] = Kept()
        self._changed = asyncio.Event()
        self._listeners: set[Callable[[Event], None]] = set()
        self.event_count = 0
        self.request_count = 0

    @property
    def events(self) -> Sequence[Event]:
        return self._events.list()

    @property
    def requests(self) -> Sequence[Request]:
        return self._requests.list()

    def add_request(self, request: Request) -> None:
        self.request_count += 1
        size = len(request.target) + sum(len(name) + len(value) for name, value in request.fields)
        self._requests.add(request, size)
        self._changed.set()

    def add_event(self, event: Event, size: int) -> None:
        """``size`` is what its properties take as JSON, in bytes."""
        self.event_count += 1
        self.duplicates += event.key in self._keys
        self._keys[event.key] = None
        self._keys.move_to_end(event.key)
        if len(self._keys) > MAX_KEYS:
            self._keys.popitem(last=False)
        if self._file is not None:
            self._file.write(json.dumps([*event.key, event.time, event.ip]).encode() + b"\n")
        self._events.add(event, size)
        self._changed.set()
        for listener in tuple(self._listeners):
            listener(event)

    def answered(self, request: Request, status: int) -> None:
        request.status = status
        self._changed.set()

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call ``listener`` with every further event, until the returned function is called."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    async def wait(self, met: Callable[[], bool], timeout: float) -> None:
        """Return as soon as ``met()`` holds; asked again whenever something arrives or is answered.
        Raises ``TimeoutError`` after ``timeout`` seconds."""
        async with asyncio.timeout(timeout):
            while not met():
                self._changed.clear()
                await self._changed.wait()

    def clear(self) -> None:
        self._events.clear()
        self._requests.clear()
        self._keys.clear()
        self.duplicates = 0

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file is not None:
            self._file.close()
