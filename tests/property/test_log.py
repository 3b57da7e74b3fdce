"""For arbitrary bytes: a log line is one line of printable ASCII, valid JSON, bounded, without tokens."""

from __future__ import annotations

import json
import string

from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.config.schema import LogFormat, LogLevel
from proxy.observe.log import AccessRecord, encode_json, encode_text, error_line, logged_path

cases = settings(max_examples=400, deadline=None)

nasty = st.text('\x00\t\n\r\x1b\x7f\x85\u2028\ud800"\\{ é', max_size=20)
anything = st.one_of(
    st.binary(max_size=80),
    st.one_of(nasty, st.text(max_size=40)).map(lambda text: text.encode("utf-8", "replace")),
)
words = st.one_of(nasty, st.text(max_size=40))
numbers = st.one_of(st.none(), st.floats())

records = st.builds(
    AccessRecord,
    ts=st.floats(min_value=0, max_value=4e9),
    request_id=words,
    client_ip=words,
    peer=words,
    method=anything,
    host=anything,
    target=anything,
    route=words,
    upstream_addr=words,
    status=st.integers(0, 999),
    bytes_in=st.integers(0),
    t_head=numbers,
    t_total=numbers,
    reused=st.booleans(),
    sni=words,
    user_agent=anything,
    error=words,
)

tokens = st.builds(
    "{}_{}".format,
    st.sampled_from(["phc", "phx", "phs", "pha"]),
    st.text(string.ascii_letters + string.digits, min_size=20, max_size=50),
)


def one_printable_line(line: bytes) -> bool:
    return line.endswith(b"\n") and all(0x20 <= byte < 0x7F for byte in line[:-1])


@cases
@given(records)
def test_one_line_of_valid_json(record: AccessRecord) -> None:
    line = encode_json(record)
    assert one_printable_line(line)
    said = json.loads(line)
    assert len(said) == 34
    assert said["status"] == record.status
    assert one_printable_line(encode_text(record))


values = st.one_of(anything, words, st.integers(), numbers, st.booleans())
names = st.text(max_size=10)
plain_names = names.filter(lambda name: "ph" not in name and "=" not in name)
"""Names in which nothing can be taken for a token: those that we give ourselves."""


@cases
@given(st.dictionaries(names, values))
def test_error_lines_too(fields: dict[str, object]) -> None:
    line = error_line(LogLevel.ERROR, "event", 1.5, **fields)
    assert one_printable_line(line)
    assert {"ts", "level", "event"} <= set(json.loads(line))
    assert one_printable_line(error_line(LogLevel.ERROR, "event", 1.5, LogFormat.TEXT, **fields))


@cases
@given(st.dictionaries(plain_names, values))
def test_error_lines_have_every_field(fields: dict[str, object]) -> None:
    line = error_line(LogLevel.ERROR, "event", 1.5, **fields)
    assert set(json.loads(line)) == {"ts", "level", "event", *fields}


def test_a_token_is_hidden_even_as_the_name_of_a_field() -> None:
    said = json.loads(error_line(LogLevel.ERROR, "event", 1.5, phc_0123456789=1))
    assert set(said) == {"ts", "level", "event", "phc_***"}


@cases
@given(tokens, anything, anything)
def test_a_token_is_never_logged(token: str, before: bytes, after: bytes) -> None:
    key = token.encode()
    hidden = b"".join(b"%%%02x" % byte for byte in key)
    around = before + b" " + key + b" " + after
    for target in (
        b"/array/" + key + b"/config?" + before,
        b"/%61rray%2f" + key + b"%2fconfig",
        b"/" + before + b"/" + key + b"/" + after,
        b"/" + before + key,
        b"/e/?token=" + key + b"&api_key=" + key + b"&ver=" + key + b"&lib=" + key,
        b"/e%3Ftoken=" + key,
        around,
        b"/" + hidden,
        b"/array/" + hidden + b"/config",
    ):
        record = AccessRecord(target=target, host=around, user_agent=around, error=around.decode("latin-1"))
        for line in (
            encode_json(record),
            encode_text(record),
            error_line(LogLevel.INFO, "x", 0.0, raw=around, text=around.decode("latin-1")),
        ):
            assert key not in line
            assert hidden not in line


@cases
@given(
    st.text(string.ascii_letters + string.digits + "-_.~", min_size=8, max_size=40),
    st.sampled_from(["/", "%2f", "\\"]),
)
def test_where_a_token_stands_its_form_does_not_matter(token: str, slash: str) -> None:
    for first in ("array", "shared", "embedded", "exporter"):
        path = logged_path(f"/{first}{slash}{token}{slash}rest".encode()).decode()
        assert token not in path
        assert path.endswith("rest")


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([b"/", b"%2f", b"p", b"ph", b"phc_", b"\xff", b"\x00", b"=", b"token=", b"\\", b";"]),
    st.booleans(),
)
@example(b"a", True)
def test_a_line_is_bounded_whatever_was_sent(piece: bytes, slash: bool) -> None:
    flood = (b"/" if slash else b"") + piece * (65536 // len(piece))
    record = AccessRecord(
        target=flood, host=flood, user_agent=flood, method=flood, error=flood.decode("latin-1")
    )
    assert len(encode_json(record)) < 96 * 1024
    assert len(encode_text(record)) < 96 * 1024
