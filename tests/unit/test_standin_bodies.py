"""Every form in which an SDK has ever sent an event, and the forms that PostHog refuses."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from proxy.standin import bodies
from proxy.standin.bodies import BodyError, decode, decode_v1, inflate, token_of

EVENT = {"event": "signed up", "token": "phc_1", "distinct_id": "u?>1", "properties": {"plan": "ä~?"}}
PLAIN = json.dumps(EVENT).encode()
FORM = "application/x-www-form-urlencoded"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("body", "query", "content_type"),
    [
        (PLAIN, "", "application/json"),
        (PLAIN, "", FORM),
        (b" \r\n" + PLAIN, "", ""),
        (gzip.compress(PLAIN), "compression=gzip-js&ver=1.449.2", "text/plain"),
        (gzip.compress(PLAIN), "", "text/plain"),
        (gzip.compress(PLAIN), "compression=base64", "text/plain"),
        (b"data=" + quote_plus(b64(PLAIN)).encode(), "compression=base64", FORM),
        (b"data=" + b64(PLAIN).encode(), "", FORM),
        (f"compression=base64&data={quote(b64(PLAIN))}".encode(), "", FORM),
        (b"data=" + quote_plus(PLAIN).encode(), "", FORM),
        (b"data=" + quote_plus(b64(gzip.compress(PLAIN))).encode(), "compression=gzip-js", "text/plain"),
        (b64(PLAIN).rstrip("=").encode(), "compression=base64", "text/plain"),
        (b"", "data=" + quote_plus(b64(PLAIN)), ""),
        (b"", "ip=1&_=1700000000000&data=" + quote_plus(PLAIN), ""),
        (json.dumps([EVENT]).encode(), "", ""),
        (json.dumps({"api_key": "phc_1", "batch": [EVENT]}).encode(), "", ""),
    ],
)
def test_every_packing_of_one_event(body: bytes, query: str, content_type: str) -> None:
    payload = decode(body, query, content_type)
    assert payload.events == (EVENT,)
    assert payload.token == "phc_1"


@pytest.mark.parametrize(
    ("value", "token"),
    [
        ({"event": "x", "api_key": "phc_2"}, "phc_2"),
        ({"event": "x", "$token": "phc_3"}, "phc_3"),
        ({"event": "x", "properties": {"token": "phc_4"}}, "phc_4"),
        ([{"event": "x"}, {"event": "y", "token": "phc_5"}], "phc_5"),
        ({"batch": [{"event": "x", "token": "phc_inner"}], "token": "phc_outer"}, "phc_outer"),
        ([{"event": "x"}], "phc_query"),
    ],
)
def test_where_the_token_is(value: Any, token: str) -> None:
    query = "token=phc_query" if token == "phc_query" else ""
    assert decode(json.dumps(value).encode(), query).token == token


def test_a_token_that_is_no_text_is_none() -> None:
    assert token_of({"token": 7, "properties": "none"}) == ""


def test_sent_at_of_the_body_is_kept_as_given() -> None:
    assert decode(json.dumps(EVENT | {"sent_at": "2026-11-25T10:00:00Z"}).encode(), "").sent_at
    assert decode(json.dumps([EVENT]).encode(), "").sent_at is None


def test_engage_without_a_name_is_an_identify() -> None:
    body = json.dumps({"$set": {"a": 1}, "$distinct_id": "u", "token": "t"}).encode()
    assert decode(body, "").events[0]["event"] == "$identify"


@pytest.mark.parametrize(
    ("body", "query", "status"),
    [
        (b"", "", 400),
        (b"   ", "", 400),
        (b"{", "", 400),
        (b"[" * 100_000, "", 400),
        (b"{}", "", 400),
        (b"[]", "", 400),
        (b'{"batch": 3}', "", 400),
        (b'["text"]', "", 400),
        (b'[{"event": 3}]', "", 400),
        (b'"text"', "", 400),
        (b'{"event": "x"}', "", 401),
        (b"!!!!", "compression=base64", 400),
        (b"data=!!!!", "", 400),
        (b64(b"no json").encode(), "", 400),
        (PLAIN, "compression=lz64", 400),
        (gzip.compress(PLAIN)[:-9], "", 400),
        (b"\x1f\x8bnonsense", "", 400),
        (b"\xff\xfe{}", "", 400),
    ],
)
def test_what_is_refused(body: bytes, query: str, status: int) -> None:
    with pytest.raises(BodyError) as caught:
        decode(body, query)
    assert caught.value.status == status
    assert caught.value.detail


def test_content_encoding() -> None:
    assert decode(gzip.compress(PLAIN), "", "", "GZip").events == (EVENT,)
    assert decode(zlib.compress(PLAIN), "", "", "deflate").events == (EVENT,)
    assert decode(PLAIN, "", "", "identity").events == (EVENT,)
    with pytest.raises(BodyError) as caught:
        decode(PLAIN, "", "", "br")
    assert caught.value.status == 415


def test_a_bomb_is_not_unfolded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_INFLATED", 1000)
    with pytest.raises(BodyError) as caught:
        inflate(gzip.compress(bytes(100_000)), "gzip")
    assert caught.value.status == 413


def test_v1() -> None:
    event = {"event": "x", "uuid": "0199-1", "distinct_id": "u"}
    payload = decode_v1(gzip.compress(json.dumps({"batch": [event]}).encode()), "gzip", "phc_1")
    assert payload.events == (event,)
    assert payload.token == "phc_1"


@pytest.mark.parametrize("value", [[], {}, {"batch": []}, {"batch": [{"event": "x"}]}, {"batch": [1]}])
def test_v1_refuses(value: Any) -> None:
    with pytest.raises(BodyError):
        decode_v1(json.dumps(value).encode(), "", "phc_1")
