"""The grammar: what each rule takes whole, what it does not, and that none of them backtracks."""

from __future__ import annotations

import re

import pytest

from proxy.wire import grammar

LONG = 200_000  # with backtracking, the tests below would not end

PATTERNS = {name: value for name, value in vars(grammar).items() if isinstance(value, re.Pattern)}


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (grammar.TOKEN, b"!#$%&'*+-.^_`|~09azAZ"),
        (grammar.FIELD_LINE, b"A:"),
        (grammar.FIELD_LINE, b"A:\t b\xff "),
        (grammar.REQUEST_LINE, b"GET * HTTP/1.1"),
        (grammar.REQUEST_LINE, b'GET /"<>\\^`{|}~ HTTP/9.9'),
        (grammar.ABSOLUTE_FORM, b"hTTpS://a:1/b?c"),
        (grammar.STATUS_LINE, b"HTTP/1.0 599"),
        (grammar.STATUS_LINE, b"HTTP/1.1 200 OK\tand more"),
        (grammar.HOST, b"a-b_c.example.:65535"),
        (grammar.HOST, b"[::ffff:192.0.2.1]:80"),
        (grammar.CONTENT_LENGTH, b"000000000000000012"),
        (grammar.DROPPABLE_COOKIE, b"Cookie:\x01\x7f"),
        (grammar.CHUNK_LINE, b'FFffffffffffffff;a;b=c;d="\\" ;\xff"'),
        (grammar.WEBSOCKET_KEY, b"AAAAAAAAAAAAAAAAAAAAAA=="),
    ],
)
def test_a_rule_takes(pattern: re.Pattern[bytes], text: bytes) -> None:
    assert pattern.fullmatch(text) is not None


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (grammar.TOKEN, b""),
        (grammar.TOKEN, b"a b"),
        (grammar.FIELD_LINE, b":a"),
        (grammar.FIELD_LINE, b"A:\x00"),
        (grammar.REQUEST_LINE, b"GET /# HTTP/1.1"),
        (grammar.REQUEST_LINE, b"GET / HTTP/1.1\n"),
        (grammar.ABSOLUTE_FORM, b"http://"),
        (grammar.ABSOLUTE_FORM, b"http:///a"),
        (grammar.ABSOLUTE_FORM, b"http://a?b"),
        (grammar.ABSOLUTE_FORM, b"http://a/#"),
        (grammar.STATUS_LINE, b"HTTP/1.1 2000"),
        (grammar.STATUS_LINE, b"HTTP/1.1 200OK"),
        (grammar.HOST, b"a..b"),
        (grammar.HOST, b"a:123456"),
        (grammar.CONTENT_LENGTH, b"1234567890123456789"),
        (grammar.DROPPABLE_COOKIE, b"Set-Cookie:\x01"),
        (grammar.CHUNK_LINE, b"12345678901234567"),
        (grammar.CHUNK_LINE, b'1;a="\\'),
        (grammar.WEBSOCKET_KEY, b"AAAAAAAAAAAAAAAAAAAAAB=="),
    ],
)
def test_a_rule_does_not_take(pattern: re.Pattern[bytes], text: bytes) -> None:
    assert pattern.fullmatch(text) is None


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize(
    "unit",
    [b"a", b" ", b"a.", b"a b", b"1:", b";a", b';a="', b'"\\', b"http://", b":\t", b"Cookie:", b"\xff"],
)
def test_no_rule_backtracks(pattern: re.Pattern[bytes], unit: bytes) -> None:
    text = unit * (LONG // len(unit))
    for start in (b"", b"GET /", b"A:", b"HTTP/1.1 200 ", b'5;a="', b"http://a", b"cookie:"):
        assert pattern.fullmatch(start + text + b"\n") is None
