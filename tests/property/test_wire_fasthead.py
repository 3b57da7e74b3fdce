"""The fast reading takes nothing that the gate and h11 would not take, and reads it as they do."""

from __future__ import annotations

from hypothesis import event, given, settings
from hypothesis import strategies as st

from proxy.config.schema import ForwardingConfig
from proxy.errors import Violation
from proxy.message import first_value
from proxy.rules.forwarding import ForwardingTable, Kind, classify_request_name, response_fields
from proxy.wire.fasthead import AnswerReader, Lines, Mark, RequestReader, read_request_line
from proxy.wire.heads import read_request, read_response, render_response
from proxy.wire.strict import HeadLimits
from tests.support.odd_heads import answer_heads, request_heads

LIMITS = HeadLimits(lines=24)
TABLE = ForwardingTable.of(ForwardingConfig())

good_lines = st.sampled_from(
    [
        b"Accept: */*",
        b"accept:a",
        b"User-Agent: x",
        b"user-agent:",
        b"X-A:\t\xff b\t",
        b"X-Forwarded-For: 203.0.113.7, 10.0.0.1",
        b"X_Real.IP: 1.1.1.1",
        b"X-Request-Id: 1",
        b"Connection: close",
        b"connection:Keep-Alive",
        b"Keep-Alive: 5",
        b"TE: trailers",
    ]
)
hosts = st.sampled_from([b"Host: a", b"host:[::1]:80", b"HOST: A.b", b"Host: a b", b"Host:"])
known_names = [
    b"%b: known" % name
    for name in (b"Host", b"Accept", b"User-Agent", b"X-A", b"X-Forwarded-For", b"X-Request-Id", b"Cookie")
]
lines_of_known_names = st.builds(
    bytes.__add__,
    st.sampled_from([b"Accept", b"User-Agent", b"X-A", b"X-Forwarded-For", b"X-Request-Id", b"Cookie"]),
    st.sampled_from(
        [b"", b" ", b" : a", b":", b":\x01", b": a\nb", b":\0", b": a\r", b":\ta \xff\t", b": a\x7f"]
    ),
)
odd_lines = lines_of_known_names.map(lambda line: [line]) | request_heads.map(
    lambda raw: [line for line in raw.split(b"\r\n")[1:] if line][:2]
)
blocks = st.builds(
    lambda host, good, odd: [host, *good, *odd],
    hosts,
    st.lists(good_lines, max_size=4),
    st.one_of(st.just([]), odd_lines),
).flatmap(st.permutations)


@settings(deadline=None, max_examples=1500)
@given(blocks, st.integers(0, 7), st.sampled_from([0, 1]), st.booleans())
def test_lines_that_are_taken(lines: list[bytes], cut: int, minor: int, warm: bool) -> None:
    reader = RequestReader(LIMITS, TABLE)
    if warm:  # its names are known by now, but hardly one of these lines
        reader.read(b"\r\n".join(known_names), b"", Lines())
    before, after = b"\r\n".join(lines[:cut]), b"\r\n".join(lines[cut:])
    read, again = Lines(), Lines()
    unfit = reader.read(before, after, read)
    event(f"taken: {unfit is None}")
    assert reader.read(before, after, again) is unfit
    if unfit is not None:
        return
    raw = b"".join(line + b"\r\n" for line in (b"POST /e/ HTTP/1.%d" % minor, *lines, b""))
    head = read_request(raw, LIMITS)  # does not raise
    kinds = [(field, classify_request_name(field[0].lower(), TABLE)) for field in head.fields]
    passed = b"".join(b"%b: %b\r\n" % field for field, kind in kinds if kind is Kind.PASS)
    assert read.before + read.after == passed
    managed = [(name.lower(), value) for (name, value), kind in kinds if kind is Kind.MANAGED]
    assert read.chain == tuple(value for name, value in managed if name == b"x-forwarded-for")
    assert read.ids == tuple(value for name, value in managed if name == b"x-request-id")
    assert [(name.lower(), value) for name, value in read.told] == [
        (name, value) for name, value in managed if name not in (b"x-forwarded-for", b"x-request-id")
    ]
    assert (read.host, read.agent) == (head.host, first_value(head.fields, b"user-agent"))
    close = minor == 0 if read.connection is None else read.connection is Mark.CLOSE
    assert close is head.close
    assert all(getattr(again, name) == getattr(read, name) for name in Lines.__slots__)


@settings(deadline=None, max_examples=800)
@given(request_heads)
def test_a_request_line_that_is_taken(raw: bytes) -> None:
    first = raw.split(b"\r\n", 1)[0]
    read = read_request_line(first, LIMITS)
    event(f"taken: {read is not None}")
    if read is not None:
        head = read_request(first + b"\r\nHost: a\r\n\r\n", LIMITS)
        assert read == (head.method, head.target, head.target.partition(b"?")[0], head.minor)


usual_answers = st.builds(
    lambda status, lines: b"\r\n".join([status, *lines, b"", b""]),
    st.sampled_from(
        [b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 204 ", b"HTTP/1.1 304 N", b"HTTP/1.1 503 "]
    ),
    st.lists(
        st.sampled_from([b"ETag: x", b"x-a:1 ", b"Connection: close", b"Connection: X-A", b"Keep-Alive: 5"]),
        max_size=3,
    ).flatmap(
        lambda lines: (
            st.permutations([*lines, b"Date: D", b"Content-Length: 3"])
            | st.permutations([*lines, b"date:D"])
            | st.permutations([*lines, b"Content-Length: 3"])
        )
    ),
)


@settings(deadline=None, max_examples=1500)
@given(answer_heads | usual_answers, st.binary(max_size=9), st.sampled_from([0, 1]), st.booleans())
def test_an_answer_that_is_taken(raw: bytes, more: bytes, minor: int, close: bool) -> None:
    reader = AnswerReader(LIMITS, TABLE)
    answer = reader.read(raw + more, minor, close)
    event(f"taken: {answer is not None}")
    if answer is None:
        assert reader.read(raw + more, minor, close) is None
        return
    whole = (raw + more)[: answer.size]
    try:
        head = read_response(whole, b"GET", LIMITS)
    except Violation as violation:
        raise AssertionError(whole) from violation
    assert (answer.status, answer.length, answer.reusable) == (
        head.status,
        head.framing.length,
        not head.close,
    )
    fields = response_fields(head, method=b"GET", minor=minor, close=close, date=b"now", table=TABLE)
    out = answer.out if answer.rest is None else answer.out + b"now" + answer.rest
    assert out == render_response(head.status, head.reason, fields)
    assert reader.read(raw + more, minor, close) is answer
