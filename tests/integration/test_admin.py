"""The admin listener of a running proxy: read by Prometheus's parser, by `top`, and told what to do."""

from __future__ import annotations

import io
import json
import signal
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from proxy.config.notation import listen_address
from proxy.top import run as top
from tests.support.asking import admin_address, ask
from tests.support.process import Process
from tests.support.servers import posthog_proxy, proxy_command
from tests.support.wire import RawUpstream, exchange

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import RunningProxy

EVENT = b"POST /e/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
TOKEN = "0123456789abcdef0123"


@pytest.fixture
def upstream() -> Iterator[RawUpstream]:
    with RawUpstream() as running:
        yield running


@pytest.fixture(params=["1", "2"])
def proxy(request: pytest.FixtureRequest, upstream: RawUpstream, tmp_path: Path) -> Iterator[RunningProxy]:
    """With one process, which serves clients and operators, and with two workers and their parent."""
    config = tmp_path / "proxy.toml"
    config.write_text("admin.listen = '127.0.0.1:0'\nlog.access = 'off'\n")
    with posthog_proxy(upstream.url, "--config", config, "--workers", request.param) as running:
        yield running


def samples(admin: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    status, text = ask(admin, "/metrics")
    assert status == 200
    return {
        (sample.name.removeprefix("posthog_proxy_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def requests(admin: str) -> float:
    return sum(value for (name, _), value in samples(admin).items() if name == "requests_total")


def status(admin: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(admin, "/status.json")[1])
    return found


def test_prometheus_reads_the_sum_of_all_workers(proxy: RunningProxy) -> None:
    admin = admin_address(proxy.process)
    for _ in range(20):
        assert exchange(proxy.address, EVENT).status == 200
    assert proxy.process.poll(lambda: requests(admin) == 20)
    found = samples(admin)
    labels = (("class", "ingest_v0"), ("code", "2xx"), ("method", "POST"), ("route", "/e"))
    assert found["requests_total", labels] == 20
    assert found["client_address_source_total", (("source", "peer"),)] == 20
    assert found["request_duration_seconds_count", (("class", "ingest_v0"),)] == 20
    assert found["upstream_duration_seconds_bucket", (("le", "+Inf"), ("upstream", "default"))] == 20
    assert found["upstream_up", (("upstream", "default"),)] == 1
    assert found["config_last_reload_success", ()] == 1


def test_it_is_ready_until_it_is_told_to_drain(proxy: RunningProxy) -> None:
    admin = admin_address(proxy.process)
    assert ask(admin, "/healthz") == (200, "ok\n")
    assert ask(admin, "/readyz") == (200, "ready\n")
    assert ask(admin, "/drain")[0] == 405
    assert ask(admin, "/drain", method="POST", fields={"Origin": "http://evil.example"})[0] == 403
    assert ask(admin, "/readyz")[0] == 200
    assert ask(admin, "/drain", method="POST") == (202, "draining\n")
    assert proxy.process.wait() == 0


def test_the_level_of_the_log_is_changed_in_every_process_until_a_reload(proxy: RunningProxy) -> None:
    admin = admin_address(proxy.process)
    assert ask(admin, "/log-level", method="POST", body="loud")[0] == 400
    assert ask(admin, "/log-level", method="POST", body="error") == (200, "error\n")
    assert status(admin)["log_level"] == "error"
    proxy.process.send_signal(signal.SIGHUP)
    assert proxy.process.poll(lambda: status(admin)["log_level"] == "info")
    reloads = ("config_reloads_total", (("result", "success"),))
    assert proxy.process.poll(lambda: samples(admin)[reloads] == 1)


def test_a_reload_that_fails_is_counted_and_shown(proxy: RunningProxy, tmp_path: Path) -> None:
    admin = admin_address(proxy.process)
    (tmp_path / "proxy.toml").write_text("nonsense = 1\n")
    proxy.process.send_signal(signal.SIGHUP)
    assert proxy.process.poll(lambda: not status(admin)["last_reload"])
    assert samples(admin)["config_last_reload_success", ()] == 0


def test_a_reload_moves_the_listener_and_one_that_cannot_be_had_is_left(
    proxy: RunningProxy, tmp_path: Path
) -> None:
    admin, moved = admin_address(proxy.process), f"unix:{tmp_path}/admin.sock"
    (tmp_path / "proxy.toml").write_text(f"admin.listen = '{moved}'\n")
    proxy.process.send_signal(signal.SIGHUP)
    proxy.process.wait_for_lines(r'"admin_listening"', 2)
    assert ask(moved, "/readyz", fields={"Host": "whatever.example"})[0] == 200
    with pytest.raises(ConnectionRefusedError):
        ask(admin, "/readyz")
    (tmp_path / "proxy.toml").write_text(f"admin.listen = 'unix:{tmp_path}/absent/admin.sock'\n")
    proxy.process.send_signal(signal.SIGHUP)
    proxy.process.wait_for_lines(r'"admin_unchanged"')
    assert ask(moved, "/readyz")[0] == 200


def test_what_is_shown_and_what_is_hidden(proxy: RunningProxy, upstream: RawUpstream) -> None:
    admin = admin_address(proxy.process)
    config = json.loads(ask(admin, "/config")[1])
    assert config["upstreams"]["default"]["url"] == upstream.url
    assert config["admin"]["listen"] == "127.0.0.1:0"
    assert config["timeouts"]["head"] == 10.0
    assert ask(admin, "/status", fields={"Accept": "text/html,*/*"})[1].startswith("<!DOCTYPE html>")
    assert json.loads(ask(admin, "/status")[1])["state"] == "ready"
    code, text = ask(admin, "/secrets")
    assert code == 404
    assert "/metrics" in text


def test_top_shows_the_same_figures(proxy: RunningProxy) -> None:
    admin = admin_address(proxy.process)
    for _ in range(5):
        assert exchange(proxy.address, EVENT).status == 200
    assert proxy.process.poll(lambda: requests(admin) == 5)
    with Process(proxy_command("top", admin, "--once")) as command:
        assert command.wait() == 0
        shown = "\n".join(command.stdout)
    assert "ready" in shown
    assert "ingest_v0" in shown
    assert "2xx 5" in shown


def test_top_follows_until_it_is_interrupted_and_says_when_nobody_answers(proxy: RunningProxy) -> None:
    address = listen_address(admin_address(proxy.process))
    seconds = iter(range(2))

    def sleep(_: float) -> None:
        if next(seconds, None) is None:
            raise KeyboardInterrupt
        proxy.process.stop()

    screen = io.StringIO()
    assert top(address, console=Console(file=screen, force_terminal=True, width=120), sleep=sleep) == 0
    assert "does not answer" in screen.getvalue()
    assert top(address, console=Console(file=screen)) == 1


def test_a_token_opens_a_public_address(upstream: RawUpstream, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    settings = ("--set", "admin.listen=0.0.0.0:0", "--set", f"admin.token_file={path}", "--access-log", "off")
    with posthog_proxy(upstream.url, *settings) as running:
        admin = admin_address(running.process).replace("0.0.0.0", "127.0.0.1")
        assert ask(admin, "/readyz")[0] == 200
        assert ask(admin, "/metrics")[0] == 401
        assert ask(admin, "/drain", method="POST")[0] == 401
        assert ask(admin, "/metrics", fields={"Authorization": f"Bearer {TOKEN}"})[0] == 200
        with Process(proxy_command("top", admin, "--token-file", path, "--once")) as command:
            assert command.wait() == 0
        with Process(proxy_command("top", admin, "--once")) as command:
            assert command.wait() == 1
            assert "answers 401" in "\n".join(command.stdout)
