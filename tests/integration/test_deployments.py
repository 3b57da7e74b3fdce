"""`preset` and `behind`, one line each, before and behind stand-ins of the shape that they are for."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import servers
from tests.support.curl import curl
from tests.support.parts import find
from tests.support.process import Process
from tests.support.services import services
from tests.support.tls import self_signed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.support.tls import Certificate

pytestmark = pytest.mark.needs("curl", "openssl")

CLIENT = "127.0.0.9"
"""Where requests come from; the fronts reach the proxy from 127.0.0.1."""


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("local"), "localhost")


def asked(url: str, *words: str) -> dict[str, Any]:
    """Ask with curl, and return the service's account."""
    result = curl(*words, url)
    assert result.status == 200, result
    account: dict[str, Any] = json.loads(result.body)
    return account


def lines(account: dict[str, Any], name: str) -> list[str]:
    return [value for key, value in account["fields"] if key.lower() == name.lower()]


@contextmanager
def proxy(*arguments: str, env: Mapping[str, str] | None = None) -> Iterator[servers.RunningProxy]:
    """`posthog-proxy run` with these arguments only."""
    command = servers.proxy_command("run", "--listen", "127.0.0.1:0", *arguments)
    with Process(command, name="posthog-proxy", env=servers.clean_environment(**(env or {}))) as process:
        yield servers.RunningProxy(process, servers.listening(process))


# --- preset ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["posthog-cloud-us", "posthog-cloud-eu"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_cloud_scripts_have_a_host_of_their_own_and_both_are_asked_by_their_names(
    preset: str, scheme: str, local: Certificate
) -> None:
    certificate = local if scheme == "https" else None
    with services("api", "assets", own_host=True, certificate=certificate) as running:
        settings = [
            "--upstream",
            running["api"].url,
            "--set",
            f"upstreams.assets.url={running['assets'].url}",
        ]
        if certificate is not None:
            for name in ("default", "assets"):
                settings += ["--set", f"upstreams.{name}.ca_file={certificate.certificate}"]
        with proxy("--preset", preset, *settings) as front:
            for path, service in (
                ("/static/array.js?v=1", "assets"),
                ("/array/phc_x/config.js", "assets"),
                ("/e/?_=1", "api"),
                ("/flags/?v=2", "api"),
                ("/s/", "api"),
                ("/i/v0/e/", "api"),
            ):
                account = asked(front.url + path, "--header", "Host: shop.example")
                assert (account["service"], account["target"]) == (service, path)
                assert lines(account, "Host") == [running[service].authority]
                assert lines(account, "X-Forwarded-Host") == ["shop.example"]
        if certificate is not None:
            assert {greeting for service in running.values() for greeting in service.greetings} == {
                "localhost"
            }


def test_self_hosted_sends_everything_to_one_upstream_with_the_host_as_it_came() -> None:
    with (
        services("posthog") as running,
        proxy("--preset", "self-hosted", "--upstream", running["posthog"].url) as front,
    ):
        for path in ("/", "/e/", "/static/array.js", "/login"):
            account = asked(front.url + path, "--header", "Host: ph.example")
            assert (account["target"], lines(account, "Host")) == (path, ["ph.example"])


def test_hobby_sends_each_path_to_its_service() -> None:
    names = (
        "default",
        "capture",
        "replay",
        "ai",
        "logs",
        "flags",
        "hypercache",
        "livestream",
        "plugins",
        "storage",
    )
    with services(*names) as running:
        settings = [word for name in names for word in ("--set", f"upstreams.{name}.url={running[name].url}")]
        with proxy("--preset", "hobby", *settings) as front:
            for path, service in (
                ("/e/?ip=1", "capture"),
                ("/batch", "capture"),
                ("/i/v0/e/", "capture"),
                ("/i/v1/analytics/events", "capture"),
                ("/i/v0/ai", "ai"),
                ("/s/?compression=gzip-js", "replay"),
                ("/i/v1/logs", "logs"),
                ("/flags/?v=2", "flags"),
                ("/decide/", "flags"),
                ("/array/phc_x/config.js", "hypercache"),
                ("/api/surveys/?token=phc_x", "hypercache"),
                ("/public/webhooks/abc", "plugins"),
                ("/posthog/media/a.png?X-Amz-Signature=a%2Fb", "storage"),
                ("/static/array.js", "default"),
                ("/login", "default"),
            ):
                account = asked(front.url + path)
                assert (account["service"], account["target"]) == (service, path)
            account = asked(f"{front.url}/livestream/events?token=/livestream")
            assert (account["service"], account["target"]) == ("livestream", "/events?token=/livestream")
            assert curl(f"{front.url}/metrics").status == 404


# --- behind ---------------------------------------------------------------------------------------

LIES = (
    "X-Forwarded-For: 6.6.6.6",
    "CF-Connecting-IP: 6.6.6.6",
    "X-Real-IP: 6.6.6.6",
    "True-Client-IP: 6.6.6.6",
)

HERE = """
[cloudflare]
client_header = "CF-Connecting-IP"
networks = ["127.0.0.1"]
[aws-alb]
networks = ["127.0.0.1"]
[gcp]
own_address = true
networks = ["127.0.0.1"]
[nginx]
networks = ["127.0.0.1"]
[private]
networks = ["127.0.0.1"]
"""
"""The fronts of a test connect from this machine, whatever they play."""

FRONTS = {
    "cloudflare": (servers.haproxy, "haproxy_edge.cfg"),
    "aws-alb": (servers.haproxy, "haproxy_front.cfg"),
    "gcp": (servers.nginx, "nginx_google.conf"),
    "nginx": (servers.nginx, "nginx_posthog_page.conf"),
    "127.0.0.1": (servers.apache, "apache_posthog_page.conf"),
    "private": (servers.caddy, "Caddyfile_front"),
}


@pytest.mark.needs("haproxy", "nginx", "apache2", "caddy")
@pytest.mark.parametrize("word", FRONTS)
def test_the_client_is_found_behind_each_front_and_cannot_choose_its_address(
    word: str, tmp_path: Path, certificate: Certificate
) -> None:
    ranges = tmp_path / "ranges.toml"
    ranges.write_text(HERE)
    start, template = FRONTS[word]
    with (
        services("posthog") as running,
        proxy(
            "--upstream", running["posthog"].url, "--behind", word, "--set", f"trust.ranges_file={ranges}"
        ) as inner,
        start(
            template,
            tmp_path,
            upstream=inner.authority,
            source="127.0.0.1",
            certificate=certificate.certificate,
            key=certificate.key,
            pem=certificate.pem,
        ) as front,
    ):
        lies = [word for lie in LIES for word in ("--header", lie)]
        host = ("--header", "Host: posthog.example.test")
        account = asked(f"http://{front.authority}/e/", "--interface", CLIENT, *host, *lies)
        assert lines(account, "X-Forwarded-For") == [CLIENT]
        assert not any("6.6.6.6" in value for _, value in account["fields"])
        # Who comes round the front is nobody's client but its own.
        direct = asked(f"{inner.url}/e/", "--interface", "127.0.0.8", *lies)
        assert lines(direct, "X-Forwarded-For") == ["127.0.0.8"]


@pytest.mark.parametrize(("word", "believed"), [("nginx", True), ("private", True), ("aws-alb", False)])
def test_the_shipped_networks_hold_this_machine_where_they_should(word: str, believed: bool) -> None:
    with (
        services("posthog") as running,
        proxy("--upstream", running["posthog"].url, "--behind", word) as front,
    ):
        account = asked(f"{front.url}/e/", "--header", "X-Forwarded-For: 6.6.6.6, 203.0.113.7")
        assert lines(account, "X-Forwarded-For") == ["203.0.113.7" if believed else "127.0.0.1"]


def test_trust_in_everybody_works_and_says_what_it_gives_up() -> None:
    with (
        services("posthog") as running,
        proxy(
            "--upstream", running["posthog"].url, env={"TRUST_ALL_PROXIES": "true", "IS_BEHIND_PROXY": "1"}
        ) as front,
    ):
        account = asked(f"{front.url}/e/", "--header", "X-Forwarded-For: 203.0.113.7, 198.51.100.1")
        assert lines(account, "X-Forwarded-For") == ["203.0.113.7"]
        assert any(
            "TRUST_ALL_PROXIES" in line and "chooses the address" in line for line in front.process.stderr
        )


# --- rates ----------------------------------------------------------------------------------------


@pytest.mark.needs("wrk")
def test_a_flood_of_one_client_is_turned_away_and_others_are_served() -> None:
    limits = ("--set", "limits.rate_per_client=0.05", "--set", "limits.rate_burst=20", "--log-format", "json")
    with (
        services("posthog") as running,
        proxy("--upstream", running["posthog"].url, *limits, "--behind", "127.0.0.1") as front,
    ):
        flood = ["--header", "X-Forwarded-For: 203.0.113.7"]
        load = Process(
            [find("wrk"), "-t1", "-c8", "-d1s", "-H", "X-Forwarded-For: 203.0.113.7", f"{front.url}/e/"],
            name="wrk",
        )
        with load:
            assert load.wait() == 0
        statuses = [line["status"] for line in front.access_log(200)]
        assert set(statuses) == {200, 429}
        assert len(running["posthog"].targets) == 20
        refused = curl(*flood, "--header", "Origin: https://shop.example", f"{front.url}/e/")
        assert refused.status == 429
        assert 1 <= int(refused.values("Retry-After")[0]) <= 20
        assert refused.values("Access-Control-Allow-Origin") == [b"https://shop.example"]
        other = ["--header", "X-Forwarded-For: 203.0.113.8"]
        assert lines(asked(f"{front.url}/e/", *other), "X-Forwarded-For") == ["203.0.113.8"]
        # IPv6 clients are counted by their /64.
        answers = [
            curl("--header", f"X-Forwarded-For: 2001:db8:1:{net}::{host:x}", f"{front.url}/e/").status
            for net, host in [*((1, host) for host in range(1, 22)), (2, 1)]
        ]
        assert answers == [200] * 20 + [429, 200]


def test_connections_of_one_untrusted_client_are_counted_and_those_of_a_trusted_one_are_not() -> None:
    with services("posthog") as running:
        limit = ("--upstream", running["posthog"].url, "--set", "limits.connections_per_client=2")
        for trusted, refused in (((), True), (("--behind", "nginx"), False)):
            with proxy(*limit, *trusted) as front, ExitStack() as held:
                for _ in range(2):
                    sock = held.enter_context(socket.create_connection(front.address, timeout=10))
                    sock.sendall(b"GET /e/ HTTP/1.1\r\nHost: a\r\n\r\n")
                    assert sock.recv(12) == b"HTTP/1.1 200"
                assert (curl(f"{front.url}/e/").exit_code != 0) is refused
