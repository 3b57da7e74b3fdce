"""Chunked bodies: what was framed comes back under any cutting, and no byte from beyond the frame."""

from __future__ import annotations

from itertools import pairwise

import h11
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import Violation
from proxy.message import CHUNKED, NO_BODY, UNTIL_CLOSE, Framing, FramingKind
from proxy.wire.bodies import LAST_CHUNK, ChunkedBody, chunk, open_body
from tests.support.corpus import cases

TRAILER_LIMIT = 64
SEEDS = [case.raw for case in cases("chunked") if len(case.raw) < 400]

quick = settings(deadline=None, max_examples=400)

places = st.lists(st.integers(0, 600), max_size=8)
pieces = st.lists(st.binary(max_size=40), max_size=6)
extensions = st.sampled_from([b"", b";a", b";a=b", b';a="b;\\"c"', b";a;b=c"])
trailers = st.sampled_from([b"", b"A: b\r\n", b"X-Forwarded-For: 6.6.6.6\r\nB:\r\n"])
framings = st.sampled_from([NO_BODY, CHUNKED, UNTIL_CLOSE]) | st.builds(
    lambda length: Framing(FramingKind.LENGTH, length), st.integers(0, 50)
)


def cut_at(raw: bytes, where: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(raw) + 1) for place in where), len(raw)]
    return [raw[start:end] for start, end in pairwise(edges)]


def fed(raw_pieces: list[bytes]) -> tuple[bytes, bytes, str]:
    """Feed a chunked body: the content that came out, what was left, and how it ended."""
    reader = ChunkedBody(TRAILER_LIMIT)
    buffer = bytearray()
    content = b""
    try:
        for piece in raw_pieces:
            buffer += piece
            content += reader.take(buffer)
        reader.at_eof()
    except Violation as violation:
        assert_refusal(violation)
        return content, b"", violation.reason
    return content, bytes(buffer), "done"


def assert_refusal(violation: Violation) -> None:
    assert violation.status == 400


def by_byte(raw: bytes) -> list[bytes]:
    return [raw[at : at + 1] for at in range(len(raw))]


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A chunked body as others may frame it, and its content."""
    content = draw(pieces)
    raw = b"".join(
        b"%0*x%b\r\n%b\r\n" % (draw(st.integers(1, 8)), len(data), draw(extensions), data)
        for data in content
        if data
    )
    return raw + b"0" + draw(extensions) + b"\r\n" + draw(trailers) + b"\r\n", b"".join(content)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    raw = bytearray(draw(st.sampled_from(SEEDS) | streams().map(lambda stream: stream[0])))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(raw)))
        raw[at : at + draw(st.integers(0, 3))] = draw(
            st.binary(max_size=2) | st.sampled_from([b"\r\n", b"\n", b"0", b"1", b";", b" ", b"0\r\n\r\n"])
        )
    return bytes(raw)


@quick
@given(pieces, places, st.binary(max_size=20))
def test_what_we_frame_comes_back(content: list[bytes], where: list[int], rest: bytes) -> None:
    raw = b"".join(map(chunk, content)) + LAST_CHUNK + rest
    assert fed(cut_at(raw, where)) == (b"".join(content), rest, "done")


@quick
@given(streams(), places, st.binary(max_size=20))
def test_what_others_frame_comes_back(stream: tuple[bytes, bytes], where: list[int], rest: bytes) -> None:
    raw, content = stream
    assert fed(cut_at(raw + rest, where)) == (content, rest, "done")
    assert fed(by_byte(raw + rest)) == (content, rest, "done")


@quick
@given(mutated() | st.binary(max_size=60), places)
def test_a_body_comes_to_the_same_however_it_is_cut(raw: bytes, where: list[int]) -> None:
    content, rest, end = fed([raw])
    finest = fed(by_byte(raw))
    some = fed(cut_at(raw, where))
    assert finest[1:] == some[1:] == (rest, end)
    if end == "done":
        assert finest[0] == some[0] == content
    else:
        # Before the fault the finer cutting may have handed out more; never something else.
        assert finest[0].startswith(some[0])
        assert some[0].startswith(content)


@quick
@given(mutated())
def test_no_byte_from_beyond_the_frame(raw: bytes) -> None:
    """What is read is what h11, which is laxer, reads of the same bytes; and it ends where h11 ends."""
    content, rest, end = fed([raw])
    if end != "done":
        return
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + raw)
    assert isinstance(connection.next_event(), h11.Request)
    theirs = b""
    while isinstance(event := connection.next_event(), h11.Data):
        theirs += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert theirs == content
    assert connection.trailing_data[0] == rest


@quick
@given(framings, st.binary(max_size=80), places)
def test_no_reader_raises_anything_else(framing: Framing, raw: bytes, where: list[int]) -> None:
    reader = open_body(framing, trailer_limit=TRAILER_LIMIT)
    buffer = bytearray()
    taken = 0
    try:
        for piece in cut_at(raw, where):
            buffer += piece
            taken += len(reader.take(buffer))
        reader.at_eof()
    except Violation as violation:
        assert_refusal(violation)
        return
    assert reader.done
    assert taken + len(buffer) <= len(raw)
    if framing.kind is FramingKind.LENGTH:
        assert taken == framing.length
