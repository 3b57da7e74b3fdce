"""Hypothesis strategies: heads that are nearly right, the corpus with a few bytes changed, and anything."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.support.corpus import cases

_NAMES = ["Host", "Content-Length", "Transfer-Encoding", "Connection", "Expect", "Cookie", "X-Forwarded-For"]
_VALUES = [
    b"a",
    b"a:80",
    b"5",
    b"007",
    b"5, 5",
    b"chunked",
    b"Chunked",
    b"gzip, chunked",
    b"close",
    b"keep-alive, Upgrade",
    b"100-continue",
    b"websocket",
    b"",
    b"\x01",
    b"\t \xff \t",
]
_names = st.sampled_from(_NAMES).map(str.encode) | st.from_regex(
    rb"[A-Za-z_.-]{1,8}|[!-9;-~]{1,3}", fullmatch=True
)
_values = st.sampled_from(_VALUES) | st.binary(max_size=12)
_spaces = st.sampled_from([b"", b" ", b"\t", b"  "])
_good_lines = st.sampled_from(
    [
        b"Content-Length: 5",
        b"Transfer-Encoding: Chunked",
        b"Connection: close",
        b"Connection: keep-alive, X",
        b"Cookie: \x01",
        b"X-a:\t\xff b\t",
        b"x-A:",
    ]
)
_field_lines = st.builds(
    lambda name, before, value, after: name + b":" + before + value + after, _names, _spaces, _values, _spaces
)
_line_ends = st.sampled_from([b"\r\n", b"\n", b"\r", b"\r\n ", b"\r\r\n"])
_methods = st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS", b"CONNECT", b"PRI", b"get"])
_targets = st.sampled_from([b"/", b"/e/?a=1", b"*", b"http://a/b", b"https://a:80", b"/a#b", b"a:80"])
_versions = st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0"])
_request_lines = st.builds(lambda *parts: b" ".join(parts), _methods, _targets, _versions)
_status_lines = st.sampled_from(
    [b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 204 ", b"HTTP/1.1 101 S", b"HTTP/1.1 999 X"]
)


@st.composite
def _heads(draw: st.DrawFn, first: bytes, odd_first: st.SearchStrategy[bytes], usual: bytes) -> bytes:
    """A head that is odd in one respect at most: most others would fall at their first line."""
    odd = draw(st.sampled_from(["nothing", "fields", "first line", "line ends", "no usual line"]))
    lines = [draw(odd_first) if odd == "first line" else first]
    lines += draw(st.lists(_field_lines if odd == "fields" else _good_lines, max_size=5))
    if odd != "no usual line":
        lines.insert(draw(st.integers(1, len(lines))), usual)
    ends = _line_ends if odd == "line ends" else st.just(b"\r\n")
    return b"".join(line + draw(ends) for line in lines) + draw(ends)


@st.composite
def _mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    raw = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(raw)))
        raw[at : at + draw(st.integers(0, 2))] = draw(
            st.binary(max_size=2) | st.sampled_from([b"\r\n", b"\n", b" ", b":", b",", b"\0"])
        )
    return bytes(raw)


request_heads = (
    _heads(b"POST /e/ HTTP/1.1", _request_lines, b"Host: a")
    | _mutated([case.raw for case in cases("requests")])
    | st.binary(max_size=60).map(lambda raw: raw + b"\r\n\r\n")
)
answer_heads = (
    _heads(b"HTTP/1.1 200 OK", _status_lines, b"ETag: a")
    | _mutated([case.raw for case in cases("responses")])
    | st.binary(max_size=60)
)
