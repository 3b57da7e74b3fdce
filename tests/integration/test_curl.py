"""curl as the client: versions, methods, framings, connections, and every kind of listener."""

from __future__ import annotations

import gzip
import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import servers
from tests.support.curl import curl
from tests.support.wire import RawUpstream, Received

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("curl")

EVENT = '{"api_key":"phc_test","event":"from curl","distinct_id":"u1"}'
LARGE = bytes(range(256)) * 4 * 8192
"""Eight megabytes: far more than any buffer on the way."""


@pytest.fixture(scope="module")
def standin() -> Iterator[str]:
    with servers.standin() as url:
        yield url


@pytest.fixture(scope="module")
def unix_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("listener") / "proxy.sock"


@pytest.fixture(scope="module")
def proxy(standin: str, unix_path: Path) -> Iterator[servers.RunningProxy]:
    listen = ("127.0.0.1:0", "[::1]:0", f"unix:{unix_path}")
    with servers.posthog_proxy(standin, listen=listen) as running:
        yield running


@pytest.fixture
def url(proxy: servers.RunningProxy) -> str:
    return f"http://{proxy.authority}"


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(LARGE)
    return path


def account(body: bytes) -> dict[str, Any]:
    """Return the stand-in's account of a request from an echo's body."""
    parsed: dict[str, Any] = json.loads(body)
    return parsed


def lines(seen: dict[str, Any], name: str) -> list[str]:
    return [value for key, value in seen["fields"] if key.lower() == name.lower()]


def test_http_1_0(url: str) -> None:
    result = curl("--http1.0", f"{url}/__standin__/echo")
    assert result.status == 200
    assert result.values("Transfer-Encoding") == []
    assert account(result.body)["version"] in ("1.1", "HTTP/1.1")


def test_http_1_0_of_an_answer_without_length(url: str) -> None:
    """The upstream's chunks end where the connection does."""
    result = curl("--http1.0", f"{url}/download/3000000?chunked=1")
    assert (result.exit_code, len(result.body)) == (0, 3_000_000)
    assert result.values("Transfer-Encoding") == []


def test_http_1_0_post(url: str) -> None:
    result = curl("--http1.0", "--json", EVENT, f"{url}/e/")
    assert json.loads(result.body) == {"status": "Ok"}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_methods_with_and_without_a_body(url: str, method: str) -> None:
    bare = account(curl("--request", method, f"{url}/__standin__/echo?x=1").body)
    assert (bare["method"], bare["target"], bare["body_bytes"]) == (method, "/__standin__/echo?x=1", 0)
    full = account(curl("--request", method, "--data", EVENT, f"{url}/__standin__/echo").body)
    assert full["body_sha256"] == hashlib.sha256(EVENT.encode()).hexdigest()


def test_head(url: str) -> None:
    result = curl("--head", f"{url}/download/5000")
    assert (result.status, result.values("Content-Length")) == (200, [b"5000"])
    assert result.exit_code == 0


def test_head_does_not_spoil_the_connection(url: str) -> None:
    result = curl("--head", f"{url}/download/5000", f"{url}/download/5000")
    assert [head.status for head in result.heads] == [200, 200]
    assert result.info["num_connects"] == 0


def test_connection_is_reused(url: str) -> None:
    result = curl(f"{url}/_health", f"{url}/__standin__/echo")
    assert result.status == 200
    assert result.info["num_connects"] == 0


def test_connection_close_is_obeyed(url: str) -> None:
    result = curl("--header", "Connection: close", f"{url}/_health", f"{url}/_health")
    assert result.values("Connection") == [b"close"]
    assert result.info["num_connects"] == 1


def test_chunked_upload(url: str, large: Path) -> None:
    chunked = ("--header", "Transfer-Encoding: chunked", "--data-binary", f"@{large}")
    seen = account(curl(*chunked, f"{url}/__standin__/echo").body)
    assert (seen["body_bytes"], seen["body_sha256"]) == (len(LARGE), hashlib.sha256(LARGE).hexdigest())


def test_upload_with_length(url: str, large: Path) -> None:
    seen = account(curl("--upload-file", large, f"{url}/__standin__/echo").body)
    assert seen["method"] == "PUT"
    assert (seen["body_bytes"], seen["body_sha256"]) == (len(LARGE), hashlib.sha256(LARGE).hexdigest())
    assert lines(seen, "Content-Length") == [str(len(LARGE))]


@pytest.mark.parametrize("size", [10, 8192 * 1024])
def test_expect_100_continue_is_answered_at_once(url: str, large: Path, size: int) -> None:
    """curl would wait ten minutes for the 100, so an answer at all means that it came."""
    large.write_bytes(LARGE[:size])
    waiting = ("--header", "Expect: 100-continue", "--expect100-timeout", "600", "--data-binary", f"@{large}")
    result = curl(*waiting, f"{url}/__standin__/echo", timeout=20)
    assert [head.status for head in result.heads] == [100, 200]
    seen = account(result.body)
    assert seen["body_sha256"] == hashlib.sha256(LARGE[:size]).hexdigest()
    assert lines(seen, "Expect") == []


def test_expect_100_continue_with_a_body_that_is_refused(standin: str, tmp_path: Path, large: Path) -> None:
    """The answer is the 413 itself: no 100 before it, no megabytes after it."""
    config = tmp_path / "proxy.toml"
    config.write_text("[limits]\nbody_app = 1_000_000\n")
    with servers.posthog_proxy(standin, "--config", config) as proxy:
        waiting = ("--header", "Expect: 100-continue", "--expect100-timeout", "600")
        url = f"http://{proxy.authority}/upload"
        result = curl(*waiting, "--data-binary", f"@{large}", url, timeout=20)
    assert [head.status for head in result.heads] == [413]
    assert result.info["size_upload"] == 0


def test_refusal_of_a_body_on_its_way_is_readable(standin: str, tmp_path: Path, large: Path) -> None:
    """curl is busy sending when the 413 comes; a reset would hide it."""
    config = tmp_path / "proxy.toml"
    config.write_text("[limits]\nbody_app = 1_000_000\n")
    with servers.posthog_proxy(standin, "--config", config) as proxy:
        url = f"http://{proxy.authority}/upload"
        result = curl("--header", "Expect:", "--data-binary", f"@{large}", url)
        chunked = curl(
            "--header", "Expect:", "--header", "Transfer-Encoding: chunked", "--data-binary", f"@{large}", url
        )
    assert [head.status for head in result.heads] == [413]
    assert [head.status for head in chunked.heads] == [413]


def test_compressed_answer_is_passed_as_it_is() -> None:
    packed = gzip.compress(b"posthog" * 1000)

    def answer(_: Received) -> bytes:
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"
        return head.encode() + packed

    with RawUpstream(answer) as upstream, servers.posthog_proxy(upstream.url) as proxy:
        result = curl("--compressed", f"http://{proxy.authority}/static/array.js")
        asked = upstream.next_request()
    assert result.body == b"posthog" * 1000
    assert result.info["size_download"] == len(packed)
    assert asked.values("Accept-Encoding") == [b"deflate, gzip, br, zstd"]


def test_range_is_passed_as_it_is() -> None:
    def answer(request: Received) -> bytes:
        assert request.values("Range") == [b"bytes=2-5"]
        return b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-5/10\r\nContent-Length: 4\r\n\r\ncdef"

    with RawUpstream(answer) as upstream, servers.posthog_proxy(upstream.url) as proxy:
        result = curl("--range", "2-5", f"http://{proxy.authority}/static/array.js")
    assert (result.status, result.body) == (206, b"cdef")
    assert result.values("Content-Range") == [b"bytes 2-5/10"]


def test_target_arrives_as_it_was_typed(url: str) -> None:
    target = "/__standin__/echo?a=%7B%22x%22%3A1%7D&b=%zz&c=//x/./../y"
    assert account(curl("--path-as-is", "--globoff", f"{url}{target}").body)["target"] == target


def test_ipv6_listener(proxy: servers.RunningProxy) -> None:
    seen = account(curl(f"http://{proxy.addresses[1]}/__standin__/echo").body)
    assert proxy.addresses[1].startswith("[::1]:")
    assert lines(seen, "X-Forwarded-For") == ["::1"]


def test_unix_listener(proxy: servers.RunningProxy, unix_path: Path) -> None:
    """A peer on a Unix socket has no address and, unless told otherwise, no say."""
    told = ("--header", "X-Forwarded-For: 6.6.6.6")
    seen = account(curl("--unix-socket", unix_path, *told, "http://localhost/__standin__/echo").body)
    assert proxy.addresses[2] == f"unix:{unix_path}"
    assert not any("6.6.6.6" in value for _, value in seen["fields"])


def test_unix_listener_whose_peers_are_trusted(standin: str, tmp_path: Path) -> None:
    config = tmp_path / "proxy.toml"
    config.write_text("[trust]\nunix = true\n")
    path = tmp_path / "proxy.sock"
    told = ("--header", "X-Forwarded-For: 203.0.113.7", "--header", "X-Forwarded-Proto: https")
    with servers.posthog_proxy(standin, "--config", config, listen=[f"unix:{path}"], trusted=""):
        seen = account(curl("--unix-socket", path, *told, "http://localhost/__standin__/echo").body)
    assert lines(seen, "X-Forwarded-For") == ["203.0.113.7"]
    assert lines(seen, "X-Forwarded-Proto") == ["https"]
    assert not path.exists(), "the socket file is left behind"
