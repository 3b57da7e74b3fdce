"""The socket options, asked back from the kernel."""

from __future__ import annotations

import socket

import pytest

from proxy.net.options import tune

OPTIONS = {
    (socket.IPPROTO_TCP, socket.TCP_NODELAY): 1,
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): 30,
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 10,
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 3,
}


def options(sock: socket.socket) -> dict[tuple[int, int], int]:
    return {option: sock.getsockopt(*option) for option in OPTIONS}


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize(("user_timeout", "milliseconds"), [(False, 0), (True, 30_000)])
def test_tcp(family: socket.AddressFamily, user_timeout: bool, milliseconds: int) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        tune(sock, user_timeout=user_timeout)
        assert options(sock) == OPTIONS
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == milliseconds


def test_a_unix_socket_has_none_of_them() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        tune(sock, user_timeout=True)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


def test_an_accepted_socket_inherits_them() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        tune(server)
        with socket.create_connection(server.getsockname()):
            accepted, _ = server.accept()
            with accepted:
                assert options(accepted) == OPTIONS
