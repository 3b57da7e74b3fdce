"""What the pool hands out: a lease (one exchange on one connection, to be reported on and released once) or
a place in its waiting line."""

from __future__ import annotations

import asyncio
import warnings
from typing import TYPE_CHECKING, Protocol

from proxy.errors import Failure, Resend, Source

if TYPE_CHECKING:
    from proxy.net.exchange import UpstreamExchange
    from proxy.net.upstream import UpstreamConnection

SICK = frozenset({502, 503, 504})
"""Statuses by which an upstream says that it cannot serve; a 500 or a 4xx is the application's business."""


class Lender(Protocol):
    """What a lease tells the pool."""

    def record(self, *, ok: bool, probe: bool) -> None:
        """How the upstream did."""
        ...

    def abandon_probe(self) -> None:
        """The breaker's probe told nothing."""
        ...

    def take_back(self, connection: UpstreamConnection, reusable: bool) -> None:
        """The exchange is over."""
        ...


class Lease:
    """One exchange on one connection, to be released exactly once.

    ``reused``: the connection has carried others. ``t_queue`` and ``t_connect``: seconds spent in line and
    connecting. ``retries``: further tries to connect. ``address``: the upstream's, for the log.
    """

    __slots__ = (
        "_exchange",
        "_pool",
        "_probe",
        "_released",
        "_reported",
        "address",
        "connection",
        "retries",
        "reused",
        "t_connect",
        "t_queue",
    )

    def __init__(
        self,
        pool: Lender,
        connection: UpstreamConnection,
        *,
        probe: bool,
        t_queue: float = 0.0,
        t_connect: float = 0.0,
        retries: int = 0,
    ) -> None:
        self._pool = pool
        self._probe = probe
        self._released = False
        self._reported = False
        self.reused = connection.served > 0
        connection.served += 1
        self.connection = connection
        self._exchange: UpstreamExchange | None = None
        self.address = connection.address
        self.t_queue = t_queue
        self.t_connect = t_connect
        self.retries = retries

    def __repr__(self) -> str:
        state = "RELEASED" if self._released else "ACTIVE"
        return f"<Lease {state} {'reused' if self.reused else 'new'} {self.connection!r}>"

    def __del__(self) -> None:
        if not self._released:
            warnings.warn(f"{self!r} was never released", ResourceWarning, source=self, stacklevel=2)

    @property
    def exchange(self) -> UpstreamExchange:
        """The exchange on the connection, opened when first asked for: the fast path does without."""
        if self._exchange is None:
            self._exchange = self.connection.open_exchange()
        return self._exchange

    @property
    def released(self) -> bool:
        """True once the connection was given back."""
        return self._released

    def report(self, status: int | None, failure: Failure | None) -> None:
        """Tell the breaker how the upstream did: its final status, or what went wrong, or both.

        The first report that says anything about the upstream counts, later ones are ignored; so does a
        client that left, or a reused connection that the upstream had closed already.
        """
        if self._reported:
            return
        if failure is not None and failure.source is Source.UPSTREAM:
            if self.reused and failure.resend is Resend.REUSED:
                return
            self._reported = True
            self._pool.record(ok=False, probe=self._probe)
        elif status is not None:
            self._reported = True
            self._pool.record(ok=status not in SICK, probe=self._probe)

    def release(self, reusable: bool) -> None:
        """Give the connection back. ``reusable``: the exchange is over and left it clean.

        :raises RuntimeError: when it was released before.
        """
        if self._released:
            raise RuntimeError(f"{self!r} is released a second time")
        self._released = True
        if self._probe and not self._reported:
            self._pool.abandon_probe()
        self._pool.take_back(self.connection, reusable)


class Place:
    """A place in the waiting line. It is granted something or refused once; or it is ``gone``, because
    the one who waited was cancelled."""

    __slots__ = ("due", "fresh", "future")

    def __init__(self, due: float, fresh: bool) -> None:
        self.due = due
        self.fresh = fresh
        self.future: asyncio.Future[UpstreamConnection | None] = asyncio.get_running_loop().create_future()

    @property
    def gone(self) -> bool:
        """Nobody waits here any more."""
        return self.future.done()

    def granted(self, connection: UpstreamConnection | None) -> None:
        """It is your turn: here is a connection, or (``None``) you may dial one."""
        self.future.set_result(connection)

    def refused(self, failure: Failure) -> None:
        """It will not be your turn."""
        self.future.set_exception(failure)
