"""The fast reading of heads: what it takes and as what, what it leaves, and how much it remembers."""

from __future__ import annotations

import pytest

from proxy.config.schema import Config, ForwardingConfig
from proxy.rules.forwarding import ForwardingTable, response_fields
from proxy.wire.fasthead import (
    ANSWERS,
    GENERATION,
    LONGEST,
    LONGEST_BLOCK,
    LONGEST_NAME,
    NAMES,
    AnswerReader,
    FastAnswer,
    Lines,
    Mark,
    RequestReader,
    Unfit,
    read_request_line,
)
from proxy.wire.heads import read_response, render_response
from proxy.wire.strict import HeadLimits

LIMITS = HeadLimits()
HOST = b"Host: ph.example"
LONGEST_TARGET = b"/" + b"x" * (LIMITS.target_bytes - 1)


def reader(**config: object) -> RequestReader:
    told = str(config.pop("told", "")).encode()
    return RequestReader(LIMITS, ForwardingTable.of(ForwardingConfig(**config)), told)  # type: ignore[arg-type]


def block(*lines: bytes) -> bytes:
    return b"\r\n".join(lines)


def taken(before: bytes, after: bytes = b"", it: RequestReader | None = None) -> Lines:
    lines = Lines()
    assert (it or reader()).read(before, after, lines) is None
    return lines


def left(before: bytes, after: bytes = b"", it: RequestReader | None = None) -> Unfit | None:
    return (it or reader()).read(before, after, Lines())


# --- the lines of a request -----------------------------------------------------------------------


class TestLines:
    def test_what_is_passed_on_is_canonical_in_its_place_and_without_the_host(self) -> None:
        lines = taken(
            block(b"accept:*/*", HOST, b"X-Tag:  1 \t", b"x-tag: 2"), block(b"Origin: https://shop.example")
        )
        assert lines.before == b"accept: */*\r\nX-Tag: 1\r\nx-tag: 2\r\n"
        assert lines.after == b"Origin: https://shop.example\r\n"
        assert lines.host == b"ph.example"
        assert (lines.agent, lines.connection, lines.told, lines.chain) == (None, None, (), ())

    def test_the_host_may_stand_behind_the_length(self) -> None:
        assert taken(b"", HOST).host == b"ph.example"

    def test_the_first_user_agent_is_the_one_of_the_log_and_all_are_passed_on(self) -> None:
        lines = taken(block(HOST, b"user-agent: one", b"User-Agent: two"))
        assert lines.agent == b"one"
        assert lines.before == b"user-agent: one\r\nUser-Agent: two\r\n"

    def test_an_empty_user_agent_is_one(self) -> None:
        lines = taken(block(HOST, b"User-Agent:", b"User-Agent: two"))
        assert lines.agent == b""
        assert lines.before == b"User-Agent: \r\nUser-Agent: two\r\n"

    def test_lines_about_the_client_are_told_in_order_and_not_passed_on(self) -> None:
        lines = taken(
            block(b"X-Real-IP: 1.1.1.1", HOST, b"x-forwarded-for:6.6.6.6"),
            block(b"X-Forwarded-For:  203.0.113.7", b"X_Forwarded_For: 7.7.7.7", b"X-Request-Id: x"),
        )
        assert lines.told == ((b"X-Real-IP", b"1.1.1.1"), (b"X_Forwarded_For", b"7.7.7.7"))
        assert lines.chain == (b"6.6.6.6", b"203.0.113.7")
        assert lines.ids == (b"x",)
        assert lines.before == lines.after == b""

    def test_a_block_without_a_line_to_change_goes_on_as_it_is(self) -> None:
        after = block(b"Accept: */*", b"User-Agent: a", b"X-Empty: ")
        assert taken(HOST, after).after == after + b"\r\n"
        assert taken(block(HOST, b"X-Empty:\t")).before == b"X-Empty: \r\n"

    @pytest.mark.parametrize("name", [b"X-Visitor", b"CF-Connecting-IP", b"X-Forwarded-For"])
    def test_a_line_that_names_the_client_is_told_and_passed_on_unless_it_is_ours(self, name: bytes) -> None:
        for raw in (name + b": 1.1.1.1", name + b":1.1.1.1\t"):
            lines = taken(block(HOST, raw), it=reader(told=name.decode().lower()))
            assert lines.told == ((name, b"1.1.1.1"),)
            assert lines.chain == ()
            assert lines.before == (b"X-Visitor: 1.1.1.1\r\n" if name == b"X-Visitor" else b"")

    @pytest.mark.parametrize("name", ["User-Agent", "X-Request-Id", "TE"])
    def test_a_line_with_two_meanings_is_left(self, name: str) -> None:
        line = name.encode() + b": 1.1.1.1"
        assert left(block(HOST, line), it=reader(told=name.lower())) is Unfit.LINE

    @pytest.mark.parametrize(
        ("line", "mark"),
        [
            (b"Connection: keep-alive", Mark.KEEP),
            (b"connection:Keep-Alive ", Mark.KEEP),
            (b"Connection: close", Mark.CLOSE),
            (b"CONNECTION: CLOSE", Mark.CLOSE),
        ],
    )
    def test_connection(self, line: bytes, mark: Mark) -> None:
        lines = taken(block(HOST, line))
        assert lines.connection is mark
        assert lines.before == b""

    @pytest.mark.parametrize(
        "line",
        [
            b"Keep-Alive: timeout=5",
            b"Proxy-Connection: keep-alive",
            b"TE: trailers",
            b"Trailer: X-A",
            b"Proxy-Authorization: Basic eA==",
            b"proxy-authenticate: Basic",
        ],
    )
    def test_other_hop_by_hop_lines_go_out(self, line: bytes) -> None:
        assert taken(block(HOST, line)).before == b""

    def test_a_name_with_an_underscore_that_is_allowed_is_passed_on(self) -> None:
        assert taken(block(HOST, b"X_Tag: 1"), it=reader(allow_names=("x_tag",))).before == b"X_Tag: 1\r\n"


class TestUnfit:
    @pytest.mark.parametrize(
        "line",
        [
            b"Transfer-Encoding: chunked",
            b"Content-Length: 5",
            b"Content-Length:5",
            b"Expect: 100-continue",
            b"Upgrade: websocket",
            b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
            b"Connection: keep-alive, Upgrade",
            b"Connection: close, X-A",
            b"Connection: x-forwarded-for",
            b"Connection:",
            b"X_Tag: 1",
            b"X.Tag: 1",
            b"Host: a b",
            b"Host:",
            b"Host: a:0",
            b"Host:\ta",
            b"Cookie: a=b; c=\x01",
            b"X-A: \x01",
            b"X-A: \0",
            b"X-A: a\nb",
            b"X-A: a\rb",
            b" X-A: folded",
            b"X-A : 1",
            b"no colon",
            b": no name",
            b"B\xe9: 1",
            b"",
        ],
    )
    def test_a_line(self, line: bytes) -> None:
        it = reader()
        for before, after in (
            (block(HOST, line), b""),
            (block(line, HOST), b""),
            (HOST, block(b"A: b", line)),
        ):
            assert left(before, after, it) is Unfit.LINE

    @pytest.mark.parametrize(
        "lines",
        [
            (HOST, HOST),
            (HOST, b"Host: other.example"),
            (b"Connection: close", HOST, b"Connection: close"),
            (b"Connection: close", HOST, b"Connection: keep-alive"),
        ],
    )
    def test_twice(self, lines: tuple[bytes, ...]) -> None:
        assert left(block(*lines)) is Unfit.TWICE
        assert left(block(*lines[:-1]), lines[-1]) is Unfit.TWICE

    def test_no_host(self) -> None:
        assert left(b"", b"") is Unfit.HOST
        assert left(b"Accept: */*", b"X-A: 1") is Unfit.HOST

    def test_a_value_is_judged_where_the_name_is_known(self) -> None:
        it = reader()
        taken(block(HOST, b"X-A: 1", b"X-Real-IP: 1.1.1.1"), it=it)
        for line in (b"X-A: \x01", b"X-A: a\nb", b"X-Real-IP: \0", b"X-A : 1", b"X-A"):
            assert left(block(HOST, line), it=it) is Unfit.LINE
        assert taken(block(HOST, b"X-A:\xff\t"), it=it).before == b"X-A: \xff\r\n"

    def test_too_many_lines(self) -> None:
        it = RequestReader(HeadLimits(lines=16), ForwardingTable.of(ForwardingConfig()))
        fifteen = block(HOST, *[b"X: y"] * 14)
        assert left(fifteen, it=it) is None
        assert left(fifteen, b"X: y", it=it) is Unfit.SIZE


# --- what is remembered ---------------------------------------------------------------------------


class TestMemory:
    def test_a_line_is_kept_once(self) -> None:
        it = reader()
        assert repr(it) == "<RequestReader young=0 old=0>"
        first = taken(block(HOST, b"Accept: */*"), it=it)
        second = taken(block(HOST, b"Accept: */*"), it=it)
        assert first.before == second.before
        assert repr(it) == "<RequestReader young=2 old=0>"

    def test_two_generations_and_what_is_used_stays(self) -> None:
        it = reader()
        taken(HOST, it=it)
        for number in range(GENERATION - 1):
            taken(b"X-A: %d" % number, HOST, it=it)
        assert repr(it) == f"<RequestReader young={GENERATION} old=0>"
        taken(b"X-B: 1", HOST, it=it)
        # HOST was used since, so it has come back.
        assert repr(it) == f"<RequestReader young=2 old={GENERATION}>"
        for number in range(3 * GENERATION):
            taken(b"X-C: %d" % number, HOST, it=it)
            assert taken(b"X-B: 1", HOST, it=it).before == b"X-B: 1\r\n"
        young, old = (int(part.partition("=")[2].rstrip(">")) for part in repr(it).split()[1:])
        assert young <= GENERATION
        assert old == GENERATION

    @pytest.mark.parametrize(
        "line",
        [
            b"X-Long: " + b"y" * (LONGEST - 7),
            b"X-Forwarded-For: 203.0.113.7",
            b"X-Real-IP: 203.0.113.7",
            b"X-Request-Id: 0b0d1c1e-3a51-4c3e-9d6e-6a7b9ad0a001",
            b"Expect: 100-continue",
            b"no colon",
        ],
    )
    def test_long_lines_addresses_and_odd_ones_are_not_kept(self, line: bytes) -> None:
        it = reader()
        left(HOST, line, it)
        assert repr(it) == "<RequestReader young=1 old=0>"

    def test_what_a_proxy_says_of_many_clients_is_kept(self) -> None:
        it = reader()
        taken(HOST, block(b"X-Forwarded-Proto: https", b"x-forwarded-port: 443"), it=it)
        assert repr(it) == "<RequestReader young=3 old=0>"

    def test_the_number_and_the_length_of_names_are_bounded(self) -> None:
        it = reader()
        for number in range(2 * NAMES):
            taken(block(HOST, b"N%d: 1" % number), it=it)
            assert len(it._names) <= NAMES
        it = reader()
        taken(block(HOST, b"N: 1"), it=it)
        known = len(it._names)
        taken(block(HOST, b"N" * LONGEST_NAME + b": 1"), it=it)
        assert len(it._names) == known + 1
        taken(block(HOST, b"N" * (LONGEST_NAME + 1) + b": 1"), it=it)
        assert len(it._names) == known + 1

    def test_the_longest_that_is_kept(self) -> None:
        it = reader()
        taken(HOST, b"X-Long: " + b"y" * (LONGEST - 8), it=it)
        assert repr(it) == "<RequestReader young=2 old=0>"


# --- the request line -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "read"),
    [
        (b"GET / HTTP/1.1", (b"GET", b"/", b"/", 1)),
        (b"POST /e/?ip=1&_=2 HTTP/1.1", (b"POST", b"/e/?ip=1&_=2", b"/e/", 1)),
        (b"OPTIONS /e HTTP/1.0", (b"OPTIONS", b"/e", b"/e", 0)),
        (b"GET /e?? HTTP/1.1", (b"GET", b"/e??", b"/e", 1)),
        (b"GET //e HTTP/1.1", (b"GET", b"//e", b"//e", 1)),
        (b"GET %b HTTP/1.1" % LONGEST_TARGET, (b"GET", LONGEST_TARGET, LONGEST_TARGET, 1)),
    ],
)
def test_a_request_line_that_is_taken(line: bytes, read: tuple[bytes, bytes, bytes, int]) -> None:
    assert read_request_line(line, LIMITS) == read


@pytest.mark.parametrize(
    "line",
    [
        b"HEAD / HTTP/1.1",
        b"PUT / HTTP/1.1",
        b"DELETE / HTTP/1.1",
        b"get / HTTP/1.1",
        b"GET / HTTP/1.2",
        b"GET / HTTP/2.0",
        b"GET / HTTP/0.9",
        b"GET / http/1.1",
        b"GET /",
        b"GET  / HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b" GET / HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"GET http://a/ HTTP/1.1",
        b"GET e HTTP/1.1",
        b"GET /#x HTTP/1.1",
        b"GET /\xe9 HTTP/1.1",
        b"GET /\x01 HTTP/1.1",
        b"GET / HTTP/1.1\n",
        b"",
        b"GET %bx HTTP/1.1" % LONGEST_TARGET,
    ],
)
def test_a_request_line_that_is_left(line: bytes) -> None:
    assert read_request_line(line, LIMITS) is None


# --- answers --------------------------------------------------------------------------------------


def answers(limits: HeadLimits = LIMITS, **config: object) -> AnswerReader:
    return AnswerReader(limits, ForwardingTable.of(ForwardingConfig(**config)))  # type: ignore[arg-type]


def as_general(raw: bytes, *, minor: int, close: bool) -> bytes:
    """The head that the general path would send to the client."""
    head = read_response(raw, b"GET", LIMITS)
    table = ForwardingTable.of(Config().forwarding)
    fields = response_fields(head, method=b"GET", minor=minor, close=close, date=b"never", table=table)
    return render_response(head.status, head.reason, fields)


OK = b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 15\r\n\r\n"


class TestAnswersTaken:
    @pytest.mark.parametrize("minor", [0, 1])
    @pytest.mark.parametrize("close", [False, True])
    @pytest.mark.parametrize(
        ("raw", "status", "length", "reusable"),
        [
            (OK, 200, 15, True),
            (b"HTTP/1.1 204 No Content\r\ndate: D\r\n\r\n", 204, 0, True),
            (b"HTTP/1.1 304 Not Modified\r\nDate: D\r\nETag: x\r\nContent-Length: 9\r\n\r\n", 304, 0, True),
            (b"HTTP/1.1 400 \r\nDate: D\r\ncontent-length:007\r\n\r\n", 400, 7, True),
            (b"HTTP/1.1 503 U\r\nDate: D\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n", 503, 0, True),
            (
                b"HTTP/1.1 200 O\r\nDate: D\r\nConnection: close, X-B\r\nX-B: 1\r\nContent-Length: 2\r\n\r\n",
                200,
                2,
                False,
            ),
            (b"HTTP/1.0 200 OK\r\nDate: D\r\nContent-Length: 2\r\n\r\n", 200, 2, False),
            (
                b"HTTP/1.0 200 OK\r\nDate: D\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n",
                200,
                2,
                True,
            ),
            (
                b"HTTP/1.1 200 OK\r\nKeep-Alive: x\r\nA: 1\r\nA: 2\r\nDate: D\r\nContent-Length: 1\r\n\r\n",
                200,
                1,
                True,
            ),
        ],
    )
    def test_it_is_what_the_general_path_sends(
        self, raw: bytes, status: int, length: int, reusable: bool, minor: int, close: bool
    ) -> None:
        it = answers()
        answer = it.read(raw + b"BODY", minor, close)
        assert isinstance(answer, FastAnswer)
        assert (answer.status, answer.length, answer.reusable) == (status, length, reusable)
        assert (answer.size, answer.whole, answer.rest) == (len(raw), len(raw) + length, None)
        assert answer.out == as_general(raw, minor=minor, close=close)
        assert it.read(raw, minor, close) is answer

    def test_each_version_and_ending_has_its_own(self) -> None:
        it = answers()
        found = [it.read(OK, minor, close) for minor in (0, 1) for close in (False, True)]
        outs = [answer.out.removeprefix(OK[:-2]) for answer in found if answer is not None]
        assert outs == [
            b"Connection: keep-alive\r\n\r\n",
            b"Connection: close\r\n\r\n",
            b"\r\n",
            b"Connection: close\r\n\r\n",
        ]
        assert repr(it) == "<AnswerReader seen=4>"

    @pytest.mark.parametrize("lines", [b"", b"Connection: Date\r\nDate: D\r\n"])
    def test_one_without_a_date_leaves_a_place_for_it(self, lines: bytes) -> None:
        raw = b"HTTP/1.1 200 OK\r\n" + lines + b"Content-Length: 2\r\n\r\n"
        answer = answers().read(raw, 1, False)
        assert answer is not None
        assert answer.rest is not None
        assert answer.out + b"never" + answer.rest == as_general(raw, minor=1, close=False)


class TestAnswersLeft:
    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            OK[:-1],
            b"HTTP/1.1 200 OK\r\nDate: D\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nDate: D\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 103 Early\r\nDate: D\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 101 Switching\r\nDate: D\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            b"HTTP/1.1 200 OK\nDate: D\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 999 Odd\r\nDate: D\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/2 200 OK\r\nDate: D\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nDate: D\r\n" + b"X: y\r\n" * 128 + b"Content-Length: 0\r\n\r\n",
            b"SMTP ready\r\n\r\n",
        ],
    )
    def test_left(self, raw: bytes) -> None:
        it = answers()
        assert it.read(raw, 1, False) is None
        assert it.read(raw, 1, False) is None

    def test_what_was_left_once_is_left_at_a_look(self) -> None:
        it = answers()
        for _ in range(2):
            assert it.read(b"HTTP/1.1 200 OK\r\nDate: D\r\n\r\n", 1, False) is None
        assert repr(it) == "<AnswerReader seen=1>"

    def test_a_head_over_the_limits(self) -> None:
        assert answers(HeadLimits(head_bytes=len(OK))).read(OK, 1, False) is not None
        assert answers(HeadLimits(head_bytes=len(OK) - 1)).read(OK, 1, False) is None


class TestAnswersRemembered:
    def test_the_number_is_bounded(self) -> None:
        it = answers()
        for number in range(ANSWERS):
            assert it.read(b"HTTP/1.1 200 OK\r\nDate: %d\r\nContent-Length: 0\r\n\r\n" % number, 1, False)
        assert repr(it) == f"<AnswerReader seen={ANSWERS}>"
        assert it.read(OK, 1, False)
        assert repr(it) == "<AnswerReader seen=1>"

    def test_the_length_is_bounded(self) -> None:
        it = answers()
        pad = LONGEST_BLOCK - len(OK) - len("X: \r\n")
        for more, kept in ((1, 0), (0, 1)):
            raw = OK.replace(b"Date", b"X: " + b"y" * (pad + more) + b"\r\nDate", 1)
            answer = it.read(raw, 1, False)
            assert answer is not None
            assert answer.size == LONGEST_BLOCK + more
            assert repr(it) == f"<AnswerReader seen={kept}>"


class TestCookies:
    def test_they_are_passed_on_in_their_place(self) -> None:
        assert taken(block(HOST, b"cookie:a=b", b"X-A: 1")).before == b"cookie: a=b\r\nX-A: 1\r\n"

    def test_they_are_left_out_where_the_route_drops_them(self) -> None:
        it = RequestReader(LIMITS, ForwardingTable.of(ForwardingConfig()), cookies=True)
        for _ in range(2):  # judged, then remembered
            lines = Lines()
            lines.drop_cookies = True
            assert it.read(block(HOST, b"Cookie: a=b", b"X-A: 1"), b"cookie: c=d", lines) is None
            assert (lines.before, lines.after) == (b"X-A: 1\r\n", b"")
        lines = Lines()
        assert it.read(block(HOST, b"Cookie: a=b", b"cookie:c=d"), b"", lines) is None
        assert lines.before == b"Cookie: a=b\r\ncookie: c=d\r\n"
