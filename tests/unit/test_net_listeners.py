"""Listening sockets by share, over reloads: which are kept, which are closed, who accepts where."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from proxy.config.schema import TcpAddress, UnixAddress
from proxy.net.listeners import Listeners, _is_at, owner_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from proxy.config.schema import ListenAddress
    from proxy.net.listen import Listener

ANY = TcpAddress("127.0.0.1", 0)


@contextmanager
def bound(*addresses: ListenAddress, **options: Any) -> Iterator[Listeners]:
    """Listeners that are closed in the end."""
    listeners = Listeners.bind(addresses, **{"backlog": 64, "reuse_port": True, **options})
    try:
        yield listeners
    finally:
        listeners.close()


def sockets(listeners: Listeners) -> list[Listener]:
    return [listener for place in listeners.places for share in place.shares for listener in share]


def accepts(address: ListenAddress) -> bool:
    """Whether somebody listens there."""
    family, where = (
        (socket.AF_UNIX, address.path)
        if isinstance(address, UnixAddress)
        else (socket.AF_INET, (address.host, address.port))
    )
    with socket.socket(family, socket.SOCK_STREAM) as client:
        return client.connect_ex(where) == 0


@pytest.mark.parametrize(
    ("workers", "owners"),
    [
        ({0}, [0, 0, 0, 0]),
        ({0, 1, 2, 3}, [0, 1, 2, 3]),
        ({0, 1}, [0, 1, 0, 1]),
        ({1, 3}, [1, 1, 1, 3]),
        ({3}, [3, 3, 3, 3]),
    ],
)
def test_every_share_has_exactly_one_owner_its_own_if_it_is_there(
    workers: set[int], owners: list[int]
) -> None:
    assert [owner_of(share, workers) for share in range(4)] == owners


def test_a_tcp_address_has_a_socket_for_each_worker_and_a_unix_socket_one_for_all(tmp_path: Path) -> None:
    unix = UnixAddress(str(tmp_path / "s"))
    with bound(ANY, unix, shares=3) as listeners:
        tcp, path = listeners.addresses
        assert path == unix
        assert [listener.address for listener in sockets(listeners)] == [tcp, tcp, tcp, unix]
        each = [listeners.for_worker(number, {0, 1, 2}) for number in range(3)]
        assert [[listener.address for listener in some] for some in each] == [[tcp, unix]] * 3
        assert len({some[0] for some in each}) == 3
        assert len({some[1] for some in each}) == 1
        assert len(listeners.for_worker(0, {0})) == 4
        assert repr(listeners) == f"<Listeners 127.0.0.1:0 x3, {unix} x1>"


def test_a_name_has_all_its_sockets_in_each_share() -> None:
    with bound(TcpAddress("localhost", 0), shares=2) as listeners:
        first, second = (listeners.for_worker(number, {0, 1}) for number in range(2))
        assert [listener.address for listener in first] == [listener.address for listener in second]
        assert [listener.address for listener in first] == list(listeners.addresses)


def test_connections_come_to_every_share() -> None:
    with bound(ANY, shares=2) as listeners:
        (address,) = listeners.addresses
        assert isinstance(address, TcpAddress)
        clients = [socket.create_connection((address.host, address.port)) for _ in range(40)]
        counts = []
        for listener in sockets(listeners):
            accepted = []
            while True:
                try:
                    accepted.append(listener.socket.accept()[0])
                except BlockingIOError:
                    break
            counts.append(len(accepted))
            for sock in accepted:
                sock.close()
        for client in clients:
            client.close()
        assert sum(counts) == 40
        assert min(counts) > 0


def test_a_reload_keeps_what_is_asked_for_again_and_closes_the_rest(tmp_path: Path) -> None:
    gone, stays = UnixAddress(str(tmp_path / "gone")), UnixAddress(str(tmp_path / "stays"))
    before = Listeners.bind([ANY, gone, ANY, stays], backlog=16, shares=2, reuse_port=True)
    first, _, third, _ = before.addresses
    with bound(stays, ANY, TcpAddress("127.0.0.2", 0), kept=before, shares=2) as after:
        assert after.addresses[:2] == (stays, first)
        assert set(sockets(after)) & set(sockets(before)) == {
            listener for listener in sockets(before) if listener.address in (stays, first)
        }
        before.close(but=after)
        assert [accepts(address) for address in (first, third, stays, gone)] == [True, False, True, False]
        assert not (tmp_path / "gone").exists()
        assert accepts(after.addresses[2])
    assert not accepts(first)
    assert not (tmp_path / "stays").exists()


def test_more_workers_get_sockets_that_have_no_connection_before_they_listen() -> None:
    with bound(ANY) as before, bound(ANY, kept=before, shares=3) as after:
        (address,) = after.addresses
        assert isinstance(address, TcpAddress)
        old, *new = sockets(after)
        assert len(new) == 2
        assert [old] == sockets(before)
        assert not any(
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for sock in (each.socket for each in new)
        )
        after.listen(16)
        assert all(each.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for each in sockets(after))


def test_fewer_workers_divide_all_sockets_among_them() -> None:
    with bound(ANY, shares=3) as before, bound(ANY, kept=before, shares=2) as after:
        assert sockets(after) == sockets(before)
        divided = [after.for_worker(number, {0, 1}) for number in range(2)]
        assert [len(some) for some in divided] == [2, 1]
        assert {listener for some in divided for listener in some} == set(sockets(before))


def test_what_cannot_be_bound_leaves_everything_as_it_was(tmp_path: Path) -> None:
    with bound(ANY) as before, socket.create_server(("127.0.0.1", 0)) as other:
        taken = TcpAddress("127.0.0.1", other.getsockname()[1])
        new = UnixAddress(str(tmp_path / "new"))
        with pytest.raises(OSError, match=f"cannot listen on {taken}"):
            Listeners.bind([ANY, new, taken], backlog=16, shares=4, reuse_port=True, kept=before)
        assert not (tmp_path / "new").exists()
        assert accepts(before.addresses[0])
        assert len(sockets(before)) == 1


def test_a_port_that_another_server_shares_is_refused() -> None:
    with bound(ANY) as other, pytest.raises(OSError, match="already in use"):
        Listeners.bind(other.addresses, backlog=16, reuse_port=True)


def test_an_address_may_overlap_one_of_before() -> None:
    with bound(ANY, shares=2) as before:
        (address,) = before.addresses
        assert isinstance(address, TcpAddress)
        wide = TcpAddress("0.0.0.0", address.port)
        with bound(wide, kept=before, shares=2) as after:
            before.close(but=after)
            assert accepts(address)
            assert sockets(after)[0].address == wide


def test_sockets_know_what_they_are_for_and_learn_it_anew_at_a_reload() -> None:
    with bound(ANY, TcpAddress("127.0.0.2", 0), shares=2) as before:
        assert [listener.entry for listener in sockets(before)] == [0, 0, 1, 1]
        other = TcpAddress("127.0.0.3", 0)
        after = Listeners.bind(
            [other, TcpAddress("127.0.0.2", 0), ANY], backlog=64, shares=2, reuse_port=True, kept=before
        )
        try:
            assert [listener.entry for listener in sockets(after)] == [0, 0, 1, 1, 2, 2]
            assert {each.socket for each in sockets(before)} < {each.socket for each in sockets(after)}
            assert set(sockets(before)) < set(sockets(after))
        finally:
            after.close(but=before)


def test_a_socket_that_exists_is_used_for_its_address_by_all_workers(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.create_server(("127.0.0.2", 0)) as unasked,
    ):
        unix.bind(path)
        unix.listen()
        given = [each.dup() for each in (tcp, unix, unasked)]
        asked = TcpAddress(*tcp.getsockname())
        with bound(ANY, asked, UnixAddress(path), shares=2, given=given) as before:
            assert before.addresses[1:] == (asked, UnixAddress(path))
            each = [before.for_worker(number, {0, 1}) for number in range(2)]
            assert each[0][1:] == each[1][1:]
            assert [listener.socket for listener in each[0][1:]] == given[:2]
            assert [listener.entry for listener in each[0]] == [0, 1, 2]
            after = Listeners.bind([asked], backlog=64, shares=4, reuse_port=True, kept=before, given=given)
            assert [each.socket for each in sockets(after)] == [given[0]]
            before.close(but=after)
            assert accepts(asked)
            after.close()
            given[2].close()
        assert accepts(asked)  # it is still open where it came from
        assert accepts(UnixAddress(path))


@pytest.mark.parametrize(
    ("host", "asked", "is_it"),
    [
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("0.0.0.0", "0.0.0.0", True),
        ("0.0.0.0", "::", False),
    ],
)
def test_which_address_a_socket_is_for(host: str, asked: str, is_it: bool) -> None:
    with socket.create_server((host, 0)) as sock:
        address = TcpAddress(asked, sock.getsockname()[1])
        assert _is_at(sock, address) is is_it
        assert not _is_at(sock, TcpAddress(asked, 1))
        assert not _is_at(sock, UnixAddress("/x"))


@pytest.mark.parametrize("both", [False, True])
def test_one_socket_for_both_families(both: bool) -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=both) as sock:
        port = sock.getsockname()[1]
        assert _is_at(sock, TcpAddress("::", port))
        assert _is_at(sock, TcpAddress("0.0.0.0", port)) is both
