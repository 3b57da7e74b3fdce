"""Connections that have had one answer and then say nothing: `python -m benchmarks.loads.idle HOST PORT COUNT
FILE`.

Each sends the first request of FILE and reads the answer. Then the process prints `open COUNT` and waits for
its standard input to end; at that it prints how many are still open. It is a process of its own because the
connections need descriptors, and it ends with whoever holds its standard input.
"""

from __future__ import annotations

import select
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.loads.client import ask, connect
from benchmarks.loads.requests import read
from benchmarks.machine import raise_descriptor_limit

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence


def still_open(connections: Sequence[socket.socket]) -> int:
    """Count the connections on which nothing came, not even an end."""
    poll = select.poll()
    for connection in connections:
        poll.register(connection, select.POLLIN)
    return len(connections) - len(poll.poll(0))


def main() -> None:
    host, port, count, requests = sys.argv[1:]
    raise_descriptor_limit()
    request = read(Path(requests))[0]
    connections = [connect((host, int(port))) for _ in range(int(count))]
    for connection in connections:
        ask(connection, request)
    print("open", still_open(connections), flush=True)
    sys.stdin.read()
    print("left", still_open(connections), flush=True)


if __name__ == "__main__":
    main()
