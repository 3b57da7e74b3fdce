"""The PROXY protocol and tcp mode with real programs on the other side: HAProxy, nginx, curl, an echo."""

from __future__ import annotations

import json
import os
import signal
import socket
import socketserver
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from proxy.wire.proxyproto import LOCAL, ProxyHeader
from tests.property.test_wire_proxyproto import outcome
from tests.support import servers
from tests.support.curl import curl
from tests.support.process import Process
from tests.support.servers import RunningProxy
from tests.support.wire import RawUpstream, connect
from tests.unit.test_wire_proxyproto import BAD, GOOD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLIENT = "127.0.0.9"
"""Where clients ask from; everybody else is 127.0.0.1."""

FRONTS = ("v1", "v2", "extended")


@contextmanager
def proxy(folder: Path, *tables: str, workers: int = 1, listeners: int = 1) -> Iterator[RunningProxy]:
    """`posthog-proxy run` with a configuration of these tables."""
    file = folder / "proxy.toml"
    file.write_text("\n".join([f"listen = []\nworkers = {workers}", *tables]))
    command = servers.proxy_command("run", "--config", file)
    with Process(command, name="posthog-proxy", env=servers.clean_environment()) as process:
        yield RunningProxy(process, servers.listening(process, listeners))


def upstream(address: str, name: str = "default", **keys: object) -> str:
    lines = [f"[upstreams.{name}]", f"url = 'http://{address}'"]
    return "\n".join([*lines, *(f"{key} = {json.dumps(value)}" for key, value in keys.items())])


def listener(*senders: str, **keys: object) -> str:
    lines = ["[[listeners]]", "address = '127.0.0.1:0'", f"proxy_protocol = {json.dumps(senders)}"]
    return "\n".join([*lines, *(f"{key} = {json.dumps(value)}" for key, value in keys.items())])


# In front.


@pytest.mark.needs("haproxy", "curl")
@pytest.mark.parametrize("workers", [1, 2])
def test_behind_haproxy_the_header_names_the_client(tmp_path: Path, workers: int) -> None:
    with ExitStack() as stack:
        standin = stack.enter_context(servers.standin())
        behind = upstream(standin.removeprefix("http://"))
        ours = stack.enter_context(proxy(tmp_path, behind, listener("127.0.0.1"), workers=workers))
        front = stack.enter_context(
            servers.haproxy("haproxy_announcing.cfg", tmp_path, upstream=ours.authority)
        )
        for name in FRONTS:
            url = f"http://127.0.0.1:{front.ports[f'{name}_port']}/__standin__/echo"
            answer = curl("--interface", CLIENT, "-H", "X-Forwarded-For: 6.6.6.6", url)
            assert answer.status == 200
            fields = json.loads(answer.body)["fields"]
            assert ["X-Forwarded-For", CLIENT] in fields, name
        records = [line for line in ours.access_log(len(FRONTS)) if line["status"] == 200]
        assert {line["client_ip"] for line in records} == {CLIENT}
        assert {line["client_ip_source"] for line in records} == {"proxy_protocol"}
        assert {line["peer"] for line in records} == {"127.0.0.1"}


@pytest.mark.needs("haproxy", "curl")
def test_a_front_that_does_not_announce_is_refused_and_its_checks_are_not(tmp_path: Path) -> None:
    with ExitStack() as stack:
        ours = stack.enter_context(proxy(tmp_path, upstream("127.0.0.1:9"), listener("127.0.0.1")))
        front = stack.enter_context(
            servers.haproxy("haproxy_announcing.cfg", tmp_path, upstream=ours.authority)
        )
        answer = curl(f"http://127.0.0.1:{front.ports['silent_port']}/e/")
        assert answer.status == 0  # closed without an answer
        (line,) = ours.access_log(1)
        assert line["error"] == "proxy_protocol: a PROXY protocol header was expected"
        for name in ("v1", "v2"):  # its checks found the server up
            assert curl(f"http://127.0.0.1:{front.ports[f'{name}_port']}/e/").status == 503
        assert [line["status"] for line in ours.access_log(3)] == [0, 503, 503]


@pytest.mark.needs("curl")
def test_curl_announces_itself(tmp_path: Path) -> None:
    with servers.standin() as standin:
        behind = upstream(standin.removeprefix("http://"))
        with proxy(tmp_path, behind, listener(CLIENT)) as ours:
            told = curl("--haproxy-protocol", "--interface", CLIENT, f"{ours.url}/__standin__/echo")
            assert told.status == 200
            unlisted = curl("--haproxy-protocol", f"{ours.url}/__standin__/echo")
            assert unlisted.status == 400
            plain = curl(f"{ours.url}/__standin__/echo")
            assert plain.status == 200
            told_line, unlisted_line, plain_line = ours.access_log(3)
    assert told_line["client_ip_source"] == "proxy_protocol"
    assert "listeners[].proxy_protocol does not list its sender" in unlisted_line["error"]
    assert plain_line["client_ip_source"] == "peer"


@pytest.mark.needs("haproxy")
def test_no_header_is_taken_that_haproxy_refuses(tmp_path: Path) -> None:
    """HAProxy judges what the unit tests hold against our reader. It is stricter where a header names nobody
    and the protocol says to ignore the rest: behind UNKNOWN, and with families that are not TCP."""
    with servers.haproxy("haproxy_announced.cfg", tmp_path) as judge:
        for raw in (*GOOD, *BAD):
            ours = outcome(raw)
            if not isinstance(ours, ProxyHeader):
                continue
            if ours.preface is not None:
                assert judged(judge.address, raw) == str(ours.preface.source_ip), raw
            elif raw in (b"PROXY UNKNOWN\r\n", LOCAL):
                assert judged(judge.address, raw) == CLIENT, raw


def judged(address: tuple[str, int], header: bytes) -> str:
    """The client's address as HAProxy reads it; empty: refused."""
    with connect(address, source=CLIENT) as connection:
        try:
            connection.sendall(header + b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            said = b"".join(iter(lambda: connection.recv(65536), b""))
        except ConnectionResetError:
            return ""
    head, _, body = said.partition(b"\r\n\r\n")
    return body.split()[0].decode() if head.startswith(b"HTTP/1.1 200") else ""


@pytest.mark.needs("curl")
def test_a_reload_changes_what_is_spoken_at_an_address(tmp_path: Path) -> None:
    with servers.standin() as standin, echo() as service:
        behind = upstream(standin.removeprefix("http://"))
        with proxy(tmp_path, behind, listener()) as ours:
            expecting = listener(CLIENT)  # at the same address: port 0 stays the one that it was
            assert curl("--interface", CLIENT, f"{ours.url}/_health").status == 200
            for tables, count in (
                ((behind, expecting), 1),
                ((upstream(service), listener(CLIENT, mode="tcp")), 2),
            ):
                file = tmp_path / "proxy.toml"
                file.write_text("\n".join(["listen = []", *tables]))
                ours.process.send_signal(signal.SIGHUP)
                ours.process.wait_for_lines('"event": ?"reloaded"', count)
                assert curl("--interface", CLIENT, f"{ours.url}/_health").status == 0
                if count == 1:
                    told = curl("--interface", CLIENT, "--haproxy-protocol", f"{ours.url}/_health")
                    assert told.status == 200
            assert said_back(ours.address, b"hello", source="127.0.0.1") == b"HELLO"


# Behind.


@pytest.mark.needs("haproxy", "nginx", "curl")
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("program", ["haproxy", "nginx"])
def test_a_server_behind_is_told_of_each_client(tmp_path: Path, program: str, fast: bool) -> None:
    with ExitStack() as stack:
        if program == "haproxy":
            server = stack.enter_context(servers.haproxy("haproxy_announced.cfg", tmp_path))
        else:
            server = stack.enter_context(servers.nginx("nginx_announced.conf", tmp_path))
        behind = upstream(server.authority, proxy_protocol=True)
        path = "fast_path = true\n" if fast else "fast_path = false\n"
        (tmp_path / "ours").mkdir()
        trust = "[trust]\nproxies = ['127.0.0.1']"
        ours = stack.enter_context(proxy(tmp_path / "ours", path, trust, behind, listener()))
        port = ours.address[1]
        for source in (CLIENT, "127.0.0.8"):
            twice = (f"{ours.url}/e/", f"{ours.url}/e/")  # on one connection
            answer = curl("--interface", source, "--data", "{}", *twice)
            said = answer.body.decode().split()
            assert said[0] == source
            assert int(said[1]) == answer.info["local_port"]
            assert said[2:] == ["127.0.0.1", str(port)]
        answer = curl("-H", "X-Forwarded-For: 2001:db8::7", f"{ours.url}/e/")
        said = answer.body.decode().split()
        assert said[0] == "2001:db8::7"
        assert said[-2:] == ["::", str(port)]


@pytest.mark.needs("haproxy")
def test_health_probes_speak_for_the_proxy_itself(tmp_path: Path) -> None:
    with servers.haproxy("haproxy_announced.cfg", tmp_path) as server:
        probed = f"127.0.0.1:{server.ports['probed_port']}"
        behind = upstream(probed, proxy_protocol=True, health_path="/_health")
        health = "[health]\ninterval = 0.1\nfall = 1\nrise = 1"
        (tmp_path / "ours").mkdir()
        with proxy(tmp_path / "ours", health, behind, listener()) as ours:
            server.process.wait_for_lines("probed GET /_health 127.0.0.1", 3, stream="stdout")
            assert curl(f"{ours.url}/e/").status == 204  # it is up


# tcp mode.


class Echo(socketserver.ThreadingTCPServer):
    """A service of the TCP kind: says back what it hears, in capitals."""

    daemon_threads = True
    block_on_close = False

    class Handler(socketserver.BaseRequestHandler):
        request: socket.socket

        def handle(self) -> None:
            while data := self.request.recv(65536):
                self.request.sendall(data.upper())

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), self.Handler)


@contextmanager
def echo() -> Iterator[str]:
    with Echo() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def said_back(address: tuple[str, int], data: bytes, *, source: str = CLIENT) -> bytes:
    """Send everything and half-close meanwhile reading to the end."""
    with socket.create_connection(address, timeout=20, source_address=(source, 0)) as connection:
        sender = threading.Thread(target=_send, args=(connection, data))
        sender.start()
        heard = bytearray()
        while piece := connection.recv(65536):
            heard += piece
        sender.join()
        return bytes(heard)


def _send(connection: socket.socket, data: bytes) -> None:
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_tcp_service_is_reached(tmp_path: Path, workers: int) -> None:
    data = os.urandom(2_000_000).hex().encode()
    with echo() as service:
        tables = upstream(service), listener(mode="tcp")
        with proxy(tmp_path, *tables, workers=workers) as ours:
            for size in (5, 100_000, len(data)):
                assert said_back(ours.address, data[:size]) == data[:size].upper()
            lines = ours.access_log(3)
    sizes = [(size, size) for size in (5, 100_000, len(data))]
    assert sorted((line["bytes_in"], line["bytes_out"]) for line in lines) == sizes
    assert {(line["class"], line["client_ip"], line["termination"]) for line in lines} == {
        ("tcp", CLIENT, "--")
    }


@pytest.mark.needs("haproxy", "nginx", "curl")
def test_headers_go_through_a_chain_of_tcp_relays(tmp_path: Path) -> None:
    """curl → HAProxy (PROXY v2) → ours in tcp mode (in and out) → nginx, which says who the client is."""
    with ExitStack() as stack:
        for name in ("nginx", "ours", "haproxy"):
            (tmp_path / name).mkdir()
        server = stack.enter_context(servers.nginx("nginx_announced.conf", tmp_path / "nginx"))
        tables = upstream(server.authority, proxy_protocol=True), listener("127.0.0.1", mode="tcp")
        ours = stack.enter_context(proxy(tmp_path / "ours", *tables))
        front = stack.enter_context(
            servers.haproxy("haproxy_announcing.cfg", tmp_path / "haproxy", upstream=ours.authority)
        )
        for name in FRONTS:
            url = f"http://127.0.0.1:{front.ports[f'{name}_port']}/"
            answer = curl("--interface", CLIENT, url)
            assert answer.body.decode().split()[:2] == [CLIENT, str(answer.info["local_port"])]


def test_a_service_that_is_down_closes_the_connection_with_a_reason_in_the_log(tmp_path: Path) -> None:
    with RawUpstream() as gone:
        address = gone.url.removeprefix("http://")
    with proxy(tmp_path, upstream(address), listener(mode="tcp"), "[pool]\nretries = 0") as ours:
        with socket.create_connection(ours.address, timeout=10) as connection:
            assert connection.recv(1) == b""
        line: dict[str, Any] = ours.access_log(1)[0]
    assert line["error"].startswith("connect_refused: ")
