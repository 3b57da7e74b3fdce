"""The gate: every file of tests/corpus/requests and /responses, however it is cut; limits; the judges."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import pytest

from proxy.errors import Violation
from proxy.message import CHUNKED, NO_BODY, UNTIL_CLOSE, Framing, FramingKind
from proxy.wire.strict import (
    HeadLimits,
    RequestLine,
    StatusLine,
    check_request,
    check_request_fields,
    check_response,
    check_response_fields,
    find_head_end,
    judge_field_line,
    judge_request_line,
    judge_status_line,
    leading_blank,
    list_members,
    origin_form,
    over_limit,
    response_over_limit,
)
from tests.support.corpus import Case, cases, cuts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LIMITS = HeadLimits()
SMALL = HeadLimits(head_bytes=1024, lines=16, target_bytes=256)

Early: TypeAlias = "Callable[[bytearray, HeadLimits], Violation | None]"

REQUESTS = cases("requests")
RESPONSES = cases("responses")


def named(case: Case) -> str:
    return case.name


def framing(expected: str | int) -> Framing:
    kinds = {"none": NO_BODY, "chunked": CHUNKED, "until-close": UNTIL_CLOSE}
    return kinds[expected] if isinstance(expected, str) else Framing(FramingKind.LENGTH, expected)


def arriving(
    pieces: Iterable[bytes], limits: HeadLimits, early: Early = over_limit
) -> bytes | Violation | None:
    """Read a head as a connection does: the head when it is whole, or why it is refused before."""
    buffer = bytearray()
    scanned = 0
    for piece in pieces:
        buffer += piece
        end = find_head_end(buffer, scanned)
        if end >= 0:
            return bytes(buffer[:end])
        violation = early(buffer, limits)
        if violation is not None:
            return violation
        scanned = len(buffer)
    return None


def verdict(violation: Violation) -> tuple[int, str]:
    return violation.status, violation.reason


def outcome(head: bytes | Violation | None, limits: HeadLimits = LIMITS) -> object:
    """What a request comes to: its verdict, or all that was read in it."""
    assert head is not None, "nothing was decided"
    if isinstance(head, Violation):
        return verdict(head)
    try:
        return check_request(head, limits)
    except Violation as violation:
        return verdict(violation)


def response_outcome(head: bytes | Violation | None, method: bytes, limits: HeadLimits = LIMITS) -> object:
    assert head is not None, "nothing was decided"
    if isinstance(head, Violation):
        return verdict(head)
    try:
        return check_response(head, method, limits)
    except Violation as violation:
        return verdict(violation)


# --- the corpus ---


@pytest.mark.parametrize("case", [case for case in REQUESTS if case.refused], ids=named)
def test_a_request_is_refused(case: Case) -> None:
    found = outcome(arriving([case.raw], LIMITS))
    assert found == (case.expected["status"], case.expected["reason"])


@pytest.mark.parametrize("case", [case for case in REQUESTS if not case.refused], ids=named)
def test_a_request_passes(case: Case) -> None:
    head = arriving([case.raw], LIMITS)
    assert head == case.raw
    checked = check_request(case.raw, LIMITS)
    expected = case.expected
    assert checked.line.method == expected["method"].encode()
    assert origin_form(checked.line.method, checked.line.target) == expected["target"].encode()
    assert checked.line.minor == expected.get("minor", 1)
    assert len(checked.fields) == expected["lines"]
    assert (checked.traits.host or b"") == expected.get("host", "a").encode()
    assert checked.traits.framing == framing(expected.get("framing", "none"))
    assert checked.traits.close == expected.get("close", False)
    assert checked.traits.expect_continue == expected.get("expect_continue", False)
    names = {name for name, _ in checked.fields}
    assert names.isdisjoint(name.encode() for name in expected.get("dropped", []))


@pytest.mark.parametrize("case", REQUESTS, ids=named)
def test_a_request_comes_to_the_same_however_it_is_cut(case: Case) -> None:
    whole = outcome(arriving([case.raw], LIMITS))
    for pieces in cuts(case.raw):
        assert outcome(arriving(pieces, LIMITS)) == whole, pieces


@pytest.mark.parametrize("case", [case for case in RESPONSES if case.refused], ids=named)
def test_an_answer_is_refused(case: Case) -> None:
    method = case.expected.get("method", "GET").encode()
    found = response_outcome(arriving([case.raw], LIMITS, response_over_limit), method)
    assert found == (502, case.expected["reason"])


@pytest.mark.parametrize("case", [case for case in RESPONSES if not case.refused], ids=named)
def test_an_answer_passes(case: Case) -> None:
    expected = case.expected
    checked = check_response(case.raw, expected.get("method", "GET").encode(), LIMITS)
    assert checked.line.status == expected["status"]
    assert checked.line.minor == expected.get("minor", 1)
    assert len(checked.fields) == expected["lines"]
    assert checked.framing == framing(expected["framing"])
    assert checked.close == expected.get("close", False)
    assert checked.raw == case.raw


@pytest.mark.parametrize("case", RESPONSES, ids=named)
def test_an_answer_comes_to_the_same_however_it_is_cut(case: Case) -> None:
    method = case.expected.get("method", "GET").encode()
    whole = response_outcome(arriving([case.raw], LIMITS, response_over_limit), method)
    for pieces in cuts(case.raw):
        assert response_outcome(arriving(pieces, LIMITS, response_over_limit), method) == whole, pieces


# --- where a head ends ---


@pytest.mark.parametrize(
    ("buffer", "end"),
    [
        (b"", -1),
        (b"A\r\n\r", -1),
        (b"A\r\n\r\n", 5),
        (b"A\r\n\r\nB\r\n\r\n", 5),
        (b"A\n\n", 3),
        (b"A\n\r\n", 4),
        (b"A\r\n\n", 4),
        (b"A\n\n\r\n", 3),
        (b"A\r\r", -1),
        (b"A\r\nB\r\n", -1),
        (b"\r\n\r\n", -1),
        (b"\r\n\r\nA\r\n\r\n", 9),
        (b"\n\nA\n\n", 5),
        (b"\r\n\r\n\r\n\r\n", 8),
    ],
)
def test_the_head_ends_behind_its_first_empty_line(buffer: bytes, end: int) -> None:
    assert find_head_end(bytearray(buffer), 0) == end


@pytest.mark.parametrize("head", [b"A\r\nB\r\n\r\n", b"A\nB\n\n", b"\r\nA\n\r\n", b"\r\n\r\nA\r\n\n"])
def test_the_search_goes_on_where_it_stopped(head: bytes) -> None:
    for seen in range(len(head)):
        assert find_head_end(bytearray(head[:seen]), 0) == -1
        assert find_head_end(bytearray(head), seen) == len(head)


# --- before the request line ---


@pytest.mark.parametrize(
    ("buffer", "skip"),
    [(b"", 0), (b"GET", 0), (b"\r", 0), (b"\r\n", 2), (b"\r\n\r", 2), (b"\r\n\r\n", 4), (b"\r\n\r\nGET", 4)],
)
def test_up_to_two_empty_lines_are_skipped(buffer: bytes, skip: int) -> None:
    assert leading_blank(buffer) == skip
    assert leading_blank(bytearray(buffer)) == skip


@pytest.mark.parametrize(
    "buffer",
    [b"\r\n\r\n\r", b"\r\n\r\n\r\n", b"\n", b"\rG", b" ", b"\t", b"\r\n ", b"\r\n\n", b"\r\r", b"\x0b"],
)
def test_any_other_blank_is_refused(buffer: bytes) -> None:
    with pytest.raises(Violation) as refused:
        leading_blank(buffer)
    assert verdict(refused.value) == (400, "blank_before_request")


def test_empty_lines_count_for_no_limit() -> None:
    fields = b"".join(b"X-%d: a\r\n" % number for number in range(SMALL.lines - 1))
    head = b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n"
    assert len(check_request(head, SMALL).fields) == SMALL.lines


# --- limits ---


def sized(total: int, line: bytes = b"GET / HTTP/1.1", name: bytes = b"Cookie") -> bytes:
    """A head of exactly ``total`` bytes with one header that fills it."""
    start = line + b"\r\nHost: a\r\n" + name + b": "
    return start + b"x" * (total - len(start) - 4) + b"\r\n\r\n"


def test_a_head_may_have_the_limit_and_not_a_byte_more() -> None:
    assert check_request(sized(1024), SMALL).traits.host == b"a"
    assert outcome(sized(1025), SMALL) == (431, "head_too_large")


def test_the_largest_header_is_named() -> None:
    violation = over_limit(sized(2000), SMALL)
    assert violation is not None
    assert violation.detail == "head above 1024 bytes; the largest header is Cookie with 1971 bytes"


def test_an_unreadable_name_is_not_shown() -> None:
    violation = over_limit(sized(2000, name=b"\x1b[31m"), SMALL)
    assert violation is not None
    assert "a line without a name" in violation.detail


def test_an_answer_above_the_limit_names_its_header_too() -> None:
    head = b"HTTP/1.1 200 OK\r\nSet-Cookie: " + b"x" * 2000 + b"\r\n\r\n"
    with pytest.raises(Violation) as refused:
        check_response(head, b"GET", SMALL)
    assert verdict(refused.value) == (502, "head_too_large")
    assert "the largest header is Set-Cookie" in refused.value.detail


def test_an_answer_that_is_one_endless_line_is_refused() -> None:
    violation = response_over_limit(bytearray(b"HTTP/1.1 200 " + b"x" * 2000), SMALL)
    assert violation is not None
    assert verdict(violation) == (502, "head_too_large")


def lines(count: int, start: bytes = b"GET / HTTP/1.1\r\nHost: a\r\n") -> bytes:
    return (
        start + b"".join(b"X: %d\r\n" % number for number in range(count - start.count(b"\n") + 1)) + b"\r\n"
    )


def test_a_head_may_have_so_many_lines_and_not_one_more() -> None:
    assert len(check_request(lines(16), SMALL).fields) == 16
    assert outcome(lines(17), SMALL) == (431, "too_many_headers")


def test_an_answer_may_have_so_many_lines_and_not_one_more() -> None:
    start = b"HTTP/1.1 200 OK\r\n"
    assert len(check_response(lines(16, start), b"GET", SMALL).fields) == 16
    with pytest.raises(Violation) as refused:
        check_response(lines(17, start), b"GET", SMALL)
    assert verdict(refused.value) == (502, "too_many_headers")


def test_a_target_may_have_the_limit_and_not_a_byte_more() -> None:
    def head(size: int) -> bytes:
        return b"GET /" + b"a" * (size - 1) + b" HTTP/1.1\r\nHost: a\r\n\r\n"

    assert len(check_request(head(256), SMALL).line.target) == 256
    assert outcome(head(257), SMALL) == (414, "target_too_long")


LARGE = {
    "one large header": sized(3000),
    "just over": sized(1025),
    "just under": sized(1024),
    "target over": sized(900, line=b"GET /" + b"a" * 257 + b" HTTP/1.1"),
    "target far over": sized(900, line=b"GET /" + b"a" * 600 + b" HTTP/1.1"),
    "target larger than a head": sized(3000, line=b"GET /" + b"a" * 2000 + b" HTTP/1.1"),
    "method far over": sized(900, line=b"G" * 600 + b" / HTTP/1.1"),
    "no line end": b"GET /" + b"a" * 3000,
    "many lines": lines(20),
    "very many lines": lines(400),
    "many lines, then one large": lines(20)[:-2] + b"Cookie: " + b"x" * 3000 + b"\r\n\r\n",
    "one large, then many lines": sized(1100)[:-2] + lines(30)[26:],
    "bad line, then large": b"GET / HTTP/1.1\r\n: bad\r\n" + sized(3000)[16:],
    "empty lines, then large": b"\r\n\r\n" + sized(1025),
    "empty lines, then just under": b"\r\n\r\n" + sized(1024),
}


@pytest.mark.parametrize("raw", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("limits", [SMALL, HeadLimits(1024, 16, 1024)], ids=["small", "target as head"])
def test_a_limit_is_the_same_however_the_head_is_cut(raw: bytes, limits: HeadLimits) -> None:
    whole = outcome(arriving([raw], limits), limits)
    by_byte = (raw[at : at + 1] for at in range(len(raw)))
    assert outcome(arriving(by_byte, limits), limits) == whole
    for at in range(1, len(raw), 7):
        assert outcome(arriving([raw[:at], raw[at:]], limits), limits) == whole, at


def test_a_limit_is_hit_while_the_head_is_incomplete() -> None:
    for raw, reason in [
        (sized(3000)[:-4], "head_too_large"),
        (b"GET /" + b"a" * 400, "target_too_long"),
        (b"\x16", "tls_on_plain_port"),
        (b"\x00", "not_http"),
    ]:
        violation = over_limit(bytearray(raw), SMALL)
        assert violation is not None
        assert violation.reason == reason


@pytest.mark.parametrize("start", [b"", b"\r", b"\r\n", b"G", b"GET / HTTP/1.1\r\nHost: a"])
def test_a_good_beginning_is_not_judged(start: bytes) -> None:
    assert over_limit(bytearray(start), SMALL) is None


@pytest.mark.parametrize("start", [b"", b"H", b"HTTP/1.", b"HTTP/1.1 200 OK\r\nA: b"])
def test_a_good_beginning_of_an_answer_is_not_judged(start: bytes) -> None:
    assert response_over_limit(bytearray(start), SMALL) is None


# --- the judges by themselves, as a reader that knows some lines already uses them ---


def test_a_request_line_is_its_three_parts() -> None:
    assert judge_request_line(b"GET /a?b HTTP/1.0", LIMITS) == RequestLine(b"GET", b"/a?b", 0)
    assert judge_request_line(b"GET /a?b HTTP/1.2", LIMITS) == (b"GET", b"/a?b", 1)


def test_a_status_line_is_its_three_parts() -> None:
    assert judge_status_line(b"HTTP/1.1 404 Not Found") == StatusLine(1, 404, b"Not Found")
    assert judge_status_line(b"HTTP/1.0 200") == (0, 200, b"")


def test_a_field_line_is_name_and_value() -> None:
    assert judge_field_line(b"X-A: \t b c \t") == (b"X-A", b"b c")
    assert judge_field_line(b"COOKIE: a=\x02") is None


def test_the_fields_of_a_request_are_judged_without_their_bytes() -> None:
    fields = ((b"HOST", b"a"), (b"content-length", b"5"), (b"Connection", b"close"))
    traits = check_request_fields(RequestLine(b"POST", b"/", 1), fields)
    assert (traits.host, traits.framing.length, traits.close, traits.upgrade) == (b"a", 5, True, False)


def test_the_fields_of_an_answer_are_judged_without_their_bytes() -> None:
    assert check_response_fields(b"GET", 200, 1, ((b"Content-Length", b"5"),)) == (framing(5), False)


def test_a_head_is_rebuilt_for_the_second_parser_only_where_it_must() -> None:
    plain = b"GET / HTTP/1.1\r\nHost: a\r\nA:b\r\n\r\n"
    assert check_request(plain, LIMITS).raw == plain
    changed = b"\r\nGET / HTTP/1.2\r\nHost: a\r\nCookie: \x01\r\nA:b\r\n\r\n"
    assert check_request(changed, LIMITS).raw == plain


def test_a_cookie_line_is_left_out_of_an_answer_too() -> None:
    checked = check_response(b"HTTP/1.1 204 X\r\nCookie: \x01\r\nA: b\r\n\r\n", b"GET", LIMITS)
    assert checked.fields == ((b"A", b"b"),)
    assert checked.raw == b"HTTP/1.1 204 X\r\nA: b\r\n\r\n"


@pytest.mark.parametrize("raw", [b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET / HTTP/1.1", b"", b"\r\n\r\n"])
def test_part_of_a_head_is_no_head(raw: bytes) -> None:
    with pytest.raises(Violation):
        check_request(raw, LIMITS)


@pytest.mark.parametrize(
    "raw", [b"HTTP/1.1 200 OK\r\n\r\nA: b\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"", b"HTTP/1.1"]
)
def test_what_is_not_one_answer_head_is_no_head(raw: bytes) -> None:
    with pytest.raises(Violation) as refused:
        check_response(raw, b"GET", LIMITS)
    assert refused.value.status == 502


def test_list_members_are_lower_case_and_none_is_lost() -> None:
    assert list_members([b"A, \tb ,", b"C"]) == [b"a", b"b", b"", b"c"]
    assert list_members([]) == []


@pytest.mark.parametrize(
    ("method", "target", "reduced"),
    [
        (b"GET", b"/a", b"/a"),
        (b"GET", b"//a/b", b"//a/b"),
        (b"OPTIONS", b"*", b"*"),
        (b"GET", b"http://a/b?c", b"/b?c"),
        (b"GET", b"HTTPS://a", b"/"),
        (b"OPTIONS", b"http://a", b"*"),
        (b"OPTIONS", b"http://a/", b"/"),
    ],
)
def test_an_absolute_target_is_reduced(method: bytes, target: bytes, reduced: bytes) -> None:
    assert origin_form(method, target) == reduced
