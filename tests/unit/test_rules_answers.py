"""What the proxy says itself: statuses that make SDKs do the right thing, readable by browsers."""

from __future__ import annotations

import json
from dataclasses import replace
from http import HTTPStatus

import pytest

from proxy.config.schema import Config
from proxy.errors import Failure, Resend, Source, Violation
from proxy.message import (
    NO_BODY,
    SDK_CLASSES,
    EndpointClass,
    Fields,
    Refuse,
    RequestHead,
    Route,
    field_values,
    first_value,
)
from proxy.rules.answers import (
    MIRRORED_BYTES,
    RETRY_AFTER,
    UNREACHABLE,
    Outage,
    OwnAnswer,
    answer_failure,
    answer_refusal,
    answer_violation,
    on_outage,
)
from proxy.rules.routing import RoutingTable

WALL = 1764057302.0  # Tue, 25 Nov 2025 07:55:02 GMT
ORIGIN = (b"Origin", b"https://app.example.com")

DELIVERIES = [EndpointClass.INGEST_V0, EndpointClass.INGEST_V1, EndpointClass.REPLAY]
OTHERS = sorted(set(EndpointClass) - {*DELIVERIES, EndpointClass.FLAGS}, key=lambda cls: cls.value)


def head(*fields: tuple[bytes, bytes], method: bytes = b"POST", close: bool = False) -> RequestHead:
    return RequestHead(method, b"/e/", 1, (*fields,), b"app.example.com", NO_BODY, close=close)


def route(cls: EndpointClass) -> Route:
    found = RoutingTable.of(Config()).route(b"/e")
    assert isinstance(found, Route)
    return replace(found, cls=cls)


def upstream(status: int, resend: Resend = Resend.NEVER) -> Failure:
    return Failure(Source.UPSTREAM, "upstream_timeout", status, "10.1.2.3 did not answer", resend)


def refuse(
    status: int = 413,
    cls: EndpointClass = EndpointClass.REPLAY,
    *,
    close: bool = True,
    after: int | None = None,
) -> Refuse:
    return Refuse(status, "body_too_large", "too large", close, cls, retry_after=after)


def error_of(answer: OwnAnswer) -> dict[str, object]:
    assert answer.body.endswith(b"}\n")
    said: dict[str, object] = json.loads(answer.body)
    return said


def cors_of(fields: Fields) -> dict[bytes, bytes]:
    return {name: value for name, value in fields if name.startswith(b"Access-Control-")}


class TestOutages:
    @pytest.mark.parametrize("status", [502, 503, 504])
    @pytest.mark.parametrize("source", [Source.UPSTREAM, Source.PROXY])
    @pytest.mark.parametrize("cls", DELIVERIES)
    def test_deliveries_are_told_to_come_again(self, cls: EndpointClass, source: Source, status: int) -> None:
        assert on_outage(cls, Failure(source, "x", status, "")) == Outage(503, RETRY_AFTER)

    @pytest.mark.parametrize("source", [Source.UPSTREAM, Source.PROXY])
    @pytest.mark.parametrize(("status", "told"), [(502, 502), (503, 502), (504, 504)])
    def test_flags_never_hear_503(self, source: Source, status: int, told: int) -> None:
        assert on_outage(EndpointClass.FLAGS, Failure(source, "x", status, "")) == Outage(told)

    @pytest.mark.parametrize("cls", OTHERS)
    @pytest.mark.parametrize("status", [502, 503, 504])
    def test_all_others_hear_what_happened(self, cls: EndpointClass, status: int) -> None:
        outage = on_outage(cls, Failure(Source.UPSTREAM, "x", status, ""))
        assert outage == Outage(status, RETRY_AFTER if status == 503 else None)

    @pytest.mark.parametrize(
        ("cls", "outage"),
        [
            (EndpointClass.REPLAY, Outage(503, 17)),
            (EndpointClass.PROTECTED, Outage(503, 17)),
            (EndpointClass.FLAGS, Outage(502)),
        ],
    )
    def test_a_failure_that_knows_when_it_will_be_over_says_so(
        self, cls: EndpointClass, outage: Outage
    ) -> None:
        breaker = Failure(Source.UPSTREAM, "breaker_open", 503, "", Resend.ANY, retry_after=17)
        assert on_outage(cls, breaker) == outage

    @pytest.mark.parametrize("cls", EndpointClass)
    @pytest.mark.parametrize("status", [400, 408, 413])
    def test_the_clients_own_fault_keeps_its_status(self, cls: EndpointClass, status: int) -> None:
        assert on_outage(cls, Failure(Source.DOWNSTREAM, "x", status, "")) == Outage(status)

    @pytest.mark.parametrize("cls", EndpointClass)
    def test_our_own_bug_is_a_500(self, cls: EndpointClass) -> None:
        assert on_outage(cls, Failure(Source.PROXY, "internal_error", 500, "")) == Outage(500)


class TestFailures:
    def test_the_whole_answer(self) -> None:
        answer = answer_failure(upstream(504), route(EndpointClass.INGEST_V0), head(ORIGIN), WALL)
        assert answer.status == 503
        assert answer.reason == b"Service Unavailable"
        assert answer.close is False
        assert answer.body == (
            b'{"type": "proxy_error", "code": "upstream_timeout", "detail": "10.1.2.3 did not answer", '
            b'"attr": null}\n'
        )
        assert answer.fields == (
            (b"Date", b"Tue, 25 Nov 2025 07:55:02 GMT"),
            (b"Content-Type", b"application/json"),
            (b"Content-Length", b"%d" % len(answer.body)),
            (b"Cache-Control", b"no-store"),
            (b"Access-Control-Allow-Origin", b"https://app.example.com"),
            (b"Access-Control-Allow-Credentials", b"true"),
            (b"Vary", b"Origin"),
            (b"Retry-After", b"5"),
        )

    def test_why_an_upstream_cannot_be_reached_is_not_the_clients_business(self) -> None:
        failure = upstream(502, Resend.ANY)
        assert (
            error_of(answer_failure(failure, route(EndpointClass.PROTECTED), head(), WALL))["detail"]
            == UNREACHABLE
        )

    @pytest.mark.parametrize(
        ("failure", "close"),
        [
            (Failure(Source.DOWNSTREAM, "body_timeout", 408, "slow", Resend.ANY), True),
            (Failure(Source.PROXY, "internal_error", 500, "bug"), True),
            (upstream(502), False),
        ],
    )
    def test_what_ends_the_connection(self, failure: Failure, close: bool) -> None:
        answer = answer_failure(failure, route(EndpointClass.PROTECTED), head(), WALL)
        assert answer.close is close
        assert field_values(answer.fields, b"connection") == ([b"close"] if close else [])
        assert error_of(answer)["detail"] == failure.detail

    def test_the_caller_or_the_client_may_end_it_too(self) -> None:
        app = route(EndpointClass.PROTECTED)
        assert answer_failure(upstream(502), app, head(), WALL, close=True).close
        answer = answer_failure(upstream(502), app, head(close=True), WALL)
        assert answer.close
        assert first_value(answer.fields, b"connection") == b"close"

    def test_without_a_route_it_is_an_app_request(self) -> None:
        answer = answer_failure(upstream(504), None, head(ORIGIN), WALL)
        assert answer.status == 504
        assert cors_of(answer.fields) == {}


class TestRefusals:
    def test_a_413_that_the_page_can_read(self) -> None:
        answer = answer_refusal(refuse(), head(ORIGIN), WALL)
        assert (answer.status, answer.reason, answer.close) == (413, b"Content Too Large", True)
        assert error_of(answer) == {
            "type": "proxy_error",
            "code": "body_too_large",
            "detail": "too large",
            "attr": None,
        }
        assert cors_of(answer.fields)[b"Access-Control-Allow-Origin"] == ORIGIN[1]

    def test_a_refusal_may_keep_the_connection_and_name_a_time(self) -> None:
        answer = answer_refusal(refuse(429, close=False, after=7), head(), WALL)
        assert not answer.close
        assert first_value(answer.fields, b"retry-after") == b"7"
        assert answer_refusal(refuse(429, close=False), head(), WALL, close=True).close

    def test_without_a_head_there_is_nothing_to_mirror(self) -> None:
        answer = answer_refusal(refuse(), None, WALL)
        assert cors_of(answer.fields) == {}
        assert answer.body != b""


class TestViolations:
    @pytest.mark.parametrize(
        ("status", "allow"), [(400, []), (405, [b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"])]
    )
    def test_always_ends_the_connection(self, status: int, allow: list[bytes]) -> None:
        answer = answer_violation(Violation(status, "bad_head", "no"), WALL)
        assert (answer.status, answer.close) == (status, True)
        assert first_value(answer.fields, b"connection") == b"close"
        assert error_of(answer)["code"] == "bad_head"
        # RFC 9110 section 15.5.6: a 405 names the methods.
        assert field_values(answer.fields, b"allow") == allow


class TestHead:
    def test_no_body_but_the_length_that_it_would_have(self) -> None:
        full = answer_refusal(refuse(404, close=False), head(), WALL)
        empty = answer_refusal(refuse(404, close=False), head(method=b"HEAD"), WALL)
        assert empty.body == b""
        assert empty.fields == full.fields
        assert first_value(full.fields, b"content-length") == b"%d" % len(full.body)


class TestCors:
    @pytest.mark.parametrize("cls", EndpointClass)
    def test_only_on_sdk_paths(self, cls: EndpointClass) -> None:
        answer = answer_refusal(refuse(cls=cls), head(ORIGIN), WALL)
        assert bool(cors_of(answer.fields)) is (cls in SDK_CLASSES)

    @pytest.mark.parametrize("origin", [b"null", b"https://x.example:8443", b"a" * MIRRORED_BYTES])
    def test_the_origin_is_mirrored_with_credentials(self, origin: bytes) -> None:
        answer = answer_refusal(refuse(), head((b"origin", origin)), WALL)
        assert cors_of(answer.fields) == {
            b"Access-Control-Allow-Origin": origin,
            b"Access-Control-Allow-Credentials": b"true",
        }
        assert first_value(answer.fields, b"vary") == b"Origin"

    @pytest.mark.parametrize(
        "fields",
        [
            (),
            ((b"Origin", b""),),
            ((b"Origin", b"x\r\nSet-Cookie: a=b"),),
            ((b"Origin", b"\xff"),),
            ((b"Origin", b"a" * (MIRRORED_BYTES + 1)),),
            (ORIGIN, ORIGIN),
        ],
    )
    def test_nothing_without_one_clean_origin(self, fields: Fields) -> None:
        answer = answer_refusal(refuse(), head(*fields), WALL)
        assert cors_of(answer.fields) == {}
        assert field_values(answer.fields, b"vary") == []


class TestPreflight:
    ASKED = (
        ORIGIN,
        (b"Access-Control-Request-Method", b"POST"),
        (b"Access-Control-Request-Headers", b"content-type"),
        (b"Access-Control-Request-Headers", b"x-posthog-token"),
    )

    @pytest.mark.parametrize("cls", [cls for cls in EndpointClass if cls in SDK_CLASSES])
    @pytest.mark.parametrize("status", [502, 503, 504])
    def test_succeeds_in_an_outage_so_that_the_request_itself_gets_a_readable_status(
        self, cls: EndpointClass, status: int
    ) -> None:
        answer = answer_failure(upstream(status), route(cls), head(*self.ASKED, method=b"OPTIONS"), WALL)
        assert (answer.status, answer.reason, answer.body) == (200, b"OK", b"")
        assert cors_of(answer.fields) == {
            b"Access-Control-Allow-Origin": ORIGIN[1],
            b"Access-Control-Allow-Credentials": b"true",
            b"Access-Control-Allow-Methods": b"GET, POST, OPTIONS",
            b"Access-Control-Allow-Headers": b"content-type, x-posthog-token",
        }
        assert first_value(answer.fields, b"content-length") == b"0"
        assert field_values(answer.fields, b"retry-after") == []
        assert field_values(answer.fields, b"content-type") == []

    def test_no_requested_headers_no_allowed_ones(self) -> None:
        answer = answer_failure(
            upstream(502), route(EndpointClass.FLAGS), head(*self.ASKED[:2], method=b"OPTIONS"), WALL
        )
        assert b"Access-Control-Allow-Headers" not in cors_of(answer.fields)

    @pytest.mark.parametrize(
        ("fields", "method", "cls"),
        [
            (ASKED, b"OPTIONS", EndpointClass.PROTECTED),
            (ASKED, b"POST", EndpointClass.REPLAY),
            ((ORIGIN,), b"OPTIONS", EndpointClass.REPLAY),
            (ASKED[1:], b"OPTIONS", EndpointClass.REPLAY),
        ],
    )
    def test_anything_else_hears_the_outage(self, fields: Fields, method: bytes, cls: EndpointClass) -> None:
        assert answer_failure(upstream(503), route(cls), head(*fields, method=method), WALL).status == 503

    def test_a_preflight_of_a_client_that_asks_too_often_is_answered_well(self) -> None:
        # What follows it hears the 429, and the page can read it.
        answer = answer_refusal(refuse(429, after=7), head(*self.ASKED, method=b"OPTIONS"), WALL)
        assert (answer.status, answer.body) == (200, b"")
        assert cors_of(answer.fields)
        answer = answer_refusal(refuse(429, close=False, after=7), head(*self.ASKED, method=b"POST"), WALL)
        assert (answer.status, first_value(answer.fields, b"retry-after")) == (429, b"7")
        assert cors_of(answer.fields)

    def test_a_preflight_that_is_refused_stays_refused(self) -> None:
        answer = answer_refusal(refuse(421), head(*self.ASKED, method=b"OPTIONS"), WALL)
        assert answer.status == 421
        assert cors_of(answer.fields)


@pytest.mark.parametrize(
    "status", [400, 404, 405, 408, 413, 414, 417, 421, 426, 429, 431, 500, 501, 502, 503, 504, 505]
)
def test_every_status_of_ours_has_its_phrase_and_none_redirects(status: int) -> None:
    answer = answer_violation(Violation(status, "x", "y"), WALL)
    # RFC 9110 renamed two of them.
    renamed = {"Request Entity Too Large": "Content Too Large", "Request-URI Too Long": "URI Too Long"}
    phrase = HTTPStatus(status).phrase
    assert answer.reason.decode() == renamed.get(phrase, phrase)


def test_a_status_without_a_phrase_is_still_an_answer() -> None:
    assert answer_violation(Violation(418, "x", "y"), WALL).reason == b""


class TestWhatARefusalBrings:
    LINES = ((b"WWW-Authenticate", b'Basic realm="x"'),)

    def test_lines_beside_ours(self) -> None:
        answer = answer_refusal(replace(refuse(401), fields=self.LINES), head(), WALL)
        assert (answer.status, answer.reason) == (401, b"Unauthorized")
        assert first_value(answer.fields, b"www-authenticate") == b'Basic realm="x"'
        assert error_of(answer)["code"] == "body_too_large"

    @pytest.mark.parametrize("method", [b"GET", b"HEAD"])
    @pytest.mark.parametrize("body", [b"", b"<p>Sign in"])
    def test_a_body_in_place_of_ours(self, method: bytes, body: bytes) -> None:
        fields = ((b"Location", b"/login"), (b"Content-Type", b"text/html"))
        answer = answer_refusal(
            replace(refuse(302), fields=fields, body=body), head(ORIGIN, method=method), WALL
        )
        assert answer.body == (b"" if method == b"HEAD" else body)
        assert field_values(answer.fields, b"content-length") == [b"%d" % len(body)]
        assert field_values(answer.fields, b"content-type") == [b"text/html"]
        assert field_values(answer.fields, b"location") == [b"/login"]
        assert cors_of(answer.fields)  # an SDK path stays readable
