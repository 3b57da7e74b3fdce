"""Every exception of the package, and whose fault each one is.

::

    ProxyError
    ├── ConfigError      the operator's: key, value, what is allowed (exit 2, no traceback)
    ├── Violation        a peer's bytes broke the grammar: status to answer, reason, detail
    └── Failure          an exchange could not go on: source, kind, status, may it be sent again

An exception knows the status to answer, so that whoever catches it does not decide again.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class ProxyError(Exception):
    """Base of all exceptions that this package raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a configuration.

    ``key`` is dotted (``limits.head_bytes``), ``value`` its text as given, ``allowed`` what would
    be right, ``nearest`` the closest known key when ``key`` is unknown, ``where`` the file, the
    environment variable or the flag that said it.
    """

    key: str
    value: str
    allowed: str
    where: str = ""
    nearest: str | None = None

    def __str__(self) -> str:
        text = f"{self.where}: " if self.where else ""
        text += f"{self.key} = {self.value}: {self.allowed}"
        if self.nearest is not None:
            text += f" (did you mean {self.nearest}?)"
        return text


class ConfigError(ProxyError):
    """The configuration cannot be used. ``problems`` lists everything found, not only the first."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def described(error: OSError | ConfigError) -> str:
    """Return why something could not be started, in one line: with the file, where it is about one."""
    if isinstance(error, ConfigError):
        return "; ".join(str(problem) for problem in error.problems)
    about = f"{error.filename}: " if error.filename else ""
    return f"{about}{error.strerror or error}"


class Violation(ProxyError):
    """Bytes that we refuse to read (RFC 9112; wire/strict.py).

    ``status`` is what a client is answered (an upstream's violation is always a 502), ``reason``
    the machine word for log and counter, ``detail`` a sentence without secrets. The connection is
    always closed after one.
    """

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(f"{status} {reason}: {detail}")
        self.status = status
        self.reason = reason
        self.detail = detail


class Source(enum.Enum):
    """Whose fault a failure is."""

    DOWNSTREAM = "downstream"
    UPSTREAM = "upstream"
    PROXY = "proxy"


class Resend(enum.Enum):
    """May the request be sent again after this failure (defaults: retries)?

    ANY: nothing was sent, every method may go again. REUSED: it went out on a reused connection
    that died before an answer byte; idempotent methods, or a wholly held body on a route that
    allows it, may go once more on a fresh one. NEVER: an answer began, or the body is gone.
    """

    ANY = "any"
    REUSED = "reused"
    NEVER = "never"


class Failure(ProxyError):
    """An exchange cannot go on. ``kind`` is the machine word for log and counter, ``retry_after``
    the seconds after which a new try makes sense, where that is known."""

    def __init__(
        self,
        source: Source,
        kind: str,
        status: int,
        detail: str,
        resend: Resend = Resend.NEVER,
        *,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(f"{source.value} {kind} ({status}): {detail}")
        self.source = source
        self.kind = kind
        self.status = status
        self.detail = detail
        self.resend = resend
        self.retry_after = retry_after


def late_answer() -> Failure:
    """The upstream did not say the next thing in time."""
    return Failure(Source.UPSTREAM, "upstream_timeout", 504, "the upstream did not answer in time")


def stuck_upstream() -> Failure:
    """The upstream takes nothing more of the request."""
    return Failure(Source.UPSTREAM, "upstream_write_timeout", 504, "the upstream stopped reading the request")
