"""The fast path is an optimisation, never a second set of rules: with it and without it, the same bytes go
up, the same bytes come back, and log and counters say the same."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from proxy.config.schema import TcpAddress
from proxy.serve.connection import State
from proxy.serve.fastrecord import Stage
from tests.support.odd_heads import request_heads
from tests.support.scripted import Scripted, without_ports

if TYPE_CHECKING:
    from tests.support.keeping import Kept

# --- requests ------------------------------------------------------------------------------------

fast_paths = st.sampled_from(
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
        b"/e/?over=1",
        b"/e/?ver=3&data=0123456789012345678901234567890123456789&ver=4",
        b"/k7/e/?_=1&ver=2",
        b"/k7/s",
        b"/x1?ip=0",
        b"/lib.js?v=1",
    ]
)
other_paths = st.sampled_from(
    [
        b"/app",
        b"/api/projects/@current",
        b"/metrics",
        b"/%65/",
        b"//e/",
        b"/s/../e",
        b"/static/ver=1&ver=2",
        b"/k7/login",
        b"/k7/%65/",
        b"/k7",
    ]
)
hosts = st.sampled_from(
    [b"ph.example", b"PH.example:8443", b"app.example", b"00000000-0000-0000-0000-000000000000"]
)
odd_hosts = st.sampled_from([b"[2001:db8::1]", b"other.test", b"a b", b""])
chains = st.sampled_from(
    [
        b"203.0.113.7",
        b"203.0.113.8",
        b"6.6.6.6, 203.0.113.7, 10.0.0.1",
        b"unknown, 10.0.0.2",
        b"[2001:db8::7]:443",
        b"",
        b"\xff",
    ]
)
chain_lines = st.builds(
    lambda name, chain: name + chain, st.sampled_from([b"X-Forwarded-For: ", b"x-forwarded-for:"]), chains
)
plain_lines = st.sampled_from(
    [
        b"Accept: */*",
        b"accept:application/json",
        b"Content-Type: text/plain",
        b"User-Agent: posthog-python/7.91.1",
        b"User-Agent:   Mozilla/5.0 (X11; 100%s) \t",
        b"User-Agent:",
        b"Origin: https://shop.example",
        b"Keep-Alive: timeout=5",
        b"TE: trailers",
        b"X-A: 1",
        b"X-Real-IP: 1.1.1.1",
        b"Remote-User: root",
        b"x-visitor: 2.2.2.2",
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
connection_lines = st.sampled_from([[]] * 4 + [[b"Connection: keep-alive"]] * 2 + [[b"connection: Close"]])
odd_lines = st.sampled_from(
    [
        b"Connection: keep-alive, X-Forwarded-For",
        b"Connection: x-a",
        b"Connection: close",
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
methods = st.sampled_from([b"POST", b"POST", b"GET", b"OPTIONS"])
bodies = st.sampled_from([b"", b"x", b'{"event":"$pageview"}', b"y" * 1100, b"y" * 3900])
larger_bodies = st.sampled_from([b"z" * 4100, b"z" * 9000, b"z" * 20_000])
large_bodies = st.sampled_from([b"z" * 4100, b"z" * 65_500, b"z" * 65_536, b"z" * 65_540])
length_names = st.sampled_from([b"Content-Length: %d", b"content-length: %d"])
odd_length_names = st.sampled_from([b"Content-Length:%d", b"Content-Length: 0%d", b"Content-length: %d"])


def request(method: bytes, path: bytes, version: bytes, lines: list[bytes], body: bytes) -> bytes:
    return b"\r\n".join([b"%b %b %b" % (method, path, version), *lines, b"", body])


@st.composite
def ordinary_requests(draw: st.DrawFn) -> bytes:
    """What the fast path is for."""
    method, body = draw(methods), draw(larger_bodies if draw(st.integers(0, 4)) == 0 else bodies)
    lines = [draw(st.sampled_from([b"Host: %b", b"host:%b"])) % draw(hosts), *draw(connection_lines)]
    lines += draw(st.lists(chain_lines | plain_lines, max_size=4))
    if body or draw(st.booleans()):
        lines.append(draw(length_names) % len(body))
    version = draw(st.sampled_from([b"HTTP/1.1"] * 4 + [b"HTTP/1.0"]))
    return request(method, draw(fast_paths), version, draw(st.permutations(lines)), body)


@st.composite
def any_requests(draw: st.DrawFn) -> bytes:
    method = draw(st.sampled_from([b"POST"] * 4 + [b"GET"] * 2 + [b"OPTIONS", b"HEAD", b"PUT"]))
    body = draw(bodies | large_bodies)
    lines = [b"Host: " + draw(hosts | odd_hosts), *draw(connection_lines)]
    lines += draw(st.lists(chain_lines | plain_lines, max_size=5))
    lines += draw(st.lists(odd_lines, max_size=1))
    if draw(st.integers(0, 9)) == 0:
        lines.append(b"Transfer-Encoding: chunked")
        body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    elif body or draw(st.booleans()):
        lines.append(draw(length_names | odd_length_names) % len(body))
    version = draw(st.sampled_from([b"HTTP/1.1"] * 4 + [b"HTTP/1.0", b"HTTP/1.2"]))
    return request(method, draw(fast_paths | other_paths), version, draw(st.permutations(lines)), body)


requests = st.integers(0, 9).flatmap(
    lambda pick: request_heads if pick == 9 else any_requests() if pick > 6 else ordinary_requests()
)


@st.composite
def variations(draw: st.DrawFn, raw: bytes) -> bytes:
    """The same request, or another that differs from it in one thing: what a cache might mix up."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    what = draw(st.sampled_from(["nothing", "method", "path", "version", "line", "order", "less"]))
    if what in ("method", "path", "version") and first.count(b" ") == 2:
        method, path, version = first.split(b" ")
        if what == "method":
            method = draw(methods)
        elif what == "path":
            path = draw(fast_paths)
        else:
            version = b"HTTP/1.0" if version == b"HTTP/1.1" else b"HTTP/1.1"
        first = b" ".join((method, path, version))
    elif what == "order":
        lines = draw(st.permutations(lines))
    elif what == "line":
        lines.insert(draw(st.integers(0, len(lines))), draw(chain_lines | plain_lines))
    elif what == "less" and lines:
        dropped = draw(st.integers(0, len(lines) - 1))
        if not lines[dropped].lower().startswith((b"content-length", b"transfer-encoding")):
            del lines[dropped]
    return b"\r\n".join([first, *lines, b"", body])


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, list[int]]:
    """What a client sends, and where it is cut. A piece is sent when the one before has been dealt with, so a
    cut between two requests makes the second wait for the first's answer, and no cut makes a pipeline."""
    asked = [draw(requests)]
    for _ in range(draw(st.integers(0, 2))):
        asked.append(draw(variations(asked[-1]) if draw(st.booleans()) else requests))
    cuts = draw(st.lists(st.integers(0, 100_000), max_size=2))
    stream = b"".join(asked)
    places = [cut % (len(stream) + 1) for cut in cuts]
    ends = itertools.accumulate(map(len, asked[:-1]))
    places += [end for end in ends if draw(st.integers(0, 3))]
    return stream, sorted(places)


# --- answers, configurations ---------------------------------------------------------------------

CLOSING = b"HTTP/1.1 200 OK\r\nDate: D\r\nConnection: close, X-B\r\nX-B: 1\r\nContent-Length: 02\r\n\r\nok"
SICK = b"HTTP/1.1 503 Unavailable\r\nDate: D\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
SURPLUS = b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 2\r\n\r\nokSURPLUS"
USUAL = b'HTTP/1.1 200 OK\r\nDate: D\r\nContent-Type: a/b\r\nContent-Length: 15\r\n\r\n{"status":"Ok"}'

fast_answers = st.sampled_from(
    [
        USUAL,
        b"HTTP/1.1 204 No Content\r\ndate: D\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nDate: D\r\nx-request-id: theirs\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nDate: D\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nStrict-Transport-Security: max-age=1\r\nContent-Length: 2\r\n\r\nok",
        CLOSING,
        b"HTTP/1.1 413 Too Large\r\nDate: D\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
        SURPLUS,
        b"HTTP/1.1 304 Not Modified\r\nDate: D\r\nETag: x\r\nContent-Length: 9\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4100\r\n\r\n" + b"a" * 4100,
        b"HTTP/1.1 200 OK\r\nDate: D\r\nConnection: close\r\nContent-Length: 70000\r\n\r\n" + b"b" * 70_000,
    ]
)
other_answers = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\nDate: D\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        SICK,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 4100\r\n\r\n" + b"x" * 4100,
        b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 65500\r\n\r\n" + b"x" * 65_500,
        b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Type: Text/HTML; a=b\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 301 Moved\r\nDate: D\r\nLocation: https://ph.example/e/\r\nContent-Length: 0\r\n\r\n",
    ]
)


def broken(answer: bytes, at: int, *, off: bool) -> tuple[bytes, ...]:
    """An answer in two pieces, or only the first of them and then the end of the connection."""
    at %= len(answer)
    return (answer[:at] or answer[:1], b"" if off else answer[at or 1 :])


broken_answers = st.builds(broken, fast_answers | other_answers, st.integers(0, 70_000), off=st.booleans())
endings = st.sampled_from([(b"",), (b"HTTP/1.1 200 OK\r\nDate: D\r\n\r\nto the end", b"")])
scripts = st.lists(
    st.integers(0, 11).flatmap(
        lambda pick: (
            fast_answers if pick < 8 else [other_answers, broken_answers, broken_answers, endings][pick - 8]
        )
    ),
    min_size=1,
    max_size=3,
)

SMALL = {"held_body": 4096, "read_buffer": 4096, "head_bytes": 4096, "answer_head_bytes": 4096}
"""Bounds within reach of the bodies above."""

configurations = st.fixed_dictionaries(
    {
        "trust": st.sampled_from(
            [
                {},
                {"proxies": ["127.0.0.1", "10.0.0.0/8"]},
                {"all": True},
                {"hops": 2},
                {"proxies": ["127.0.0.1"], "forwarded": True},
                {"proxies": ["127.0.0.1"], "client_header": "X-Real-IP"},
                {"proxies": ["127.0.0.1"], "client_header": "X-Visitor"},
            ]
        ),
        "forwarding": st.sampled_from(
            [
                {},
                {"chain": "append"},
                {"anonymise": True},
                {"via": True},
                {"drop_ingest_cookies": True},
                {"answer_request_id": True},
            ]
        ),
        "aliases": st.sampled_from([{}, {"prefix": "/k7", "paths": ["/x1=/e/", "/lib.js=/static/array.js"]}]),
        "access": st.sampled_from(
            [
                {},
                {},
                {},
                {"allowed_hosts": [".example"]},
                {"allowed_hosts": [".example"], "probe_paths": ["/flags/", "/static/array.js"]},
                {"allowed_ip_blocks": ["203.0.113.0/29"]},
                {"forward_auth": "default", "forward_auth_copy": ["X-A", "Accept", "Remote-User"]},
                {"forward_auth": "default", "forward_auth_copy": ["X-Visitor"]},
            ]
        ),
        "routes": st.sampled_from(
            [[], [], [{"path": "/e", "access": "protected"}, {"path": "/flags", "access": "bearer"}]]
        ),
        "limits": st.sampled_from(
            [
                {},
                SMALL,
                {"body_ingest": 2048, "body_flags": 2048},
                {"head_lines": 16},
                {"requests_per_connection": 2},
                {"rate_per_client": 0.01, "rate_burst": 1},
                {"rate_per_client": 0.01, "rate_burst": 2},
                {"splice_bytes": 0, "write_buffer": 4096},
                SMALL | {"splice_bytes": 1},
                SMALL | {"splice_bytes": 30_000},
            ]
        ),
        "host": st.sampled_from(["keep", "upstream"]),
        "log": st.sampled_from([{}, {}, {"sample": 40}, {"sample": 0}, {"quiet": ["ingest_v0", "sdk_read"]}]),
        "tls": st.sampled_from(
            [{}, {}, {"hsts": 300}, {"redirect_https": True}, {"refuse_http": True, "hsts": 300}]
        ),
    }
)

fronts = st.sampled_from(
    [
        {"networks": ["127.0.0.1"], "client_header": "X-Real-IP"},
        {"networks": ["127.0.0.1"], "own_address": True},
    ]
)
configurations |= st.builds(
    lambda config, front: {**config, "trust": {"proxies": ["10.0.0.0/8"]}, "fronts": [front]},
    configurations,
    fronts,
)

# --- both paths ----------------------------------------------------------------------------------


@dataclass
class Seen:
    """What one proxy did."""

    up: list[bytes] = field(default_factory=list)
    down: bytes = b""
    log: str = ""
    errors: list[str] = field(default_factory=list)
    counters: dict[str, Any] = field(default_factory=dict)
    fast: int = 0


async def watch(
    stream: bytes,
    cuts: list[int],
    script: list[Any],
    config: dict[str, Any],
    *,
    fast: bool,
    keeper: Kept | None = None,
) -> Seen:
    """Let one proxy be told all this. ``keeper``: its spool."""
    others = {key: value for key, value in config.items() if key != "host"}
    upstreams = {"default": {"host": config["host"]}}
    seen = Seen()
    async with Scripted(script, keeper=keeper, fast_path=fast, upstreams=upstreams, **others) as play:
        address = play.proxy.addresses[0]
        assert isinstance(address, TcpAddress)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        heard = asyncio.ensure_future(reader.read())
        sent = 0
        for at in [*cuts, len(stream)]:
            if piece := stream[sent:at]:
                writer.write(piece)
                sent = at
                await play.until(lambda: heard.done() or at_rest(play, sent))  # noqa: B023
        with contextlib.suppress(OSError):  # it was reset
            writer.write_eof()
        async with asyncio.timeout(10):
            try:
                seen.down = without_ports(await heard)
            except ConnectionResetError:
                seen.down = b"RESET"
        writer.close()
        await play.until(lambda: not play.proxy.connections)
        seen.up = [without_ports(request) for request in play.up]
        seen.log = json.dumps(play.logged())
        seen.errors = play.said()
        seen.counters = play.counted()
        seen.fast = play.fast
    return seen


def at_rest(play: Scripted, sent: int) -> bool:
    """The proxy has read all and waits for the client (or has closed)."""
    return all(
        connection.bytes_in == sent
        and not connection.holding
        and (
            connection.state in (State.HEAD, State.LINGER, State.CLOSING, State.CLOSED)
            or (connection.state is State.IDLE and not connection.received)
            or (connection.state is State.FAST and connection.fast_stage is Stage.HELD)
            or connection.awaited
            or (play.proxy._runtime.splicer.busy and not connection._reading)  # spliced from the client
        )
        for connection in play.proxy.connections
    )


EVENT = (
    b"POST /e/ HTTP/1.1\r\nHost: ph.example\r\nX-Forwarded-For: 203.0.113.7\r\nContent-Length: 5\r\n\r\nhello"
)
ALIASED = EVENT.replace(b"/e/", b"/k7/e/?_=1").replace(b"\r\n\r\n", b"\r\nCookie: a=b\r\n\r\n")
UPLOAD = b"POST /s/ HTTP/1.1\r\nHost: ph.example\r\nContent-Length: 70000\r\n\r\n" + b"u" * 70_000
SPLICED = {"host": "keep", "limits": SMALL | {"splice_bytes": 1}}
LARGE = b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 70000\r\n\r\n" + b"d" * 70_000
READ = b"GET /array/phc_abc/config.js HTTP/1.1\r\nHost: ph.example\r\n\r\n"
TURNS = [len(EVENT), 2 * len(EVENT)]


@settings(max_examples=1000, deadline=None)
@given(conversations(), scripts, configurations)
@example((EVENT, []), [USUAL], {"host": "keep"})
@example((EVENT * 2, [10]), [USUAL], {"host": "keep"})
@example((EVENT * 3, TURNS), [USUAL, (b"",)], {"host": "keep"})
@example((EVENT * 3, TURNS), [USUAL, SURPLUS], {"host": "keep"})
@example((EVENT * 3, TURNS), [USUAL, CLOSING], {"host": "keep"})
@example((READ * 2, [len(READ)]), [USUAL, SICK], {"host": "keep"})
@example((EVENT * 3, TURNS), [USUAL], {"host": "keep", "limits": {"rate_per_client": 0.01, "rate_burst": 2}})
@example(
    (EVENT * 3, [*TURNS, 2 * len(EVENT) + 9]), [USUAL], {"host": "keep", "limits": {"rate_per_client": 0.01}}
)
@example(
    (ALIASED * 2, [len(ALIASED)]),
    [USUAL],
    {"host": "keep", "aliases": {"prefix": "/k7"}, "forwarding": {"drop_ingest_cookies": True}},
)
@example((UPLOAD * 2, [5000, 50_000]), [USUAL], SPLICED)
@example((UPLOAD * 2, [5000, 75_000]), [SICK, LARGE], SPLICED)
@example((UPLOAD, [5000, 50_000]), [(LARGE[:5000], LARGE[5000:9000], b"")], SPLICED)
@example((READ * 2, [len(READ)]), [(LARGE[:5000], LARGE[5000:60_000], LARGE[60_000:])], SPLICED)
@example((READ * 2, [len(READ)]), [(LARGE[:100], LARGE[100:200], LARGE[200:] + b"!")], {"host": "keep"})
def test_both_paths_are_one(
    conversation: tuple[bytes, list[int]], script: list[Any], config: dict[str, Any]
) -> None:
    general = asyncio.run(watch(*conversation, script, config, fast=False))
    fast = asyncio.run(watch(*conversation, script, config, fast=True))
    event(f"fast {fast.fast}, asked {len(fast.up)}")
    event(f"any fast: {fast.fast > 0}")
    assert general.fast == 0
    assert fast.up == general.up
    assert fast.down == general.down
    assert fast.log == general.log
    assert fast.errors == general.errors
    assert fast.counters == general.counters


def test_an_event_cut_anywhere_is_fast_and_the_same() -> None:
    script = [b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 2\r\n\r\nok"]
    whole = asyncio.run(watch(EVENT, [], script, {"host": "keep"}, fast=False))
    for cut in range(len(EVENT)):
        seen = asyncio.run(watch(EVENT, [cut], script, {"host": "keep"}, fast=True))
        assert seen.fast == 1
        assert (seen.up, seen.down, seen.log) == (whole.up, whole.down, whole.log)
