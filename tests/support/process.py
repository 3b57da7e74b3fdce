"""One child process of a test: started, ready by an event, its output kept, stopped with its group.

Two threads read its standard output and error, so that a child never blocks on a full pipe and every
wait is a wait for a line, for a port that accepts, or for the end of the process: nobody sleeps and
hopes. A test that fails shows what its processes said (tests/integration/conftest.py asks ``LIVE``).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
"""The repository: children start here, so `-m proxy` and `-m tests...` find their packages."""

KEPT_LINES = 20_000
"""Lines of output kept per stream; the oldest go first."""

START_TIMEOUT = 20.0
"""Seconds until a child must be ready; generous, because two busy cores are slow."""

PROBE_INTERVAL = 0.02
"""Seconds between two tries of a condition."""

LIVE: list[Process] = []
"""Every process that is running now, in the order of their start."""


class StartError(Exception):
    """A child ended, or was not ready in time. The message holds its output."""


class Process:
    """A child in a process group of its own. Use it as a context manager.

    ``argv`` is the command, ``env`` replaces the environment (default: this one's). ``name`` stands
    in reports. Leaving the context sends SIGTERM, waits, and kills what is left of the group.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        name: str = "",
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
    ) -> None:
        self.name = name or Path(argv[0]).name
        self._changed = threading.Condition()
        self._open_streams = 2
        self._lines: dict[str, deque[str]] = {
            "stdout": deque(maxlen=KEPT_LINES),
            "stderr": deque(maxlen=KEPT_LINES),
        }
        self._popen = subprocess.Popen(
            [str(word) for word in argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(env) if env is not None else None,
            cwd=cwd,
            start_new_session=True,
        )
        assert self._popen.stdout is not None
        assert self._popen.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=("stdout", self._popen.stdout), daemon=True),
            threading.Thread(target=self._read, args=("stderr", self._popen.stderr), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        LIVE.append(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            error.add_note(self.report())
        self.stop()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, ``None`` while the process runs; negative: the signal that ended it."""
        return self._popen.poll()

    @property
    def stdout(self) -> list[str]:
        """The lines of standard output so far, without their ends."""
        with self._changed:
            return list(self._lines["stdout"])

    @property
    def stderr(self) -> list[str]:
        """The lines of standard error so far, without their ends."""
        with self._changed:
            return list(self._lines["stderr"])

    def report(self) -> str:
        """Return what the process said and how it ended, for the reader of a failure."""
        state = "running" if self.returncode is None else f"exit status {self.returncode}"
        sections = [f"--- {self.name} (pid {self.pid}, {state})"]
        for stream, lines in (("stdout", self.stdout), ("stderr", self.stderr)):
            sections += [f"--- {self.name} {stream}", *lines[-200:]]
        return "\n".join(sections)

    def wait_for_lines(
        self, pattern: str, count: int = 1, *, stream: str = "stderr", timeout: float = START_TIMEOUT
    ) -> list[re.Match[str]]:
        """Wait until ``count`` lines of ``stream`` match and return the matches.

        Raises ``StartError`` when the process ends or ``timeout`` seconds pass before.
        """
        wanted = re.compile(pattern)
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                found = [match for line in self._lines[stream] if (match := wanted.search(line))]
                if len(found) >= count:
                    return found
                left = deadline - time.monotonic()
                if self._open_streams == 0 or left <= 0:
                    break
                self._changed.wait(left)
        raise StartError(f"{self.name}: {len(found)} of {count} lines like {pattern!r}\n{self.report()}")

    def wait_for_port(self, host: str, port: int) -> None:
        """Wait until ``host:port`` accepts. Raises ``StartError`` when the process ends before."""
        if not self.poll(lambda: _accepts(host, port)):
            raise StartError(f"{self.name}: nothing accepts on {host}:{port}\n{self.report()}")

    def wait_until_refused(self, host: str, port: int) -> None:
        """Wait until ``host:port`` accepts no more. Raises ``TimeoutError`` when it still does."""
        if not self.poll(lambda: not _accepts(host, port)) and _accepts(host, port):
            raise TimeoutError(f"{self.name}: {host}:{port} still accepts")

    def poll(self, condition: Callable[[], bool], timeout: float = START_TIMEOUT) -> bool:
        """Try ``condition`` again and again; false when the process ended or ``timeout`` seconds passed.

        The one place where a test waits without an event, for what announces itself by none.
        """
        deadline = time.monotonic() + timeout
        while self.returncode is None and time.monotonic() < deadline:
            if condition():
                return True
            with self._changed:
                self._changed.wait(PROBE_INTERVAL)
        return False

    def children(self) -> set[int]:
        """The processes that it has started and that run now."""
        return set(children(self.pid))

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process itself (not to its children)."""
        self._popen.send_signal(number)

    def wait(self, timeout: float = 30.0) -> int:
        """Wait for the end, read the output to its end and return the exit status.

        Raises ``subprocess.TimeoutExpired`` after ``timeout`` seconds.
        """
        status = self._popen.wait(timeout)
        for reader in self._readers:
            reader.join(timeout)
        return status

    def stop(self, timeout: float = 5.0) -> None:
        """End the process and its group: SIGTERM first, SIGKILL for whoever is left."""
        if self.returncode is None:
            self._popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()
        for pipe in (self._popen.stdout, self._popen.stderr):
            if pipe is not None:
                pipe.close()
        if self in LIVE:
            LIVE.remove(self)

    def _read(self, stream: str, pipe: IO[bytes]) -> None:
        for line in _lines_of(pipe):
            with self._changed:
                self._lines[stream].append(line)
                self._changed.notify_all()
        with self._changed:
            self._open_streams -= 1
            self._changed.notify_all()


def children(pid: int) -> list[int]:
    """The processes that a process has started and that run now. Raises ``OSError`` when it has ended."""
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def _accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _lines_of(pipe: IO[bytes]) -> Iterator[str]:
    for line in pipe:
        yield line.decode("utf-8", "backslashreplace").rstrip("\r\n")
