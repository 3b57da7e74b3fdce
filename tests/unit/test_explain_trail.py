from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from proxy.config.load import config_from
from proxy.config.schema import configured_listeners
from proxy.explain.trail import Explanation, explain, peer_at
from proxy.message import Preface
from proxy.server import Proxy

EVENT = b"POST /e/ HTTP/1.1\r\nHost: ph.example\r\n%bContent-Length: 2\r\n\r\nhi"


def told(raw: bytes, ip: str | None = "10.0.0.2", preface: str = "", **settings: Any) -> Explanation:
    config = config_from({"upstream": "http://127.0.0.1:9", **settings}).config
    listener = configured_listeners(config)[0]
    peer = peer_at(listener, ip_address(ip) if ip else None, tls=False)
    if preface:
        peer = replace(peer, preface=Preface(ip_address(preface), 0))
    return explain(raw, peer, Proxy(config).runtime, listener)


def lines(said: Explanation, verdict: str) -> list[tuple[str, str]]:
    return [(line.name, line.why) for line in said.lines if line.verdict == verdict]


def test_every_line_has_its_story() -> None:
    said = told(
        EVENT % b"X-Real-IP: 1.1.1.1\r\nConnection: x-a\r\nX-A: 1\r\nA_B: 2\r\nTE: x\r\nCookie: c\r\n",
        forwarding={"drop_ingest_cookies": True},
        upstreams={"default": {"host": "upstream"}},
    )
    assert lines(said, "kept") == [("Content-Length", "")]
    assert lines(said, "rewritten") == [("Host", "was ph.example")]
    assert [name for name, _ in lines(said, "removed")] == [
        "X-Real-IP",
        "Connection",
        "X-A",
        "A_B",
        "TE",
        "Cookie",
    ]
    assert dict(lines(said, "removed"))["X-A"] == "the Connection line names it"
    assert dict(lines(said, "removed"))["Cookie"] == "forwarding.drop_ingest_cookies"
    assert next(name for name, _ in lines(said, "added")) == "X-Forwarded-For"
    assert said.upstream == "default http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("line", "fast", "why"),
    [
        (b"", True, "every line"),
        (b"Expect: 100-continue\r\n", False, "line: "),
        (b"Content-Length: 2\r\n", False, "the bytes are no request"),
    ],
)
def test_which_path(line: bytes, fast: bool, why: str) -> None:
    said = told(EVENT % line)
    assert said.fast is fast
    assert said.path_why.startswith(why)


def test_why_not_the_fast_path() -> None:
    assert told(EVENT % b"", fast_path=False).path_why == "fast_path = false"
    protected = {"routes": [{"path": "/e", "access": "protected"}]}
    said = told(EVENT % b"", access={"allowed_ip_blocks": ["10.0.0.0/8"]}, **protected)
    assert (said.outcome, said.path_why) == (
        "forward",
        "route /e (ingest_v0) is not one for the fast path",
    )
    assert told(EVENT.replace(b"POST", b"PATCH") % b"").path_why.startswith("request_line: method")
    absolute = told(EVENT.replace(b"/e/", b"http://ph.example/e/") % b"")
    assert absolute.path_why.startswith("the first line or the size")


def test_the_cache_is_asked_first() -> None:
    said = told(b"GET /static/array.js HTTP/1.1\r\nHost: a\r\n\r\n")
    assert said.cache
    assert not said.fast
    assert said.path_why.startswith("begins on the fast path")


def test_refused_by_a_rule() -> None:
    said = told(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", limits={"rate_per_client": 5})
    assert (said.outcome, said.status, said.reason) == ("refuse", 404, "never_public")
    assert said.answer.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert "5/s" in [one.value for one in said.holds]


def test_no_route_no_route_limits() -> None:
    said = told(b"GET /a/../e HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (said.status, said.route) == (400, None)
    assert [one.key for one in said.holds] == ["limits.head_bytes", "timeouts.head"]


def test_checks_are_named() -> None:
    said = told(
        b"GET /app HTTP/1.1\r\nHost: a\r\n\r\n", access={"forward_auth": "default"}, cache={"enabled": False}
    )
    assert said.checks == ("forward_auth",)


DEMANDED = "demands access.allowed_ip_blocks"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (b"/e/", "everybody may ask"),
        (b"/metrics", "nobody may ask: the services behind answer it on the port that takes events"),
        (
            b"/flags/definitions",
            f"whoever shows a bearer's token (PostHog judges its worth); without one: {DEMANDED}",
        ),
        (b"/app", DEMANDED),
        (b"/a/../e", ""),
    ],
)
def test_the_access_rule_is_told(path: bytes, why: str) -> None:
    said = told(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path, access={"allowed_ip_blocks": ["192.0.2.0/24"]})
    assert said.access == why


def test_half_a_head() -> None:
    assert told(b"GET / HTTP/1.1\r\n").reason == "head_timeout"
    assert told(b"GET " + b"/" * 70_000).status in (414, 431)


PROXIED = {"listen": [], "listeners": [{"address": "127.0.0.1:80", "proxy_protocol": ["10.0.0.2"]}]}


def test_a_preface_names_the_client() -> None:
    said = told(EVENT % b"", preface="203.0.113.9", **PROXIED)
    assert said.client is not None
    assert str(said.client.ip) == "203.0.113.9"
    assert said.peer == "10.0.0.2, whose PROXY header names 203.0.113.9"


def test_a_preface_that_lacks() -> None:
    said = told(EVENT % b"", **PROXIED)
    assert (said.outcome, said.reason) == ("reject", "proxy_protocol")


def test_a_preface_that_nobody_asked_for() -> None:
    assert told(EVENT % b"", preface="203.0.113.9").status == 400


def test_a_tcp_listener_reads_nothing() -> None:
    said = told(EVENT % b"", listen=[], listeners=[{"address": "127.0.0.1:80", "mode": "tcp"}])
    assert (said.outcome, said.upstream) == ("pass", "default")


def test_a_unix_socket_has_no_address() -> None:
    said = told(EVENT % b"", ip=None, listen=["unix:/run/x"])
    assert said.peer == "a Unix socket"
    assert said.client is not None
    assert said.client.ip is None
