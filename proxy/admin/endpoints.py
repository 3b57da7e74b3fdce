"""What is answered under which path."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol

from proxy.admin.exchange import Answer, said
from proxy.admin.figures import figures
from proxy.admin.guard import denial
from proxy.admin.history import History
from proxy.admin.page import POLICY, status_page
from proxy.admin.settings import settings
from proxy.config.schema import LogLevel
from proxy.message import field_values
from proxy.observe.exposition import CONTENT_TYPE, exposition

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.admin.exchange import Request
    from proxy.admin.figures import Figures
    from proxy.clock import Clock
    from proxy.config.schema import Config
    from proxy.observe.lifetime import Lifetime
    from proxy.observe.metrics import Snapshot
    from proxy.observe.report import Report

JSON = "application/json"


class Facts(Protocol):
    """The process; service.py where it serves by itself, workers/parent.py where its workers do."""

    @property
    def config(self) -> Config:
        """The configuration that is served."""
        ...

    @property
    def lifetime(self) -> Lifetime:
        """Version, start, reloads."""
        ...

    @property
    def state(self) -> str:
        """``starting``, ``ready`` (listens, and somebody accepts) or ``draining``."""
        ...

    @property
    def log_level(self) -> LogLevel:
        """What the error log keeps now."""
        ...

    def snapshot(self) -> Snapshot:
        """The counters of all processes in one sum."""
        ...

    def report(self) -> Report:
        """The same of what they say in words."""
        ...

    def begin_drain(self) -> None:
        """Stop gently, as on SIGTERM."""
        ...

    def set_log_level(self, level: LogLevel) -> None:
        """Let the error log keep this, in every process, until the next reload."""
        ...


class Endpoints:
    """The table of paths, and who may ask."""

    def __init__(self, facts: Facts, clock: Clock) -> None:
        self._facts = facts
        self._clock = clock
        self._history = History()
        self._token = b""
        self._unix = False
        self._reads: dict[str, Callable[[Request], Answer]] = {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/": self._status,
            "/status": self._status,
            "/status.json": lambda _: as_json(self.figures()),
            "/status/events": self._events,
            "/config": lambda _: as_json(settings(self._facts.config)),
        }
        self._commands: dict[str, Callable[[Request], Answer]] = {
            "/drain": self._drain,
            "/log-level": self._log_level,
        }

    def ask_for(self, token: bytes, *, unix: bool) -> None:
        """Ask for this token from now on (empty: for none); ``unix``: they come over a Unix socket."""
        self._token = token
        self._unix = unix

    def answer(self, request: Request) -> Answer:
        """Answer one request."""
        refusal = denial(request, self._token, unix=self._unix)
        if refusal is not None:
            return refusal
        reads, commands = self._reads.get(request.path), self._commands.get(request.path)
        method = request.head.method
        if commands is not None and method == b"POST":
            return commands(request)
        if reads is not None and method in (b"GET", b"HEAD"):
            return reads(request)
        if reads is None and commands is None:
            paths = ", ".join([*self._reads, *(f"POST {path}" for path in self._commands)])
            return said(404, f"there are: {paths}")
        allowed = ["GET, HEAD"] * (reads is not None) + ["POST"] * (commands is not None)
        return said(405, f"{request.path} is for {' and '.join(allowed)}", Allow=", ".join(allowed))

    def _healthz(self, request: Request) -> Answer:
        return said(200, "ok")

    def _readyz(self, request: Request) -> Answer:
        state = self._facts.state
        return said(200 if state == "ready" else 503, state)

    def _metrics(self, request: Request) -> Answer:
        snapshot = self._facts.lifetime.snapshot() | self._facts.snapshot()
        return Answer(200, exposition(snapshot).encode(), CONTENT_TYPE)

    def tick(self) -> None:
        """Take a sample for the rates, if it is time."""
        now = self._clock.monotonic()
        if self._history.due(now):
            self._history.add(self._facts.snapshot(), now)

    def figures(self) -> Figures:
        """Return everything that status page and `top` show."""
        facts, wall = self._facts, self._clock.wall()
        return {
            "now": round(wall, 3),
            "version": facts.lifetime.version,
            "state": facts.state,
            "uptime": round(facts.lifetime.seconds, 1),
            "workers": facts.lifetime.workers,
            "last_reload": facts.lifetime.last_reload,
            "log_level": facts.log_level.value,
            **figures(facts.snapshot(), facts.report(), self._history, wall),
        }

    def event(self) -> bytes:
        """Return the figures as one Server-Sent Event."""
        return b"data: " + as_json(self.figures()).body + b"\n\n"

    def _status(self, request: Request) -> Answer:
        accepts = b",".join(field_values(request.head.fields, b"accept")).lower()
        if b"text/html" not in accepts:
            return as_json(self.figures())
        fields = ((b"Content-Security-Policy", POLICY.encode()), (b"Referrer-Policy", b"no-referrer"))
        return Answer(200, status_page(self.figures()).encode(), "text/html; charset=utf-8", fields)

    def _events(self, request: Request) -> Answer:
        return Answer(200, self.event(), "text/event-stream", streams=True)

    def _drain(self, request: Request) -> Answer:
        self._facts.begin_drain()
        return said(202, "draining")

    def _log_level(self, request: Request) -> Answer:
        word = request.body.decode("ascii", "replace").strip()
        try:
            level = LogLevel(word)
        except ValueError:
            return said(400, f"say one of {', '.join(level.value for level in LogLevel)} as the body")
        self._facts.set_log_level(level)
        return said(200, level.value)


def as_json(value: object, status: int = 200) -> Answer:
    """Return an answer in JSON."""
    return Answer(status, json.dumps(value, separators=(",", ":")).encode(), JSON)
