"""Long work, cut up so that whoever has it done can do other things in between, or elsewhere.

A generator yields ``None`` where a pause is welcome, or a call that takes long and leaves the interpreter
free meanwhile (zlib does), and wants its result back: to be run in a thread. The call raises nothing. It
knows nothing of event loops: ``finish`` does all at once, proxy/delivery.py does it beside live requests.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
R = TypeVar("R")

Work: TypeAlias = Callable[[], Any]
Steps: TypeAlias = Generator[Work | None, Any, R]


def finish(steps: Steps[T]) -> T:
    """Do all of it here and now; return its result. Raises what it raises."""
    result = None
    try:
        while True:
            work = steps.send(result)
            result = None if work is None else work()
    except StopIteration as end:
        done: T = end.value
        return done
