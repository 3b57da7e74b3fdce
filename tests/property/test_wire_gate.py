"""Whatever the bytes: the gate refuses or agrees with h11, and what it passed it passes again."""

from __future__ import annotations

from itertools import pairwise

import h11
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import Violation
from proxy.message import Fields, Framing, FramingKind, RequestHead
from proxy.wire.heads import (
    h11_request,
    h11_response,
    read_request,
    read_response,
    render_request,
    render_response,
)
from proxy.wire.strict import (
    HeadLimits,
    check_request,
    check_response,
    find_head_end,
    origin_form,
    over_limit,
)
from tests.support.odd_heads import answer_heads, request_heads

LIMITS = HeadLimits(head_bytes=1024, lines=16, target_bytes=256)
STATUSES = {400, 405, 414, 417, 431, 501, 505}

quick = settings(deadline=None, max_examples=400)


def assert_refusal(violation: Violation, statuses: set[int]) -> None:
    assert violation.status in statuses
    assert violation.reason != "h11_refused", "the gate passed what h11 does not read"


def read_or_none(raw: bytes) -> RequestHead | None:
    try:
        return read_request(raw, LIMITS)
    except Violation as violation:
        assert_refusal(violation, STATUSES)
        return None


def assert_h11_ends_with(connection: h11.Connection, framing: Framing) -> None:
    """The message that h11 has just begun ends for it where ``framing`` says."""
    if framing.kind is FramingKind.CHUNKED:
        connection.receive_data(b"0\r\n\r\n")
    elif framing.kind is FramingKind.UNTIL_CLOSE:
        connection.receive_data(b"x")
        assert isinstance(connection.next_event(), h11.Data)
        connection.receive_data(b"")
    elif framing.length > 0:
        share = min(framing.length, 1000)
        connection.receive_data(b"x" * share)
        event = connection.next_event()
        assert isinstance(event, h11.Data)
        assert len(event.data) == share
        if share < framing.length:
            assert connection.next_event() is h11.NEED_DATA
            return
    assert isinstance(connection.next_event(), h11.EndOfMessage)


def as_h11_says(fields: Fields) -> Fields:
    """h11 keeps names and values but lowers the coding."""
    return tuple(
        (name, value.lower() if name.lower() == b"transfer-encoding" else value) for name, value in fields
    )


@quick
@given(request_heads)
def test_what_the_gate_passes_h11_reads_alike(raw: bytes) -> None:
    try:
        checked = check_request(raw, LIMITS)
    except Violation as violation:
        assert_refusal(violation, STATUSES)
        return
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(checked.raw)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method, event.target) == (checked.line.method, checked.line.target)
    assert event.http_version == b"1.%d" % checked.line.minor
    assert tuple(event.headers.raw_items()) == as_h11_says(checked.fields)
    assert connection.trailing_data[0] == b""
    assert_h11_ends_with(connection, checked.traits.framing)


@quick
@given(answer_heads, st.sampled_from([b"GET", b"HEAD", b"POST"]))
def test_what_the_gate_passes_of_an_answer_h11_reads_alike(raw: bytes, method: bytes) -> None:
    try:
        checked = check_response(raw, method, LIMITS)
    except Violation as violation:
        assert_refusal(violation, {502})
        return
    connection = h11.Connection(h11.CLIENT)
    asked = [("Host", "a"), ("Upgrade", "websocket")]
    connection.send(h11.Request(method=method, target="/", headers=asked))
    connection.receive_data(checked.raw)
    event = connection.next_event()
    assert isinstance(event, h11.Response | h11.InformationalResponse)
    assert (event.status_code, event.reason) == (checked.line.status, checked.line.reason)
    assert tuple(event.headers.raw_items()) == as_h11_says(checked.fields)
    if isinstance(event, h11.Response):
        assert_h11_ends_with(connection, checked.framing)


@quick
@given(request_heads)
def test_a_request_is_read_as_h11_reads_it(raw: bytes) -> None:
    """Plain heads are not shown to h11 at run time."""
    head = read_or_none(raw)
    if head is None:
        return
    event = h11_request(check_request(raw, LIMITS).raw)
    assert (head.method, head.target) == (event.method, origin_form(event.method, event.target))
    assert as_h11_says(head.fields) == in_decimal(tuple(event.headers.raw_items()))


@quick
@given(answer_heads, st.sampled_from([b"GET", b"HEAD", b"POST"]))
def test_an_answer_is_read_as_h11_reads_it(raw: bytes, method: bytes) -> None:
    try:
        head = read_response(raw, method, LIMITS)
    except Violation as violation:
        assert_refusal(violation, {502})
        return
    event = h11_response(check_response(raw, method, LIMITS).raw, method)
    assert (head.status, head.reason) == (event.status_code, event.reason)
    assert in_decimal(as_h11_says(head.fields)) == in_decimal(tuple(event.headers.raw_items()))


def in_decimal(fields: Fields) -> Fields:
    """Without the leading zeros of a length that h11 keeps and we do not."""
    return tuple(
        (name, b"%d" % int(value) if name.lower() == b"content-length" else value) for name, value in fields
    )


@quick
@given(request_heads)
def test_a_request_that_passed_passes_again_as_we_write_it(raw: bytes) -> None:
    head = read_or_none(raw)
    if head is None or head.host is None:  # without Host it is no HTTP/1.1
        return
    again = read_request(render_request(head.method, head.target, head.fields), LIMITS)
    assert sorted(again.fields) == sorted(head.fields)
    assert (again.method, again.target, again.host) == (head.method, head.target, head.host)
    assert again.framing == head.framing
    if head.minor == 1:
        assert (again.close, again.websocket, again.expect_continue) == (
            head.close,
            head.websocket,
            head.expect_continue,
        )


@quick
@given(answer_heads)
def test_an_answer_that_passed_passes_again_as_we_write_it(raw: bytes) -> None:
    try:
        head = read_response(raw, b"GET", LIMITS)
    except Violation as violation:
        assert_refusal(violation, {502})
        return
    again = read_response(render_response(head.status, head.reason, head.fields), b"GET", LIMITS)
    assert (again.status, again.reason, again.framing) == (head.status, head.reason, head.framing)
    assert sorted(again.fields) == sorted(head.fields)


def arrived(pieces: list[bytes]) -> object:
    """What a connection makes of a head that arrives so: its fate, and how many bytes it took."""
    buffer = bytearray()
    scanned = 0
    for piece in pieces:
        buffer += piece
        end = find_head_end(buffer, scanned)
        if end >= 0:
            try:
                return read_request(bytes(buffer[:end]), LIMITS), end
            except Violation as violation:
                return violation.status, violation.reason
        early = over_limit(buffer, LIMITS)
        if early is not None:
            return early.status, early.reason
        scanned = len(buffer)
    return None


def cut_at(raw: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(raw) + 1) for place in places), len(raw)]
    return [raw[start:end] for start, end in pairwise(edges)]


@quick
@given(
    request_heads | st.builds(lambda raw, more: raw + b"x" * more, request_heads, st.integers(0, 1200)),
    st.lists(st.integers(0, 2000), max_size=6),
)
def test_a_head_comes_to_the_same_however_it_is_cut(raw: bytes, places: list[int]) -> None:
    whole = arrived([raw])
    assert arrived(cut_at(raw, places)) == whole
    assert arrived([raw[at : at + 1] for at in range(len(raw))]) == whole


# --- our writers against h11's ---

field_values = st.from_regex(rb"([!-~\x80-\xff]([ \t!-~\x80-\xff]{0,10}[!-~\x80-\xff])?)?", fullmatch=True)
plain_fields = st.lists(
    st.tuples(st.from_regex(rb"X-[a-zA-Z_.~!|]{1,6}", fullmatch=True), field_values), max_size=6
)
framings = st.sampled_from([(), ((b"content-length", b"5"),), ((b"Transfer-Encoding", b"chunked"),)])


def interleaved(fields: list[tuple[bytes, bytes]], extra: Fields, at: int) -> Fields:
    at %= len(fields) + 1
    return (*fields[:at], *extra, *fields[at:])


methods = st.sampled_from([b"GET", b"POST", b"HEAD", b"PROPFIND"])


@quick
@given(
    methods, st.from_regex(rb"/[!-\"$-~]{0,20}", fullmatch=True), plain_fields, framings, st.integers(0, 6)
)
def test_we_write_requests_as_h11_does(
    method: bytes, target: bytes, plain: list[tuple[bytes, bytes]], framing: Fields, at: int
) -> None:
    fields = interleaved(plain, (*framing, (b"hOst", b"a:80")), at)
    theirs = h11.Connection(h11.CLIENT).send(h11.Request(method=method, target=target, headers=list(fields)))
    assert render_request(method, target, fields) == theirs


@quick
@given(
    st.sampled_from([200, 201, 302, 404, 500, 599]), field_values, plain_fields, framings, st.integers(0, 6)
)
def test_we_write_answers_as_h11_does(
    status: int, reason: bytes, plain: list[tuple[bytes, bytes]], framing: Fields, at: int
) -> None:
    # Where there is no framing h11 adds some, but not to this status.
    status = status if framing else 304
    fields = interleaved(plain, framing, at)
    _same_answer(h11.Response(status_code=status, reason=reason, headers=list(fields)), fields)


@quick
@given(st.integers(100, 199), field_values, plain_fields)
def test_we_write_interim_answers_as_h11_does(
    status: int, reason: bytes, plain: list[tuple[bytes, bytes]]
) -> None:
    event = h11.InformationalResponse(status_code=status, reason=reason, headers=plain)
    _same_answer(event, tuple(plain))


def _same_answer(event: h11.Response | h11.InformationalResponse, fields: Fields) -> None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n")
    assert isinstance(connection.next_event(), h11.Request)
    assert isinstance(connection.next_event(), h11.EndOfMessage)
    theirs = connection.send(event)
    # h11 rewrites Transfer-Encoding to the end, under a name of its own.
    if b"Transfer-Encoding" in dict(fields):
        rest = tuple(field for field in fields if field[0] != b"Transfer-Encoding")
        fields = (*rest, (b"Transfer-Encoding", b"chunked"))
    assert render_response(event.status_code, event.reason, fields) == theirs


def test_the_strategies_reach_both_sides() -> None:
    """Most of the above would prove nothing if hardly any head passed, or hardly any did not."""
    passed = refused = 0

    @settings(deadline=None, max_examples=300, database=None)
    @given(request_heads)
    def count(raw: bytes) -> None:
        nonlocal passed, refused
        if read_or_none(raw) is None:
            refused += 1
        else:
            passed += 1

    count()
    assert passed > 10
    assert refused > 20
