"""Looking names up: when, how often, and what is answered meanwhile."""

from __future__ import annotations

import asyncio
import socket

import pytest

from proxy.clock import NEVER
from proxy.config.schema import TcpAddress, UnixAddress
from proxy.errors import Failure, Resend, Source
from proxy.net.resolve import MAX_ADDRESSES, Resolver, SocketAddress, interleave, system_lookup
from tests.support.turning import Time, turns

REFRESH = 15.0


def four(number: int) -> SocketAddress:
    return SocketAddress(socket.AF_INET, (f"127.0.0.{number}", 80))


def six(number: int) -> SocketAddress:
    return SocketAddress(socket.AF_INET6, (f"::{number}", 80, 0, 0))


class Names:
    """A resolver of names whose answers the test gives, one by one."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[list[SocketAddress]]] = []

    async def lookup(self, host: str, port: int) -> list[SocketAddress]:
        assert (host, port) == ("posthog.internal", 80)
        self.asked.append(asyncio.get_running_loop().create_future())
        return await self.asked[-1]

    async def answer(self, *addresses: SocketAddress) -> None:
        self.asked[-1].set_result(list(addresses))
        await turns()

    async def fail(self, error: Exception) -> None:
        self.asked[-1].set_exception(error)
        await turns()


class Stage:
    """A resolver of the name ``posthog.internal``."""

    def __init__(self) -> None:
        self.time = Time()
        self.names = Names()
        self.resolver = Resolver(TcpAddress("posthog.internal", 80), REFRESH, self.time, self.names.lookup)

    async def ask(self, seconds: float = NEVER) -> asyncio.Task[tuple[SocketAddress, ...]]:
        """Ask with this much time left."""
        asking = asyncio.ensure_future(self.resolver.addresses(self.time.now + seconds))
        await turns()
        return asking

    async def known(self, *addresses: SocketAddress) -> None:
        """Look the name up for the first time."""
        asking = await self.ask()
        await self.names.answer(*addresses)
        assert await asking == addresses


class TestFirstLookup:
    async def test_waits_and_remembers(self) -> None:
        stage = Stage()
        asking = await stage.ask()
        assert not asking.done()
        assert "LOOKING" in repr(stage.resolver)
        await stage.names.answer(four(1), four(2))
        assert await asking == (four(1), four(2))
        assert await (await stage.ask()) == (four(1), four(2))
        assert len(stage.names.asked) == 1
        assert repr(stage.resolver) == "<Resolver RESTING posthog.internal 127.0.0.1:80, 127.0.0.2:80>"

    async def test_all_who_ask_share_one_lookup(self) -> None:
        stage = Stage()
        asking = [await stage.ask() for _ in range(5)]
        await stage.names.answer(four(1))
        assert await asyncio.gather(*asking) == [(four(1),)] * 5
        assert len(stage.names.asked) == 1

    async def test_one_who_leaves_does_not_end_it(self) -> None:
        stage = Stage()
        leaving, staying = await stage.ask(), await stage.ask()
        leaving.cancel()
        await turns()
        await stage.names.answer(four(1))
        assert await staying == (four(1),)

    async def test_one_who_leaves_at_the_very_moment_of_the_answer(self) -> None:
        stage = Stage()
        leaving, staying = await stage.ask(), await stage.ask()
        stage.names.asked[0].set_result([four(1)])
        await asyncio.sleep(0)
        leaving.cancel()
        assert await staying == (four(1),)

    async def test_too_slow(self) -> None:
        stage = Stage()
        asking = await stage.ask(3.0)
        stage.time.turn(3.0)
        with pytest.raises(Failure, match=r"posthog\.internal: the lookup took too long") as caught:
            await asking
        failure = caught.value
        assert (failure.source, failure.kind, failure.status) == (Source.UPSTREAM, "dns_failed", 504)
        assert failure.resend is Resend.ANY
        await stage.resolver.close()

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
            (OSError("no network"), "no network"),
            (UnicodeError("label too long"), "label too long"),
        ],
    )
    async def test_in_vain(self, error: Exception, reason: str) -> None:
        stage = Stage()
        asking = await stage.ask()
        await stage.names.fail(error)
        with pytest.raises(Failure, match=f"no address for posthog.internal: {reason}") as caught:
            await asking
        assert (caught.value.kind, caught.value.status) == ("dns_failed", 502)

    async def test_no_address_at_all(self) -> None:
        stage = Stage()
        asking = await stage.ask()
        await stage.names.answer()
        with pytest.raises(Failure, match="the name has no address"):
            await asking

    async def test_after_a_vain_one_it_is_looked_up_again_but_not_within_a_second(self) -> None:
        stage = Stage()
        asking = await stage.ask()
        await stage.names.fail(OSError("no network"))
        assert asking.exception() is not None
        stage.time.turn(0.9)
        with pytest.raises(Failure, match="no network"):
            await (await stage.ask())
        assert len(stage.names.asked) == 1
        stage.time.turn(0.1)
        asking = await stage.ask()
        await stage.names.answer(four(1))
        assert await asking == (four(1),)

    async def test_many_addresses_are_cut(self) -> None:
        stage = Stage()
        asking = await stage.ask()
        await stage.names.answer(*map(four, range(1, 100)))
        assert len(await asking) == MAX_ADDRESSES


class TestRefresh:
    async def test_not_before_its_time(self) -> None:
        stage = Stage()
        await stage.known(four(1))
        stage.time.turn(REFRESH - 0.1)
        assert await (await stage.ask()) == (four(1),)
        assert len(stage.names.asked) == 1

    async def test_then_beside_the_request_that_asks(self) -> None:
        stage = Stage()
        await stage.known(four(1))
        stage.time.turn(REFRESH)
        assert await (await stage.ask()) == (four(1),)
        assert await (await stage.ask()) == (four(1),)
        assert len(stage.names.asked) == 2
        await stage.names.answer(four(2))
        assert await (await stage.ask()) == (four(2),)

    async def test_after_a_long_silence_the_request_waits_for_it(self) -> None:
        stage = Stage()
        await stage.known(four(1))
        stage.time.turn(4 * REFRESH)
        asking = await stage.ask()
        assert not asking.done()
        await stage.names.answer(four(2))
        assert await asking == (four(2),)

    async def test_but_only_half_of_its_time(self) -> None:
        stage = Stage()
        await stage.known(four(1))
        stage.time.turn(4 * REFRESH)
        asking = await stage.ask(3.0)
        stage.time.turn(1.5)
        assert await asking == (four(1),)
        await stage.resolver.close()

    async def test_a_failed_one_keeps_the_last_good_answer(self) -> None:
        stage = Stage()
        await stage.known(four(1))
        stage.time.turn(4 * REFRESH)
        asking = await stage.ask()
        await stage.names.fail(OSError("no network"))
        assert await asking == (four(1),)
        stage.time.turn(REFRESH - 0.1)
        assert await (await stage.ask()) == (four(1),)
        assert len(stage.names.asked) == 2

    async def test_when_no_address_answers_it_is_looked_up_at_the_next_use(self) -> None:
        stage = Stage()
        await stage.known(four(1))
        stage.time.turn(2.0)
        stage.resolver.distrust()
        asking = await stage.ask()
        assert not asking.done()
        await stage.names.answer(four(2))
        assert await asking == (four(2),)
        assert await (await stage.ask()) == (four(2),)

    async def test_but_not_if_that_was_done_a_moment_ago(self) -> None:
        stage = Stage()
        await stage.known(four(1))
        stage.time.turn(0.5)
        stage.resolver.distrust()
        assert await (await stage.ask()) == (four(1),)
        assert len(stage.names.asked) == 1


class TestWithoutLookup:
    @pytest.mark.parametrize(
        ("address", "expected", "text"),
        [
            (TcpAddress("127.0.0.1", 80), four(1), "127.0.0.1:80"),
            (TcpAddress("::1", 80), six(1), "[::1]:80"),
            (UnixAddress("/run/s"), SocketAddress(socket.AF_UNIX, "/run/s"), "unix:/run/s"),
        ],
    )
    async def test_literal_addresses(
        self, address: TcpAddress | UnixAddress, expected: SocketAddress, text: str
    ) -> None:
        time, names = Time(), Names()
        resolver = Resolver(address, REFRESH, time, names.lookup)
        time.turn(1000.0)
        resolver.distrust()
        assert await resolver.addresses(time.now) == (expected,)
        assert names.asked == []
        assert str(expected) == text
        assert "LITERAL" in repr(resolver)
        await resolver.close()


class TestInterleave:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ([six(1), six(2), four(1), four(2)], (six(1), four(1), six(2), four(2))),
            ([four(1), four(2), six(1)], (four(1), six(1), four(2))),
            ([six(1), six(2), six(3), four(1)], (six(1), four(1), six(2), six(3))),
            ([four(1), four(1), four(2)], (four(1), four(2))),
        ],
    )
    def test_the_families_take_turns(
        self, given: list[SocketAddress], expected: tuple[SocketAddress, ...]
    ) -> None:
        assert interleave(given) == expected


@pytest.mark.both_loops
class TestSystem:
    async def test_asks_the_hosts_file(self) -> None:
        found = await system_lookup("localhost", 8000)
        assert SocketAddress(socket.AF_INET, ("127.0.0.1", 8000)) in found

    async def test_a_name_that_nobody_knows(self) -> None:
        with pytest.raises(socket.gaierror):
            await system_lookup("nobody.invalid", 80)

    async def test_something_that_is_no_name(self) -> None:
        resolver = Resolver(TcpAddress("x" * 64 + ".test", 80), REFRESH, Time())
        with pytest.raises(Failure, match="no address for xxx"):
            await resolver.addresses(NEVER)
