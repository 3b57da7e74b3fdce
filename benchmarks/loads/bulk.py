"""Large bodies, as many as get through: `python -m benchmarks.loads.bulk HOST PORT SECONDS CONNECTIONS FILE`.

wrk reads 8 KB at a time and copies each request before it sends it, so with large bodies it is wrk that
everyone waits for. Here bodies are sent from where they lie, and those that arrive are not copied at all.
Otherwise it does what wrk does, and prints the same line of JSON.
"""

from __future__ import annotations

import json
import select
import socket
import sys
from collections import Counter
from pathlib import Path
from time import perf_counter

from benchmarks.incoming import Incoming
from benchmarks.loads.requests import read
from benchmarks.loads.steady import quantile


class Asker:
    """A connection that sends its next request when the last answer is there."""

    __slots__ = ("incoming", "since", "socket", "unsent")

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.incoming = Incoming()
        self.since = 0.0
        self.unsent = memoryview(b"")

    def begin(self, request: bytes) -> None:
        self.since = perf_counter()
        self.unsent = memoryview(request)
        self.send()

    def send(self) -> None:
        """Send as much as is taken."""
        self.unsent = self.unsent[self.socket.send(self.unsent) :]


class Bulk:
    """``connections`` askers, for ``seconds``."""

    def __init__(self, address: tuple[str, int], requests: list[bytes], connections: int) -> None:
        self.address = address
        self.requests = requests
        self.latencies: list[float] = []
        self.troubles: Counter[str] = Counter()
        self._next = 0
        self._epoll = select.epoll()
        self._askers: dict[int, Asker] = {}
        for _ in range(connections):
            self._connect()

    def run(self, seconds: float) -> float:
        """Ask until ``seconds`` have passed and return how many did."""
        began = now = perf_counter()
        for asker in list(self._askers.values()):
            self._begin(asker)
        while now - began < seconds:
            for descriptor, event in self._epoll.poll(seconds - (now - began)):
                self._handle(self._askers[descriptor], event)
            now = perf_counter()
        return now - began

    def _connect(self) -> Asker:
        asker = Asker(self.address)
        self._askers[asker.socket.fileno()] = asker
        self._epoll.register(asker.socket, select.EPOLLIN)
        return asker

    def _begin(self, asker: Asker) -> None:
        asker.begin(self.requests[self._next])
        self._next = (self._next + 1) % len(self.requests)
        if asker.unsent:
            self._epoll.modify(asker.socket, select.EPOLLIN | select.EPOLLOUT)

    def _handle(self, asker: Asker, event: int) -> None:
        try:
            if event & select.EPOLLOUT:
                asker.send()
                if not asker.unsent:
                    self._epoll.modify(asker.socket, select.EPOLLIN)
            if event & ~select.EPOLLOUT and asker.incoming.receive(asker.socket):
                self._answered(asker)
        except OSError as error:
            self.troubles["write" if asker.unsent else "read"] += 1
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            del self._askers[asker.socket.fileno()]
            asker.socket.close()
            self._begin(self._connect())

    def _answered(self, asker: Asker) -> None:
        self.latencies.append(perf_counter() - asker.since)
        if not asker.incoming.head.startswith(b"HTTP/1.1 200 "):
            self.troubles["not_200"] += 1
        self._begin(asker)


def main() -> None:
    host, port, seconds, connections, requests = sys.argv[1:]
    bulk = Bulk((host, int(port)), read(Path(requests)), int(connections))
    passed = bulk.run(float(seconds))
    said = {
        "requests": len(bulk.latencies),
        "microseconds": round(passed * 1e6),
        "p50": quantile(bulk.latencies, 0.5) * 1e6,
        "p99": quantile(bulk.latencies, 0.99) * 1e6,
    }
    print(json.dumps(said | bulk.troubles))


if __name__ == "__main__":
    main()
