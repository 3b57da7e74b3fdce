"""nginx and Apache in front of the proxy, each with the configuration that PostHog's page prints; HAProxy
and Caddy as they usually stand there. Behind the proxy is PostHog's stand-in, which shows the header lines
that reached it and which client each PostHog service would see.
"""

from __future__ import annotations

import gzip
import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.conftest import SITE
from tests.support import servers
from tests.support.curl import CurlResult, curl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.tls import Certificate

pytestmark = pytest.mark.needs("curl", "openssl")

CLIENT = "127.0.0.9"
"""The address that requests come from; the front's own is 127.0.0.1, the only one that we trust."""

LIES = (
    "X-Forwarded-For: 6.6.6.6",
    "X-Real-IP: 6.6.6.6",
    "True-Client-IP: 6.6.6.6",
    "CF-Connecting-IP: 6.6.6.6",
    "Forwarded: for=6.6.6.6",
)
"""Lines with which a client claims another address. X-Forwarded-Proto is not among them: every front here
overwrites it."""


@dataclass(frozen=True, slots=True)
class Front:
    """A front before the proxy, for clients that ask for ``SITE``."""

    server: servers.Server
    certificate: Certificate
    standin: str

    def get(self, path: str, *arguments: str | Path, scheme: str = "http") -> CurlResult:
        """Ask with curl from ``CLIENT``: port 80 or 443 of ``SITE``, which is really the front."""
        to_front: list[str | Path] = [
            *("--connect-to", f"{SITE}:80:{self.server.authority}"),
            *("--connect-to", f"{SITE}:443:{self.server.tls_authority}"),
            *("--cacert", self.certificate.certificate, "--http1.1", "--interface", CLIENT),
        ]
        return curl(*to_front, *arguments, f"{scheme}://{SITE}{path}")

    def echo(self, *arguments: str | Path, scheme: str = "http") -> dict[str, Any]:
        """Ask for the stand-in's account of the request."""
        result = self.get("/__standin__/echo", *arguments, scheme=scheme)
        assert result.status == 200, result
        account: dict[str, Any] = json.loads(result.body)
        return account


def lines(account: dict[str, Any], name: str) -> list[str]:
    """Return the values of the header ``name`` in an account."""
    return [value for key, value in account["fields"] if key.lower() == name.lower()]


SERVERS = {
    "nginx": (servers.nginx, "nginx_posthog_page.conf"),
    "apache2": (servers.apache, "apache_posthog_page.conf"),
    "haproxy": (servers.haproxy, "haproxy_front.cfg"),
    "caddy": (servers.caddy, "Caddyfile_front"),
}


@contextmanager
def running_front(name: str, folder: Path, certificate: Certificate) -> Iterator[Front]:
    """The stand-in, the proxy before it and the front before the proxy."""
    start, template = SERVERS[name]
    with (
        servers.standin() as standin,
        servers.posthog_proxy(standin) as proxy,
        start(
            template,
            folder,
            upstream=proxy.authority,
            certificate=certificate.certificate,
            key=certificate.key,
            pem=certificate.pem,
        ) as server,
    ):
        yield Front(server, certificate, standin)


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.needs(name)) for name in SERVERS]
)
def front(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificate: Certificate
) -> Iterator[Front]:
    with running_front(request.param, tmp_path_factory.mktemp(request.param), certificate) as started:
        yield started


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_upstream_sees_client_proto_and_host(front: Front, scheme: str) -> None:
    account = front.echo(scheme=scheme)
    assert lines(account, "X-Forwarded-For") == [CLIENT]
    assert lines(account, "X-Forwarded-Proto") == [scheme]
    assert lines(account, "X-Forwarded-Host") == [SITE]
    assert set(account["ip"].values()) == {CLIENT}


def test_lying_client_does_not_choose_its_address(front: Front) -> None:
    account = front.echo(*(word for lie in LIES for word in ("--header", lie)))
    assert lines(account, "X-Forwarded-For") == [CLIENT]
    assert set(account["ip"].values()) == {CLIENT}
    assert not any("6.6.6.6" in value for _, value in account["fields"])


def test_lying_client_does_not_choose_its_scheme(front: Front) -> None:
    account = front.echo("--header", "X-Forwarded-Proto: https", scheme="http")
    assert lines(account, "X-Forwarded-Proto") == ["http"]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_event_arrives_with_its_client(front: Front, scheme: str) -> None:
    event = {
        "api_key": "phc_test",
        "event": f"over {scheme}",
        "distinct_id": "u1",
        "uuid": "01920000-0000-7000-8000-00000000000" + str(len(scheme)),
        "properties": {"$lib": "web"},
    }
    sent = front.get("/e/?ip=1", "--json", json.dumps(event), scheme=scheme)
    assert (sent.status, json.loads(sent.body)) == (200, {"status": "Ok"})
    kept = json.loads(curl(f"{front.standin}/__standin__/events").body)
    arrived = [one for one in kept if one["event"] == f"over {scheme}"]
    assert [(one["distinct_id"], one["ip"]) for one in arrived] == [("u1", CLIENT)]


def test_flags_are_answered(front: Front) -> None:
    body = json.dumps({"token": "phc_test", "distinct_id": "u1"})
    result = front.get("/flags/?v=2", "--json", body)
    assert result.status == 200
    assert "flags" in json.loads(result.body)


def test_browser_of_another_origin_may_read_the_answer(front: Front) -> None:
    origin = "https://shop.example.test"
    result = front.get("/flags/?v=2", "--header", f"Origin: {origin}", "--json", '{"token":"phc_test"}')
    assert result.values("Access-Control-Allow-Origin") == [origin.encode()]
    assert result.values("Access-Control-Allow-Credentials") == [b"true"]


def test_replay_larger_than_a_megabyte_arrives(front: Front, tmp_path: Path) -> None:
    replay = tmp_path / "replay.bin"
    replay.write_bytes(bytes(range(256)) * 4 * 3000)
    result = front.get("/upload", "--data-binary", f"@{replay}", "--header", "Content-Type: text/plain")
    assert result.status == 200
    assert json.loads(result.body) == {"bytes": replay.stat().st_size}


def test_gzip_body_arrives_byte_for_byte(front: Front, tmp_path: Path) -> None:
    packed = tmp_path / "event.gz"
    packed.write_bytes(gzip.compress(b'{"api_key":"phc_test","event":"packed","distinct_id":"u2"}'))
    sent = front.get(
        "/e/?compression=gzip-js", "--data-binary", f"@{packed}", "--header", "Content-Type: text/plain"
    )
    assert sent.status == 200
    kept = json.loads(curl(f"{front.standin}/__standin__/events").body)
    assert "packed" in [one["event"] for one in kept]


def test_download_is_whole(front: Front) -> None:
    for query in ("", "?chunked=1"):
        result = front.get(f"/download/3000000{query}")
        assert result.status == 200
        assert result.body == (bytes(range(256)) * 11_719)[:3_000_000]


def test_kept_connection_carries_several_requests(front: Front) -> None:
    result = front.get("/_health", f"http://{SITE}/_health", f"http://{SITE}/_health")
    assert result.status == 200
    assert result.info["num_connects"] == 0
