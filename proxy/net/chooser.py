"""Which connection a request gets, decided without touching one (decide first, act after).

The chooser knows the connections of one upstream, how many are being dialled, and who waits in line. Every
method returns what is to be done: whom to give what, and what to close. So it is tested by calling it, and
a coroutine and a callback can use the same line. It keeps these promises after every call:

- connections plus dials never exceed ``connections``;
- nobody stands in line while a connection has room or a place for a dial is free;
- the line is first come, first served; each place in it is granted, or left, or expired, once.

A connection with room is taken last in, first out, so that those that a quiet hour does not need go idle
and close. HTTP/1.1 connections have room for one exchange (``capacity``); one with room for more stays
available while it carries some.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from proxy.clock import NEVER

if TYPE_CHECKING:
    from collections.abc import Sequence


class Carrier(Protocol):
    """What the chooser reads and writes of a connection."""

    @property
    def capacity(self) -> int:
        """Exchanges that it carries at a time."""
        ...

    in_flight: int
    idle_since: float
    retire_at: float


class Waiter(Protocol):
    """Somebody in line. ``fresh``: wants a new connection, not a reused one; ``due``: until when."""

    due: float
    fresh: bool

    @property
    def gone(self) -> bool:
        """Does not wait any more, without having left the line yet: is passed over."""
        ...


C = TypeVar("C", bound=Carrier)
W = TypeVar("W", bound=Waiter)


class Choice(NamedTuple, Generic[C]):
    """For a request that comes: take ``connection``, else ``dial`` one, else wait in line.

    ``close``: connections to close meanwhile.
    """

    connection: C | None = None
    dial: bool = False
    close: Sequence[C] = ()


class Outcome(NamedTuple, Generic[C, W]):
    """What follows from a change: who gets a connection, or (``None``) the right to dial one; what is
    to be closed; who has waited too long."""

    grants: Sequence[tuple[W, C | None]] = ()
    close: Sequence[C] = ()
    late: Sequence[W] = ()


NOTHING: Outcome[Any, Any] = Outcome()


class Chooser(Generic[C, W]):
    """See the module. Memory: ``connections`` connections and ``line`` waiters.

    :param connections: bound on connections and dials together.
    :param idle: bound on connections that carry nothing.
    :param line: bound on waiters.
    :param idle_timeout: seconds after which a connection that carries nothing is closed.
    """

    def __init__(self, *, connections: int, idle: int, line: int, idle_timeout: float) -> None:
        self._limit = connections
        self._idle_limit = idle
        self._line_limit = line
        self._idle_timeout = idle_timeout
        self._open: set[C] = set()
        self._room: OrderedDict[C, None] = OrderedDict()
        self._line: OrderedDict[W, None] = OrderedDict()
        self._dialling = 0
        self._closed = False

    def __repr__(self) -> str:
        return (
            f"<Chooser idle={self.idle} in_use={self.in_use} dialling={self._dialling} "
            f"waiting={len(self._line)}{' CLOSED' if self._closed else ''}>"
        )

    @property
    def idle(self) -> int:
        """Connections that carry nothing."""
        return sum(not connection.in_flight for connection in self._room)

    @property
    def in_use(self) -> int:
        """Connections that carry something."""
        return len(self._open) - self.idle

    @property
    def dialling(self) -> int:
        """Connections that are being dialled."""
        return self._dialling

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return len(self._line)

    @property
    def line_full(self) -> bool:
        """True when nobody more may wait."""
        return len(self._line) >= self._line_limit

    # A request comes.

    def take(self, now: float) -> Choice[C]:
        """Take a connection that has room, if there is one; never dial."""
        stale: list[C] = []
        while self._room and not self._line:
            connection = next(reversed(self._room))
            if now < self._expiry(connection):
                self._load(connection)
                return Choice(connection, close=stale)
            stale += self._retire(connection)
        return Choice(close=stale)

    def take_newest(self, now: float) -> C | None:
        """Take the connection that was used last, if it is idle and young and nobody waits: what `take`
        would do then. ``None``: ask `take`."""
        room = self._room
        if self._line or not room:
            return None
        connection, _ = room.popitem()
        if (
            connection.in_flight
            or connection.capacity > 1
            or now >= connection.retire_at
            or now >= connection.idle_since + self._idle_timeout
        ):
            room[connection] = None
            return None
        connection.in_flight = 1
        return connection

    def give_back(self, connection: C, now: float) -> bool:
        """Put a connection that is fit for more back, if nothing else follows from it: what `release` would
        do then. False: nothing was done, call `release`."""
        room = self._room
        if self._line or self._closed or now >= connection.retire_at or len(room) >= self._idle_limit:
            return False
        if connection in room:  # it carries others meanwhile
            return False
        connection.in_flight -= 1
        connection.idle_since = now
        room[connection] = None
        return True

    def choose(self, now: float, *, fresh: bool) -> Choice[C]:
        """Decide for a request. A ``dial`` must be followed by ``dialled`` or ``undialled``.

        ``fresh``: no connection that was idle. One that carries other exchanges now will do, if there is
        no place for a new one: it is alive.
        """
        if self._line:
            return Choice()
        close: Sequence[C] = self._make_place() if fresh and self._full else ()
        if not fresh or self._full:
            choice = self.take(now)
            if choice.connection is not None:
                return choice
            close = choice.close
        if self._full:
            return Choice(close=close)
        self._dialling += 1
        return Choice(dial=True, close=close)

    def join(self, waiter: W) -> None:
        """Stand in line (not if ``line_full``)."""
        self._line[waiter] = None

    def leave(self, waiter: W) -> bool:
        """Leave the line; false: not in it, it was granted something."""
        if waiter in self._line:
            del self._line[waiter]
            return True
        return False

    # Something has changed.

    def dialled(self, connection: C) -> Outcome[C, W]:
        """The dial worked; the connection carries its first exchange already."""
        self._dialling -= 1
        self._open.add(connection)
        self._room[connection] = None
        self._load(connection)
        return self._settle([])

    def undialled(self) -> Outcome[C, W]:
        """The dial failed, or the right to dial is given back."""
        self._dialling -= 1
        return self._settle([])

    def replace(self, connection: C) -> None:
        """A connection that was just taken turned out dead: its place is for a dial now."""
        self._room.pop(connection, None)
        self._open.discard(connection)
        self._dialling += 1

    def release(self, connection: C, reusable: bool, now: float) -> Outcome[C, W]:
        """An exchange on it has ended; not ``reusable``: it carries no other one."""
        connection.in_flight -= 1
        connection.idle_since = now
        closing: list[C] = []
        if not reusable or self._closed or now >= connection.retire_at:
            closing += self._retire(connection)
        else:
            self._room[connection] = None
            self._room.move_to_end(connection)
        return self._settle(closing)

    def drop(self, connection: C) -> Outcome[C, W]:
        """It cannot be used any more."""
        return self._settle(self._retire(connection))

    def expire(self, now: float) -> Outcome[C, W]:
        """Close what is idle or too old, and let go who has waited too long."""
        closing: list[C] = []
        for connection in [each for each in self._room if now >= self._expiry(each)]:
            closing += self._retire(connection)
        late = [waiter for waiter in self._line if waiter.due <= now]
        for waiter in late:
            del self._line[waiter]
        return self._settle(closing)._replace(late=[waiter for waiter in late if not waiter.gone])

    def empty_line(self) -> list[W]:
        """Send everybody in line away."""
        waiters = [waiter for waiter in self._line if not waiter.gone]
        self._line.clear()
        return waiters

    def close(self) -> list[C]:
        """Keep nothing from now on; return what is idle, to be closed. Others close at their release."""
        self._closed = True
        closing: list[C] = []
        for connection in list(self._room):
            closing += self._retire(connection)
        return closing

    def next_due(self) -> float:
        """The earliest moment at which ``expire`` has something to do, or ``NEVER``."""
        moments = [waiter.due for waiter in self._line]
        moments += [self._expiry(connection) for connection in self._room]
        return min(moments, default=NEVER)

    # Inside.

    @property
    def _full(self) -> bool:
        return len(self._open) + self._dialling >= self._limit

    def _load(self, connection: C) -> None:
        connection.in_flight += 1
        if connection.in_flight >= connection.capacity:
            del self._room[connection]

    def _expiry(self, connection: C) -> float:
        if connection.in_flight:
            return connection.retire_at
        return min(connection.retire_at, connection.idle_since + self._idle_timeout)

    def _retire(self, connection: C) -> list[C]:
        """Give it nothing more; return it if it carries nothing, to be closed now."""
        self._room.pop(connection, None)
        connection.retire_at = -NEVER
        if connection.in_flight or connection not in self._open:
            return []
        self._open.remove(connection)
        return [connection]

    def _make_place(self) -> list[C]:
        """Retire the connection that has carried nothing for the longest time, if there is one."""
        for connection in self._room:
            if not connection.in_flight:
                return self._retire(connection)
        return []

    def _settle(self, closing: list[C]) -> Outcome[C, W]:
        """Give what is there to those in line, in their order, then heed the bound on idle connections."""
        grants: list[tuple[W, C | None]] = []
        while self._line:
            waiter = next(iter(self._line))
            if not waiter.gone:
                connection = next(reversed(self._room), None)
                if connection is not None and waiter.fresh and not connection.in_flight:
                    closing += self._retire(connection)
                    connection = None
                if connection is not None:
                    self._load(connection)
                elif not self._full:
                    self._dialling += 1
                else:
                    break
                grants.append((waiter, connection))
            del self._line[waiter]
        if len(self._room) > self._idle_limit and self.idle > self._idle_limit:
            closing += self._make_place()
        return Outcome(grants, closing) if grants or closing else NOTHING
