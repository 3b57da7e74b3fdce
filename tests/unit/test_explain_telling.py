from __future__ import annotations

import json
from ipaddress import ip_address

import pytest

from proxy.config.load import config_from
from proxy.config.schema import configured_listeners
from proxy.explain.telling import as_json, as_text
from proxy.explain.trail import Explanation, explain, peer_at
from proxy.server import Proxy

EVENT = b"POST /e/ HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6, 203.0.113.7\r\nX-\xff: 1\r\n\r\n"
CONFIG = config_from(
    {
        "upstream": "http://127.0.0.1:9",
        "trust": {"proxies": ["10.0.0.0/8"]},
        "access": {"forward_auth": "default"},
    }
).config


def told(raw: bytes) -> Explanation:
    listener = configured_listeners(CONFIG)[0]
    peer = peer_at(listener, ip_address("10.0.0.2"), tls=False)
    return explain(raw, peer, Proxy(CONFIG).runtime, listener)


def test_text_tells_the_trail_once() -> None:
    text = as_text(told(EVENT.replace(b"X-\xff: 1\r\n", b"")), "the query is missing")
    assert text.count("203.0.113.7: not trusted: it is the client") == 1
    for line in (
        "POST /e/ HTTP/1.1",
        "is sent upstream",
        "(note: the query is missing)",
        "  at 127.0.0.1:8000, from 10.0.0.2",
        "  203.0.113.7, from x_forwarded_for",
        "  the path takes route /e (ingest_v0)",
        "  + X-Forwarded-For: 203.0.113.7   [the one client that was found]",
        "  X-Forwarded-For: 203.0.113.7",
        "  fast path: every line is one that the fast reading takes",
        "  the head: 64KiB  (limits.head_bytes)",
    ):
        assert line in text.split("\n")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"GET /static/array.js HTTP/1.1\r\nHost: a\r\n\r\n", "the asset cache is asked first"),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "is refused with 404 never_public"),
        (EVENT, "is no request that is read at all with 400"),
        (b"GET /app HTTP/1.1\r\nHost: a\r\n\r\n", "asked before it goes on:"),
    ],
)
def test_text_tells_what_is_special(raw: bytes, words: str) -> None:
    assert words in as_text(told(raw))


@pytest.mark.parametrize("raw", [EVENT, EVENT.replace(b"\xff", b"a"), b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"])
def test_json_says_the_same(raw: bytes) -> None:
    explanation = told(raw)
    said = json.loads(as_json(explanation, "x"))
    assert said["outcome"] == explanation.outcome
    assert said["left_out"] == "x"
    assert said["because"] == list(explanation.because)
    assert len(said["lines"]) == len(explanation.lines)
    assert (said["client"] is None) is (explanation.client is None)
    assert (said["route"] is None) is (explanation.route is None)
