"""Heads behind the gate: what h11 reads, what we write, and the WebSocket handshake."""

from __future__ import annotations

import h11
import pytest

from proxy.errors import Violation
from proxy.message import CHUNKED, NO_BODY, Framing, FramingKind, RequestHead, ResponseHead
from proxy.wire.heads import (
    h11_request,
    h11_response,
    read_request,
    read_response,
    render_request,
    render_response,
    websocket_accepts,
)
from proxy.wire.strict import HeadLimits
from tests.support.corpus import Case, cases

LIMITS = HeadLimits()
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 section 1.3, with its answer
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def named(case: Case) -> str:
    return case.name


# --- reading ---


@pytest.mark.parametrize("case", cases("requests"), ids=named)
def test_a_request_of_the_corpus(case: Case) -> None:
    if case.refused:
        with pytest.raises(Violation) as refused:
            read_request(case.raw, LIMITS)
        assert (refused.value.status, refused.value.reason) == (
            case.expected["status"],
            case.expected["reason"],
        )
        return
    expected = case.expected
    head = read_request(case.raw, LIMITS)
    assert head.method == expected["method"].encode()
    assert head.target == expected["target"].encode()
    assert len(head.fields) == expected["lines"]
    assert head.minor == expected.get("minor", 1)
    assert head.host == (expected.get("host", "a").encode() or None)
    assert head.close == expected.get("close", False)
    assert head.expect_continue == expected.get("expect_continue", False)
    assert head.websocket == expected.get("websocket", False)


@pytest.mark.parametrize("case", cases("responses"), ids=named)
def test_an_answer_of_the_corpus(case: Case) -> None:
    method = case.expected.get("method", "GET").encode()
    if case.refused:
        with pytest.raises(Violation) as refused:
            read_response(case.raw, method, LIMITS)
        assert (refused.value.status, refused.value.reason) == (502, case.expected["reason"])
        return
    head = read_response(case.raw, method, LIMITS)
    assert head.status == case.expected["status"]
    assert len(head.fields) == case.expected["lines"]
    assert head.minor == case.expected.get("minor", 1)
    assert head.close == case.expected.get("close", False)


def test_a_request_is_read_as_it_was_written() -> None:
    raw = b"POST http://A:80/e/?x HTTP/1.1\r\nX-b:  1 \r\nhost: a:80\r\nX-B: 2\r\nContent-Length: 7\r\n\r\n"
    assert read_request(raw, LIMITS) == RequestHead(
        method=b"POST",
        target=b"/e/?x",
        minor=1,
        fields=((b"X-b", b"1"), (b"host", b"a:80"), (b"X-B", b"2"), (b"Content-Length", b"7")),
        host=b"a:80",
        framing=Framing(FramingKind.LENGTH, 7),
    )


def test_an_answer_is_read_as_it_was_written() -> None:
    raw = b"HTTP/1.0 404 Nix da\r\nset-cookie: a\r\nSet-Cookie: b\r\nContent-Length: 7\r\n\r\n"
    assert read_response(raw, b"GET", LIMITS) == ResponseHead(
        status=404,
        reason=b"Nix da",
        minor=0,
        fields=((b"set-cookie", b"a"), (b"Set-Cookie", b"b"), (b"Content-Length", b"7")),
        framing=Framing(FramingKind.LENGTH, 7),
        close=True,
    )


def test_an_interim_answer_is_read() -> None:
    raw = b"HTTP/1.1 103 Early Hints\r\nLink: </a.js>; rel=preload\r\n\r\n"
    head = read_response(raw, b"POST", LIMITS)
    assert (head.status, head.framing, head.close) == (103, NO_BODY, False)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"])
def test_an_answer_to_any_method_is_read(method: bytes) -> None:
    head = read_response(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", method, LIMITS)
    assert head.framing == (NO_BODY if method == b"HEAD" else CHUNKED)


def test_a_length_goes_on_in_our_own_decimal() -> None:
    request = read_request(b"POST / HTTP/1.1\r\nHost: a\r\nCONTENT-length: 007\r\n\r\n", LIMITS)
    assert request.fields[1] == (b"CONTENT-length", b"7")
    answer = read_response(b"HTTP/1.1 200 OK\r\nContent-Length: 00\r\n\r\n", b"GET", LIMITS)
    assert answer.fields == ((b"Content-Length", b"0"),)


def test_a_large_head_is_no_matter_for_the_second_parser() -> None:
    raw = b"GET / HTTP/1.1\r\nHost: a\r\nCookie: " + b"x" * 60_000 + b"\r\n\r\n"
    assert len(read_request(raw, LIMITS).fields[1][1]) == 60_000
    raw = b"HTTP/1.1 204 No Content\r\nSet-Cookie: " + b"x" * 60_000 + b"\r\n\r\n"
    assert len(read_response(raw, b"GET", LIMITS).fields[0][1]) == 60_000


# --- the second parser by itself: it too must end in a violation, whatever it is given ---


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nA: \0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: secret\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        b"\r\n\r\n",
    ],
)
def test_a_request_that_h11_refuses(raw: bytes) -> None:
    with pytest.raises(Violation) as refused:
        h11_request(raw)
    assert (refused.value.status, refused.value.reason) == (400, "h11_refused")
    assert "secret" not in refused.value.detail


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nA: \0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: secret\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"",
    ],
)
def test_an_answer_that_h11_refuses(raw: bytes) -> None:
    with pytest.raises(Violation) as refused:
        h11_response(raw, b"GET")
    assert (refused.value.status, refused.value.reason) == (502, "h11_refused")
    assert "secret" not in refused.value.detail


PLAIN = b"GET /a?b HTTP/1.1\r\nHost: a\r\nCookie: x=1\r\n\r\n"
PLAIN_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nSet-Cookie: x=1\r\n\r\n"


@pytest.mark.parametrize(
    ("raw", "twice"),
    [
        (PLAIN, False),
        (PLAIN.replace(b"GET", b"POST").replace(b"Cookie: x=1", b"Content-Length: 5"), False),
        (PLAIN.replace(b"/a?b", b"http://a/a?b"), True),
        (PLAIN.replace(b"GET /a?b", b"OPTIONS *"), True),
        (PLAIN.replace(b"HTTP/1.1", b"HTTP/1.2"), True),
        (PLAIN.replace(b"x=1", b"x=\xe9"), True),
        (PLAIN.replace(b"x=1", b"x=\x01"), True),  # a Cookie that is dropped
        (PLAIN.replace(b"x=1", b"x=\t1"), True),
        (PLAIN.replace(b"Cookie: x=1", b"Transfer-Encoding: chunked"), True),
        (PLAIN.replace(b"Cookie: x=1", b"Connection: upgrade"), True),
        (PLAIN.replace(b"Cookie: x=1", b"Expect: 100-continue\r\nContent-Length: 1"), True),
    ],
)
def test_h11_reads_a_request_that_is_not_plain(
    raw: bytes, twice: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []

    def reader(raw: bytes) -> h11.Request:
        seen.append(raw)
        return h11_request(raw)

    monkeypatch.setattr("proxy.wire.heads.h11_request", reader)
    read_request(raw, LIMITS)
    assert len(seen) == twice


@pytest.mark.parametrize(
    ("raw", "twice"),
    [
        (PLAIN_ANSWER, False),
        (PLAIN_ANSWER.replace(b"200 OK", b"304 Not Modified"), False),
        (PLAIN_ANSWER.replace(b"200 OK", b"103 Early Hints"), True),
        (PLAIN_ANSWER.replace(b"x=1", b"x=\xe9"), True),
        (PLAIN_ANSWER.replace(b"Content-Length: 3", b"Transfer-Encoding: chunked"), True),
        (PLAIN_ANSWER.replace(b"Content-Length: 3", b"A: b"), True),
    ],
)
def test_h11_reads_an_answer_that_is_not_plain(
    raw: bytes, twice: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []

    def reader(raw: bytes, method: bytes) -> h11.Response | h11.InformationalResponse:
        seen.append(raw)
        return h11_response(raw, method)

    monkeypatch.setattr("proxy.wire.heads.h11_response", reader)
    read_response(raw, b"GET", LIMITS)
    assert len(seen) == twice


# --- writing ---


def test_a_request_is_written_with_host_first() -> None:
    fields = ((b"accept", b"*/*"), (b"X-A", b""), (b"HOST", b"a"), (b"X-A", b"b"))
    assert render_request(b"GET", b"/?a", fields) == (
        b"GET /?a HTTP/1.1\r\nHOST: a\r\naccept: */*\r\nX-A: \r\nX-A: b\r\n\r\n"
    )


def test_an_answer_is_written_in_its_order() -> None:
    fields = ((b"set-cookie", b"a"), (b"Date", b"x"), (b"Set-Cookie", b"b"))
    assert render_response(200, b"OK", fields) == (
        b"HTTP/1.1 200 OK\r\nset-cookie: a\r\nDate: x\r\nSet-Cookie: b\r\n\r\n"
    )
    assert render_response(204, b"", ()) == b"HTTP/1.1 204 \r\n\r\n"


def test_h11_writes_a_request_so_too() -> None:
    fields = ((b"Accept", b"*/*"), (b"host", b"a"))
    request = h11.Request(method=b"GET", target=b"/", headers=list(fields))
    assert h11.Connection(h11.CLIENT).send(request) == render_request(b"GET", b"/", fields)


# --- WebSocket ---


def accepted(
    status: int = 101,
    *,
    minor: int = 1,
    connection: bytes = b"Upgrade",
    upgrade: bytes = b"websocket",
    accept: bytes = ACCEPT,
) -> ResponseHead:
    fields = ((b"connection", connection), (b"upgrade", upgrade), (b"sec-websocket-accept", accept))
    return ResponseHead(status, b"", minor, fields, NO_BODY)


def test_the_example_of_the_rfc_is_accepted() -> None:
    assert websocket_accepts(KEY, accepted())
    assert websocket_accepts(KEY, accepted(connection=b"keep-alive, upgrade", upgrade=b"WebSocket"))


@pytest.mark.parametrize(
    "answer",
    [
        accepted(200),
        accepted(minor=0),
        accepted(connection=b"close"),
        accepted(upgrade=b"h2c"),
        accepted(upgrade=b"websocket, h2c"),
        accepted(accept=b"dGhlIHNhbXBsZSBub25jZQ=="),
        accepted(accept=ACCEPT.lower()),
        accepted(accept=b""),
    ],
)
def test_anything_less_is_not(answer: ResponseHead) -> None:
    assert not websocket_accepts(KEY, answer)


def test_two_accepts_are_none() -> None:
    answer = accepted()
    twice = ResponseHead(101, b"", 1, (*answer.fields, (b"Sec-WebSocket-Accept", ACCEPT)), NO_BODY)
    assert not websocket_accepts(KEY, twice)


def test_another_key_is_not_answered() -> None:
    assert not websocket_accepts(b"x" + KEY[1:], accepted())
