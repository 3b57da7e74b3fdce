"""Requests at a fixed mean rate, whatever the answers do: latency without the generator's kindness.

    python -m benchmarks.loads.steady HOST PORT RATE SECONDS CONNECTIONS FILE

wrk sends a connection's next request only when the last answer is there, so a slow proxy is asked less often
and its slow answers are counted less often. wrk2 does not do that but is not in Debian; h2load has a rate but
sends the same head and body again and again; hey limits the rate of each of its workers, which still wait for
their answers. So here is one of our own.

Arrivals are a Poisson process with a fixed seed: every proxy gets the same ones. A request is sent on a free
connection at the time it is due. Its latency begins when it is sent, or, when no connection was free, when
it was due. That the generator itself was late (it shares its core with the origin) is not put down to the
proxy; it is reported as ``late``. One epoll set, plain sockets, no event loop: about 15 µs a request.
"""

from __future__ import annotations

import gc
import json
import re
import select
import socket
import sys
from collections import Counter, deque
from pathlib import Path
from random import Random
from time import perf_counter
from typing import TYPE_CHECKING

from benchmarks.incoming import Incoming
from benchmarks.loads.requests import SEED, read

if TYPE_CHECKING:
    from collections.abc import Sequence

_CLOSE = re.compile(rb"\r\nConnection: *close", re.IGNORECASE)

DISCARDED = 0.25
"""Share of the time at the beginning whose answers do not count: connections are made, code gets warm."""

CLOSE_WITHIN = 2048
"""Bytes of an answer in which `Connection: close` is looked for."""

GRACE = 5.0
"""Seconds that answers may take after the last request was sent."""


class Connection:
    """One keep-alive connection: ``since`` is when the request under way was sent or due, in seconds."""

    __slots__ = ("address", "incoming", "since", "socket", "unsent")

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.since = 0.0
        self.unsent = b""
        self.incoming = Incoming()
        self.socket = self._connect()

    def _connect(self) -> socket.socket:
        made = socket.create_connection(self.address, timeout=5)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setblocking(False)
        return made

    def reconnect(self) -> None:
        self.socket.close()
        self.unsent = b""
        self.incoming = Incoming()
        self.socket = self._connect()

    def send(self, request: bytes, since: float) -> None:
        self.since = since
        sent = self.socket.send(request)
        self.unsent = request[sent:]

    def send_rest(self) -> None:
        self.unsent = self.unsent[self.socket.send(self.unsent) :]


class Generator:
    """Sends at ``rate`` a second for ``seconds`` and collects what came of it."""

    def __init__(
        self,
        address: tuple[str, int],
        requests: Sequence[bytes],
        rate: float,
        seconds: float,
        connections: int,
    ) -> None:
        self.requests = requests
        self.troubles: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.lateness: list[float] = []
        self.answered = 0
        self._next = 0
        self._begin = 0.0
        self._counted_from = seconds * DISCARDED
        self._waiting: deque[float] = deque()
        self._due = deque(arrivals(rate, seconds))
        self._free = [Connection(address) for _ in range(connections)]
        self._busy: dict[int, Connection] = {}
        self._epoll = select.epoll()
        for connection in self._free:
            self._epoll.register(connection.socket, select.EPOLLIN)

    def run(self) -> None:
        """Send everything and wait for the answers, ``GRACE`` seconds at most."""
        last = self._due[-1] if self._due else 0.0
        self._begin = perf_counter()
        while self._due or self._waiting or self._busy:
            now = perf_counter() - self._begin
            self._send_what_is_due(now)
            until_next = max(0.0, self._due[0] - now) if self._due else 0.05
            # An epoll descriptor is itself one to wait for, and select() counts in microseconds.
            if select.select([self._epoll], [], [], until_next)[0]:
                self._handle_events()
            if now > last + GRACE:
                self.troubles["unanswered"] += len(self._busy) + len(self._waiting)
                return

    def _send_what_is_due(self, now: float) -> None:
        while self._due and self._due[0] <= now:
            due = self._due.popleft()
            if self._free:
                self.lateness.append(now - due)
                self._send(perf_counter() - self._begin)
            else:
                self._waiting.append(due)

    def _send(self, since: float) -> None:
        connection = self._free.pop()
        try:
            connection.send(self.requests[self._next], since)
        except OSError as error:
            self._replace(connection, type(error).__name__)
            return
        self._next = (self._next + 1) % len(self.requests)
        self._busy[connection.socket.fileno()] = connection
        if connection.unsent:
            self._epoll.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)

    def _handle_events(self) -> None:
        for descriptor, event in self._epoll.poll(0):
            connection = self._busy.get(descriptor)
            if connection is None:
                self._lost_idle(descriptor)
                continue
            if event & select.EPOLLOUT and connection.unsent:
                connection.send_rest()
                if not connection.unsent:
                    self._epoll.modify(descriptor, select.EPOLLIN)
            if event & ~select.EPOLLOUT:
                self._receive(connection, descriptor)
            if self._waiting and self._free:
                self._send(self._waiting.popleft())

    def _receive(self, connection: Connection, descriptor: int) -> None:
        try:
            whole = connection.incoming.receive(connection.socket)
        except OSError as error:
            del self._busy[descriptor]
            self._replace(connection, type(error).__name__)
        else:
            if whole:
                self._answered(connection, descriptor)

    def _answered(self, connection: Connection, descriptor: int) -> None:
        now = perf_counter() - self._begin
        self.answered += 1
        if connection.since >= self._counted_from:
            self.latencies.append(now - connection.since)
        head = connection.incoming.head
        if not head.startswith(b"HTTP/1.1 200 "):
            self.troubles["not_200"] += 1
        del self._busy[descriptor]
        if _CLOSE.search(head, 0, CLOSE_WITHIN):
            self._replace(connection)
        else:
            self._free.append(connection)

    def _lost_idle(self, descriptor: int) -> None:
        """A connection closed by the peer between two requests is no mistake of anybody."""
        for connection in self._free:
            if connection.socket.fileno() == descriptor:
                self._free.remove(connection)
                self._replace(connection)
                return

    def _replace(self, connection: Connection, trouble: str | None = None) -> None:
        if trouble is not None:
            self.troubles[trouble] += 1
        self._epoll.unregister(connection.socket)
        connection.reconnect()
        self._epoll.register(connection.socket, select.EPOLLIN)
        self._free.append(connection)


def arrivals(rate: float, seconds: float, seed: int = SEED) -> list[float]:
    """Times of a Poisson process of ``rate`` a second, from 0 to ``seconds``."""
    random = Random(seed)
    times: list[float] = []
    at = random.expovariate(rate)
    while at < seconds:
        times.append(at)
        at += random.expovariate(rate)
    return times


def quantile(values: list[float], share: float) -> float:
    """The smallest value that ``share`` of the sorted ``values`` do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def main() -> None:
    host, port, rate, seconds, connections, requests = sys.argv[1:]
    generator = Generator(
        (host, int(port)), read(Path(requests)), float(rate), float(seconds), int(connections)
    )
    gc.disable()  # a pause of the generator would look like one of the proxy
    generator.run()
    said = {
        "answered": generator.answered,
        "counted": len(generator.latencies),
        "p50": quantile(generator.latencies, 0.5) * 1e6,
        "p99": quantile(generator.latencies, 0.99) * 1e6,
        "late": quantile(generator.lateness, 0.99) * 1e6,
        "troubles": dict(generator.troubles),
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
