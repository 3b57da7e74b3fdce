"""An event that is delivered late happens when it would have happened, by PostHog's rule as the stand-in has
it (written independently of the correction), and nothing else about it is different."""

from __future__ import annotations

import base64
import gzip
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.rules.lateness import correct
from proxy.rules.steps import finish
from proxy.standin.bodies import BodyError, decode, query_of
from proxy.standin.timing import event_time, parse_millis, parse_time

ARRIVED = datetime(2026, 11, 25, 10, 0, 0, tzinfo=UTC).timestamp()

zones = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=11))])


@st.composite
def times(draw: st.DrawFn) -> str:
    """As SDKs write them, by clocks that are up to a month off."""
    moment = datetime.fromtimestamp(ARRIVED + draw(st.floats(-2.6e6, 2.6e6)), draw(zones))
    text = moment.isoformat(
        sep=draw(st.sampled_from(["T", " "])),
        timespec=draw(st.sampled_from(["seconds", "milliseconds", "microseconds"])),
    )
    return text.replace("+00:00", draw(st.sampled_from(["Z", "+00:00", ""])))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["event", "$identify", "é"])
events = st.fixed_dictionaries(
    {"event": names, "api_key": st.just("phc_x"), "uuid": st.uuids().map(str)},
    optional={
        "timestamp": times() | st.none(),
        "offset": st.integers(-(10**7), 10**7) | st.floats(0, 1e6) | st.none() | st.just("x") | st.booleans(),
        "properties": st.dictionaries(st.text() | st.just("sent_at"), values, max_size=4),
        "distinct_id": st.text(),
    },
)


@st.composite
def bodies(draw: st.DrawFn) -> Any:
    shape = draw(st.sampled_from(["one", "list", "batch"]))
    if shape == "list":
        return draw(st.lists(events, min_size=1, max_size=4))
    sent = draw(st.just({}) | st.fixed_dictionaries({"sent_at": times() | st.none() | st.just("x")}))
    if shape == "one":
        return {**draw(events), **sent}
    return {"api_key": "phc_x", "batch": draw(st.lists(events, min_size=1, max_size=4)), **sent}


def plain(text: bytes) -> bytes:
    return text


def in_form(text: bytes) -> bytes:
    return b"data=" + quote(base64.b64encode(text)).encode()


wrappings = st.sampled_from(
    [plain, gzip.compress, base64.b64encode, in_form, lambda text: in_form(gzip.compress(text))]
)
queries = st.sampled_from(
    ["", "ip=1", "_=1764064800123", "ver=1&_=1764064800123&ip=0", "sent_at=1764064800999&_=5", "sent_at=&_=1"]
)
dumps = st.sampled_from(
    [json.dumps, lambda value: json.dumps(value, ensure_ascii=False, separators=(", ", " : "), indent=1)]
)


def stored(body: bytes, query: str, arrived: float) -> tuple[list[float], Any]:
    """When each event happened, and all that the stand-in took but the times."""
    payload = decode(body, query)
    params = query_of(query)
    sent_at = parse_time(payload.sent_at)
    if sent_at is None:
        sent_at = parse_millis(params.get("sent_at", params.get("_")))
    moments = [
        event_time(arrived, parse_time(event.get("timestamp")), sent_at, event.get("offset"))
        for event in payload.events
    ]
    rest = [
        {key: value for key, value in event.items() if key not in ("offset", "sent_at")}
        for event in payload.events
    ]
    return moments, (payload.token, rest)


@settings(max_examples=600, deadline=None)
@given(bodies(), dumps, wrappings, queries, st.floats(0, 4e6))
def test_a_late_event_happens_when_it_did(value: Any, dump: Any, wrap: Any, query: str, delay: float) -> None:
    body = wrap(dump(value).encode())
    head = f"POST /e/?{query} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    moments, rest = stored(body, query, ARRIVED)
    done = finish(correct(head, body, delay))
    assert done.body is not None
    target = done.head.split(b" ", 2)[1].decode()
    late_moments, late_rest = stored(done.body, target.partition("?")[2], ARRIVED + delay)
    assert late_rest == rest
    for undelayed, delayed in zip(moments, late_moments, strict=True):
        assert abs(undelayed - delayed) < 1
    assert done.head.endswith(b"\r\nContent-Length: %d\r\n\r\n" % len(done.body))


@settings(max_examples=600, deadline=None)
@given(
    st.binary() | st.text().map(str.encode) | values.map(lambda value: json.dumps(value).encode()), wrappings
)
def test_whatever_came_is_sent_on(body: bytes, wrap: Any) -> None:
    body = wrap(body)
    head = b"POST /e/?_=1 HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    done = finish(correct(head, body, 60.0))
    assert done.body is not None
    try:
        decode(body, "")
    except BodyError:
        return  # PostHog says so itself
    assert decode(done.body, "").events
