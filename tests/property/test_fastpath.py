"""The fast path is an optimisation, never a second set of rules: with it and without it, the same bytes go
up, the same bytes come back, and log and counters say the same."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field
from typing import Any

from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from proxy.config.schema import TcpAddress
from proxy.serve.connection import State
from proxy.serve.fastexchange import Stage
from tests.support.odd_heads import request_heads
from tests.support.play import Play

OWN_WORDS = re.compile(rb"127\.0\.0\.1:\d+|X-Forwarded-Port: \d+")
"""What differs between two proxies that run side by side: their ports."""

TIMES = ("ts", "t_head", "t_body", "t_queue", "t_connect", "t_first_byte", "t_total")

# --- requests ------------------------------------------------------------------------------------

paths = st.sampled_from(
    [
        b"/e/",
        b"/e",
        b"/batch/",
        b"/s/",
        b"/i/v0/e/",
        b"/i/v1/analytics/events",
        b"/flags/?v=2",
        b"/decide",
        b"/array/phc_abc/config.js",
        b"/static/array.js?v=1",
        b"/e/?ip=0&_=1&ver=1.449.0&compression=gzip-js",
        b"/e/?lib=web&ver=2",
        b"/app",
        b"/api/projects/@current",
        b"/metrics",
        b"/%65/",
        b"//e/",
        b"/s/../e",
    ]
)
methods = st.sampled_from([b"POST"] * 6 + [b"GET"] * 3 + [b"OPTIONS", b"HEAD", b"PUT"])
hosts = st.sampled_from([b"ph.example"] * 5 + [b"PH.example:8443", b"[2001:db8::1]", b"other.test", b"a b"])
chains = st.sampled_from(
    [
        b"203.0.113.7",
        b"6.6.6.6, 203.0.113.7, 10.0.0.1",
        b"unknown, 10.0.0.2",
        b"[2001:db8::7]:443",
        b"",
        b"\xff",
    ]
)
plain_lines = st.sampled_from(
    [
        b"Accept: */*",
        b"accept:application/json",
        b"Content-Type: text/plain",
        b"User-Agent: posthog-python/7.91.1",
        b"User-Agent:   Mozilla/5.0 (X11) \t",
        b"Origin: https://shop.example",
        b"Connection: keep-alive",
        b"connection: Close",
        b"Keep-Alive: timeout=5",
        b"TE: trailers",
        b"X-A: 1",
        b"X-Real-IP: 1.1.1.1",
        b"X-Forwarded-Proto: https",
        b"x-forwarded-proto: HTTPS",
        b"X-Forwarded-Host: Shop.example",
        b"X-Forwarded-Port: 444",
        b"X-Request-Id: 0b0d1c1e-3a51-4c3e-9d6e-6a7b9ad0a001",
        b"X-Request-Id: no",
        b"Forwarded: for=198.51.100.9;proto=https",
        b"Cookie: a=b",
        b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        b"X-Long: " + b"y" * 300,
    ]
)
odd_lines = st.sampled_from(
    [
        b"Connection: keep-alive, X-Forwarded-For",
        b"Connection: x-a",
        b"X_Forwarded_For: 1.1.1.1",
        b"Cookie: a=b; c=\x01",
        b"Expect: 100-continue",
        b"Upgrade: h2c",
        b"Bad Name: 1",
        b"no colon",
        b"Content-Length: 3",
        b"Host: again",
    ]
)
chain_lines = st.builds(
    lambda name, chain: name + chain, st.sampled_from([b"X-Forwarded-For: ", b"x-forwarded-for:"]), chains
)
lines = st.integers(0, 19).flatmap(
    lambda pick: odd_lines if pick == 0 else chain_lines if pick < 6 else plain_lines
)
bodies = st.sampled_from([b"", b"x", b'{"event":"$pageview"}', b"y" * 3000, b"z" * 70_000])
length_names = st.sampled_from(
    [b"Content-Length: %d", b"content-length: %d", b"Content-Length:%d", b"Content-Length: 0%d"]
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    method, body = draw(methods), draw(bodies)
    head = [
        draw(st.sampled_from([b"Host: %b", b"host:%b"])) % draw(hosts),
        *draw(st.lists(lines, max_size=6)),
    ]
    if body or draw(st.booleans()):
        chunked = draw(st.integers(0, 19)) == 0
        if chunked:
            head.append(b"Transfer-Encoding: chunked")
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        else:
            head.append(draw(length_names) % len(body))
    head = draw(st.permutations(head))
    version = draw(st.sampled_from([b"HTTP/1.1"] * 5 + [b"HTTP/1.0"] * 2 + [b"HTTP/1.2"]))
    return b"\r\n".join([b"%b %b %b" % (method, draw(paths), version), *head, b"", body])


streams = st.integers(0, 9).flatmap(
    lambda pick: request_heads if pick == 0 else st.lists(requests(), min_size=1, max_size=2).map(b"".join)
)

# --- answers, configurations ---------------------------------------------------------------------

answers = st.sampled_from(
    [
        b'HTTP/1.1 200 OK\r\nDate: D\r\nContent-Type: a/b\r\nContent-Length: 15\r\n\r\n{"status":"Ok"}',
        b"HTTP/1.1 204 No Content\r\ndate: D\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nDate: D\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nDate: D\r\nConnection: close, X-B\r\nX-B: 1\r\nContent-Length: 02\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nDate: D\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 413 Too Large\r\nDate: D\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 503 Unavailable\r\nDate: D\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 2\r\n\r\nokSURPLUS",
        b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 304 Not Modified\r\nDate: D\r\nETag: x\r\nContent-Length: 9\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    ]
)

configurations = st.fixed_dictionaries(
    {
        "trust": st.sampled_from(
            [
                {},
                {"proxies": ["127.0.0.1", "10.0.0.0/8"]},
                {"all": True},
                {"hops": 2},
                {"proxies": ["127.0.0.1"], "forwarded": True},
            ]
        ),
        "forwarding": st.sampled_from([{}, {"chain": "append"}, {"anonymise": True}, {"via": True}]),
        "access": st.sampled_from([{}, {"allowed_hosts": [".example"]}]),
        "limits": st.sampled_from([{}, {"body_ingest": 2048, "body_flags": 2048}, {"head_lines": 16}]),
        "host": st.sampled_from(["keep", "upstream"]),
    }
)


@dataclass
class Seen:
    """What one proxy did."""

    up: list[bytes] = field(default_factory=list)
    down: bytes = b""
    log: list[dict[str, Any]] = field(default_factory=list)
    counters: dict[str, Any] = field(default_factory=dict)
    fast: int = 0


class Scripted(Play):
    """A stage whose upstream answers each request on its own, with the next of the script."""

    def __init__(self, script: list[bytes], seen: Seen, **config: Any) -> None:
        super().__init__(**config)
        self._script = script
        self._seen = seen
        self.asked = 0

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = b""
                if length := re.search(rb"(?i)\r\ncontent-length: (\d+)", head):
                    body = await reader.readexactly(int(length[1]))
                elif re.search(rb"(?i)\r\ntransfer-encoding", head):
                    while (size := await reader.readuntil(b"\r\n")) != b"0\r\n":
                        body += size + await reader.readexactly(int(size, 16) + 2)
                    body += size + await reader.readexactly(2)
                self._seen.up.append(OWN_WORDS.sub(b"PORT", head) + body)
                writer.write(self._script[self.asked % len(self._script)])
                self.asked += 1
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()


async def watch(
    stream: bytes, cuts: list[int], script: list[bytes], config: dict[str, Any], *, fast: bool
) -> Seen:
    seen = Seen()
    settings_ = {key: value for key, value in config.items() if key != "host"}
    upstreams = {"default": {"host": config["host"]}}
    async with Scripted(script, seen, fast_path=fast, upstreams=upstreams, **settings_) as play:
        counter = iter(range(1, 1000))
        play.proxy._runtime.request_id = lambda: f"00000000-0000-4000-8000-{next(counter):012x}"
        address = play.proxy.addresses[0]
        assert isinstance(address, TcpAddress)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        heard = asyncio.ensure_future(reader.read())
        sent = 0
        for at in [*sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]:
            piece = stream[sent:at]
            sent = at
            if piece:
                writer.write(piece)
                await play.until(lambda: heard.done() or at_rest(play, sent))  # noqa: B023
        await play.until(lambda: heard.done() or at_rest(play, sent))
        if writer.can_write_eof() and not writer.is_closing():
            writer.write_eof()
        async with asyncio.timeout(10):
            try:
                seen.down = OWN_WORDS.sub(b"PORT", await heard)
            except ConnectionResetError:
                seen.down = b"RESET"
        writer.close()
        await play.until(lambda: not play.proxy.connections)
        for line in play.lines():
            for name in (*TIMES, "listener", "upstream_addr"):
                line.pop(name)
            seen.log.append(line)
        counters = play.proxy.counters.snapshot()
        seen.fast = counters.pop("posthog_proxy_fast_path_total")  # type: ignore[assignment]
        del counters["posthog_proxy_fast_path_missed_total"]
        seen.counters = counters
    return seen


def at_rest(play: Play, sent: int) -> bool:
    """The proxy has read all and waits for the client (or has closed)."""
    connections = play.proxy.connections
    return all(
        connection.bytes_in == sent
        and (
            connection.state in (State.HEAD, State.LINGER, State.CLOSING, State.CLOSED)
            or (connection.state is State.IDLE and not connection.received)
            or (connection.state is State.FAST and connection.fast_stage is Stage.HELD)
            or connection.awaited
        )
        for connection in connections
    )


EVENT = (
    b"POST /e/ HTTP/1.1\r\nHost: ph.example\r\nX-Forwarded-For: 203.0.113.7\r\nContent-Length: 5\r\n\r\nhello"
)


@settings(max_examples=1200, deadline=None)
@given(
    streams,
    st.lists(st.integers(0, 100_000), max_size=3),
    st.lists(answers, min_size=1, max_size=2),
    configurations,
)
@example(EVENT, [], [b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 0\r\n\r\n"], {"host": "keep"})
@example(EVENT * 2, [10], [b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 0\r\n\r\n"], {"host": "keep"})
def test_both_paths_are_one(
    stream: bytes, cuts: list[int], script: list[bytes], config: dict[str, Any]
) -> None:
    general = asyncio.run(watch(stream, cuts, script, config, fast=False))
    fast = asyncio.run(watch(stream, cuts, script, config, fast=True))
    event(f"fast {fast.fast}, asked {len(fast.up)}")
    assert general.fast == 0
    assert fast.up == general.up
    assert fast.down == general.down
    assert json.dumps(fast.log) == json.dumps(general.log)
    assert fast.counters == general.counters


def test_an_event_cut_anywhere_is_fast_and_the_same() -> None:
    script = [b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 2\r\n\r\nok"]
    whole = asyncio.run(watch(EVENT, [], script, {"host": "keep"}, fast=False))
    for cut in range(len(EVENT)):
        seen = asyncio.run(watch(EVENT, [cut], script, {"host": "keep"}, fast=True))
        assert seen.fast == 1
        assert (seen.up, seen.down, seen.log) == (whole.up, whole.down, whole.log)
