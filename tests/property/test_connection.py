"""Ten thousand malformed inputs against a real proxy: nothing raises into the loop, nothing leaks.

Both sides are hostile: clients send broken requests (and hang up), upstreams broken answers (and close).
What the gate makes of each is tested elsewhere; here only the house must stand and be clean afterwards.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config.load import config_from
from proxy.config.schema import TcpAddress
from proxy.server import Proxy

if TYPE_CHECKING:
    from collections.abc import Sequence

BATCHES = 100
CLIENTS = 100
"""Together 10,000 inputs, half of them requests and half answers."""

REQUESTS = (
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /e/ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /s/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"POST /flags/?v=2 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\nX-Forwarded-For: 1.2.3.4, [::1]:80\r\n\r\n",
    (
        b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\nframes"
    ),
)
ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nSet-Cookie: a=b\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nframes"
    ),
)
SPLINTERS = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"\xff", b"0", b"-1", b"\x16\x03\x01", b"#",
    b"%2e%2e", b"HTTP/9.9", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"Content-Length: 3\r\n", b"Host: b\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n", b"Connection: close\r\n",
    b"Connection: Host, X-Forwarded-For\r\n", b"Expect: x\r\n", b"Upgrade: h2c\r\n",
    b"A" * 3000, b"X: " + b"y" * 70_000 + b"\r\n", b"q: 1\r\n" * 200,
)  # fmt: skip


def broken(whole: Sequence[bytes], rng: random.Random) -> bytes:
    """Return one of the messages with one to four wounds."""
    data = bytearray(rng.choice(whole))
    for _ in range(rng.randint(1, 4)):
        at, to = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
        kind = rng.randint(0, 4)
        if kind == 0:
            data[at:at] = rng.choice(SPLINTERS)
        elif kind == 1:
            del data[at : min(to, at + 12)]
        elif kind == 2:
            data[at : at + 1] = bytes([rng.randint(0, 255)])
        elif kind == 3:
            del data[to:]
        else:
            data[at:at] = rng.choice(whole)
    return bytes(data)


class Upstream:
    """Answers every connection once with what was put in, and closes it."""

    def __init__(self, answers: Sequence[bytes]) -> None:
        self._answers = list(answers)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self._answers.pop() if self._answers else ANSWERS[0])
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()


async def hostile_client(address: TcpAddress, data: bytes, cuts: random.Random, *, leave: bool) -> None:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        at = cuts.randint(0, len(data))
        for piece in (data[:at], data[at:]):
            writer.write(piece)
            await asyncio.sleep(0)
        if leave:
            writer.write_eof()
        await reader.read()
    except OSError:
        pass
    finally:
        writer.close()


async def storm(seed: int) -> None:
    rng = random.Random(seed)
    loop = asyncio.get_running_loop()
    raised: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: raised.append(context))
    upstream = Upstream([broken(ANSWERS, rng) for _ in range(CLIENTS // 2)])
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    config = config_from(
        {
            "listen": ["127.0.0.1:0"],
            "upstream": f"http://127.0.0.1:{port}",
            "health": {"breaker": False},
            "trust": {"proxies": ["127.0.0.1"]},
            "timeouts": {"linger": 0.5},
        }
    ).config
    errors = bytearray()
    async with Proxy(config, access_sink=lambda lines: None, error_sink=errors.extend) as proxy:
        (address,) = proxy.addresses
        assert isinstance(address, TcpAddress)
        closing = [request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) for request in REQUESTS[:4]]
        clients = [
            hostile_client(address, broken(REQUESTS, rng), rng, leave=True) for _ in range(CLIENTS // 2)
        ] + [hostile_client(address, rng.choice(closing), rng, leave=False) for _ in range(CLIENTS // 2)]
        async with asyncio.timeout(60):
            await asyncio.gather(*clients)
        await proxy.drain(5)
        assert not proxy.connections
        snapshot = proxy.counters.snapshot()
        assert snapshot["posthog_proxy_requests_in_flight"] == 0
        assert snapshot["posthog_proxy_open_connections"] == 0
    server.close()
    await server.wait_closed()
    for _ in range(20):  # let the stand-in's own transports close
        await asyncio.sleep(0)
    assert raised == []
    assert b"internal_error" not in errors, errors.decode()
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert others == []


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@settings(max_examples=BATCHES, deadline=None)
@given(st.integers(0, 2**64 - 1))
def test_malformed_inputs_leave_nothing_behind(seed: int) -> None:
    gc.collect()
    before = open_descriptors()
    asyncio.run(storm(seed))
    gc.collect()
    assert open_descriptors() == before
