"""The command `posthog-proxy run` as a process: start, signals, exit codes, messages, logs."""

from __future__ import annotations

import json
import signal
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support import servers
from tests.support.process import Process
from tests.support.wire import OK, Client, RawUpstream, Reader, Received, exchange

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GET = b"GET /slow HTTP/1.1\r\nHost: posthog.example.test\r\n\r\n"

PROMPT = 10.0
"""Seconds for what must happen at once; the drain would take 25."""


class Held:
    """An upstream answer that waits until the test lets it go."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def __call__(self, _: Received) -> bytes:
        assert self.released.wait(60)
        return b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nat last"


def ended(*arguments: str | Path, env: dict[str, str] | None = None) -> Process:
    """Run a command of `posthog-proxy` to its end."""
    process = Process(
        servers.proxy_command(*arguments), name="posthog-proxy", env=servers.clean_environment(**(env or {}))
    )
    with process:
        process.wait(PROMPT)
    return process


@contextmanager
def busy_proxy() -> Iterator[tuple[servers.RunningProxy, Client, Held]]:
    """A proxy with one request that its upstream has but does not answer yet."""
    held = Held()
    with (
        RawUpstream(held) as upstream,
        servers.posthog_proxy(upstream.url) as proxy,
        Client(proxy.address) as client,
    ):
        client.send(GET)
        upstream.next_request()
        try:
            yield proxy, client, held
        finally:
            held.released.set()


# Stopping.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains_what_runs(number: signal.Signals) -> None:
    with busy_proxy() as (proxy, client, held):
        proxy.process.send_signal(number)
        proxy.process.wait_for_lines('"event": ?"draining"')
        proxy.process.wait_until_refused(*proxy.address)
        assert proxy.process.returncode is None

        held.released.set()
        answer = client.answer()
        assert (answer.status, answer.body) == (200, b"at last")
        assert answer.values("Connection") == [b"close"]
        assert client.ended()
        assert proxy.process.wait(PROMPT) == 0


def test_upload_that_has_begun_may_end() -> None:
    body = bytes(range(256)) * 4096
    with RawUpstream() as upstream, servers.posthog_proxy(upstream.url) as proxy:
        with Client(proxy.address) as client:
            head = (
                f"POST /s/ HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
            )
            client.send(head.encode())
            assert client.interim().status == 100
            client.send(body[: len(body) // 2])
            proxy.process.send_signal(signal.SIGTERM)
            proxy.process.wait_until_refused(*proxy.address)
            client.send(body[len(body) // 2 :])
            assert client.answer().status == 200
        assert upstream.next_request().body == body
        assert proxy.process.wait(PROMPT) == 0


def test_stream_does_not_hold_up_the_end() -> None:
    """Live events never end by themselves; they are given less time than other answers."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        servers.posthog_proxy(
            f"http://127.0.0.1:{listener.getsockname()[1]}", "--set", "timeouts.drain_streams=0.3s"
        ) as proxy,
        Client(proxy.address) as client,
    ):
        client.send(b"GET /livestream/events HTTP/1.1\r\nHost: a\r\n\r\n")
        upstream, _ = listener.accept()
        with upstream:
            Reader(upstream).until(b"\r\n\r\n")
            upstream.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
            upstream.sendall(b"Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n")
            assert client.interim().status == 200
            assert client.until(b"\n\n\r\n") == b"9\r\ndata: 1\n\n\r\n"
            proxy.process.send_signal(signal.SIGTERM)
            assert proxy.process.wait(PROMPT) == 0


def test_idle_connection_is_closed_at_once() -> None:
    with RawUpstream() as upstream, servers.posthog_proxy(upstream.url) as proxy:
        with Client(proxy.address) as client:
            client.send(GET)
            assert client.answer().status == 200
            proxy.process.send_signal(signal.SIGTERM)
            assert client.ended()
        assert proxy.process.wait(PROMPT) == 0


def test_second_signal_ends_at_once() -> None:
    with busy_proxy() as (proxy, client, _):
        proxy.process.send_signal(signal.SIGTERM)
        proxy.process.wait_for_lines('"event": ?"draining"')
        proxy.process.send_signal(signal.SIGTERM)
        assert proxy.process.wait(PROMPT) == 128 + signal.SIGTERM
        assert client.answer().status == 503
        assert client.ended()


def test_port_is_free_again_after_the_end() -> None:
    with RawUpstream() as upstream:
        with servers.posthog_proxy(upstream.url) as proxy:
            assert exchange(proxy.address, GET).status == 200
            taken = proxy.authority
            proxy.process.send_signal(signal.SIGTERM)
            assert proxy.process.wait(PROMPT) == 0
        with servers.posthog_proxy(upstream.url, listen=[taken]) as proxy:
            assert proxy.authority == taken
            assert exchange(proxy.address, GET).status == 200


# Not starting.


def test_port_in_use_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        trusted = ("--trusted-proxies", "127.0.0.1")
        process = ended("run", "--listen", address, "--upstream", "http://127.0.0.1:9", *trusted)
    assert process.returncode == 1
    [line] = process.stderr
    assert address in line
    assert "in use" in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("upstrem = 'http://127.0.0.1:9'", ["upstrem", "did you mean upstream?"]),
        ("workers = 'two'", ["workers", "two"]),
        ("upstream = 'ftp://127.0.0.1'", ["upstream", "ftp://127.0.0.1", "http://"]),
        ("[limits]\nhead_bytes = -1", ["limits.head_bytes", "-1", "from 1KiB to 1MiB"]),
        ("[trust]\nproxies = ['10.0.0.0/33']", ["trust.proxies", "10.0.0.0/33"]),
        ("this is not TOML", ["proxy.toml", "line 1"]),
    ],
)
def test_configuration_that_cannot_be_used(tmp_path: Path, text: str, words: list[str]) -> None:
    config = tmp_path / "proxy.toml"
    config.write_text(text + "\n")
    for command in ("run", "check"):
        process = ended(command, "--config", config)
        said = "\n".join(process.stderr)
        assert process.returncode == 2
        assert [word for word in words if word not in said] == []
        assert "Traceback" not in said


def test_flag_that_cannot_be_used() -> None:
    process = ended("run", "--listen", "127.0.0.1:70000", "--upstream", "http://127.0.0.1:9")
    assert process.returncode == 2
    assert any("127.0.0.1:70000" in line for line in process.stderr)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    process = ended("run", "--config", tmp_path / "missing.toml")
    assert process.returncode == 2
    assert any("missing.toml" in line for line in process.stderr)
    assert not any("Traceback" in line for line in process.stderr)


# Strength: flags before environment before file.


def test_flag_wins_over_environment_over_file(tmp_path: Path) -> None:
    config = tmp_path / "proxy.toml"
    config.write_text("listen = ['127.0.0.1:1']\n[trust]\nproxies = ['192.0.2.0/24']\n")
    env = {"TRUSTED_PROXIES": "127.0.0.5", "IS_BEHIND_PROXY": "true"}
    told = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n"
    with RawUpstream() as upstream:
        with servers.posthog_proxy(upstream.url, "--config", config, trusted="", env=env) as proxy:
            exchange(proxy.address, told, source="127.0.0.5")
            assert upstream.next_request().values("X-Forwarded-For") == [b"203.0.113.7"]
        with servers.posthog_proxy(upstream.url, "--config", config, trusted="127.0.0.6", env=env) as proxy:
            exchange(proxy.address, told, source="127.0.0.5")
            assert upstream.next_request().values("X-Forwarded-For") == [b"127.0.0.5"]


# Logs.


def test_access_log_is_one_json_object_a_request() -> None:
    lines = [
        "POST /e/?api_key=phc_secretsecretsecret&ver=1.449.0 HTTP/1.1",
        "Host: posthog.example.test",
        "User-Agent: Mozilla/5.0 \xe4",
        "X-Forwarded-For: 203.0.113.7",
        "Content-Length: 3",
    ]
    request = "\r\n".join([*lines, "", "abc"]).encode("latin-1")
    answer = b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nhello"
    with RawUpstream(answer) as upstream, servers.posthog_proxy(upstream.url) as proxy:
        got = exchange(proxy.address, request)
        [record] = proxy.access_log(1)
        sent_id = upstream.next_request().values("X-Request-Id")

    assert got.status == 201
    expected = {
        "listener": proxy.authority,
        "client_ip": "203.0.113.7",
        "peer": "127.0.0.1",
        "client_ip_source": "x_forwarded_for",
        "trusted_hops": 1,
        "method": "POST",
        "host": "posthog.example.test",
        "path": "/e/",
        "class": "ingest_v0",
        "upstream": "default",
        "upstream_addr": f"127.0.0.1:{upstream.port}",
        "status": 201,
        "upstream_status": 201,
        "origin": "upstream",
        "retries": 0,
        "reused": False,
        "sdk": "posthog-js",
        "sdk_version": "1.449.0",
        "termination": "--",
        "error": "",
    }
    assert {name: record[name] for name in expected} == expected
    assert [record["request_id"].encode()] == sent_id
    assert record["bytes_in"] == len(request)
    assert record["bytes_out"] == len(got.message.head) + len(got.message.raw_body)
    assert record["t_total"] >= record["t_first_byte"] >= 0
    assert "secret" not in "\n".join(proxy.process.stdout)


def test_refusal_is_logged_with_its_reason() -> None:
    with RawUpstream() as upstream, servers.posthog_proxy(upstream.url) as proxy:
        got = exchange(proxy.address, b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n")
        [record] = proxy.access_log(1)
    assert got.status == 400
    assert (record["status"], record["upstream_status"], record["origin"]) == (400, 0, "proxy")
    assert record["error"]
    assert record["termination"] != "--"


def test_log_cannot_be_forged() -> None:
    """A newline hidden in what a client says does not begin a record."""
    request = b'GET /%0A{"status":200} HTTP/1.1\r\nHost: a\r\nUser-Agent: x\t"}\\n{"status":200}\r\n\r\n'
    with RawUpstream() as upstream, servers.posthog_proxy(upstream.url) as proxy:
        exchange(proxy.address, request)
        exchange(proxy.address, GET)
        records = proxy.access_log(2)
    assert len(records) == 2
    assert records[0]["user_agent"] == 'x\t"}\\n{"status":200}'


def test_log_of_a_client_that_left() -> None:
    held = Held()
    with RawUpstream(held) as upstream, servers.posthog_proxy(upstream.url) as proxy:
        with Client(proxy.address) as client:
            client.send(GET)
            upstream.next_request()
        [record] = proxy.access_log(1)
        held.released.set()
    assert (record["status"], record["termination"][0]) == (499, "C")


def test_upstream_that_is_down_is_logged_and_answered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with servers.posthog_proxy(f"http://127.0.0.1:{port}") as proxy:
        event = exchange(proxy.address, b"POST /e/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        flags = exchange(proxy.address, b"POST /flags/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        records = proxy.access_log(2)
    assert (event.status, len(event.values("Retry-After"))) == (503, 1)
    assert flags.status in (502, 504)
    assert [record["status"] for record in records] == [event.status, flags.status]
    assert all(record["termination"].startswith("S") for record in records)


def test_text_log_is_for_humans() -> None:
    with RawUpstream() as upstream:
        command = servers.proxy_command(
            *("run", "--listen", "127.0.0.1:0", "--upstream", upstream.url, "--log-format", "text")
        )
        with Process(command, name="posthog-proxy", env=servers.clean_environment()) as process:
            [heard] = process.wait_for_lines(r"listening.*?(127\.0\.0\.1):(\d+)")
            assert exchange((heard[1], int(heard[2])), GET).status == 200
            [line] = process.wait_for_lines("/slow", stream="stdout")
    assert "GET posthog.example.test/slow 200 upstream" in line.string


def test_access_log_in_a_file(tmp_path: Path) -> None:
    access = tmp_path / "access.log"
    with RawUpstream() as upstream, servers.posthog_proxy(upstream.url, "--access-log", access) as proxy:
        exchange(proxy.address, GET)
        proxy.process.send_signal(signal.SIGTERM)
        assert proxy.process.wait(PROMPT) == 0
        assert proxy.process.stdout == []
    [line] = access.read_text().splitlines()
    assert json.loads(line)["path"] == "/slow"


def test_nothing_is_written_but_json() -> None:
    with RawUpstream(OK) as upstream, servers.posthog_proxy(upstream.url) as proxy:
        exchange(proxy.address, GET)
        exchange(proxy.address, GET)
        proxy.access_log(2)
        proxy.process.send_signal(signal.SIGTERM)
        assert proxy.process.wait(PROMPT) == 0
    for line in [*proxy.process.stdout, *proxy.process.stderr]:
        assert isinstance(json.loads(line), dict)
