"""Whatever a server answers: the doctor reads it or says that it cannot, and judges what it has read."""

from __future__ import annotations

import http.client

from hypothesis import example, given
from hypothesis import strategies as st

from proxy.doctor.asking import Reply, parsed
from proxy.doctor.findings import Finding, as_text, ok
from proxy.doctor.services import _caching, _clock, _flags, cors, seen

names = st.sampled_from(
    [
        b"Date",
        b"Content-Type",
        b"Content-Length",
        b"Transfer-Encoding",
        b"Cache-Control",
        b"Set-Cookie",
        b"Access-Control-Allow-Origin",
        b"Access-Control-Allow-Credentials",
    ]
)
values = st.sampled_from(
    [b"text/html", b"chunked", b"5", b"-1", b"*", b"https://a", b"Thu, 01 Jan 1970 00:00:00 GMT", b"no-store"]
) | st.binary(max_size=12)
bodies = st.sampled_from(
    [
        b"",
        b"{}",
        b"[]",
        b"5",
        b'{"ip":{"capture":"8.8.8.8"}}',
        b'{"ip":{"a":null}}',
        b'{"flags":{}}',
        b"5\r\nhello\r\n0\r\n\r\n",
        b"zz\r\n",
        b"\xff\xfe",
    ]
) | st.binary(max_size=40)
answers = st.builds(
    lambda status, lines, body: (
        b"HTTP/1.1 %b\r\n" % status + b"".join(b"%b: %b\r\n" % line for line in lines) + b"\r\n" + body
    ),
    st.sampled_from([b"200 OK", b"401 No", b"100 Go on", b"204 ", b"302 \xff", b"600 X", b"x", b""]),
    st.lists(st.tuples(names, values), max_size=5),
    bodies,
)


@given(answers | st.binary(max_size=60), st.sampled_from(["", "203.0.113.7"]))
@example(b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 0000 00:00:00 GMT\r\n\r\n", "")
@example(b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 -9999\r\n\r\n", "")
def test_whatever_is_answered(heard: bytes, client: str) -> None:
    try:
        reply = parsed(heard)
    except http.client.HTTPException:
        return
    assert isinstance(reply, Reply)
    found: list[Finding | None] = [
        seen("x", reply, client),
        *_clock("x", reply, 0.0),
        _flags("x", reply),
        _caching("x", "/static/array.js", reply),
        cors("x", "https://a", reply),
        ok("x", "x", str(reply)),
    ]
    told = [each for each in found if each is not None]
    assert as_text(told).count("\n") == len(told) + 1
