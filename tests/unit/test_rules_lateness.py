"""What is changed in a request that is late, and what is not."""

from __future__ import annotations

import base64
import gzip
import json

import pytest

from proxy.rules import lateness
from proxy.rules.envelope import MOST_TEXT
from proxy.rules.lateness import FRESH, MOST_PLACES, Corrected, Outcome
from proxy.rules.steps import finish


def correct(head: bytes, body: bytes | None, delay: float) -> Corrected:
    return finish(lateness.correct(head, body, delay))


def head(target: bytes = b"/e/?ip=1", length: int = 0, *lines: bytes) -> bytes:
    return b"\r\n".join(
        [
            b"POST %b HTTP/1.1" % target,
            b"Host: a",
            b"content-length: %d" % length,
            *lines,
            b"X-A: 1",
            b"",
            b"",
        ]
    )


def late(body: bytes, target: bytes = b"/e/?ip=1", delay: float = 60.0, *lines: bytes) -> Corrected:
    return correct(head(target, len(body), *lines), body, delay)


def body_after(text: str, target: bytes = b"/e/", delay: float = 60.0) -> str:
    done = late(text.encode(), target, delay)
    assert done.body is not None
    assert done.head == head(target, len(done.body))
    return done.body.decode()


@pytest.mark.parametrize(
    ("text", "after"),
    [
        (
            '{"event":"x", "timestamp":"2026-11-25T10:00:00Z","sent_at" : "2026-11-25T10:00:01.500Z"}',
            '{"event":"x", "timestamp":"2026-11-25T10:00:00Z","sent_at" : "2026-11-25T10:01:01.500Z"}',
        ),
        (
            '{"sent_at":"2026-12-31 23:59:30+01:00","timestamp":"2026-11-25","event":"x"}',
            '{"sent_at":"2027-01-01 00:00:30.000+01:00","timestamp":"2026-11-25","event":"x"}',
        ),
        (
            '{"sent_at":"2026-12-31","timestamp":"2026-11-25","event":"x"}',
            '{"sent_at":"2026-12-31T00:01:00","timestamp":"2026-11-25","event":"x"}',
        ),
        ('{"event":"x"}', '{"offset":60000,"event":"x"}'),
        ("{}", '{"offset":60000}'),
        (
            '[{"event":"x","offset":5}, {"offset" : 1.5 }]',
            '[{"event":"x","offset":60005}, {"offset" : 60001.5 }]',
        ),
        ('{"event":"x","offset":"no"}', '{"event":"x","offset":60000}'),
        ('{"event":"x","offset":true,"timestamp":5}', '{"event":"x","offset":60000,"timestamp":5}'),
        (
            '{"batch":[{"event":"a","timestamp":"2026-11-25"},{"event":"b"}],"sent_at":null}',
            '{"batch":[{"event":"a","timestamp":"2026-11-25"},{"offset":60000,"event":"b"}],"sent_at":null}',
        ),
        ('[1, {"event":"x"}]', '[1, {"offset":60000,"event":"x"}]'),
        ('{"batch":{"event":"x"}}', '{"batch":{"offset":60000,"event":"x"}}'),
        ('{"batch":[{}],"batch":[{"a":{}}]}', '{"batch":[{}],"batch":[{"offset":60000,"a":{}}]}'),
        (
            ' {"\\u0062atch" : [ {} , {"a":[{"offset":1}]} ] } ',
            ' {"\\u0062atch" : [ {"offset":60000} , {"offset":60000,"a":[{"offset":1}]} ] } ',
        ),
    ],
)
def test_times_of_a_body(text: str, after: str) -> None:
    assert body_after(text) == after


@pytest.mark.parametrize(
    "text",
    [
        '{"event":"x","timestamp":"2026-11-25T10:00:00Z"}',
        '{"event":"$snapshot","properties":{}}',
        '{"event":"x","offset":NaN}',
        '{"event":"x","offset":1e300}',
        pytest.param('{"event":"x","offset":1' + "0" * 400 + "}", id="more than a float holds"),
        pytest.param('{"event":"x","offset":-' + "9" * 4300 + "}", id="as many digits as are read"),
        '{"event":"x","timestamp":"soon","sent_at":"later"}',
        '{"event":"x","timestamp":"a","sent_at":"9999-12-31T23:59:59Z"}',
        "[1]",
        '{"batch":[]}',
        pytest.param('{"event":"x","timestamp":"a","sent_at":"' + "2" * 9000 + '"}', id="no time is so long"),
    ],
)
def test_what_does_not_move_or_cannot_be_told_stays(text: str) -> None:
    assert late(text.encode()) == Corrected(head(length=len(text)), text.encode(), Outcome.NOTHING)


@pytest.mark.parametrize(
    ("target", "after"),
    [
        (b"/s/?_=1000&ver=1", b"/s/?_=61000&ver=1"),
        (b"/s/?sent_at=5&_=1000", b"/s/?sent_at=60005&_=1000"),
        (b"/s/?_=1&_=2", b"/s/?_=1&_=60002"),
        (b"/s/?sent_at=x&_=1000", b"/s/?sent_at=x&_=1000"),
        (b"/s/?a_=1", b"/s/?a_=1"),
    ],
)
def test_the_time_of_the_query(target: bytes, after: bytes) -> None:
    text = b'{"event":"$snapshot"}'
    done = late(text, target)
    assert (done.head, done.body) == (head(after, len(text)), text)
    large = correct(head(target, 9_000_000), None, 60.0)
    assert large == Corrected(head(after, 9_000_000), None, Outcome.TOO_LARGE)


def test_a_body_that_says_when_it_was_sent_beats_the_query() -> None:
    text = '{"event":"x","timestamp":"2026-11-25","sent_at":"2026-11-25T10:00:00Z"}'
    assert body_after(text, b"/e/?_=1000").count("10:01:00.000Z") == 1


def test_wrapped_bodies_stay_wrapped() -> None:
    event = b'{"event":"x"}'
    done = late(gzip.compress(event), b"/e/?compression=gzip-js", 60.0, b"Content-Encoding: gzip")
    assert done.body is not None
    assert gzip.decompress(done.body) == b'{"offset":60000,"event":"x"}'
    assert b"content-length: %d\r\n" % len(done.body) in done.head
    done = late(b"data=" + base64.b64encode(event).rstrip(b"="))
    assert done.body is not None
    assert b"offset" in base64.b64decode(done.body[5:].replace(b"%3D", b"="))


def test_an_event_in_the_query() -> None:
    packed = base64.b64encode(b'{"event":"x"}').replace(b"=", b"%3D")
    done = correct(head(b"/e/?data=%b&_=1000" % packed), b"", 60.0)
    assert done.outcome is Outcome.CORRECTED
    target = done.head.split(b" ")[1]
    assert target.endswith(b"&_=61000")
    inner = base64.b64decode(target[len(b"/e/?data=") : target.index(b"&")].replace(b"%3D", b"="))
    assert json.loads(inner) == {"offset": 60000, "event": "x"}


@pytest.mark.parametrize(
    "body",
    [
        b"\x1f\x8b",
        b"lz64!",
        b"{",
        b"",
        b"[" + b" " * MOST_TEXT,
        gzip.compress(b'{"batch":[' + b"{}," * (MOST_TEXT // 3 - 8) + b"{}]}"),
        b'{"batch":[' + b"{}," * MOST_PLACES + b"{}]}",
        gzip.compress(b'{"event":"x",' + b'"a":1,' * (MOST_TEXT // 6 - 4) + b'"a":1}'),
        b'{"batch":[' + b'{"offset":1,"a":1,"a":1},' * (MOST_PLACES // 4) + b"{}]}",
    ],
    ids=[
        "gzip",
        "lz",
        "cut",
        "none",
        "large",
        "bomb of objects",
        "many events",
        "bomb of one key",
        "many offsets",
    ],
)
def test_what_cannot_be_read_is_sent_as_it_came(body: bytes) -> None:
    assert late(body).outcome in (Outcome.UNREADABLE,)
    assert (late(body).head, late(body).body) == (head(length=len(body)), body)
    with_time = late(body, b"/e/?_=1000")
    assert (with_time.head, with_time.body) == (head(b"/e/?_=61000", len(body)), body)


def test_what_is_not_late_is_not_looked_at() -> None:
    assert late(b"{", delay=FRESH - 0.01) == Corrected(head(length=1), b"{", Outcome.FRESH)


def test_a_text_of_millions_of_values_takes_its_room_and_no_more() -> None:
    arrays = b"[]," * (MOST_TEXT // 3 - 20)
    done = late(gzip.compress(b'{"event":"x","p":[' + arrays + b"1]}"))
    assert done.body is not None
    assert gzip.decompress(done.body) == b'{"offset":60000,"event":"x","p":[' + arrays + b"1]}"
