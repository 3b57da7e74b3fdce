"""What the fast path shares: routes, templates of clients and header blocks, log lines; what goes into their
keys, and how many are kept."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from proxy.config.load import config_from
from proxy.config.schema import TcpAddress, UnixAddress
from proxy.message import AddressSource
from proxy.serve.connection import Connection
from proxy.serve.fastpath import (
    LONGEST_LINE,
    LONGEST_PATH,
    OUTCOMES,
    PATHS,
    SEEN,
    SENDERS,
    SHAPES,
    WAYS,
    FastPath,
    Shape,
)
from proxy.server import Proxy
from proxy.wire.fasthead import LONGEST_BLOCK
from tests.support.scripted import Scripted

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.message import Route

OK = b"HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 2\r\n\r\nok"


class Socket(asyncio.Transport):
    """A transport that only knows its two ends."""

    def __init__(self, peer: tuple[str, int] | str, own: tuple[str, int] | str) -> None:
        super().__init__({"peername": peer, "sockname": own})

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is written here."""


class Readers:
    """A fast path that nobody listens for, and connections to it."""

    def __init__(self, **config: Any) -> None:
        proxy = Proxy(config_from({"upstream": "http://127.0.0.1:1", **config}).config)
        self.runtime = proxy._runtime
        assert self.runtime.fast is not None
        self.fast: FastPath = self.runtime.fast
        self.here = self.connection("203.0.113.7")

    def connection(self, peer: str, *, port: int = 8000) -> Connection:
        connection = Connection(self.runtime, f"0.0.0.0:{port}")
        connection.connection_made(Socket((peer, 40_000), ("192.0.2.1", port)))
        return connection

    def route(self, path: bytes = b"/e/") -> Route:
        route = self.fast.route(path)
        assert route is not None
        return route

    def found(
        self,
        before: bytes,
        after: bytes = b"",
        *,
        path: bytes = b"/e/",
        minor: int = 1,
        connection: Connection | None = None,
    ) -> Shape | str:
        """The shape of a header block, or why there is none; looked up as an exchange does."""
        connection, route = connection or self.here, self.route(path)
        key = (connection.peer_key, route.upstream, minor, before, after)
        return self.fast.young.get(key) or self.fast.shape(key, connection, route, minor, before, after)

    def kept(self, before: bytes, after: bytes = b"", **how: Any) -> Shape:
        """The shape of a block that comes twice."""
        self.shape(before, after, **how)
        return self.shape(before, after, **how)

    def shape(self, before: bytes, after: bytes = b"", **how: Any) -> Shape:
        shape = self.found(before, after, **how)
        assert isinstance(shape, Shape)
        return shape

    def sizes(self) -> dict[str, int]:
        """How much is kept, as ``repr`` tells."""
        words = repr(self.fast).strip("<>").split()[1:]
        return {name: sum(map(int, count.split("+"))) for name, _, count in (w.partition("=") for w in words)}


# --- routes ---------------------------------------------------------------------------------------


class TestRoutes:
    def test_what_is_open_and_no_endless_stream_is_for_the_fast_path(self) -> None:
        it = Readers()
        for path in (b"/e/", b"/e", b"/batch/", b"/s/", b"/i/v0/e/", b"/flags/", b"/decide", b"/static/x.js"):
            assert it.route(path).fast
        for path in (b"/", b"/app", b"/api/x"):
            assert it.route(path).fast
        assert it.route(b"/array/phc_x/config.js") is it.route(b"/array/phc_x/config.js")

    @pytest.mark.parametrize("path", [b"/livestream/x", b"/metrics", b"/s/../e", b"/%2e%2e/e"])
    def test_nothing_else_is(self, path: bytes) -> None:
        it = Readers()
        assert it.fast.route(path) is None
        assert it.fast.route(path) is None

    def test_the_number_and_the_length_of_paths_are_bounded(self) -> None:
        it = Readers()
        for number in range(PATHS):
            it.fast.route(b"/static/%d" % number)
        assert it.sizes()["paths"] == PATHS
        assert it.fast.route(b"/static/" + b"x" * (LONGEST_PATH - 7)) is not None
        assert it.sizes()["paths"] == PATHS
        assert it.fast.route(b"/static/" + b"x" * (LONGEST_PATH - 8)) is not None
        assert it.sizes()["paths"] == 1


# --- header blocks --------------------------------------------------------------------------------


class TestShapes:
    def test_a_block_is_ready_to_be_sent(self) -> None:
        it = Readers()
        shape = it.shape(b"host: PH.example\r\naccept:*/*\r\nUser-Agent: a/1", b"Origin: https://o")
        assert shape.way.opening == b" HTTP/1.1\r\nHost: PH.example\r\n"
        assert shape.before == b"accept: */*\r\nUser-Agent: a/1\r\n"
        assert shape.after == b"Origin: https://o\r\n"
        assert shape.client.line == b"X-Forwarded-For: 203.0.113.7\r\n"
        assert shape.way.before_id == (
            b"X-Forwarded-Proto: http\r\nX-Forwarded-Host: ph.example\r\nX-Forwarded-Port: 8000\r\n"
            b"X-Request-Id: "
        )
        assert shape.way.after_id == b"\r\n\r\n"
        assert (shape.host, shape.agent, shape.close, shape.named_id) == (b"PH.example", b"a/1", False, "")

    @pytest.mark.parametrize(
        ("lines", "minor", "close"),
        [
            (b"Host: a", 1, False),
            (b"Host: a", 0, True),
            (b"Host: a\r\nConnection: close", 1, True),
            (b"Host: a\r\nConnection: keep-alive", 0, False),
        ],
    )
    def test_whether_the_client_wants_to_go_on(self, lines: bytes, minor: int, close: bool) -> None:
        assert Readers().shape(lines, minor=minor).close is close

    @pytest.mark.parametrize(
        ("lines", "reason"),
        [
            (b"Accept: */*", "no_host"),
            (b"", "no_host"),
            (b"Host: ph.example\r\nHost: ph.example", "twice"),
            (b"Host: ph.example\r\nExpect: 100-continue", "line"),
            (b"Host: other.test", "host"),
            (b"Host: ph.example" + b"\r\nX: y" * 15, "size"),
        ],
    )
    def test_why_a_block_is_not_taken(self, lines: bytes, reason: str) -> None:
        it = Readers(access={"allowed_hosts": ["ph.example"]}, limits={"head_lines": 16})
        assert it.found(lines) == reason
        assert it.found(lines) == reason
        assert it.sizes()["shapes"] == 0

    def test_the_length_line_counts_as_one_whether_it_is_there_or_not(self) -> None:
        it = Readers(limits={"head_lines": 16})
        fifteen = b"Host: a" + b"\r\nX: y" * 14
        assert isinstance(it.found(fifteen), Shape)
        assert isinstance(it.found(fifteen[:-6], b"X: y"), Shape)
        assert it.found(fifteen, b"X: y") == "size"

    def test_a_block_is_kept_when_it_comes_a_second_time(self) -> None:
        it = Readers()
        it.shape(b"Host: a")
        assert (len(it.fast.young), len(it.fast.old)) == (0, 0)
        second = it.shape(b"Host: a")
        assert it.shape(b"Host: a") is second
        assert len(it.fast.young) == 1

    def test_blocks_that_came_once_are_forgotten(self) -> None:
        it = Readers()
        it.shape(b"Host: a")
        for number in range(SEEN):
            it.shape(b"Host: a", b"X: %d" % number)
        it.shape(b"Host: a")
        assert it.sizes()["shapes"] == 0
        it.shape(b"Host: a")
        assert it.sizes()["shapes"] == 1

    def test_two_generations_and_what_is_used_stays(self) -> None:
        it = Readers()
        first = it.kept(b"Host: a")
        for number in range(SHAPES - 1):
            it.kept(b"Host: a", b"X: %d" % number)
        assert (len(it.fast.young), len(it.fast.old)) == (SHAPES, 0)
        it.kept(b"Host: a", b"Y: 1")
        assert (len(it.fast.young), len(it.fast.old)) == (1, SHAPES)
        assert it.shape(b"Host: a") is first
        assert len(it.fast.young) == 2
        for number in range(2 * SHAPES):
            it.kept(b"Host: a", b"Z: %d" % number)
            assert it.shape(b"Host: a") is first
        assert it.sizes()["shapes"] <= 2 * SHAPES

    def test_a_long_block_is_read_each_time(self) -> None:
        it = Readers()
        room = LONGEST_BLOCK - len(b"Host: a\r\nX: ")
        shape = it.kept(b"Host: a\r\nX: " + b"y" * room)
        assert it.shape(b"Host: a\r\nX: " + b"y" * room) is shape
        shape = it.kept(b"Host: a\r\nX: " + b"y" * room, b"z:")
        assert it.shape(b"Host: a\r\nX: " + b"y" * room, b"z:") is not shape
        assert it.sizes()["shapes"] == 1


# --- clients --------------------------------------------------------------------------------------

TRUSTING = {"trust": {"proxies": ["10.0.0.0/8"]}}
ID = "0b0d1c1e-3a51-4c3e-9d6e-6a7b9ad0a001"


class TestClients:
    def test_blocks_of_one_client_share_what_is_said_of_it(self) -> None:
        it = Readers(**TRUSTING)
        one, two = it.shape(b"Host: a", b"Accept: */*"), it.shape(b"Host: a", b"X-A: 1")
        assert one is not two
        assert one.client is two.client
        assert one.client.ip == "203.0.113.7"
        assert it.sizes()["ways"] == 1

    def test_all_that_the_rules_read_tells_ways_apart(self) -> None:
        routes = [{"path": "/s/", "upstream": "other"}]
        upstreams = {"other": {"url": "http://127.0.0.1:2"}}
        it = Readers(**TRUSTING, routes=routes, upstreams=upstreams)
        near, far = it.connection("10.0.0.1"), it.connection("10.0.0.2")
        chain = b"\r\nX-Forwarded-For: 203.0.113.9"
        ways = [
            it.shape(b"Host: a", connection=near).way,
            it.shape(b"Host: b", connection=near).way,
            it.shape(b"Host: A", connection=near).way,
            it.shape(b"Host: a", connection=near, minor=0).way,
            it.shape(b"Host: a", connection=far).way,
            it.shape(b"Host: a", connection=it.connection("10.0.0.1", port=8001)).way,
            it.shape(b"Host: a", connection=near, path=b"/s/").way,
            it.shape(b"Host: a" + chain, connection=near).way,
            it.shape(b"Host: a" + chain, connection=far).way,
            it.shape(b"Host: a" + chain + b"\r\nX-Forwarded-Proto: https", connection=near).way,
            it.shape(b"Host: a" + chain + b"\r\nX-Forwarded-Port: 444", connection=near).way,
            it.shape(b"Host: a" + chain + b"\r\nX-Real-IP: 6.6.6.6", connection=near).way,
            it.shape(b"Host: a" + chain + b"\r\nX-Request-Id: 1", connection=near).way,
        ]
        assert len(set(map(id, ways))) == len(ways)

    def test_clients_behind_one_balancer_share_the_way_and_are_not_kept(self) -> None:
        it = Readers(**TRUSTING)
        balancer = it.connection("10.0.0.1")
        for number in range(5):
            chain = b"X-Forwarded-For: 203.0.113.%d, 10.0.0.9\r\nX-Forwarded-Proto: https\r\nHost: a" % number
            shape = it.shape(chain, connection=balancer)
            assert shape.client.line == b"X-Forwarded-For: 203.0.113.%d\r\n" % number
            assert shape.way.before_id.startswith(b"X-Forwarded-Proto: https\r\n")
            client = shape.client
            assert (client.ip, client.hops, client.suspect) == (f"203.0.113.{number}", 2, True)
            assert client.source is AddressSource.X_FORWARDED_FOR
            assert client.log == (
                f'"client_ip":"203.0.113.{number}","peer":"10.0.0.1",'
                '"client_ip_source":"x_forwarded_for","trusted_hops":2'
            )
        assert (it.sizes()["ways"], it.sizes()["shapes"]) == (1, 0)

    @pytest.mark.parametrize("chain", [b"", b"unknown", b"203.0.113.9, unknown"])
    def test_a_chain_that_leads_nowhere_leaves_the_peer(self, chain: bytes) -> None:
        it = Readers(**TRUSTING)
        balancer = it.connection("10.0.0.1")
        it.shape(b"Host: a\r\nX-Forwarded-For: 203.0.113.9", connection=balancer)
        client = it.shape(b"Host: a\r\nX-Forwarded-For: " + chain, connection=balancer).client
        assert (client.ip, client.source, client.hops) == ("10.0.0.1", AddressSource.PEER, 1)
        assert client.line == b"X-Forwarded-For: 10.0.0.1\r\n"

    @pytest.mark.parametrize(
        ("forwarding", "line"),
        [
            ({"chain": "append"}, b"203.0.113.9, 10.0.0.9, 10.0.0.1"),
            ({"anonymise": True}, b"203.0.113.0"),
            ({"chain": "append", "anonymise": True}, b"203.0.113.0, 10.0.0.9, 10.0.0.1"),
        ],
    )
    def test_how_a_chain_is_passed_on(self, forwarding: dict[str, Any], line: bytes) -> None:
        it = Readers(**TRUSTING, forwarding=forwarding)
        block = b"Host: a\r\nX-Forwarded-For: 6.6.6.6, 203.0.113.9, 10.0.0.9"
        client = it.shape(block, connection=it.connection("10.0.0.1")).client
        assert client.line == b"X-Forwarded-For: %b\r\n" % line

    @pytest.mark.parametrize("header", ["CF-Connecting-IP", "X-Visitor", "X-Forwarded-For"])
    def test_a_client_header_names_the_client(self, header: str) -> None:
        it = Readers(trust={"proxies": ["10.0.0.0/8"], "client_header": header})
        block = b"Host: a\r\n%b: 198.51.100.4\r\nX-A: 1" % header.encode()
        balancer = it.connection("10.0.0.1")
        shape = it.shape(block, connection=balancer)
        assert (shape.client.ip, shape.client.source) == ("198.51.100.4", AddressSource.HEADER)
        assert (b"X-Visitor: 198.51.100.4" in shape.before) is (header == "X-Visitor")
        other = it.shape(block.replace(b"100.4", b"100.5"), connection=balancer)
        assert other.client.ip == "198.51.100.5"

    @pytest.mark.parametrize(
        ("peer", "value", "named"),
        [
            ("10.0.0.1", ID, ID),
            ("10.0.0.1", ID.upper(), ID),
            ("10.0.0.1", "7", ""),
            ("203.0.113.7", ID, ""),
        ],
    )
    def test_a_trusted_peer_names_the_request(self, peer: str, value: str, named: str) -> None:
        it = Readers(**TRUSTING)
        connection = it.connection(peer)
        line = b"X-Request-Id: " + value.encode()
        assert it.shape(b"Host: a", line, connection=connection).named_id == named
        other = it.shape(b"Host: a", line[:-1] + b"2", connection=connection)
        assert it.sizes()["ways"] == 1
        assert other.named_id == (named[:-1] + "2" if named else "")

    def test_two_names_of_a_request_are_none(self) -> None:
        it = Readers(**TRUSTING)
        line = b"X-Request-Id: " + ID.encode()
        shape = it.shape(b"Host: a", line + b"\r\n" + line, connection=it.connection("10.0.0.1"))
        assert shape.named_id == ""

    def test_what_is_dropped_and_who_is_suspect_is_counted_with_each_request(self) -> None:
        it = Readers()
        assert it.shape(b"Host: a").way.dropped == ()
        assert it.shape(b"Host: a\r\nX-Request-Id: 1").way.dropped == ("managed",)
        assert it.shape(b"Host: a\r\nForwarded: for=1.1.1.1").way.dropped == ("managed",)
        assert it.shape(b"Host: a\r\nX-Forwarded-For: 1.1.1.1").way.dropped == ("managed",)
        assert it.shape(b"Host: a", connection=it.connection("10.0.0.1")).client.suspect
        assert not it.shape(b"Host: a", connection=it.connection("8.8.8.8")).client.suspect

    def test_a_host_that_is_called_like_the_placeholder_of_the_request_id(self) -> None:
        nil = b"00000000-0000-0000-0000-000000000000"
        shape = Readers(forwarding={"via": True}).shape(b"Host: " + nil)
        assert shape.way.before_id.endswith(
            b"\r\nX-Forwarded-Host: " + nil + b"\r\nX-Forwarded-Port: 8000\r\nX-Request-Id: "
        )
        assert shape.way.after_id == b"\r\nVia: 1.1 posthog-proxy\r\n\r\n"

    def test_the_number_of_ways_is_bounded(self) -> None:
        it = Readers(**TRUSTING)
        balancer = it.connection("10.0.0.1")
        for number in range(WAYS):
            it.shape(b"Host: h%d\r\nX-Forwarded-For: 203.0.113.9" % number, connection=balancer)
        assert it.sizes()["ways"] == WAYS
        it.shape(b"Host: a", connection=balancer)
        assert it.sizes()["ways"] == 1

    def test_long_lines_about_the_way_are_not_kept(self) -> None:
        it = Readers(**TRUSTING)
        balancer = it.connection("10.0.0.1")
        for name in (b"X-Forwarded-Host", b"Forwarded"):
            it.shape(b"Host: a\r\n" + name + b": " + b"x" * LONGEST_BLOCK, connection=balancer)
        assert it.sizes()["ways"] == 0
        it.shape(b"Host: a\r\nX-Forwarded-For: " + b"x" * LONGEST_BLOCK, connection=balancer)
        assert it.sizes()["ways"] == 1


# --- log lines ------------------------------------------------------------------------------------


class TestLogLines:
    KEY = ("0.0.0.0:8000", b"POST", b"/e/", b"ph.example", 200, "127.0.0.1:1", 0, True, "upstream")

    def other(self, place: int, value: object) -> Any:
        return (*self.KEY[:place], value, *self.KEY[place + 1 :])

    def test_what_the_log_shows_tells_outcomes_apart(self) -> None:
        it = Readers()
        keys = [
            self.KEY,
            *map(
                self.other, range(9), ("unix:/x", b"GET", b"/e", b"b", 400, "127.0.0.1:2", 1, False, "spool")
            ),
        ]
        outcomes = [it.fast.outcome(key, it.route()) for key in keys]
        assert all(outcome.parts is not None and outcome.record is None for outcome in outcomes)
        assert len({outcome.parts for outcome in outcomes}) == len(outcomes)
        assert outcomes[0].labels == ("/e", "ingest_v0", "POST", "2xx")
        assert all(it.fast.outcomes[key] is outcome for key, outcome in zip(keys, outcomes, strict=True))

    def test_the_text_form_keeps_the_record_itself(self) -> None:
        it = Readers(log={"format": "text"})
        outcome = it.fast.outcome(self.KEY, it.route())
        assert outcome.parts is None
        record = outcome.record
        assert record is not None
        assert (record.method, record.target, record.host) == (b"POST", b"/e/", b"ph.example")
        assert (record.route, record.cls, record.origin) == ("/e", "ingest_v0", "upstream")
        assert (record.status, record.upstream_status, record.upstream_addr) == (200, 200, "127.0.0.1:1")
        assert (record.retries, record.reused) == (0, True)

    def test_who_sent_it(self) -> None:
        it = Readers()
        assert it.fast.sender((b"a/1", b"ver=1.2")) == '"a/1","sdk":"posthog-js","sdk_version":"1.2"'
        assert it.fast.sender((b"posthog-node/5.1", b"")) == (
            '"posthog-node/5.1","sdk":"posthog-node","sdk_version":"5.1"'
        )
        assert it.fast.sender((b"", b"")) == '"","sdk":"","sdk_version":""'
        assert it.sizes()["senders"] == 3

    def test_the_numbers_are_bounded(self) -> None:
        it = Readers()
        for number in range(OUTCOMES):
            it.fast.outcome(self.other(4, number), it.route())
        assert it.sizes()["outcomes"] == OUTCOMES
        it.fast.outcome(self.other(4, OUTCOMES), it.route())
        assert it.sizes()["outcomes"] == 1
        for number in range(SENDERS):
            it.fast.sender((b"%d" % number, b""))
        assert it.sizes()["senders"] == SENDERS
        it.fast.sender((b"x", b""))
        assert it.sizes()["senders"] == 1

    def test_long_ones_are_made_each_time(self) -> None:
        it = Readers()
        long = b"x" * LONGEST_LINE
        it.fast.outcome(self.other(2, b"/static/" + long), it.route(b"/static/a"))
        it.fast.outcome(self.other(3, long), it.route())
        it.fast.sender((long, b"ver=1"))
        it.fast.sender((b"a", long))
        assert (it.sizes()["outcomes"], it.sizes()["senders"]) == (0, 0)


# --- two requests that differ in one thing --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ask:
    """A request and how it comes. Listeners 0 and 1 are ports, 2 and 3 Unix sockets."""

    lines: bytes = b"Host: a"
    target: bytes = b"/e/"
    version: bytes = b"1.1"
    method: bytes = b"POST"
    source: str = "127.0.0.1"
    listener: int = 0

    @property
    def raw(self) -> bytes:
        return b"%b %b HTTP/%b\r\n%b\r\n\r\n" % (self.method, self.target, self.version, self.lines)


CHAIN = b"Host: a\r\nX-Forwarded-For: 203.0.113.7"

PAIRS = {
    "host": (Ask(), Ask(b"Host: b")),
    "spelling of the host": (Ask(), Ask(b"Host: A")),
    "version": (Ask(), Ask(version=b"1.0")),
    "method": (Ask(), Ask(method=b"OPTIONS")),
    "path": (Ask(), Ask(target=b"/e")),
    "query": (Ask(target=b"/e/?a=1"), Ask(target=b"/e/?a=2")),
    "version of the SDK": (Ask(target=b"/e/?_=1&ver=1.2"), Ask(target=b"/e/?_=1&ver=1.3")),
    "a name that ends like the SDK's": (Ask(target=b"/e/?ver=1.2"), Ask(target=b"/e/?xver=1.2")),
    "the last version counts": (Ask(target=b"/e/?ver=1&ver=2"), Ask(target=b"/e/?ver=2&ver=1")),
    "far apart": (
        Ask(target=b"/e/?ver=1&data=%b&ver=2" % (b"x" * 50)),
        Ask(target=b"/e/?ver=1&data=%b&ver=3" % (b"x" * 50)),
    ),
    "name of the SDK": (Ask(target=b"/e/?lib=web&ver=1"), Ask(target=b"/e/?lib=ios&ver=1")),
    "user agent": (Ask(b"Host: a\r\nUser-Agent: x"), Ask(b"Host: a\r\nUser-Agent: y")),
    "first user agent": (
        Ask(b"Host: a\r\nUser-Agent:\r\nUser-Agent: y"),
        Ask(b"Host: a\r\nUser-Agent: y\r\nUser-Agent: x"),
    ),
    "percent signs": (
        Ask(b"Host: a\r\nUser-Agent: %s %(x)d 100%", b"/static/%25"),
        Ask(b"Host: a\r\nUser-Agent: %d {0}", b"/static/%26"),
    ),
    "client": (Ask(CHAIN), Ask(CHAIN[:-1] + b"8")),
    "chain": (Ask(CHAIN), Ask(CHAIN + b", 10.0.0.1")),
    "lines of the chain": (Ask(CHAIN), Ask(CHAIN + b"\r\nX-Forwarded-For: 203.0.113.8")),
    "scheme": (
        Ask(CHAIN + b"\r\nX-Forwarded-Proto: http"),
        Ask(CHAIN + b"\r\nX-Forwarded-Proto: https"),
    ),
    "host that a proxy names": (Ask(CHAIN), Ask(CHAIN + b"\r\nX-Forwarded-Host: b")),
    "port that a proxy names": (Ask(CHAIN), Ask(CHAIN + b"\r\nX-Forwarded-Port: 444")),
    "id that a proxy names": (
        Ask(CHAIN + b"\r\nX-Request-Id: " + ID.encode()),
        Ask(CHAIN + b"\r\nX-Request-Id: " + ID[:-1].encode() + b"2"),
    ),
    "id or none": (Ask(CHAIN), Ask(CHAIN + b"\r\nX-Request-Id: " + ID.encode())),
    "peer": (Ask(CHAIN), Ask(CHAIN, source="127.0.0.2")),
    "peers whom nobody trusts": (Ask(source="127.0.0.2"), Ask(source="127.0.0.3")),
    "port": (Ask(), Ask(listener=1)),
    "kind of socket": (Ask(), Ask(listener=2)),
    "Unix socket": (Ask(listener=2), Ask(listener=3)),
    "upstream": (Ask(), Ask(target=b"/s/")),
    "place of the length": (
        Ask(b"Host: a\r\nContent-Length: 0\r\nX: 1"),
        Ask(b"Host: a\r\nX: 1\r\nContent-Length: 0"),
    ),
    "length or none": (Ask(b"Host: a\r\nX: 1\r\nContent-Length: 0"), Ask(b"Host: a\r\nX: 1")),
    "name of the length": (
        Ask(b"Host: a\r\nContent-Length: 0"),
        Ask(b"Host: a\r\ncontent-length: 0"),
    ),
    "order of the lines": (Ask(b"Host: a\r\nX: 1\r\nY: 2"), Ask(b"Host: a\r\nY: 2\r\nX: 1")),
    "end of the connection": (Ask(), Ask(b"Host: a\r\nConnection: close")),
    "where one block ends": (
        Ask(b"Host: a\r\nX: 1\r\nContent-Length: 0\r\nY: 2"),
        Ask(b"Host: a\r\nX: \r\nContent-Length: 0\r\n1Y: 2"),
    ),
}


async def asked(asks: list[Ask], folder: Path, *, fast: bool) -> tuple[list[object], int]:
    """Ask one proxy one after another; what each became upstream and in the log and what came back, and how
    many were fast."""
    listen = ["127.0.0.1:0", "127.0.0.1:0", f"unix:{folder}/2", f"unix:{folder}/3"]
    async with Scripted(
        [OK],
        listen=listen,
        trust={"proxies": ["127.0.0.1"], "unix": True},
        forwarding={"via": True},
        routes=[{"path": "/s/", "upstream": "other"}],
        upstreams={"other": {"url": f"unix:{folder}/up"}},
        fast_path=fast,
    ) as play:
        other = await asyncio.start_unix_server(play._accept, f"{folder}/up")
        names = {str(address): str(index) for index, address in enumerate(play.proxy.addresses)}
        became: list[object] = []
        for ask in asks:
            address = play.proxy.addresses[ask.listener]
            if isinstance(address, UnixAddress):
                reader, writer = await asyncio.open_unix_connection(address.path)
            else:
                assert isinstance(address, TcpAddress)
                local = (ask.source, 0)
                reader, writer = await asyncio.open_connection(address.host, address.port, local_addr=local)
            writer.write(ask.raw)
            head = await reader.readuntil(b"\r\n\r\n")
            writer.close()
            await writer.wait_closed()
            sent = play.up[-1]
            for index, named in enumerate(play.proxy.addresses[:2]):
                assert isinstance(named, TcpAddress)
                sent = sent.replace(b"Port: %d" % named.port, b"Port: LISTENER-%d" % index)
            line = (await play.line(len(became) + 1)) | {"upstream_addr": ""}
            became.append((sent, head, line | {"listener": names[line["listener"]]}))
        assert len(play.up) == len(asks)
        other.close()
        await other.wait_closed()
        return became, play.fast


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
async def test_two_requests_that_differ_in_one_thing_never_share_it(
    pair: tuple[Ask, Ask], tmp_path: Path
) -> None:
    asks = [*pair, *pair]
    general, none = await asked(asks, tmp_path, fast=False)
    fast, all_of_them = await asked(asks, tmp_path, fast=True)
    assert (none, all_of_them) == (0, len(asks))
    assert fast == general
    assert general[0] != general[1]
