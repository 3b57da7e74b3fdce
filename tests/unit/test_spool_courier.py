"""A kept record as a request: the quick way sends what the thorough one does, and leaves it what is odd."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from proxy.errors import Failure
from proxy.spool import courier
from proxy.spool.courier import Courier, PlainAnswers, Unsendable, is_plain
from proxy.spool.record import SpoolRecord
from tests.support.keeping import Kept
from tests.support.play import Play

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from proxy.net.pool import UpstreamPool
    from proxy.spool.courier import Heard
    from tests.support.play import Actor

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BODY = b'{"event":"x"}'
HEAD = b"POST /e/?ip=1 HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nX-A: 1\r\n\r\n"


async def unchanged(head: bytes, body: bytes | None, delay: float) -> tuple[bytes, bytes | None]:
    assert delay == 0
    return head, body


class Scene:
    """A courier in a play. ``sent``: the bytes of each request."""

    def __init__(self, play: Play) -> None:
        runtime = play.proxy._runtime
        self.play = play
        self.kept = Kept()
        self.pool: UpstreamPool = runtime.pools["default"]
        self.courier = Courier(
            self.kept, self.pool, runtime.deadlines, runtime.config.timeouts, unchanged, PlainAnswers()
        )

    def ask(self, body: bytes = BODY, head: bytes = HEAD) -> asyncio.Task[Heard]:
        head = head % len(body) if b"%d" in head else head
        record = SpoolRecord(self.play.clock.wall(), "default", "/e", b"c", head, len(body))
        self.kept.keep(record, body)
        return asyncio.get_running_loop().create_task(self.courier.ask(self.kept.stored()[-1]))

    async def first(self, answer: bytes = OK) -> Actor:
        """One exchange the thorough way, after which the connection is idle; returns the upstream."""
        asking = self.ask()
        upstream = await self.play.upstream()
        await upstream.hear(HEAD % len(BODY) + BODY)
        upstream.say(answer)
        assert (await asking).status == 200
        return upstream

    @property
    def idle(self) -> tuple[int, int]:
        """Connections that are idle, and in use."""
        return self.pool.state.idle, self.pool.state.in_use


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    async with Play(pool={"retries": 0}, health={"breaker": False}) as play:
        made = Scene(play)
        yield made
        assert made.pool.state.in_use == 0
        assert repr(made.courier) == "<Courier free>"


async def test_both_ways_send_the_same() -> None:
    async with scene() as scene_:
        upstream = await scene_.first()
        for body in (BODY, b"", b"x" * 70_000):
            asking = scene_.ask(body)
            await upstream.hear(HEAD % len(body) + body)  # over the same connection
            assert repr(scene_.courier) == "<Courier waits>"
            upstream.say(OK)
            assert (await asking).status == 200
            assert scene_.idle == (1, 0)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK,
        OK[:20],
        OK[:-1],
        b"HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 204 None\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 5000 + b"\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_any_answer_is_heard(answer: bytes) -> None:
    async with scene() as scene_:
        upstream = await scene_.first()
        asking = scene_.ask()
        await upstream.hear(HEAD % len(BODY) + BODY)
        upstream.say(answer)
        if OK.startswith(answer):
            await scene_.play.until(lambda: scene_.courier._connection is None)
            upstream.say(OK[len(answer) :])
        status = 400 if b" 400 " in answer else 204 if b" 204 " in answer else 200
        assert (await asking).status == status
        assert scene_.idle == (1, 0)


async def test_what_comes_behind_an_answer_ends_the_connection() -> None:
    async with scene() as scene_:
        upstream = await scene_.first()
        asking = scene_.ask()
        await upstream.hear(HEAD % len(BODY) + BODY)
        upstream.say(OK + b"more")
        assert (await asking).status == 200
        assert await upstream.hear_end() == b""
        asking = scene_.ask()
        upstream = await scene_.play.upstream()
        await upstream.hear(HEAD % len(BODY) + BODY)
        upstream.say(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert (await asking).status == 200
        assert await upstream.hear_end() == b""


async def test_a_connection_that_had_been_idle_for_too_long_is_nobodys_fault() -> None:
    """1. The upstream closes an idle connection. 2. Before we hear of it a request is on its way."""
    async with scene() as scene_:
        upstream = await scene_.first()
        asking = scene_.ask()
        await upstream.hear_head()
        upstream.hang_up()
        again = await scene_.play.upstream()
        await again.hear(HEAD % len(BODY) + BODY)
        again.say(OK)
        assert (await asking).status == 200


async def test_the_same_of_a_body_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "CORRECTED_BYTES", 5)
    async with scene() as scene_:
        asking = scene_.ask(b"12345")
        upstream = await scene_.play.upstream()
        await upstream.hear(HEAD % 5 + b"12345")
        upstream.say(OK)
        await asking
        asking = scene_.ask(b"123456")
        scene_.kept.inline = 3
        await upstream.hear_head()
        upstream.hang_up()
        again = await scene_.play.upstream()
        await again.hear(HEAD % 6 + b"123456")
        again.say(OK)
        assert (await asking).status == 200


async def test_an_answer_that_breaks_off_is_a_failure() -> None:
    async with scene() as scene_:
        upstream = await scene_.first()
        asking = scene_.ask()
        await upstream.hear_head()
        upstream.say(OK[:-1])
        upstream.hang_up()
        with pytest.raises(Failure, match="inside its answer"):
            await asking


async def test_a_sick_answer_counts_against_the_upstream() -> None:
    async with scene() as scene_:
        upstream = await scene_.first()
        asking = scene_.ask()
        await upstream.hear_head()
        upstream.say(b"HTTP/1.1 503 Ill\r\nContent-Length: 0\r\n\r\n")
        assert (await asking).status == 503
        assert scene_.pool.last_ill is not None


async def test_no_answer_is_a_failure() -> None:
    async with scene() as scene_:
        upstream = await scene_.first()
        asking = scene_.ask()
        await upstream.hear(HEAD % len(BODY) + BODY)
        scene_.play.turn(scene_.play.proxy.config.timeouts.first_byte_ingest + 1)
        await scene_.play.until(lambda: scene_.courier._connection is None)
        scene_.play.proxy.sweep()
        with pytest.raises(Failure) as caught:
            await asking
        assert caught.value.status == 504
        assert await upstream.hear_end() == b""


async def test_one_that_is_stopped_leaves_nothing_behind() -> None:
    async with scene() as scene_:
        upstream = await scene_.first()
        asking = scene_.ask()
        await upstream.hear(HEAD % len(BODY) + BODY)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert await upstream.hear_end() == b""


@pytest.mark.parametrize("head", [b"nonsense\r\n\r\n", HEAD.replace(b"Host: a\r\n", b"")])
async def test_no_request_can_be_made_of_it(head: bytes) -> None:
    async with scene() as scene_:
        with pytest.raises(Unsendable):
            await scene_.ask(head=head)


@pytest.mark.parametrize(
    ("head", "length", "plain"),
    [
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", 5, True),
        (b"POST / HTTP/1.1\r\nHost: a\r\ncontent-length:  5 \r\n\r\n", 5, True),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0, True),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1, False),
        (b"POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 6\r\n\r\n", 5, False),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", 5, False),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n\r\n", 5, False),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\n", 5, False),
    ],
)
def test_plain_heads(head: bytes, length: int, plain: bool) -> None:
    assert is_plain(head, length) is plain


def test_answers_are_read_once() -> None:
    answers = PlainAnswers()
    first = answers.read(OK)
    assert first is not None
    assert first[1] == len(OK)
    again = answers.read(OK + b"more")
    assert again is not None
    assert again[0] is first[0]
    assert again[2] is first[2]
    for number in range(2 * courier._MOST_HEADS):
        answers.read(OK.replace(b"OK", b"OK%d" % number))
        assert len(answers._seen) <= courier._MOST_HEADS
    for other in (b"", OK[:10], OK[:-1], b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nto the end"):
        assert answers.read(other) is None
