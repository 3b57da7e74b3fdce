"""Waiting for sockets, in asyncio's loop and in a plain selector's."""

from __future__ import annotations

import contextlib
import selectors
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable


class Poller(Protocol):
    """Calls back when a socket can be read from or written to."""

    def watch(self, sock: socket.socket, turn: Callable[[], None], *, reading: bool, writing: bool) -> None:
        """Call ``turn`` from now on when one of these is possible, instead of what was said before."""
        ...

    def forget(self, sock: socket.socket) -> None:
        """Call no more; before the socket is closed."""
        ...


class LoopPoller:
    """On an asyncio event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def watch(self, sock: socket.socket, turn: Callable[[], None], *, reading: bool, writing: bool) -> None:
        if reading:
            self._loop.add_reader(sock.fileno(), turn)
        else:
            self._loop.remove_reader(sock.fileno())
        if writing:
            self._loop.add_writer(sock.fileno(), turn)
        else:
            self._loop.remove_writer(sock.fileno())

    def forget(self, sock: socket.socket) -> None:
        self._loop.remove_reader(sock.fileno())
        self._loop.remove_writer(sock.fileno())


class SelectorPoller:
    """On a selector, whose owner calls the ``data`` of each key that is ready."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector

    def watch(self, sock: socket.socket, turn: Callable[[], None], *, reading: bool, writing: bool) -> None:
        events = selectors.EVENT_READ * reading | selectors.EVENT_WRITE * writing
        self.forget(sock)
        if events:
            self._selector.register(sock, events, turn)

    def forget(self, sock: socket.socket) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(sock)
