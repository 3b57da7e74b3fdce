"""One connection to an upstream, as the pool sees it.

A connection is IDLE between exchanges and then watches itself: nothing may come from an upstream that was
asked nothing, so a byte is a fault (or the rest of an answer that was longer than it said), and an end of
stream means that the upstream has closed. Either way it is never used again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from proxy.clock import NEVER
from proxy.net.exchange import UpstreamExchange
from proxy.net.stream import Stream

if TYPE_CHECKING:
    import asyncio

    from proxy.clock import Deadlines

ExchangeFactory: TypeAlias = Callable[[Stream], UpstreamExchange]
"""Opens one exchange on a connection: net/http1.py, with its limits bound."""


class Owner(Protocol):
    """What a connection tells the pool."""

    def opened(self, connection: UpstreamConnection) -> None:
        """It stands."""
        ...

    def spoiled(self, connection: UpstreamConnection) -> None:
        """It is idle and cannot be used any more. Told once at most per idle time."""
        ...

    def gone(self, connection: UpstreamConnection) -> None:
        """Its socket is closed. Told last, exactly once after ``opened``."""
        ...


class Taker(Protocol):
    """Who reads an answer in callbacks instead of a coroutine (the fast path)."""

    def take(self, data: bytes, received: bytearray) -> bool:
        """Bytes have come, after those in ``received``; true: all were taken, ``received`` is empty."""
        ...

    def lost(self) -> None:
        """The upstream sends no more."""
        ...


class UpstreamConnection(Stream):
    """An HTTP/1.1 connection: one exchange at a time.

    Times are moments of the clock: ``created``, ``idle_since``, ``retire_at`` (when it is too old to be
    used again). ``in_flight`` counts the running exchanges and belongs to the chooser, as ``retire_at``
    does; ``served`` counts those that were opened. Memory: that of ``Stream``.
    """

    capacity = 1
    """Exchanges that it can carry at a time."""

    def __init__(
        self,
        deadlines: Deadlines,
        owner: Owner,
        open_exchange: ExchangeFactory,
        *,
        address: str,
        read_limit: int,
        write_limit: int,
    ) -> None:
        super().__init__(deadlines, read_limit=read_limit, write_limit=write_limit)
        self.address = address
        self.created = deadlines.clock.monotonic()
        self.idle_since = self.created
        self.retire_at = NEVER
        self.in_flight = 0
        self.served = 0
        self.taker: Taker | None = None
        self._owner = owner
        self._open_exchange = open_exchange

    def __repr__(self) -> str:
        if self.lost:
            state = "LOST"
        elif self.in_flight:
            state = "ACTIVE"
        else:
            state = "IDLE" if self.usable else "SPOILED"
        return f"<UpstreamConnection {state} {self.address} served={self.served}>"

    def open_exchange(self) -> UpstreamExchange:
        """Begin another exchange."""
        return self._open_exchange(self)

    @property
    def usable(self) -> bool:
        """True when another exchange may begin: open both ways, nothing unread, nothing unsent."""
        return not (
            self.at_eof
            or self.received
            or self._held
            or self.transport.is_closing()
            or self.transport.get_write_buffer_size()
        )

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        if self.taker is not None and self.taker.take(data, self.received):
            self.bytes_in += len(data)
        else:
            super().data_received(data)

    def on_data(self) -> None:
        if not self.in_flight:
            self._owner.spoiled(self)

    def on_eof(self) -> None:
        if self.taker is not None:
            self.taker.lost()
        elif not self.in_flight:
            self._owner.spoiled(self)

    def on_lost(self) -> None:
        if self.taker is not None:
            self.taker.lost()
        elif not self.in_flight:
            self._owner.spoiled(self)
        self._owner.gone(self)
