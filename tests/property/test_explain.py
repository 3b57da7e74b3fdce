"""What `explain` says of a request is what a running proxy does with it: refused or sent, with which bytes,
on which path, for which reason."""

from __future__ import annotations

import asyncio
import contextlib
from ipaddress import ip_address
from typing import Any

from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from proxy.config.schema import TcpAddress
from proxy.explain.trail import Explanation, explain
from proxy.message import Peer
from proxy.server import Proxy
from tests.property.test_fastpath import (
    ALIASED,
    EVENT,
    READ,
    USUAL,
    any_requests,
    at_rest,
    configurations,
    ordinary_requests,
)
from tests.support.odd_heads import request_heads
from tests.support.scripted import Scripted

requests = st.integers(0, 9).flatmap(
    lambda pick: request_heads if pick == 9 else any_requests() if pick > 5 else ordinary_requests()
)

ONE_READ = 30_000
"""Bytes that are surely read at once, so that both are told the same."""


async def compare(raw: bytes, config: dict[str, Any]) -> None:
    """Tell a proxy a request, and have its twin, which never runs, explain it."""
    others = {key: value for key, value in config.items() if key != "host"}
    async with Scripted([USUAL], upstreams={"default": {"host": config["host"]}}, **others) as play:
        address = play.proxy.addresses[0]
        assert isinstance(address, TcpAddress)
        here = ip_address("127.0.0.1")
        twin = Proxy(play.proxy.config, clock=play.clock).runtime
        twin.request_id = lambda: "00000000-0000-4000-8000-000000000000"
        told = explain(raw, Peer(here, 0, False, str(address), address.port, None, here), twin)

        reader, writer = await asyncio.open_connection(address.host, address.port)
        heard = asyncio.ensure_future(reader.read())
        writer.write(raw)
        await play.until(lambda: heard.done() or at_rest(play, len(raw)))
        with contextlib.suppress(OSError):  # it was reset
            writer.write_eof()
        async with asyncio.timeout(10):
            try:
                down = await heard
            except ConnectionResetError:
                down = b"RESET"
        writer.close()
        await play.until(lambda: not play.proxy.connections)
        agree(told, play, down, len(raw), anonymous=bool(config.get("forwarding", {}).get("anonymise")))


def agree(told: Explanation, play: Scripted, down: bytes, size: int, *, anonymous: bool) -> None:
    logged = play.logged()
    sent = [request.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" for request in play.up[:1]]
    well = bool(logged) and logged[0]["status"] == 200
    event(f"{told.outcome}{' after checks' * bool(told.checks)}, fast {told.fast}, well {well}")
    if told.outcome != "forward":
        assert not sent
        assert not logged or logged[0]["status"] in (told.status, 499)
        assert down.startswith(told.answer) or down == b"RESET" or told.reason == "head_timeout"
    elif told.checks:
        assert not told.fast
        assert not play.fast
    else:
        assert sent == [told.upstream_head] if well else sent in ([told.upstream_head], [])
        gone_up = [(line.name, line.value) for line in told.lines if line.verdict != "removed"]
        assert sorted(gone_up) == sorted(lines_of(told.upstream_head))
        if well and len(logged) == 1 and size < ONE_READ:
            assert told.fast is (play.fast == 1)
    if logged and told.route is not None:
        assert (logged[0]["route"], logged[0]["class"]) == (told.route.name, told.route.cls.value)
    if logged and told.client is not None and not anonymous:
        said = ("" if told.client.ip is None else str(told.client.ip), told.client.source.value)
        assert (logged[0]["client_ip"], logged[0]["client_ip_source"]) == said


def lines_of(head: bytes) -> list[tuple[str, str]]:
    lines = head.decode("ascii", "backslashreplace").split("\r\n")[1:-2]
    return [(name, value) for name, _, value in (line.partition(": ") for line in lines)]


LARGE = EVENT.replace(b"Content-Length: 5", b"Content-Length: 1025") + b"x" * 1020
HTTP10 = b"GET /flags/ HTTP/1.0\r\nX_Forwarded_For: 1.1.1.1\r\nConnection: x-a\r\nX-A: 1\r\n\r\n"
SOCKET = (
    b"GET /livestream/x HTTP/1.1\r\nHost: ph.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


HANDSHAKE = b"\x16\x03\x01\x00\x5a\x01\x00\n\n"
PREFACE = b"PROXY TCP4 203.0.113.7 10.0.0.1 5 80\r\n"


@settings(max_examples=400, deadline=None)
@given(requests, configurations)
@example(EVENT, {"host": "keep", "trust": {"proxies": ["127.0.0.1"]}})
@example(LARGE, {"host": "upstream", "limits": {"body_ingest": 1024}})
@example(EVENT, {"host": "keep", "tls": {"refuse_http": True}})
@example(EVENT.replace(b"/e/", b"/metrics"), {"host": "keep"})
@example(EVENT.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked"), {"host": "keep"})
@example(ALIASED, {"host": "keep", "aliases": {"prefix": "/k7"}, "forwarding": {"drop_ingest_cookies": True}})
@example(READ, {"host": "keep"})
@example(HANDSHAKE, {"host": "keep"})
@example(PREFACE + EVENT, {"host": "keep"})
@example(HTTP10, {"host": "upstream", "trust": {"all": True}})
@example(SOCKET, {"host": "keep", "forwarding": {"via": True}})
@example(b"GET /app HTTP/1.1\r\nHost: a\r\n\r\n", {"host": "keep", "tls": {"redirect_https": True}})
def test_what_is_explained_is_what_happens(raw: bytes, config: dict[str, Any]) -> None:
    asyncio.run(compare(raw, config))
