"""The proxy without access log, metrics and detectors on its fast path: what they cost is the difference.

`python -m benchmarks.bare run ...` is `posthog-proxy run ...`. No configuration switches off the counting, so
it is taken out here; what is left is what the proxy needs itself (requests in flight, for its drain).
"""

from __future__ import annotations

import sys

from proxy.cli import main
from proxy.serve.fastrecord import FastRecord


def _uncounted(record: FastRecord, *_: object) -> None:
    record._runtime.counters.requests_in_flight -= 1


def take_out() -> None:
    """Let fast exchanges end without being counted and logged, in this process."""
    for name in ("_log", "_write"):
        setattr(FastRecord, name, _uncounted)


if __name__ == "__main__":
    take_out()
    sys.exit(main())
