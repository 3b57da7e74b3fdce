"""Answers gone wrong on purpose: statuses, delays and dropped connections, by path."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Kind(enum.Enum):
    """STATUS answers with it; DELAY waits first; DROP closes the connection without an answer."""

    STATUS = "status"
    DELAY = "delay"
    DROP = "drop"


@dataclass(slots=True)
class Fault:
    """``paths`` empty: every path but the stand-in's own. ``left`` ``None``: until it is cleared."""

    kind: Kind
    paths: frozenset[str]
    status: int = 0
    seconds: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    left: int | None = None


def _plain(path: str) -> str:
    return path.rstrip("/") or "/"


class Faults:
    """The faults in force, in the order they were asked for. A path matches with and without its
    trailing slash."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(
        self,
        kind: Kind,
        *,
        paths: Iterable[str] = (),
        status: int = 0,
        seconds: float = 0.0,
        headers: Mapping[str, str] | None = None,
        times: int | None = None,
    ) -> None:
        names = frozenset(map(_plain, paths))
        self._faults.append(Fault(kind, names, status, seconds, headers or {}, times))

    def clear(self) -> None:
        self._faults.clear()

    def take(self, path: str) -> list[Fault]:
        """The faults that hit a request for ``path``; each counts down."""
        if path.startswith("/__standin__/"):
            return []
        hit = [fault for fault in self._faults if not fault.paths or _plain(path) in fault.paths]
        for fault in hit:
            if fault.left is not None:
                fault.left -= 1
        self._faults = [fault for fault in self._faults if fault.left != 0]
        return hit
