"""Binding real sockets: ports, families, files, and the errors with their addresses."""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from proxy.config.schema import TcpAddress, UnixAddress
from proxy.net.listen import bind, refuse_taken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from proxy.config.schema import ListenAddress
    from proxy.net.listen import Listener

Binder = "Callable[..., list[Listener]]"


@pytest.fixture
def bound() -> Iterator[Callable[..., list[Listener]]]:
    """``bind`` whose listeners are closed after the test."""
    listeners: list[Listener] = []

    def binding(address: ListenAddress, *, backlog: int = 16, reuse_port: bool = False) -> list[Listener]:
        made = bind(address, backlog=backlog, reuse_port=reuse_port)
        listeners.extend(made)
        return made

    yield binding
    for listener in listeners:
        listener.close()


def greeting(listener: Listener) -> bytes:
    """Connect to the address that the listener names, and send a byte through."""
    address = listener.address
    if isinstance(address, TcpAddress):
        client = socket.create_connection((address.host, address.port), timeout=5)
    else:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.connect(address.path)
    with client:
        accepted, _ = listener.socket.accept()
        with accepted:
            accepted.setblocking(True)
            client.sendall(b"!")
            return accepted.recv(1)


class TestTcp:
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1", "127.0.0.2"])
    def test_port_0_becomes_the_real_port(self, bound: Binder, host: str) -> None:
        (listener,) = bound(TcpAddress(host, 0))
        assert isinstance(listener.address, TcpAddress)
        assert listener.address == TcpAddress(host, listener.socket.getsockname()[1])
        assert listener.address.port != 0
        assert greeting(listener) == b"!"

    def test_a_name_is_bound_at_all_its_addresses_with_one_port(self, bound: Binder) -> None:
        listeners = bound(TcpAddress("localhost", 0))
        found = socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)
        assert {listener.address.host for listener in listeners} == {info[4][0] for info in found}
        assert len({listener.address.port for listener in listeners}) == 1

    def test_ipv6_is_ipv6_alone_so_both_wildcards_share_a_port(self, bound: Binder) -> None:
        (six,) = bound(TcpAddress("::", 0))
        (four,) = bound(TcpAddress("0.0.0.0", six.address.port))
        assert six.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
        assert str(six.address) == f"[::]:{four.address.port}"

    def test_a_port_in_use(self, bound: Binder) -> None:
        (listener,) = bound(TcpAddress("127.0.0.1", 0))
        with pytest.raises(OSError, match=f"cannot listen on {listener.address}: Address already") as caught:
            bind(listener.address, backlog=16)
        assert caught.value.errno == errno.EADDRINUSE

    def test_a_name_whose_port_is_in_use_leaves_nothing_bound(self, bound: Binder) -> None:
        hosts = [str(info[4][0]) for info in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)]
        (taken,) = bound(TcpAddress(hosts[-1], 0))
        with pytest.raises(OSError, match="cannot listen on localhost"):
            bind(TcpAddress("localhost", taken.address.port), backlog=16)
        for host in hosts[:-1]:
            bound(TcpAddress(host, taken.address.port))

    def test_an_address_of_another_machine(self) -> None:
        with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1:0: Cannot assign") as caught:
            bind(TcpAddress("192.0.2.1", 0), backlog=16)
        assert caught.value.errno == errno.EADDRNOTAVAIL

    def test_a_name_that_nobody_knows(self) -> None:
        with pytest.raises(OSError, match=r"cannot listen on nobody\.invalid:0: ") as caught:
            bind(TcpAddress("nobody.invalid", 0), backlog=16)
        assert caught.value.errno == errno.EADDRNOTAVAIL

    def test_several_sockets_share_a_port_when_asked_to(self, bound: Binder) -> None:
        (first,) = bound(TcpAddress("127.0.0.1", 0), reuse_port=True)
        (second,) = bound(first.address, reuse_port=True)
        assert first.address == second.address
        with pytest.raises(OSError, match="already in use"):
            bind(first.address, backlog=16)

    def test_bound_without_listening(self) -> None:
        (listener,) = bind(TcpAddress("127.0.0.1", 0), backlog=16, listen=False)
        where = (listener.address.host, listener.address.port)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(where)
        listener.socket.listen(16)
        socket.create_connection(where).close()
        listener.close()

    def test_whether_somebody_listens(self, bound: Binder) -> None:
        (listener,) = bound(TcpAddress("127.0.0.1", 0), reuse_port=True)
        with pytest.raises(OSError, match=f"cannot listen on {listener.address}: Address already"):
            refuse_taken(listener.address)
        listener.close()
        refuse_taken(listener.address)
        refuse_taken(listener.address)

    def test_bound_again_while_old_connections_linger(self) -> None:
        (listener,) = bind(TcpAddress("127.0.0.1", 0), backlog=16)
        client = socket.create_connection((listener.address.host, listener.address.port))
        accepted, _ = listener.socket.accept()
        accepted.close()  # the side that closes first keeps the port in TIME_WAIT
        client.close()
        listener.close()
        (again,) = bind(listener.address, backlog=16)
        again.close()

    def test_its_connections_notice_a_vanished_client(self, bound: Binder) -> None:
        (listener,) = bound(TcpAddress("127.0.0.1", 0))
        with socket.create_connection((listener.address.host, listener.address.port)):
            accepted, _ = listener.socket.accept()
            with accepted:
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1

    def test_it_does_not_block(self, bound: Binder) -> None:
        (listener,) = bound(TcpAddress("127.0.0.1", 0))
        with pytest.raises(BlockingIOError):
            listener.socket.accept()


class TestUnix:
    def test_the_file_appears_and_goes(self, tmp_path: Path) -> None:
        path = tmp_path / "proxy.sock"
        (listener,) = bind(UnixAddress(str(path)), backlog=16)
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert listener.address == UnixAddress(str(path))
        assert greeting(listener) == b"!"
        listener.close()
        assert not path.exists()
        listener.close()

    @pytest.mark.parametrize("umask", [0o000, 0o077])
    def test_the_umask_does_not_matter(self, tmp_path: Path, bound: Binder, umask: int) -> None:
        before = os.umask(umask)
        try:
            bound(UnixAddress(str(tmp_path / "s")))
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o660

    def test_the_file_of_a_dead_server_is_replaced(self, tmp_path: Path, bound: Binder) -> None:
        path = str(tmp_path / "s")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
            dead.bind(path)
        (listener,) = bound(UnixAddress(path))
        assert greeting(listener) == b"!"

    def test_a_living_server_keeps_its_file(self, tmp_path: Path, bound: Binder) -> None:
        address = UnixAddress(str(tmp_path / "s"))
        (listener,) = bound(address)
        with pytest.raises(OSError, match=f"cannot listen on {address}: another server is") as caught:
            bind(address, backlog=16)
        assert caught.value.errno == errno.EADDRINUSE
        listener.socket.accept()[0].close()  # the question
        assert greeting(listener) == b"!"

    def test_so_does_one_whose_queue_is_full(self, tmp_path: Path, bound: Binder) -> None:
        address = UnixAddress(str(tmp_path / "s"))
        bound(address, backlog=0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(address.path)
            with pytest.raises(OSError, match="another server is listening there"):
                bind(address, backlog=16)

    def test_any_other_file_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "precious"
        path.write_text("data")
        with pytest.raises(OSError, match="exists and is not a socket"):
            bind(UnixAddress(str(path)), backlog=16)
        assert path.read_text() == "data"

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match=f"cannot listen on unix:{tmp_path}/no/s: No such file"):
            bind(UnixAddress(f"{tmp_path}/no/s"), backlog=16)

    def test_the_file_of_a_successor_stays(self, tmp_path: Path, bound: Binder) -> None:
        path = tmp_path / "s"
        (old,) = bind(UnixAddress(str(path)), backlog=16)
        path.unlink()
        (new,) = bound(UnixAddress(str(path)))
        old.close()
        assert greeting(new) == b"!"
