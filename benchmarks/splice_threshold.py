"""What a large body costs: through nginx, copied by us, spliced by us.

    python benchmarks/splice_threshold.py [--rounds 15] [--sizes 65536,1048576] [--direction up]

In every round the same requests go through every subject, in a new order, so that the noise of the machine
meets them all. A cell is the CPU time of one request in microseconds (user and kernel, as
/proc/PID/task/*/schedstat counts it), the median of the rounds; in brackets the medians of its ratios to
nginx in the same round, as it comes and without buffering. The subjects have one core, the client and the
origin the other.

`limits.splice_bytes` comes from this table with `--apart 2`: head and body are sent two milliseconds
apart, as application servers do, so that all of the body is still to be moved when the head is read.

Needs Linux, two cores and nginx.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[1]

KIB = 1024
MIB = 1024 * KIB
SIZES = (64 * KIB, 128 * KIB, 192 * KIB, 256 * KIB, 384 * KIB, 512 * KIB, MIB, 2 * MIB, 8 * MIB)

CONTENT = memoryview(random.Random(1).randbytes(max(SIZES)))

CONNECTIONS = 4

REQUESTS = (4 * CONNECTIONS, 256)
"""The fewest and the most requests to a subject in one round, in one direction; in between 32 MiB of them."""

Cells: TypeAlias = dict[tuple[str, int, str], list[float]]
"""CPU microseconds of a request in each round, by direction, size and subject."""

NGINX = """
{user}worker_processes 1;
daemon off;
pid {folder}/{name}.pid;
error_log {folder}/{name}.error;
events {{ worker_connections 1024; }}
http {{
  access_log {folder}/{name}.access;
  client_body_temp_path {folder}/{name}.body; proxy_temp_path {folder}/{name}.proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  client_max_body_size 64m; keepalive_requests 100000; tcp_nodelay on; sendfile on;
  upstream origin {{ server 127.0.0.1:{origin}; keepalive 32; keepalive_requests 100000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme; {extra}
    }}
  }}
}}
"""

OURS = """
listen = ["127.0.0.1:{port}"]
upstream = "http://127.0.0.1:{origin}"
[log]
access = "{folder}/{name}.access"
[limits]
splice_bytes = {splice}
"""


@dataclass(frozen=True, slots=True)
class Subject:
    """A proxy that is measured."""

    name: str
    port: int
    process: subprocess.Popen[bytes]

    def cpu(self) -> int:
        """Nanoseconds on a core so far, children included."""
        pids = [self.process.pid]
        children = Path(f"/proc/{pids[0]}/task/{pids[0]}/children").read_text().split()
        pids += [int(child) for child in children]
        return sum(
            int((task / "schedstat").read_text().split()[0])
            for pid in pids
            for task in Path(f"/proc/{pid}/task").iterdir()
        )


# The far ends.


def serve_origin(listener: socket.socket, apart: float) -> None:
    """Answer for ever: GET /N with N bytes, a body with a word once it was read."""
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_answer, args=(connection, apart), daemon=True).start()


def _answer(connection: socket.socket, apart: float) -> None:
    buffer = bytearray(MIB)
    received = b""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, contextlib.suppress(ConnectionError):
        while True:
            while b"\r\n\r\n" not in received:
                data = connection.recv(64 * KIB)
                if not data:
                    return
                received += data
            head, _, received = received.partition(b"\r\n\r\n")
            if head.startswith(b"GET"):
                size = int(head.split(b" ", 2)[1].rpartition(b"/")[2])
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                time.sleep(apart)
                connection.sendall(CONTENT[:size])
                continue
            left = _length(head) - len(received)
            while left:
                left -= connection.recv_into(buffer, min(left, MIB))
            received = b""
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOk")


def _length(head: bytes) -> int:
    lines = (line.split(b":") for line in head.lower().split(b"\r\n")[1:])
    return next(int(line[1]) for line in lines if line[0] == b"content-length")


class Client:
    """One connection to a subject, kept."""

    def __init__(self, port: int, apart: float) -> None:
        self._apart = apart
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(MIB)

    def up(self, size: int) -> None:
        """Upload ``size`` bytes."""
        self._socket.sendall(b"POST /s/ HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        time.sleep(self._apart)
        self._socket.sendall(CONTENT[:size])
        self._read_answer()

    def down(self, size: int) -> None:
        """Download ``size`` bytes."""
        self._socket.sendall(b"GET /app/%d HTTP/1.1\r\nHost: a\r\n\r\n" % size)
        self._read_answer()

    def _read_answer(self) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            data = self._socket.recv(64 * KIB)
            if not data:
                raise ConnectionError("the subject closed")
            received += data
        head, _, body = received.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(head.decode())
        left = _length(head) - len(body)
        while left:
            left -= self._socket.recv_into(self._buffer, min(left, MIB))

    def close(self) -> None:
        self._socket.close()


def requests_of(size: int) -> int:
    """Requests to a subject in one round, in one direction."""
    fewest, most = REQUESTS
    return min(most, max(fewest, 32 * MIB // size))


def run_cell(subject: Subject, direction: str, size: int, apart: float) -> float:
    """Send the requests of one cell and return the subject's CPU microseconds for one of them.

    :param apart: seconds between a head and its body.
    """
    requests = requests_of(size) // CONNECTIONS
    clients = [Client(subject.port, apart) for _ in range(CONNECTIONS)]
    errors: list[Exception] = []

    def work(client: Client, count: int) -> None:
        act: Callable[[int], None] = getattr(client, direction)
        try:
            for _ in range(count):
                act(size)
        except Exception as error:  # noqa: BLE001 - told in the main thread
            errors.append(error)

    def all_work(count: int) -> None:
        threads = [threading.Thread(target=work, args=(client, count)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise SystemExit(f"{subject.name}, {direction} {size}: {errors[0]!r}")

    all_work(1)
    before = subject.cpu()
    all_work(requests)
    used = subject.cpu() - before
    for client in clients:
        client.close()
    return used / 1000 / (requests * CONNECTIONS)


# The subjects.


def start(name: str, command: list[str | Path], port: int) -> Subject:
    """Start a proxy on its core and wait until it accepts."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    os.sched_setaffinity(process.pid, {0})
    for _ in range(200):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            return Subject(name, port, process)
        time.sleep(0.05)
    raise SystemExit(f"{name} does not accept")


def free_port() -> int:
    """A port that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def subjects(origin: int, folder: Path, splice: list[int]) -> Iterator[list[Subject]]:
    """Everything that is compared."""
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH')}:/usr/sbin")
    if nginx is None:
        raise SystemExit("nginx is missing: apt-get install nginx-light")
    running: list[Subject] = []
    try:
        for name, extra in (
            ("nginx", ""),
            ("nginx unbuffered", "proxy_buffering off; proxy_request_buffering off;"),
        ):
            port, word = free_port(), name.replace(" ", "_")
            config = folder / f"{word}.conf"
            # nginx's workers give root away, and then could not write into our folder.
            user = "" if os.geteuid() else "user root;\n"
            config.write_text(
                NGINX.format(folder=folder, name=word, origin=origin, port=port, extra=extra, user=user)
            )
            running.append(start(name, [nginx, "-e", folder / f"{word}.error", "-c", config], port))
        for bytes_ in splice:
            name = f"splice from {bytes_}" if bytes_ else "copy"
            port, word = free_port(), name.replace(" ", "_")
            config = folder / f"{word}.toml"
            config.write_text(OURS.format(folder=folder, name=word, origin=origin, port=port, splice=bytes_))
            running.append(start(name, [sys.executable, "-m", "proxy", "run", "--config", config], port))
        yield running
    finally:
        for subject in running:
            subject.process.terminate()
            subject.process.wait()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--direction", choices=["up", "down"], action="append")
    parser.add_argument("--splice", default="0,1", help="values of limits.splice_bytes to compare")
    parser.add_argument("--apart", type=float, default=0, help="milliseconds between a head and its body")
    options = parser.parse_args()
    apart = options.apart / 1000
    sizes = [int(size) for size in options.sizes.split(",")]
    directions = options.direction or ["up", "down"]
    cells: Cells = {}
    with (
        origin(apart) as port,
        tempfile.TemporaryDirectory() as folder,
        subjects(port, Path(folder), [int(size) for size in options.splice.split(",")]) as running,
    ):
        for _, direction, size in itertools.product(range(options.rounds), directions, sizes):
            for subject in random.sample(running, len(running)):
                cost = run_cell(subject, direction, size, apart)
                cells.setdefault((direction, size, subject.name), []).append(cost)
    report(cells, [subject.name for subject in running])


@contextlib.contextmanager
def origin(apart: float) -> Iterator[int]:
    """The origin as a process of its own; it and this one move to the second core. Yields its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        os.sched_setaffinity(0, {1})
        child = os.fork()
        if not child:
            serve_origin(listener, apart)
        port = int(listener.getsockname()[1])
    try:
        yield port
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def report(cells: Cells, names: list[str]) -> None:
    """Print CPU microseconds per request, and the median ratios to nginx in the same round."""
    print("| direction | size | " + " | ".join(names) + " |")
    print("|---|---|" + "---|" * len(names))
    for direction, size in dict.fromkeys((direction, size) for direction, size, _ in cells):
        base = [cells[direction, size, name] for name in names[:2]]
        row = []
        for name in names:
            costs = cells[direction, size, name]
            ratios = [statistics.median(c / b for c, b in zip(costs, nginx, strict=True)) for nginx in base]
            row.append(f"{statistics.median(costs):.0f} ({ratios[0]:.2f}, {ratios[1]:.2f})")
        print(f"| {direction} | {size // KIB} KiB | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
