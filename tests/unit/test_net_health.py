"""Active probes: what is asked, what counts as good, and how many it takes."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from typing import TYPE_CHECKING

import pytest

from proxy.config.schema import HealthConfig, TcpAddress, UpstreamConfig, UpstreamUrl
from proxy.errors import Failure, Resend, Source
from proxy.message import NO_BODY, ResponseHead
from proxy.net.health import BODY_LIMIT, HealthChecker, HealthState, judge
from proxy.net.http1 import Http1Exchange
from proxy.net.upstream import UpstreamConnection
from tests.support.pooling import ANSWERS
from tests.support.turning import Time, turns, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"


def state() -> HealthState:
    return HealthState(HealthConfig())


class TestState:
    def test_up_until_three_bad_probes_in_a_row(self) -> None:
        it = state()
        for reason in ("one", "two", "", "one", "two"):
            it.record(reason)
            assert it.up
        it.record("three")
        assert not it.up
        assert repr(it) == "<HealthState DOWN three>"

    def test_down_until_two_good_ones_in_a_row(self) -> None:
        it = state()
        for _ in range(3):
            it.record("refused")
        for reason in ("", "late", ""):
            it.record(reason)
            assert not it.up
        assert it.reason == "late"
        it.record("")
        assert (it.up, it.reason) == (True, "")

    def test_a_bad_one_while_up_is_told_and_a_good_one_forgets_it(self) -> None:
        it = state()
        it.record("slow")
        assert repr(it) == "<HealthState UP slow>"
        it.record("")
        assert it.reason == ""

    def test_a_good_one_while_down_keeps_the_reason(self) -> None:
        it = state()
        for _ in range(3):
            it.record("refused")
        it.record("")
        assert (it.up, it.reason) == (False, "refused")


class TestJudge:
    @pytest.mark.parametrize(
        ("status", "fields", "verdict"),
        [
            (200, (), ""),
            (204, (), ""),
            (200, ((b"Content-Type", b"application/json"),), ""),
            (
                200,
                ((b"content-type", b"Text/HTML; charset=utf-8"),),
                "misrouted: the health path answers HTML",
            ),
            (
                301,
                ((b"Location", b"https://x/"),),
                "misrouted: the health path redirects (status 301) to https://x/",
            ),
            (302, (), "misrouted: the health path redirects (status 302) to "),
            (404, ((b"Content-Type", b"text/html"),), "the health path answers 404"),
            (503, (), "the health path answers 503"),
        ],
    )
    def test_answers(self, status: int, fields: tuple[tuple[bytes, bytes], ...], verdict: str) -> None:
        found = judge(ResponseHead(status, b"", 1, fields, NO_BODY))
        assert found.startswith(verdict)
        assert bool(found) is bool(verdict)


class Owner:
    def opened(self, connection: UpstreamConnection) -> None: ...
    def spoiled(self, connection: UpstreamConnection) -> None: ...
    def gone(self, connection: UpstreamConnection) -> None: ...


class Stage:
    """A checker before a server that the test plays."""

    def __init__(self) -> None:
        self.time = Time()
        self.state = state()
        self.asked: list[bytes] = []
        self.answer = OK
        self.failure: Failure | None = None
        self.connections: list[UpstreamConnection] = []
        self.port = 0
        url = UpstreamUrl(TcpAddress("posthog.internal", 8000))
        self.checker = HealthChecker(
            dataclasses.replace(UpstreamConfig(url), health_path="/_health"),
            HealthConfig(),
            self.state,
            self.time,
            random.Random(3),
            self.connect,
        )

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self.answer)
        await reader.read()
        writer.close()

    async def connect(self, due: float) -> UpstreamConnection:
        if self.failure is not None:
            raise self.failure
        connection = UpstreamConnection(
            self.time,
            Owner(),
            lambda stream: Http1Exchange(stream, ANSWERS),
            address="test",
            read_limit=65536,
            write_limit=65536,
        )
        connection.in_flight = 1
        self.connections.append(connection)
        await asyncio.get_running_loop().create_connection(lambda: connection, "127.0.0.1", self.port)
        return connection


@pytest.fixture
async def stage(tidy_loop: None) -> AsyncIterator[Stage]:
    made = Stage()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    await until(lambda: all(connection.lost for connection in made.connections))
    server.close()
    await server.wait_closed()


class TestProbe:
    async def test_asks_as_the_upstreams_own_proxy_over_https(self, stage: Stage) -> None:
        await stage.checker.probe()
        (asked,) = stage.asked
        assert asked == (
            b"GET /_health HTTP/1.1\r\n"
            b"Host: posthog.internal:8000\r\n"
            b"User-Agent: posthog-proxy-health\r\n"
            b"Accept: */*\r\n"
            b"X-Forwarded-Proto: https\r\n"
            b"Connection: close\r\n\r\n"
        )
        assert (stage.state.up, stage.state.reason) == (True, "")

    async def test_a_bad_answer(self, stage: Stage) -> None:
        stage.answer = b"HTTP/1.1 301 Moved\r\nLocation: https://posthog.test/\r\nContent-Length: 0\r\n\r\n"
        for _ in range(3):
            await stage.checker.probe()
        assert not stage.state.up
        assert stage.state.reason.startswith("misrouted: ")
        stage.answer = OK
        for _ in range(2):
            await stage.checker.probe()
        assert stage.state.up

    async def test_no_http(self, stage: Stage) -> None:
        stage.answer = b"220 mail.example.test ESMTP\r\n\r\n"
        await stage.checker.probe()
        assert stage.state.reason != ""

    async def test_no_answer_in_time(self, stage: Stage) -> None:
        stage.answer = b""
        probing = asyncio.ensure_future(stage.checker.probe())
        await until(lambda: stage.asked)
        await turns()
        stage.time.turn(2.0)
        await probing
        assert stage.state.reason == "the health path does not answer in time"

    async def test_an_endless_answer_is_cut(self, stage: Stage) -> None:
        stage.answer = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * BODY_LIMIT
        await stage.checker.probe()
        assert stage.state.reason == ""

    async def test_no_connection(self, stage: Stage) -> None:
        stage.failure = Failure(Source.UPSTREAM, "connect_refused", 502, "refused", Resend.ANY)
        await stage.checker.probe()
        assert stage.state.reason == "refused"

    async def test_want_of_our_own_resources_says_nothing(self, stage: Stage) -> None:
        stage.failure = Failure(Source.PROXY, "connect_failed", 503, "no descriptors", Resend.ANY)
        for _ in range(5):
            await stage.checker.probe()
        assert (stage.state.up, stage.state.reason) == (True, "")


async def test_probes_come_at_spread_intervals(stage: Stage) -> None:
    running = asyncio.ensure_future(stage.checker.run())
    pauses = []
    for count in range(1, 6):
        await until(lambda count=count: len(stage.asked) == count)
        pauses.append(stage.state.next_probe - stage.time.now)
        await until(lambda: len(stage.time) == 1)
        stage.time.turn(pauses[-1] - 0.01)
        await turns()
        assert len(stage.asked) == count
        stage.time.turn(0.01)
    await until(lambda: len(stage.asked) == 6)
    assert all(4.0 <= pause <= 6.0 for pause in pauses)
    assert len(set(pauses)) == 5
    running.cancel()
    await asyncio.wait({running})
