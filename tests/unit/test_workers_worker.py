"""A worker in this process: told things through its channel, before a scripted upstream."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import pytest

from proxy.config.schema import LogConfig, TcpAddress
from proxy.config.sources import Sources
from proxy.net.listen import bind
from proxy.observe.turns import Turns, lock_file
from proxy.observe.writer import Logs
from proxy.server import Proxy
from proxy.workers import worker as module
from proxy.workers.channel import (
    Accept,
    Alive,
    Channel,
    Close,
    Counted,
    Drain,
    Failed,
    Handed,
    Ready,
    Reported,
    Retired,
)
from proxy.workers.worker import Worker, main, work
from tests.support.play import Actor, Play
from tests.support.turning import turns, until
from tests.unit.test_serve_exchange import GET, OK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from proxy.net.listen import Listener
    from proxy.observe.metrics import Snapshot
    from proxy.workers.channel import Message


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


_PUSHED = (Alive, Counted, Reported)


class Parent:
    """The other end of a worker's channel, and what was heard there."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.heard: list[Message] = []

    def kinds(self) -> list[type[Message]]:
        self.heard += self.channel.receive()
        return [type(message) for message in self.heard if not isinstance(message, _PUSHED)]

    def counted(self) -> Snapshot:
        """The last counters that were pushed."""
        self.heard += self.channel.receive()
        pushed = [message for message in self.heard if isinstance(message, Counted)]
        return pushed[-1].snapshot if pushed else {}

    def number_of(self, kind: type[Message]) -> int:
        self.heard += self.channel.receive()
        return sum(isinstance(message, kind) for message in self.heard)

    def hand(self, number: int, listener: Listener) -> None:
        self.channel.send(Handed(number, str(listener.address), listener.entry), listener.socket.fileno())


@asynccontextmanager
async def employed(play: Play) -> AsyncIterator[tuple[Parent, Proxy, asyncio.Task[None]]]:
    """A worker that runs until it is told to end."""
    ours, theirs = (Channel(sock) for sock in socket.socketpair())
    errors = bytearray()
    proxy = Proxy(play.proxy.config, listeners=(), clock=play.clock, error_sink=errors.extend)
    parent = Parent(ours)
    logs = Logs(LogConfig(access="off", errors="off"), Turns())
    async with proxy:
        worker = Worker(theirs, proxy, logs)
        task = asyncio.create_task(worker.run())
        await until(lambda: parent.kinds() == [Ready])
        yield parent, proxy, task
        ours.close()
        await task
        worker.last_push()
    logs.close()
    theirs.close()


@pytest.fixture
def listener() -> Callable[[], Listener]:
    def bound() -> Listener:
        (made,) = bind(TcpAddress("127.0.0.1", 0), backlog=16)
        return made

    return bound


async def connected(listener: Listener) -> Actor:
    assert isinstance(listener.address, TcpAddress)
    return Actor(*await asyncio.open_connection(listener.address.host, listener.address.port))


async def served(play: Play, client: Actor, upstream: Actor | None = None) -> Actor:
    """One request and its answer; the upstream's connection, for the next one."""
    client.say(GET)
    upstream = upstream or await play.upstream()
    await upstream.hear_head()
    upstream.say(OK)
    assert (await client.hear_answer())[0] == 200
    return upstream


async def test_it_accepts_on_what_it_is_told_and_forgets_the_rest(listener: Callable[[], Listener]) -> None:
    one, two = listener(), listener()
    async with Play() as play, employed(play) as (parent, proxy, _):
        parent.hand(1, one)
        parent.hand(2, two)
        parent.channel.send(Accept([1, 2]))
        await until(lambda: len(proxy.addresses) == 2)
        async with await connected(one) as client:
            upstream = await served(play, client)
        parent.channel.send(Accept([2]))
        await until(lambda: proxy.addresses == (two.address,))
        one.close()  # the worker has closed its own
        with pytest.raises(ConnectionRefusedError):
            await connected(one)
        async with await connected(two) as client:
            await served(play, client, upstream)
    two.close()


async def test_it_hands_over_then_stops_and_ends_when_nobody_is_left(
    listener: Callable[[], Listener],
) -> None:
    bound = listener()
    async with Play() as play, employed(play) as (parent, proxy, task):
        parent.hand(1, bound)
        parent.channel.send(Accept([1]))
        async with await connected(bound) as client:
            await until(lambda: len(proxy.connections) == 1)
            play.clock.now += 1  # it is not new any more
            parent.channel.send(Drain(handover=True))
            await until(lambda: parent.kinds() == [Ready, Retired])
            parent.hand(2, bound)
            parent.channel.send(Accept([2]))  # too late
            await turns()
            assert proxy.addresses == ()
            assert not task.done()
            parent.channel.send(Drain(handover=False))
            assert await client.hear_end() == b""
        await task
    bound.close()


async def test_it_ends_at_once_when_told_so(listener: Callable[[], Listener]) -> None:
    bound = listener()
    async with Play() as play, employed(play) as (parent, proxy, task):
        parent.hand(1, bound)
        parent.channel.send(Accept([1]))
        async with await connected(bound):
            await until(lambda: len(proxy.connections) == 1)
            parent.channel.send(Close())
            await task
            assert len(proxy.connections) == 1  # whoever opened the proxy cuts it
    bound.close()


async def test_it_drains_and_ends_when_the_parent_is_gone(listener: Callable[[], Listener]) -> None:
    bound = listener()
    async with Play() as play, employed(play) as (parent, proxy, task):
        parent.hand(1, bound)
        parent.channel.send(Accept([1]))
        async with await connected(bound) as client:
            await until(lambda: len(proxy.connections) == 1)
            play.clock.now += 1  # it is not new any more
            bound.close()
            parent.channel.close()
            assert await client.hear_end() == b""
            await task


async def test_counters_are_pushed_when_they_change_and_at_the_end(
    listener: Callable[[], Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PUSH_INTERVAL", 0.001)
    bound, lock = listener(), lock_file()
    ours, theirs = (Channel(sock) for sock in socket.socketpair())
    parent = Parent(ours)
    async with Play(log={"access": "off", "errors": "off"}) as play:
        task = asyncio.create_task(work(1, play.proxy.config, theirs, Turns(lock)))
        parent.hand(1, bound)
        parent.channel.send(Accept([1]))
        async with await connected(bound) as client:
            await served(play, client)
            await until(lambda: parent.counted().get("posthog_proxy_requests_total"))
            assert parent.counted()["posthog_proxy_open_connections"] == 1
            pushes = parent.number_of(Counted)
            beats = parent.number_of(Alive)
            # Nothing changes: nothing is said, but that it is alive.
            await until(lambda: parent.number_of(Alive) > beats + 2)
            assert parent.number_of(Counted) == pushes
        parent.channel.send(Drain(handover=False))
        await task
        last = parent.counted()
        assert last["posthog_proxy_connections_total"] == 1
        assert last["posthog_proxy_open_connections"] == 0
    os.close(lock)
    for channel in (ours, theirs):
        channel.close()
    bound.close()


# As a process.


@pytest.fixture
def deaf() -> Iterator[None]:
    """A worker ignores signals; this process does not in the end."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@contextmanager
def told(sources: Sources, *messages: Message) -> Iterator[tuple[int, list[Message]]]:
    """Run a worker's main in this process; the parent has said all that it will: exit status, and what it
    heard."""
    ours, theirs = socket.socketpair()
    parent = Channel(ours)
    for message in messages:
        parent.send(message)
    settings, lock = os.memfd_create("settings"), lock_file()
    os.write(settings, sources.pack())
    status = main([str(number) for number in (2, theirs.detach(), settings, lock)])
    yield status, list(parent.receive())
    assert parent.ended
    parent.close()
    os.close(lock)


@pytest.mark.usefixtures("deaf")
def test_it_reads_its_configuration_and_hears_no_signal(tmp_path: Path) -> None:
    log = tmp_path / "errors.log"
    sources = Sources(None, {"upstream": "http://127.0.0.1:1", "log.access": "off", "log.errors": str(log)})
    with told(sources, Close()) as (status, heard):
        assert status == 0
        assert [type(message) for message in heard] == [Ready, Alive, Counted, Reported, Counted]
    assert {signal.getsignal(number) for number in SIGNALS} == {signal.SIG_IGN}


@pytest.mark.usefixtures("deaf")
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"log.access": "/none/access.log"}, "/none/access.log: No such file or directory"),
        ({"limits.backlog": "0"}, '--set: limits.backlog = "0": must be'),
    ],
)
def test_it_says_why_it_cannot_start(flags: dict[str, str], said: str) -> None:
    sources = Sources(None, {"upstream": "http://127.0.0.1:1", "log.errors": "off"} | flags)
    with told(sources) as (status, heard):
        assert status == 1
        (failed,) = heard
        assert isinstance(failed, Failed)
        assert failed.detail.startswith(said)
