"""Numbered requests at a fixed mean rate until SIGTERM, and what became of each.

    python -m benchmarks.loads.lasting HOST PORT RATE CONNECTIONS FILE OUTPUT

It is ``steady.py`` without an end: each request has its number in the place of ``PLACE``, and for each
answer ``OUTPUT`` gets three doubles: when it came (seconds of the epoch), how many seconds after the request
was sent or due, and its number, or -1 where it was no 200.
"""

from __future__ import annotations

import gc
import signal
import sys
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, overload

from benchmarks.loads.requests import read
from benchmarks.loads.steady import Connection, Generator

if TYPE_CHECKING:
    from types import FrameType

PLACE = b"0000000000"
MOST = 10_000_000_000
LONGEST = 900.0
"""Seconds after which it ends in any case."""


class Numbered(Sequence[bytes]):
    """Requests without end, from some that have ``PLACE`` in them."""

    def __init__(self, requests: list[bytes]) -> None:
        self._parts = [request.partition(PLACE) for request in requests]

    def __len__(self) -> int:
        return MOST

    @overload
    def __getitem__(self, number: int) -> bytes: ...

    @overload
    def __getitem__(self, number: slice) -> Sequence[bytes]: ...

    def __getitem__(self, number: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(number, slice):
            raise TypeError("one at a time")
        before, _, after = self._parts[number % len(self._parts)]
        return b"%b%0*d%b" % (before, len(PLACE), number, after)


class Lasting(Generator):
    """See the module."""

    def __init__(
        self, address: tuple[str, int], requests: list[bytes], rate: float, connections: int
    ) -> None:
        super().__init__(address, Numbered(requests), rate, LONGEST, connections)
        self.answers = array("d")
        self._numbers: dict[Connection, int] = {}

    def end(self, _number: int, _frame: FrameType | None) -> None:
        """Send nothing more."""
        self._due.clear()

    def _send(self, since: float) -> None:
        self._numbers[self._free[-1]] = self._next
        super()._send(since)

    def _answered(self, connection: Connection, descriptor: int) -> None:
        took = perf_counter() - self._begin - connection.since
        taken = connection.incoming.head.startswith(b"HTTP/1.1 200 ")
        self.answers.extend((time.time(), took, self._numbers[connection] if taken else -1))
        super()._answered(connection, descriptor)


def main() -> None:
    host, port, rate, connections, requests, output = sys.argv[1:]
    generator = Lasting((host, int(port)), read(Path(requests)), float(rate), int(connections))
    signal.signal(signal.SIGTERM, generator.end)
    gc.disable()
    generator.run()
    with Path(output).open("wb") as file:
        generator.answers.tofile(file)
    print(dict(generator.troubles))


if __name__ == "__main__":
    main()
