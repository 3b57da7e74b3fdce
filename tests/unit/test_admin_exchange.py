"""One request and its answer: as strict as on the public side, and bounded."""

from __future__ import annotations

import pytest

from proxy.admin.exchange import BODY_BYTES, LIMITS, Answer, read, refused, rendered, said
from proxy.errors import Violation

POST = b"POST /log-level?x=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\ndebug"


def test_a_request_is_whole_at_its_last_byte_and_not_before() -> None:
    for cut in range(len(POST)):
        assert read(bytearray(POST[:cut])) is None
    found = read(bytearray(POST))
    assert found is not None
    assert (found.head.method, found.path, found.body) == (b"POST", "/log-level", b"debug")


def test_blank_lines_before_it_do_no_harm() -> None:
    found = read(bytearray(b"\r\n" + POST))
    assert found is not None
    assert found.body == b"debug"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\x16\x03\x01", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (BODY_BYTES + 1), 413),
        (b"GET /" + b"a" * LIMITS.target_bytes + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * LIMITS.head_bytes, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * LIMITS.head_bytes + b"\r\n\r\n", 431),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    ],
)
def test_what_is_no_request_is_refused(raw: bytes, status: int) -> None:
    with pytest.raises(Violation) as caught:
        read(bytearray(raw))
    assert caught.value.status == status
    assert refused(caught.value).status == status


def test_an_answer_says_its_length_and_that_nobody_may_keep_it() -> None:
    head, _, body = rendered(said(401, "no", WWW_Authenticate="Basic"), 0.0).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 401 Unauthorized"
    assert lines[1] == b"Date: Thu, 01 Jan 1970 00:00:00 GMT"
    assert {
        b"Content-Length: 3",
        b"Cache-Control: no-store",
        b"Connection: close",
        b"WWW-Authenticate: Basic",
    } <= set(lines)
    assert body == b"no\n"


def test_head_has_no_body_and_a_stream_no_length() -> None:
    assert rendered(said(200, "ok"), 0.0, bodiless=True).endswith(b"\r\n\r\n")
    assert b"Content-Length" not in rendered(Answer(200, b"data", streams=True), 0.0)
