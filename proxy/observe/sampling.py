"""Which requests get a line in the access log: the interesting ones always, of the others a share.

The share is drawn from the request's id, so that all who log one request (both paths of this proxy, and
whoever else computes the same) agree, and a line that is there is there with all that belongs to it.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.config.schema import LogConfig

_ALL = 1 << 32


class Sampling:
    """`log.sample`, `log.quiet` and `log.slow`, ready to be asked. ``everything``: nothing is left out. Where
    `log.access` is off nothing is wanted, so that no line is made to be forgotten."""

    __slots__ = ("_below", "_off", "_quiet", "everything", "slow")

    def __init__(self, config: LogConfig) -> None:
        self._below = round(config.sample / 100 * _ALL)
        self._quiet = frozenset(cls.value for cls in config.quiet)
        self._off = config.access == "off"
        self.everything = self._below >= _ALL and not self._quiet and not self._off
        self.slow = config.slow or float("inf")

    def wants(self, cls: str, status: int, request_id: str, seconds: float, error: str = "") -> bool:
        """Is a line to be written? ``error``: what the line says went wrong; ``status`` 0: no answer."""
        if self._off:
            return False
        if self.everything or error or not 0 < status < 400 or seconds >= self.slow:
            return True
        return cls not in self._quiet and zlib.crc32(request_id.encode()) < self._below
