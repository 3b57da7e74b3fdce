"""Waiting for sockets: the same calls on both kinds of loop."""

from __future__ import annotations

import asyncio
import selectors
import socket
from typing import TYPE_CHECKING

from proxy.admin.polling import LoopPoller, SelectorPoller

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.admin.polling import Poller


def play(poller: Poller, turned: Callable[[], int], turn: Callable[[], None]) -> list[int]:
    """Watch for reading, for writing, for neither, then no more; how often ``turn`` was called each time."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"x")
        counts = []
        for reading, writing in ((True, False), (False, True), (False, False)):
            poller.watch(ours, turn, reading=reading, writing=writing)
            counts.append(turned())
        poller.watch(ours, turn, reading=True, writing=True)
        poller.forget(ours)
        poller.forget(ours)
        return [*counts, turned()]


def test_on_a_selector() -> None:
    with selectors.DefaultSelector() as selector:
        calls: list[None] = []

        def turned() -> int:
            calls.clear()
            for key, _ in selector.select(0):
                key.data()
            return len(calls)

        assert play(SelectorPoller(selector), turned, lambda: calls.append(None)) == [1, 1, 0, 0]


def test_on_an_event_loop() -> None:
    loop = asyncio.new_event_loop()
    calls: list[None] = []

    def turned() -> int:
        calls.clear()
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(asyncio.sleep(0))
        return min(1, len(calls))

    try:
        assert play(LoopPoller(loop), turned, lambda: calls.append(None)) == [1, 1, 0, 0]
    finally:
        loop.close()
