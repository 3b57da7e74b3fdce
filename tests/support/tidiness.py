"""Whether a stretch of asynchronous test code leaves its event loop and the process as they were."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import uvloop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SETTLING_TURNS = 100
"""Turns of the event loop within which closed transports and cancelled tasks have to be gone."""


@asynccontextmanager
async def leaving_nothing_behind() -> AsyncIterator[None]:
    """Fails at its end when the loop's exception handler was called, or a task or a socket is left."""
    loop = asyncio.get_running_loop()
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))
    sockets, tasks = _sockets(), asyncio.all_tasks()
    yield

    # uvloop makes a new pair for signals each time that it runs.
    own_sockets = 2 if isinstance(loop, uvloop.Loop) else 0

    def left() -> tuple[set[asyncio.Task[Any]], set[str]]:
        new_sockets = _sockets() - sockets
        return (
            asyncio.all_tasks() - tasks - {asyncio.current_task()},
            new_sockets if len(new_sockets) > own_sockets else set(),
        )

    for _ in range(SETTLING_TURNS):
        if not any(left()):
            break
        await asyncio.sleep(0)
    left_tasks, left_sockets = left()
    assert not reported, f"the loop's exception handler was called: {reported}"
    assert not left_tasks, f"tasks left behind: {left_tasks}"
    assert not left_sockets, f"sockets left open: {left_sockets}"


def _sockets() -> set[str]:
    """The sockets and pipes that this process has open, by inode."""
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:  # the listing's own descriptor
            continue
        if target.startswith(("socket:", "pipe:")):
            found.add(target)
    return found
