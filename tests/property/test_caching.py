"""The asset cache: never an answer that a ten-line model of RFC 9111 would not give, and the same bytes, log
and counters on both paths."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from proxy.cache.store import Store
from proxy.config.schema import CacheConfig, ForwardingConfig, TcpAddress
from proxy.message import Framing, FramingKind, ResponseHead, first_value
from proxy.rules.caching import Kept, Terms, asking, is_fresh, kept_head, terms_of, values_of
from proxy.rules.forwarding import ForwardingTable
from tests.support.scripted import Scripted, without_ports

if TYPE_CHECKING:
    from proxy.message import Fields

# --- the store against a model -------------------------------------------------------------------

TABLE = ForwardingTable.of(ForwardingConfig())
TARGETS = (b"/static/array.js", b"/static/array.js?v=2", b"/array/phc_x/config")
NAMES = (b"Accept-Encoding", b"Origin", b"Referer", b"User-Agent")

fields = st.fixed_dictionaries(
    {},
    optional={
        b"Accept-Encoding": st.sampled_from([b"gzip", b"gzip, br", b"gzip,br", b"identity"]),
        b"Origin": st.sampled_from([b"https://a", b"https://b"]),
        b"Referer": st.sampled_from([b"https://a/1", b"https://a/2"]),
        b"User-Agent": st.sampled_from([b"posthog-ios/3.1", b"posthog-android/3", b"Mozilla/5.0", b"curl/8"]),
    },
)
answers = st.fixed_dictionaries(
    {
        b"Cache-Control": st.sampled_from([b"max-age=10", b"s-maxage=5, max-age=100", b"max-age=0", b""]),
    },
    optional={
        b"Vary": st.sampled_from([b"Accept-Encoding", b"Origin, Referer", b"origin", b"Referer", b"*"]),
        b"Age": st.sampled_from([b"0", b"4"]),
        b"ETag": st.just(b'"x"'),
    },
)
steps = st.lists(
    st.tuples(st.sampled_from(TARGETS), fields, answers, st.sampled_from([0, 0, 1, 4, 6, 11])), max_size=30
)


@dataclass
class Model:
    """RFC 9111, as far as a store goes: what was stored, in a list."""

    stored: list[tuple[bytes, Fields, Fields, float, bytes]] = field(default_factory=list)

    def may_give(self, target: bytes, asked: Fields, body: bytes, now: float) -> bool:
        return any(
            (target, body) == (its, content)
            and self._matches(asked, stored_with, answer)
            and now - at + int(first_value(answer, b"age") or 0) < self._lifetime(answer)
            for its, stored_with, answer, at, content in self.stored
        )

    @staticmethod
    def _matches(asked: Fields, stored_with: Fields, answer: Fields) -> bool:
        vary = [name.strip().lower() for name in (first_value(answer, b"vary") or b"").split(b",")]
        return all(
            (first_value(asked, name) or b"").replace(b" ", b"")
            == (first_value(stored_with, name) or b"").replace(b" ", b"")
            for name in vary
        )

    @staticmethod
    def _lifetime(answer: Fields) -> int:
        said = first_value(answer, b"cache-control") or b""
        return 5 if b"s-maxage=5" in said else 10 if said == b"max-age=10" else 0


@settings(max_examples=400, deadline=None)
@given(steps, st.integers(1, 3))
def test_what_is_given_is_what_the_model_may_give(steps: list[Any], variants: int) -> None:
    store, model, now = Store(CacheConfig(max_bytes=65536, variants=variants)), Model(), 0.0
    for number, (target, asked, said, pause) in enumerate(steps):
        now += pause
        request = tuple(asked.items())
        question = asking(b"GET", target, "default", b"ph", request)
        assert question is not None
        found = store.find(question)
        if found is not None and is_fresh(found.kept, now):
            event("hit")
            assert model.may_give(target, request, found.kept.body, now)
            continue
        body = b"%d" % number
        head = ResponseHead(200, b"OK", 1, tuple(said.items()), Framing(FramingKind.LENGTH, len(body)))
        terms = terms_of(head, 0.0, 0.0, CacheConfig(), TABLE)
        if isinstance(terms, Terms):
            assert first_value(head.fields, b"vary") != b"*"
            kept = store.put(question, Kept(kept_head(head, b""), body, terms, now))
            model.stored.append((target, request, head.fields, now, body))
            # What was just put is found by the same question, and only by one that says the same.
            assert store.find(question) is kept
        assert 0 <= store.size <= 65536
    for target in TARGETS:
        question = asking(b"GET", target, "default", b"ph", ())
        assert question is not None
        assert len(store.values(question)) == len(values_of((), store.names(question.key)))


# --- both paths ----------------------------------------------------------------------------------

READ = b"GET /static/array.js HTTP/1.1\r\nHost: ph.example\r\nAccept-Encoding: gzip\r\n\r\n"
KNOWN = READ[:-2] + b'If-None-Match: "x"\r\n\r\n'
LINES = [
    b"Accept-Encoding: gzip",
    b"Accept-Encoding: gzip, br",
    b"accept-encoding:gzip,br",
    b"Origin: https://a.example",
    b"Origin: https://b.example",
    b"Referer: https://a.example/1",
    b"User-Agent: posthog-android/3.1",
    b"User-Agent: Mozilla/5.0",
    b'If-None-Match: "x"',
    b'If-None-Match: W/"y", "x"',
    b"If-Modified-Since: Wed, 25 Nov 2026 04:00:00 GMT",
    b"Range: bytes=0-3",
    b"Authorization: Bearer x",
    b"Cache-Control: no-cache",
    b"Pragma: no-cache",
    b"Cookie: a=b",
    b"X-Forwarded-For: 203.0.113.7",
    b"X-Forwarded-Proto: https",
    b"X_Odd: 1",
    b"Connection: keep-alive",
    b"Connection: close",
    b"Connection: Origin",
    b"Content-Length: 0",
]
requests = st.builds(
    lambda method, target, version, lines: b"\r\n".join(
        [b"%b %b HTTP/1.%b" % (method, target, version), b"Host: ph.example", *lines, b"", b""]
    ),
    st.sampled_from([b"GET"] * 6 + [b"HEAD", b"OPTIONS"]),
    st.sampled_from(
        [
            b"/static/array.js",
            b"/array/phc_x/config.js",
            b"/static/array.js?v=1",
            b"/surveys",
            b"/x9/static/array.js",
        ]
    ),
    st.sampled_from([b"1", b"1", b"1", b"0"]),
    st.lists(st.sampled_from(LINES), max_size=3, unique_by=lambda line: line.partition(b":")[0].lower()),
)


def answer(*lines: bytes, status: bytes = b"200 OK", body: bytes = b"hello") -> bytes:
    return b"\r\n".join(
        [b"HTTP/1.1 " + status, b"Date: D", *lines, b"Content-Length: %d" % len(body), b"", body]
    )


SCRIPT = answer(b"Cache-Control: max-age=60", b'ETag: "x"', b"Vary: Accept-Encoding")
UNCHANGED = b'HTTP/1.1 304 Not Modified\r\nDate: E\r\nETag: "x"\r\nAge: 1\r\n\r\n'
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
)
MIRRORED = answer(
    b"Cache-Control: max-age=300",
    b"Access-Control-Allow-Origin: https://a.example",
    b"Vary: Origin, Referer",
    b"Last-Modified: Wed, 25 Nov 2026 03:00:00 GMT",
)
scripts = st.lists(
    st.sampled_from(
        [
            SCRIPT,
            SCRIPT,
            UNCHANGED,
            MIRRORED,
            answer(b"Cache-Control: max-age=60, must-revalidate", b'ETag: "y"', body=b"k" * 5000),
            answer(b"Cache-Control: max-age=5", b"Age: 4", b"Connection: X-A", b"X-A: 1"),
            UNCHANGED.replace(b"ETag", b"Set-Cookie: a=b\r\nETag"),
            answer(b"Cache-Control: max-age=60", b"Set-Cookie: a=b"),
            answer(b"Cache-Control: no-store"),
            answer(b"Cache-Control: max-age=60", b"Content-Type: text/html"),
            answer(status=b"404 Not Found"),
            answer(status=b"503 Service Unavailable"),
            CHUNKED,
            answer(b"Cache-Control: max-age=60", body=b"z" * 70_000),
            (SCRIPT[:60], b""),
            (SCRIPT[:-2], SCRIPT[-2:]),
        ]
    ),
    min_size=1,
    max_size=4,
)
reads = st.sampled_from([READ, READ, KNOWN])
conversations = st.lists(
    st.tuples(reads | requests, st.sampled_from([0, 0, 3, 61, 61, 400])), min_size=1, max_size=6
)
configurations = st.fixed_dictionaries(
    {
        "cache": st.sampled_from(
            [{}, {}, {"max_entry": 1024}, {"variants": 1}, {"stale": 0}, {"enabled": False}]
        ),
        "forwarding": st.sampled_from([{}, {}, {"via": True}, {"answer_request_id": True}]),
        "limits": st.sampled_from([{}, {"requests_per_connection": 2}, {"write_buffer": 4096}]),
        "aliases": st.sampled_from([{}, {"prefix": "/x9"}]),
        "trust": st.sampled_from([{}, {"proxies": ["127.0.0.1"]}]),
        "tls": st.sampled_from([{}, {"hsts": 300}]),
    }
)


@dataclass
class Seen:
    """What one proxy did."""

    up: list[bytes]
    down: list[bytes]
    log: str
    counters: dict[str, Any]
    fast: int


async def watch(
    conversation: list[tuple[bytes, int]], script: list[Any], config: dict[str, Any], *, fast: bool
) -> Seen:
    """Let one proxy be told all this, each request on its own connection and the one before again."""
    down = []
    async with Scripted(script, fast_path=fast, **config) as play:
        play.proxy._random.uniform = lambda low, high: (low + high) / 2  # type: ignore[method-assign]
        address = play.proxy.addresses[0]
        assert isinstance(address, TcpAddress)
        for request, pause in conversation:
            play.turn(pause)
            reader, writer = await asyncio.open_connection(address.host, address.port)
            # Twice on one connection: the second finds what the first has brought.
            for _ in range(2):
                before = len(play.lines())
                writer.write(request)
                await play.until(lambda: len(play.lines()) > before or not play.proxy.connections)  # noqa: B023
                if not play.proxy.connections:
                    break
            with contextlib.suppress(OSError):  # it was closed
                writer.write_eof()
            async with asyncio.timeout(10):
                try:
                    down.append(without_ports(await reader.read()))
                except ConnectionResetError:
                    down.append(b"RESET")
            writer.close()
            await play.until(lambda: not play.proxy.connections)
        return Seen(
            [without_ports(request) for request in play.up],
            down,
            json.dumps(play.logged()),
            play.counted(),
            play.fast,
        )


HIT = 'result="hit"'


@settings(max_examples=700, deadline=None)
@given(conversations, scripts, configurations)
@example([(READ, 0), (READ, 0)], [SCRIPT], {})
@example([(READ, 0), (KNOWN, 0), (KNOWN, 61)], [SCRIPT, UNCHANGED], {})
@example([(READ, 0), (READ, 61)], [SCRIPT, answer(status=b"503 Service Unavailable")], {})
@example([(READ, 0), (READ, 61)], [SCRIPT, b""], {})
def test_both_paths_are_one(
    conversation: list[tuple[bytes, int]], script: list[Any], config: dict[str, Any]
) -> None:
    general = asyncio.run(watch(conversation, script, config, fast=False))
    fast = asyncio.run(watch(conversation, script, config, fast=True))
    event(f"any fast: {fast.fast > 0}")
    results = general.counters["posthog_proxy_cache_requests_total"]
    event(f"hits: {results.get(HIT, 0)}, results {sorted(results)}")
    assert general.fast == 0
    assert fast.up == general.up
    assert fast.down == general.down
    assert fast.log == general.log
    assert fast.counters == general.counters
