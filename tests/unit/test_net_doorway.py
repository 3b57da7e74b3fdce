"""Guests at the door: what is read of them, when they are admitted, and how they are turned away."""

from __future__ import annotations

import asyncio
import errno
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Self

import pytest

from proxy.message import Preface
from proxy.net.doorway import ACCEPT_PAUSE, Doorway, peer_of
from tests.support.turning import Time, turns, until

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from proxy.errors import Violation
    from proxy.message import IPAddress
    from proxy.net.doorway import Guest

pytestmark = pytest.mark.both_loops

HEADER = b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 443\r\n"
CLIENT = ip_address("203.0.113.7")


class House:
    """A doorkeeper that keeps everything in mind."""

    def __init__(self, *, expects: bool = False, first_byte: bool = False) -> None:
        self.time = Time()
        self.guests: list[Guest] = []
        self.inside: list[IPAddress | None] = []
        self.admitted: list[Guest] = []
        self.violations: list[Violation] = []
        self.failures: list[OSError] = []
        self.full = False
        self.room = True
        self.moment: asyncio.Event | None = None
        self.broken = False
        self._expects = expects
        self._first_byte = first_byte
        self._sockets: list[socket.socket] = []
        self._listening = socket.socket()
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen(100)

    async def __aenter__(self) -> Self:
        self.door = Doorway(
            self._listening, self, deadlines=self.time, timeout=5, first_byte=self._first_byte
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.door.close()
        for guest in list(self.guests):
            guest.abort()
        await until(lambda: not self.guests)
        for sock in [*self._sockets, *(guest.socket for guest in self.admitted)]:
            sock.close()
        assert len(self.time) == 0

    def client(self) -> socket.socket:
        sock = socket.socket()
        self._sockets.append(sock)
        sock.connect(self._listening.getsockname())
        sock.settimeout(5)
        return sock

    async def says(self, data: bytes) -> Guest:
        """Connect, send, and return the guest when it is in."""
        client = self.client()
        client.sendall(data)
        await until(lambda: self.admitted)
        return self.admitted[0]

    # The doorkeeper.

    def came(self, guest: Guest) -> bool:
        self.guests.append(guest)
        return self.room

    def expects_header(self, ip: IPAddress | None) -> bool:
        return self._expects

    def enter(self, ip: IPAddress | None) -> bool:
        if self.full:
            return False
        self.inside.append(ip)
        return True

    def leave(self, ip: IPAddress | None) -> None:
        self.inside.remove(ip)

    def admit(self, guest: Guest) -> Coroutine[Any, Any, None] | None:
        if self.broken:
            raise ZeroDivisionError
        if self.moment is None:
            self.admitted.append(guest)
            return None
        return self._admit_later(guest, self.moment)

    async def _admit_later(self, guest: Guest, moment: asyncio.Event) -> None:
        await moment.wait()
        self.admitted.append(guest)

    def refused(self, guest: Guest, violation: Violation) -> None:
        self.violations.append(violation)

    def left(self, guest: Guest) -> None:
        self.guests.remove(guest)

    def accept_failed(self, error: OSError) -> None:
        self.failures.append(error)


async def test_without_a_header_a_guest_is_admitted_at_once() -> None:
    async with House() as house:
        guest = await house.says(b"")
        assert guest.ip == ip_address("127.0.0.1")
        assert guest.port
        assert (guest.preface, guest.first) == (None, b"")
        await until(lambda: not house.guests)
        assert house.inside == []


async def test_the_header_is_taken_and_not_a_byte_more() -> None:
    async with House(expects=True) as house:
        guest = await house.says(HEADER + b"GET / HTTP/1.1\r\n\r\n")
        assert guest.preface == Preface(CLIENT, 56324)
        assert guest.socket.recv(100) == b"GET / HTTP/1.1\r\n\r\n"


async def test_a_header_that_comes_byte_by_byte_is_read_without_spinning() -> None:
    async with House(expects=True) as house:
        client = house.client()
        for byte in HEADER[:-1]:
            client.sendall(bytes([byte]))
            await turns(3)
        await turns()
        (guest,) = house.guests
        with pytest.raises(BlockingIOError):
            guest.socket.recv(1, socket.MSG_PEEK)  # what is left there would wake the loop again and again
        client.sendall(HEADER[-1:] + b"x")
        await until(lambda: house.admitted)
        assert guest.preface == Preface(CLIENT, 56324)
        assert guest.socket.recv(100) == b"x"


@pytest.mark.parametrize("expects", [False, True])
async def test_the_first_byte_is_waited_for_and_stays_where_it_is(expects: bool) -> None:
    async with House(expects=expects, first_byte=True) as house:
        client = house.client()
        client.sendall(HEADER if expects else b"")
        await until(lambda: house.inside)
        await turns()
        assert house.inside == [CLIENT if expects else ip_address("127.0.0.1")]
        assert "WAITING" in repr(house.guests[0])
        client.sendall(b"\x16\x03")
        await until(lambda: house.admitted)
        assert house.admitted[0].first == b"\x16\x03"
        assert house.admitted[0].socket.recv(100) == b"\x16\x03"


async def test_a_peer_that_vouches_for_nobody_is_not_counted() -> None:
    async with House(expects=True) as house:
        house.full = True
        guest = await house.says(b"PROXY UNKNOWN\r\n")
        assert guest.preface is None


@pytest.mark.parametrize("expects", [False, True])
async def test_a_client_with_too_many_connections_is_turned_away(expects: bool) -> None:
    async with House(expects=expects) as house:
        house.full = True
        client = house.client()
        client.sendall(HEADER if expects else b"")
        assert await asyncio.to_thread(client.recv, 1) == b""
        assert [violation.reason for violation in house.violations] == ["connections_per_client"]
        assert house.guests == []


async def test_a_wrong_header_is_refused_and_nothing_is_answered() -> None:
    async with House(expects=True) as house:
        client = house.client()
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        await until(lambda: not house.guests and house.violations)
        assert house.violations[0].reason == "proxy_protocol"
        with pytest.raises(ConnectionResetError):  # it had sent more than was read
            client.recv(1)


async def test_a_header_that_does_not_come_is_refused_when_it_is_late() -> None:
    async with House(expects=True) as house:
        client = house.client()
        client.sendall(HEADER[:9])
        await until(lambda: house.guests)
        await turns()
        house.time.turn(4.9)
        assert house.violations == []
        house.time.turn(0.2)
        assert "in time" in house.violations[0].detail
        assert client.recv(1) == b""


async def test_who_sends_nothing_is_closed_without_a_word() -> None:
    async with House(first_byte=True) as house:
        client = house.client()
        await until(lambda: house.guests)
        house.time.turn(5.1)
        assert client.recv(1) == b""
        assert house.violations == []


@pytest.mark.parametrize(("said", "violations"), [(b"", 0), (HEADER[:20], 1)])
async def test_an_end_is_a_fault_only_inside_the_header(said: bytes, violations: int) -> None:
    async with House(expects=True) as house:
        client = house.client()
        client.sendall(said)
        await until(lambda: house.guests)
        client.close()
        await until(lambda: not house.guests)
        assert len(house.violations) == violations


async def test_a_reset_ends_it() -> None:
    async with House(expects=True) as house:
        client = house.client()
        await until(lambda: house.guests)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        await until(lambda: not house.guests)
        assert house.violations == []


async def test_a_guest_counts_until_it_says_that_it_is_a_connection() -> None:
    async with House() as house:
        house.moment = asyncio.Event()
        house.client()
        await until(lambda: house.guests)
        (guest,) = house.guests
        await turns()
        assert "ADMITTING" in repr(guest)
        guest.gone()
        assert house.guests == []
        assert house.inside == []
        assert "GONE" in repr(guest)
        house.moment.set()
        await until(lambda: house.admitted)


async def test_an_admission_that_is_broken_closes_the_socket() -> None:
    async with House() as house:
        house.broken = True
        reported: list[object] = []
        loop = asyncio.get_running_loop()
        before = loop.get_exception_handler()
        loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
        client = house.client()
        assert await asyncio.to_thread(client.recv, 1) == b""
        loop.set_exception_handler(before)
        assert [type(error) for error in reported] == [ZeroDivisionError]
        assert house.guests == []


async def test_an_admission_can_be_cut() -> None:
    async with House() as house:
        house.moment = asyncio.Event()
        client = house.client()
        await until(lambda: house.guests)
        await turns()
        house.guests[0].abort()
        assert await asyncio.to_thread(client.recv, 1) == b""
        assert house.guests == []


async def test_closing_leaves_those_that_are_inside() -> None:
    async with House(expects=True) as house:
        client = house.client()
        await until(lambda: house.guests)
        house.door.close()
        house.door.close()
        assert "CLOSED" in repr(house.door)
        assert house._listening.fileno() < 0
        client.sendall(HEADER)
        await until(lambda: house.admitted)


async def test_accepting_stops_when_the_doorkeeper_says_so() -> None:
    async with House(expects=True) as house:
        house.room = False
        for _ in range(3):
            house.client()
        await until(lambda: house.guests)
        assert len(house.guests) == 1  # one in each turn of the loop, until somebody closes the door


async def test_a_guest_that_is_turned_away_as_it_comes_is_never_looked_at() -> None:
    async with House() as house:
        came = house.came

        def shut(guest: Guest) -> bool:
            came(guest)
            guest.abort()
            return False

        house.came = shut  # type: ignore[method-assign]
        client = house.client()
        assert await asyncio.to_thread(client.recv, 1) == b""
        assert house.admitted == []


class Failing(socket.socket):
    """A listening socket whose accept(2) fails."""

    error = 0

    def accept(self) -> tuple[socket.socket, object]:
        if self.error:
            number, type(self).error = self.error, 0
            raise OSError(number, "scripted")
        return super().accept()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_a_machine_without_descriptors_is_asked_again_after_a_pause(number: int) -> None:
    async with House() as house:
        house.door.close()
        with Failing() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            Failing.error = number
            house.door = Doorway(listening.dup(), house, deadlines=house.time, timeout=5, first_byte=False)
            house._listening = listening
            house.client()
            await until(lambda: house.failures)
            assert house.failures[0].errno == number
            await turns()
            assert house.admitted == []
            house.time.turn(ACCEPT_PAUSE)
            await until(lambda: house.admitted)


async def test_a_client_that_left_before_it_was_accepted_is_passed_over() -> None:
    async with House() as house:
        house.door.close()
        with Failing() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            Failing.error = errno.ECONNABORTED
            house.door = Doorway(listening.dup(), house, deadlines=house.time, timeout=5, first_byte=False)
            house._listening = listening
            house.client()
            await until(lambda: house.admitted)
            assert house.failures == []


async def test_peers() -> None:
    assert peer_of(("::1", 5, 0, 0)) == (ip_address("::1"), 5)
    assert peer_of(("fe80::1%eth0", 5, 0, 2)) == (ip_address("fe80::1"), 5)
    assert peer_of("") == (None, 0)
