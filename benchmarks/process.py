"""Children of a benchmark: pinned to a core, and gone when the benchmark is gone, however it ends.

Each one is started through two programs of util-linux: `setpriv --pdeathsig TERM` (the kernel sends SIGTERM
to the child when its parent dies, even by SIGKILL) and `taskset -c CORE`. Output goes to files, because a
pipe that nobody reads stops its writer, and because some proxies log there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

ROOT = Path(__file__).resolve().parents[1]

Address = tuple[str, int]

LOOPBACK = "127.0.0.1"

START_TIMEOUT = 20.0
"""Seconds until a server must accept connections."""

STOP_TIMEOUT = 5.0
"""Seconds that a child has after SIGTERM before it is killed."""

PROBE_INTERVAL = 0.02
"""Seconds between two looks at something that announces itself by no event."""

TRIES = 4
"""Starts of a server before a port that was taken meanwhile is an error."""


class StartError(Exception):
    """A child ended, or was not ready in time. The message holds what it said."""


def pinned(argv: Sequence[str | Path], core: int) -> list[str]:
    return ["setpriv", "--pdeathsig", "TERM", "taskset", "-c", str(core), *map(str, argv)]


class Child:
    """A running program; leaving its context ends it and everything it started.

    ``folder`` is where it works and where `NAME.out` and `NAME.err` are written.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        name: str,
        core: int,
        folder: Path,
        env: Mapping[str, str] | None = None,
        talks: bool = False,
    ) -> None:
        self.name = name
        self.argv = [str(word) for word in argv]
        self.out, self.err = folder / f"{name}.out", folder / f"{name}.err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self._popen = subprocess.Popen(
                pinned(argv, core),
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=folder,
                env=dict(os.environ) | dict(env or {}),
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def report(self) -> str:
        """Whether it runs, and the end of what it wrote to its error output, else to its standard output."""
        state = "still runs" if self.alive else f"ended with {self._popen.returncode}"
        return f"{self.name} {state} and said:\n{(_tail(self.err) or _tail(self.out)).strip()}"

    def wait_for(self, ready: Callable[[], bool], what: str, timeout: float = START_TIMEOUT) -> None:
        """Wait until ``ready``. Raises ``StartError`` when the child ends or ``timeout`` seconds pass
        before."""
        deadline = time.monotonic() + timeout
        while not ready():
            if not self.alive or time.monotonic() > deadline:
                raise StartError(f"{what} did not happen: {self.report()}")
            time.sleep(PROBE_INTERVAL)

    def wait_for_port(self, port: int) -> None:
        self.wait_for(lambda: _accepts(port), f"accepting on port {port}")

    def close_input(self) -> None:
        if self._popen.stdin is not None:
            self._popen.stdin.close()

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """SIGTERM, and after ``timeout`` seconds SIGKILL to its group for whoever is left."""
        self.close_input()
        if self.alive:
            self._popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()


def run(argv: Sequence[str | Path], *, core: int, timeout: float) -> str:
    """Run a pinned program to its end and return what it printed.

    Raises ``StartError`` when it fails or takes longer than ``timeout`` seconds.
    """
    try:
        done = subprocess.run(
            pinned(argv, core), capture_output=True, text=True, timeout=timeout, check=True, cwd=ROOT
        )
    except subprocess.TimeoutExpired as error:
        raise StartError(f"{argv[0]} did not end within {timeout:.0f} s") from error
    except subprocess.CalledProcessError as error:
        raise StartError(
            f"{argv[0]} ended with {error.returncode}: {error.stderr or error.stdout}"
        ) from error
    return done.stdout


def free_port() -> int:
    """Return a TCP port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def on_free_port(start: Callable[[int], Child]) -> tuple[Child, int]:
    """Start a server that must be told its port, again with another one if somebody was quicker.

    Raises ``StartError`` when it does not come up.
    """
    for left in reversed(range(TRIES)):
        port = free_port()
        child = start(port)
        try:
            child.wait_for_port(port)
        except StartError:
            child.stop()
            if left == 0 or "in use" not in child.report():
                raise
        except BaseException:
            child.stop()
            raise
        else:
            return child, port
    raise AssertionError


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


def _tail(path: Path) -> str:
    data = path.read_bytes()
    return data[-4000:].decode("utf-8", "backslashreplace")
