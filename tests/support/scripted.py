"""A proxy before an upstream that answers by itself, watched: what went up, what was logged and counted.

Two of them that were told the same can be compared, with and without the fast path: a request's id is
the number of those before it, and ``without_ports`` evens out what is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
from typing import TYPE_CHECKING, Any, Self

from tests.support.play import Play

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.keeping import Kept

_OWN_PORTS = re.compile(rb"127\.0\.0\.1:\d+|X-Forwarded-Port: \d+")
_TIMES = ("ts", "t_head", "t_body", "t_queue", "t_connect", "t_first_byte", "t_total")
_OF_ITS_OWN = (*_TIMES, "listener", "upstream_addr")


def without_ports(sent: bytes) -> bytes:
    """Replace what differs between two proxies that run side by side."""
    return _OWN_PORTS.sub(b"PORT", sent)


_NO_RULES = ("fast_path_total", "fast_path_missed_total", "_spliced_bytes")


class Scripted(Play):
    """``script``: the answers, one after another and then from the beginning. Each is written at once or, a
    tuple, in pieces, each when the proxy has read the one before; an empty piece is the connection's end.
    ``up``: the requests that have reached the upstream, in order, with their framing."""

    def __init__(
        self, script: Sequence[bytes | tuple[bytes, ...]], *, keeper: Kept | None = None, **config: Any
    ) -> None:
        super().__init__(keeper=keeper, **config)
        self.up: list[bytes] = []
        self._answers = itertools.cycle(script)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.proxy._runtime.request_id = lambda: f"00000000-0000-4000-8000-{len(self.up):012x}"
        return self

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gone = contextlib.suppress(asyncio.IncompleteReadError, OSError)
        with contextlib.closing(writer), gone:
            sent = 0
            while True:
                self.up.append(await _request(reader))
                answer = next(self._answers)
                for piece in (answer,) if isinstance(answer, bytes) else answer:
                    if not piece:
                        return
                    writer.write(piece)
                    sent += len(piece)
                    await self._has_read(writer.get_extra_info("peername"), sent)

    async def _has_read(self, name: object, count: int) -> None:
        """Wait until the proxy has read so much from the upstream, or has closed the connection."""
        found = [
            connection
            for pool in self.proxy._pools.values()
            for connection in pool._sockets
            if connection.transport.get_extra_info("sockname") == name
        ]
        await self.until(lambda: all(each.bytes_in >= count or each.lost for each in found))

    def logged(self) -> list[dict[str, Any]]:
        """The access log so far, without what every run has of its own."""
        return [
            {name: value for name, value in line.items() if name not in _OF_ITS_OWN} for line in self.lines()
        ]

    def said(self) -> list[str]:
        """The events of the error log so far."""
        self.proxy._error_log.flush()
        return [json.loads(line)["event"] for line in self.errors.splitlines()]

    def counted(self) -> dict[str, Any]:
        """All counters but those of the fast path itself, and of how bytes were moved: what is in hand when
        the moving begins is not the same on both paths."""
        counters = self.proxy.counters.snapshot()
        return {name: value for name, value in counters.items() if not name.endswith(_NO_RULES)}

    @property
    def fast(self) -> int:
        """Requests that have taken the fast path from end to end."""
        return self.proxy.counters.fast_path

    @property
    def missed(self) -> dict[str, int]:
        """Requests that have not, by the reason."""
        return {reason: count for (reason,), count in self.proxy.counters.fast_path_missed.items()}


async def _request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    body = b""
    if length := re.search(rb"(?i)\r\ncontent-length: (\d+)", head):
        body = await reader.readexactly(int(length[1]))
    elif re.search(rb"(?i)\r\ntransfer-encoding", head):
        while (size := await reader.readuntil(b"\r\n")) != b"0\r\n":
            body += size + await reader.readexactly(int(size, 16) + 2)
        body += size + await reader.readexactly(2)
    return head + body
