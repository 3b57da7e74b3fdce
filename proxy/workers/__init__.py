"""Several worker processes, and the parent that keeps their sockets.

::

    parent ── binds and keeps the listening sockets; starts, watches and replaces workers; sums counters
      │ ├──channel──▶ worker 1 ── a Proxy: accepts, forwards, logs
      │ └──channel──▶ worker 2
      └ on SIGHUP: worker 1, worker 2 of the new generation; when all are ready, those of before drain

A *generation* is the workers of one configuration. What happens when is decided in fleet.py, without
processes, sockets or clocks; parent.py does it. A worker is a fresh interpreter (worker.py), so a reload
after an upgrade runs the new code. Parent and worker talk over a socket pair (channel.py): when the parent
is gone, its end closes, and the worker drains and ends by itself.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from proxy.config.schema import Auto

if TYPE_CHECKING:
    from proxy.config.schema import Config

MAX_DRAINING = 3
"""Generations of before that may drain at the same time; a reload waits for the oldest. It bounds the
memory when reloads come quickly, without cutting a request."""


def worker_count(config: Config) -> int:
    """Return how many workers a configuration means on this machine."""
    if isinstance(config.workers, Auto):
        return len(os.sched_getaffinity(0))
    return config.workers
