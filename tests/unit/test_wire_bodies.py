"""Body readers: the chunked corpus however it is cut, lengths, until-close, and the chunks we write."""

from __future__ import annotations

import pytest

from proxy.errors import Violation
from proxy.message import CHUNKED, NO_BODY, UNTIL_CLOSE, Framing, FramingKind
from proxy.wire.bodies import (
    LAST_CHUNK,
    BodyReader,
    ChunkedBody,
    LengthBody,
    UntilCloseBody,
    chunk,
    open_body,
)
from tests.support.corpus import Case, cases, cuts

TRAILER_LIMIT = 64  # what the corpus was written for


def named(case: Case) -> str:
    return case.name


def read(reader: BodyReader, pieces: list[bytes]) -> tuple[bytes, bytes]:
    """Feed the pieces, then the end; return the content and what was left in the buffer."""
    buffer = bytearray()
    content = b""
    for piece in pieces:
        buffer += piece
        content += reader.take(buffer)
    reader.at_eof()
    return content, bytes(buffer)


def outcome(pieces: list[bytes]) -> object:
    try:
        return read(ChunkedBody(TRAILER_LIMIT), pieces)
    except Violation as violation:
        return violation.status, violation.reason


@pytest.mark.parametrize("case", cases("chunked"), ids=named)
def test_a_chunked_body_of_the_corpus(case: Case) -> None:
    expected = case.expected
    if case.refused:
        assert outcome([case.raw]) == (400, expected["reason"])
    else:
        assert outcome([case.raw]) == (expected["content"].encode(), expected.get("rest", "").encode())


@pytest.mark.parametrize("case", cases("chunked"), ids=named)
def test_a_chunked_body_comes_to_the_same_however_it_is_cut(case: Case) -> None:
    whole = outcome([case.raw])
    for pieces in cuts(case.raw):
        assert outcome(pieces) == whole, pieces


def test_data_goes_on_before_its_chunk_is_complete() -> None:
    reader = ChunkedBody(TRAILER_LIMIT)
    buffer = bytearray(b"a\r\n012")
    assert reader.take(buffer) == b"012"
    assert buffer == b""
    buffer += b"3456"
    assert reader.take(buffer) == b"3456"
    buffer += b"789\r\n1\r\nx"
    assert reader.take(buffer) == b"789x"
    assert not reader.done


def test_a_finished_chunked_body_takes_nothing_more() -> None:
    reader = ChunkedBody(TRAILER_LIMIT)
    buffer = bytearray(b"0\r\n\r\n5\r\nhello\r\n")
    assert reader.take(buffer) == b""
    assert reader.done
    assert reader.take(buffer) == b""
    assert buffer == b"5\r\nhello\r\n"


def test_only_the_part_of_a_line_stays_in_the_buffer() -> None:
    reader = ChunkedBody(TRAILER_LIMIT)
    buffer = bytearray(b"5;" + b"a" * 255)
    assert reader.take(buffer) == b""
    assert len(buffer) == 257
    buffer += b"\r\nhello\r"
    assert reader.take(buffer) == b"hello"
    assert buffer == b"\r"


def test_a_chunk_may_be_larger_than_memory() -> None:
    reader = ChunkedBody(TRAILER_LIMIT)
    buffer = bytearray(b"7fffffffffffffff\r\nabc")
    assert reader.take(buffer) == b"abc"
    assert not reader.done


def test_trailers_may_be_forbidden() -> None:
    assert read(ChunkedBody(0), [b"0\r\n\r\n"]) == (b"", b"")
    with pytest.raises(Violation) as refused:
        read(ChunkedBody(0), [b"0\r\nA:\r\n\r\n"])
    assert refused.value.reason == "trailers_too_large"


# --- bodies of known length ---


def test_a_length_is_taken_and_nothing_behind_it() -> None:
    reader = LengthBody(5)
    buffer = bytearray(b"he")
    assert reader.take(buffer) == b"he"
    assert (reader.done, reader.remaining, bytes(buffer)) == (False, 3, b"")
    buffer += b"lloGET / HTTP/1.1"
    assert reader.take(buffer) == b"llo"
    assert reader.done
    assert reader.take(buffer) == b""
    assert buffer == b"GET / HTTP/1.1"
    reader.at_eof()


def test_bytes_of_a_length_may_go_another_way() -> None:
    reader = LengthBody(5)
    reader.skip(3)
    assert reader.take(bytearray(b"abc")) == b"ab"
    assert reader.done
    reader = LengthBody(5)
    reader.skip(5)
    assert reader.done


def test_a_length_that_is_not_reached_is_refused() -> None:
    reader = LengthBody(5)
    assert reader.take(bytearray(b"hell")) == b"hell"
    with pytest.raises(Violation) as refused:
        reader.at_eof()
    assert (refused.value.status, refused.value.reason) == (400, "body_incomplete")


@pytest.mark.parametrize("framing", [NO_BODY, Framing(FramingKind.LENGTH, 0)])
def test_no_body_is_done_from_the_start(framing: Framing) -> None:
    reader = open_body(framing, trailer_limit=0)
    buffer = bytearray(b"GET")
    assert reader.done
    assert reader.take(buffer) == b""
    assert reader.done
    assert buffer == b"GET"
    reader.at_eof()


# --- until the connection ends ---


def test_everything_until_the_end_is_taken() -> None:
    reader = UntilCloseBody()
    buffer = bytearray(b"ab")
    assert reader.take(buffer) == b"ab"
    assert buffer == b""
    assert reader.take(buffer) == b""
    before = reader.done
    reader.at_eof()
    assert (before, reader.done) == (False, True)
    buffer += b"x"
    assert reader.take(buffer) == b""


# --- which reader for which framing ---


@pytest.mark.parametrize(
    ("framing", "reader"),
    [
        (NO_BODY, LengthBody),
        (Framing(FramingKind.LENGTH, 5), LengthBody),
        (CHUNKED, ChunkedBody),
        (UNTIL_CLOSE, UntilCloseBody),
    ],
)
def test_the_framing_chooses_the_reader(framing: Framing, reader: type) -> None:
    assert type(open_body(framing, trailer_limit=TRAILER_LIMIT)) is reader


def test_the_trailer_limit_is_handed_on() -> None:
    reader = open_body(CHUNKED, trailer_limit=6)
    assert read(reader, [b"0\r\nA: b\r\n\r\n"]) == (b"", b"")


# --- writing ---


def test_a_chunk_is_framed() -> None:
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert chunk(b"") == b""


def test_what_we_write_we_read() -> None:
    stream = chunk(b"hello") + chunk(b"") + chunk(b" world") + LAST_CHUNK
    assert read(ChunkedBody(0), [stream]) == (b"hello world", b"")
