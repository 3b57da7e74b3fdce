"""May it be kept, for whom, how long; what is said when it is given again. The numbers are RFC 9111's."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from proxy.config.schema import CacheConfig, ForwardingConfig
from proxy.message import CHUNKED, NO_BODY, UNTIL_CLOSE, Fields, Framing, FramingKind, ResponseHead
from proxy.rules.caching import (
    LONGEST_TARGET,
    Asking,
    Kept,
    Terms,
    age_of,
    agent_class,
    answer_from,
    asking,
    cache_directives,
    conditional,
    has_condition,
    is_fresh,
    kept_head,
    may_stand_in,
    not_modified,
    renewed_terms,
    terms_of,
    updated,
    validators,
    values_of,
)
from proxy.rules.forwarding import ForwardingTable

TABLE = ForwardingTable.of(ForwardingConfig())
CONFIG = CacheConfig(max_entry=1024, stale=600.0)
WALL = 1_780_000_000.0
DATE = formatdate(WALL, usegmt=True).encode()
ETAG = (b"ETag", b'"x"')


def fields(*lines: bytes) -> Fields:
    return tuple((name, value.strip()) for name, _, value in (line.partition(b":") for line in lines))


def head(*lines: bytes, status: int = 200, framing: Framing = NO_BODY) -> ResponseHead:
    return ResponseHead(status, b"OK", 1, fields(*lines), framing)


def asked(*lines: bytes, method: bytes = b"GET", target: bytes = b"/static/array.js") -> Asking | None:
    return asking(method, target, "default", b"ph.example", fields(*lines))


def terms(*lines: bytes, status: int = 200, framing: Framing = NO_BODY, delay: float = 0.0) -> Terms | str:
    return terms_of(head(*lines, status=status, framing=framing), WALL, delay, CONFIG, TABLE)


def kept(*lines: bytes, body: bytes = b"hello") -> Kept:
    made = terms(*lines)
    assert isinstance(made, Terms)
    return Kept(kept_head(head(*lines), DATE), body, made, 100.0)


class TestAsking:
    def test_the_key_tells_upstream_host_target_and_whether_there_is_an_origin(self) -> None:
        question = asked(b"Origin: https://a")
        assert question is not None
        assert question.key == ("default", b"ph.example", b"/static/array.js", b"", True)
        assert (question.keep, question.insists) == (True, False)

    def test_a_head_request_is_answered_but_its_answer_is_not_kept(self) -> None:
        question = asked(method=b"HEAD")
        assert question is not None
        assert not question.keep

    @pytest.mark.parametrize(
        "target", [b"/static/", b"/array/phc_x/config.js?v=1", b"/static/1.2.3/recorder.js"]
    )
    def test_assets_and_configurations_are_asked_for(self, target: bytes) -> None:
        assert asked(target=target) is not None

    @pytest.mark.parametrize(
        "target",
        [b"/e/", b"/surveys", b"/flags/?v=2", b"/", b"/Static/x", b"/static/" + b"x" * LONGEST_TARGET],
    )
    def test_nothing_else_is(self, target: bytes) -> None:
        assert asked(target=target) is None

    @pytest.mark.parametrize("method", [b"POST", b"OPTIONS", b"PUT"])
    def test_only_reads_are(self, method: bytes) -> None:
        assert asked(method=method) is None

    @pytest.mark.parametrize(
        "line",
        [
            b"Authorization: Bearer x",
            b"range: bytes=0-1",
            b"If-Range: x",
            b"If-Match: x",
            b"If-Unmodified-Since: x",
            b"Proxy-Authorization: x",
            b"Cache-Control: max-age=1, No-Store",
        ],
    )
    def test_some_lines_go_past_the_cache(self, line: bytes) -> None:
        assert asked(line) is None

    @pytest.mark.parametrize(
        ("line", "insists"),
        [
            (b"Cache-Control: no-cache", True),
            (b"Cache-Control: max-age=0", True),
            (b"Cache-Control: max-age=5", False),
            (b"Pragma: No-Cache", True),
            (b"Pragma: x", False),
            (b"Cookie: a=b", False),
        ],
    )
    def test_a_client_may_want_the_upstream_to_be_asked(self, line: bytes, insists: bool) -> None:
        question = asked(line)
        assert question is not None
        assert question.insists is insists

    def test_cache_control_counts_before_pragma(self) -> None:
        question = asked(b"Pragma: no-cache", b"Cache-Control: max-age=9")
        assert question is not None
        assert not question.insists


class TestAgentClass:
    @pytest.mark.parametrize(
        ("agent", "cls"),
        [
            (b"posthog-ios/3.2.1", b"ios"),
            (b"posthog-android/3", b"android"),
            (b"PostHog-React-Native/4.1", b"react-native"),
            (b"posthog-flutter/5", b"flutter"),
            (b"posthog-iosx/1", b""),
            (b"posthog-python/7.91", b""),
            (b"Mozilla/5.0 posthog-ios/3", b""),
            (b"", b""),
        ],
    )
    def test_mobile_sdks_have_their_own(self, agent: bytes, cls: bytes) -> None:
        assert agent_class(b"/array/phc_x/config", agent) == cls
        assert agent_class(b"/array/phc_x/config.js?x=\n", agent) == cls

    @pytest.mark.parametrize(
        "target",
        [
            b"/array/phc_x/array.js",
            b"/static/array.js",
            b"/array/a/b/config",
            b"/array//config",
            b"/array/x/configs",
        ],
    )
    def test_elsewhere_all_are_alike(self, target: bytes) -> None:
        assert agent_class(target, b"posthog-ios/3") == b""


class TestValues:
    def test_encodings_are_compared_without_case_and_blanks(self) -> None:
        for lines in (
            (b"Accept-Encoding: gzip, BR",),
            (b"accept-encoding:gzip\t,br",),
            (b"Accept-Encoding: gzip", b"Accept-Encoding: br"),
        ):
            assert values_of(fields(*lines), (b"accept-encoding",)) == (b"gzip,br",)

    def test_all_else_is_compared_as_it_is(self) -> None:
        names = (b"origin", b"referer")
        assert values_of(fields(b"Origin: A", b"X: y"), names) == (b"A", b"\0")
        assert values_of(fields(b"Referer: a", b"referer: b"), names) == (b"\0", b"a\0b")

    def test_an_empty_value_is_not_an_absent_one(self) -> None:
        names = (b"accept-encoding",)
        assert values_of(fields(b"Accept-Encoding:"), names) == (b"",)
        assert values_of((), names) == (b"\0",)


class TestDirectives:
    @pytest.mark.parametrize(
        ("lines", "directives"),
        [
            ([], {}),
            ([b"Cache-Control: Max-Age=60 , public"], {b"max-age": b"60", b"public": b""}),
            ([b"Cache-Control: max-age=1", b"cache-control: max-age=2, a"], {b"max-age": b"1", b"a": b""}),
            ([b'Cache-Control: private="x, no-store", a="q"'], {b"private": b"x, no-store", b"a": b"q"}),
            ([b"Cache-Control: ,,;="], {}),
            ([b"Cache-Control: max-age = 5"], {b"max-age": b"5"}),
        ],
    )
    def test_they_are_read(self, lines: list[bytes], directives: dict[bytes, bytes]) -> None:
        assert cache_directives(fields(*lines)) == directives


class TestMayItBeKept:
    @pytest.mark.parametrize(
        ("lines", "word"),
        [
            ([b"Cache-Control: max-age=60", b"Set-Cookie: a=b"], "set_cookie"),
            ([b"Cache-Control: max-age=60", b"Content-Type: text/html; charset=utf-8"], "html"),
            ([b"Cache-Control: max-age=60", b"Content-Type: Application/XHTML+xml"], "html"),
            ([b"Cache-Control: no-store, max-age=60"], "no_store"),
            ([b"Cache-Control: private"], "private"),
            ([b'Cache-Control: max-age=9, private="set-cookie"'], "private"),
            ([b"Cache-Control: max-age=60", b"Vary: Origin, *"], "vary"),
            ([b"Cache-Control: max-age=60", b"Vary: X-Forwarded-Proto"], "vary"),
            ([b"Cache-Control: max-age=60", b"Vary: Connection"], "vary"),
            ([b"Cache-Control: max-age=60", b"Vary: Via"], "vary"),
            ([b"Cache-Control: max-age=60", b"Vary: " + b",".join(b"X-%d" % n for n in range(9))], "vary"),
            ([b"Cache-Control: max-age=0"], "no_freshness"),
            ([b"Cache-Control: no-cache"], "no_freshness"),
            ([b"Cache-Control: max-age=ten"], "no_freshness"),
            ([b"Cache-Control: max-age=60", b"Age: 60"], "no_freshness"),
            ([b"Expires: 0"], "no_freshness"),
            ([b"Expires: Mon, 99 Foo 2026"], "no_freshness"),
            ([], "no_freshness"),
        ],
    )
    def test_not_these(self, lines: list[bytes], word: str) -> None:
        assert terms(*lines) == word

    @pytest.mark.parametrize("status", [206, 301, 304, 404, 500])
    def test_only_200(self, status: int) -> None:
        assert terms(b"Cache-Control: max-age=60", status=status) == "status"

    def test_the_end_of_the_body_must_be_known(self) -> None:
        assert terms(b"Cache-Control: max-age=60", framing=UNTIL_CLOSE) == "framing"
        assert isinstance(terms(b"Cache-Control: max-age=60", framing=CHUNKED), Terms)

    def test_it_must_not_be_larger_than_an_entry(self) -> None:
        lines = (b"Cache-Control: max-age=60",)
        assert isinstance(terms(*lines, framing=Framing(FramingKind.LENGTH, 1024)), Terms)
        assert terms(*lines, framing=Framing(FramingKind.LENGTH, 1025)) == "too_large"

    @pytest.mark.parametrize(
        ("lines", "lifetime", "age"),
        [
            ([b"Cache-Control: max-age=60"], 60, 0),
            ([b"Cache-Control: max-age=60, s-maxage=5"], 5, 0),
            ([b"Cache-Control: max-age=60", b"Age: 7"], 60, 7),
            ([b"Cache-Control: max-age=60", b"Age: x"], 60, 0),
            ([b"Cache-Control: max-age=" + b"9" * 30], 2**31, 0),
            ([b"Cache-Control: max-age=9999999999"], 2**31, 0),
            ([b"Cache-Control: max-age=60", b"Date: " + formatdate(WALL - 20, usegmt=True).encode()], 60, 20),
            ([b"Cache-Control: max-age=60", b"Date: " + formatdate(WALL + 20, usegmt=True).encode()], 60, 0),
            ([b"Expires: " + formatdate(WALL + 30, usegmt=True).encode()], 30, 0),
            ([b"Expires: " + formatdate(WALL + 30, usegmt=True).encode(), b"Date: " + DATE], 30, 0),
            ([b"Expires: " + formatdate(WALL - 30, usegmt=True).encode()], 0, 0),
            ([b"Cache-Control: max-age=5", b"Expires: " + formatdate(WALL + 30, usegmt=True).encode()], 5, 0),
            ([b"Cache-Control: no-cache, max-age=60"], 0, 0),
            ([b"Cache-Control: max-age=60", b"Date: \xff"], 60, 0),
        ],
    )
    def test_how_long_and_how_old(self, lines: list[bytes], lifetime: float, age: float) -> None:
        made = terms(*lines, b'ETag: "x"')
        assert isinstance(made, Terms)
        assert (made.lifetime, made.age) == (lifetime, age)

    def test_the_way_here_counts(self) -> None:
        made = terms(b"Cache-Control: max-age=60", b"Age: 7", delay=2.5)
        assert isinstance(made, Terms)
        assert made.age == 9.5

    @pytest.mark.parametrize(
        ("directives", "stale"),
        [
            (b"max-age=60", 600),
            (b"max-age=60, must-revalidate", 0),
            (b"max-age=60, proxy-revalidate", 0),
            (b"s-maxage=60", 0),
            (b"no-cache", 0),
            (b"max-age=60, stale-if-error=10", 10),
            (b"max-age=60, stale-if-error=9999", 600),
        ],
    )
    def test_how_long_it_may_stand_in(self, directives: bytes, stale: float) -> None:
        made = terms(b"Cache-Control: " + directives, b'ETag: "x"')
        assert isinstance(made, Terms)
        assert made.stale == stale

    @pytest.mark.parametrize(
        ("lines", "names"),
        [
            ([], [b"accept-encoding"]),
            ([b"Vary: Accept-Encoding"], [b"accept-encoding"]),
            ([b"Vary: Origin, Referer", b"Vary: ,Host"], [b"accept-encoding", b"origin", b"referer"]),
            ([b"Access-Control-Allow-Origin: *"], [b"accept-encoding"]),
            ([b"Access-Control-Allow-Origin: https://a"], [b"accept-encoding", b"origin"]),
        ],
    )
    def test_what_it_varies_by(self, lines: list[bytes], names: list[bytes]) -> None:
        made = terms(b"Cache-Control: max-age=60", *lines)
        assert isinstance(made, Terms)
        assert list(made.names) == names


class TestGivenAgain:
    LINES = (
        b"Cache-Control: max-age=60",
        b"Connection: X-Hop",
        b"X-Hop: 1",
        b"Keep-Alive: timeout=5",
        b"Age: 2",
        b"Content-Length: 5",
        b"Content-Type: text/javascript",
        b'ETag: "x"',
    )

    def test_only_what_is_end_to_end_is_kept_and_a_date(self) -> None:
        names = [name for name, _ in kept_head(head(*self.LINES), DATE).fields]
        assert names == [b"Cache-Control", b"Content-Type", b"ETag", b"Date"]
        assert kept_head(head(b"date: D"), DATE).fields == ((b"date", b"D"),)

    def test_its_age_is_said_and_grows(self) -> None:
        it = kept(*self.LINES)
        assert age_of(it, 100.0) == 2
        assert age_of(it, 130.9) == 32
        answer = answer_from(it, 130.9, not_modified=False)
        assert answer.fields[-2:] == ((b"Age", b"32"), (b"Content-Length", b"5"))
        assert answer.framing == Framing(FramingKind.LENGTH, 5)

    def test_a_304_describes_no_body(self) -> None:
        answer = answer_from(kept(*self.LINES), 100.0, not_modified=True)
        assert (answer.status, answer.framing) == (304, NO_BODY)
        assert [name for name, _ in answer.fields] == [b"Cache-Control", b"ETag", b"Date", b"Age"]

    def test_it_is_fresh_then_stale_then_gone(self) -> None:
        it = kept(*self.LINES)
        assert [is_fresh(it, now) for now in (100.0, 157.9, 158.0)] == [True, True, False]
        assert [may_stand_in(it, now) for now in (158.0, 757.9, 758.0)] == [True, True, False]

    def test_one_that_was_never_fresh_may_stand_in_from_its_arrival(self) -> None:
        it = kept(b"Cache-Control: max-age=5", b"Age: 50", b'ETag: "x"')
        assert not is_fresh(it, 100.0)
        assert [may_stand_in(it, now) for now in (100.0, 699.9, 700.0)] == [True, True, False]

    def test_a_304_renews_its_lines(self) -> None:
        it = kept(*self.LINES)
        news = head(
            b"Cache-Control: max-age=10", b"Content-Type: x/y", b"X-New: 1", b"Date: E", b"Age: 3", status=304
        )
        renewed = updated(it.head, news, DATE)
        assert renewed.fields == fields(
            b"Content-Type: text/javascript",
            b'ETag: "x"',
            b"Cache-Control: max-age=10",
            b"X-New: 1",
            b"Date: E",
        )
        made = renewed_terms(renewed, news, WALL, 1.0, CONFIG, TABLE)
        assert isinstance(made, Terms)
        assert (made.lifetime, made.age) == (10, 4)

    def test_a_304_may_end_it(self) -> None:
        news = head(b"Set-Cookie: a=b", status=304)
        assert (
            renewed_terms(updated(kept(*self.LINES).head, news, DATE), news, WALL, 0.0, CONFIG, TABLE)
            == "set_cookie"
        )


class TestConditions:
    @pytest.mark.parametrize(
        ("lines", "known"),
        [
            ([], False),
            ([b'If-None-Match: "x"'], True),
            ([b'If-None-Match: W/"x"'], True),
            ([b'If-None-Match: "y", W/"x"'], True),
            ([b'If-None-Match: "y"', b'If-None-Match: "x"'], True),
            ([b"If-None-Match: *"], True),
            ([b'If-None-Match: "y"'], False),
            ([b"If-None-Match: x"], False),
            ([b'If-None-Match: "y"', b"If-Modified-Since: Wed, 25 Nov 2026 04:00:00 GMT"], False),
            ([b"If-Modified-Since: Wed, 25 Nov 2026 04:00:00 GMT"], True),
            ([b"If-Modified-Since: Wed, 25 Nov 2026 05:00:00 GMT"], True),
            ([b"If-Modified-Since: Wed, 25 Nov 2026 03:59:59 GMT"], False),
            ([b"If-Modified-Since: long ago"], False),
        ],
    )
    def test_does_the_client_have_it(self, lines: list[bytes], known: bool) -> None:
        kept_lines = fields(b'ETag: "x"', b"Last-Modified: Wed, 25 Nov 2026 04:00:00 GMT")
        assert not_modified(fields(*lines), kept_lines) is known
        assert has_condition(fields(*lines)) is bool(lines)

    def test_without_a_validator_nobody_has_it(self) -> None:
        assert not not_modified(fields(b'If-None-Match: "x"'), ())
        assert not not_modified(fields(b"If-Modified-Since: Wed, 25 Nov 2026 04:00:00 GMT"), ())

    def test_a_weak_tag_compares_weakly(self) -> None:
        assert not_modified(fields(b'If-None-Match: "x"'), fields(b'ETag: W/"x"'))

    def test_ours_take_the_place_of_the_clients(self) -> None:
        request = fields(b"Host: a", b'If-None-Match: "y"', b"Accept: */*", b"if-modified-since: z")
        assert conditional(request, None) == fields(b"Host: a", b"Accept: */*")
        validated = fields(b'ETag: "x"', b"Last-Modified: D", b"X: y")
        assert conditional(request, validated) == fields(
            b"Host: a", b"Accept: */*", b'If-None-Match: "x"', b"If-Modified-Since: D"
        )
        assert validators(fields(b"X: y")) == ()
