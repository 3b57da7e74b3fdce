"""Django as PostHog sets it up (SECURE_SSL_REDIRECT, the forwarding settings of IS_BEHIND_PROXY, the
address gate) under gunicorn, through the proxy: no redirect loop, logins work, the gate sees the client.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.conftest import SITE
from tests.integration.django_behind import Browser, django, make_database, statuses
from tests.support import servers
from tests.support.curl import curl
from tests.support.django_site.prepare import PASSWORD, USER
from tests.support.wire import exchange

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.tls import Certificate
    from tests.support.wire import Address

pytestmark = pytest.mark.needs("nginx", "apache2", "curl", "openssl")

FRONTS = {
    "nginx": (servers.nginx, "nginx_posthog_page.conf"),
    "apache2": (servers.apache, "apache_posthog_page.conf"),
}
"""Fronts that terminate TLS, as PostHog's page configures them."""


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.RunningProxy]:
    """The proxy before Django as it is in production: https only, cookies secure."""
    folder = tmp_path_factory.mktemp("django")
    make_database(folder)
    with (
        django(
            folder,
            IS_BEHIND_PROXY="true",
            TRUSTED_PROXIES="127.0.0.1",
            ALLOWED_HOSTS=SITE,
        ) as site,
        servers.posthog_proxy(site) as running,
    ):
        yield running


@pytest.fixture(scope="module", params=FRONTS)
def front(
    request: pytest.FixtureRequest,
    proxy: servers.RunningProxy,
    tmp_path_factory: pytest.TempPathFactory,
    certificate: Certificate,
) -> Iterator[servers.Server]:
    start, template = FRONTS[request.param]
    folder = tmp_path_factory.mktemp("front")
    with start(
        template,
        folder,
        upstream=proxy.authority,
        certificate=certificate.certificate,
        key=certificate.key,
    ) as server:
        yield server


@pytest.fixture
def browser(front: servers.Server, certificate: Certificate, tmp_path: Path) -> Browser:
    """A browser that reaches the site through a front, with http as with https."""
    return Browser(tmp_path / "cookies", front.authority, front.tls_authority, certificate)


def test_login_and_the_page_behind_it(browser: Browser) -> None:
    asked = browser.get(f"https://{SITE}/")
    assert statuses(asked) == [302, 200]
    assert asked.info["url_effective"] == f"https://{SITE}/login?next=/"

    logged_in = browser.log_in(USER, PASSWORD, origin=f"https://{SITE}")
    assert statuses(logged_in) == [302, 200]
    assert logged_in.info["url_effective"] == f"https://{SITE}/"
    assert f"Welcome, {USER}" in logged_in.body.decode()

    again = browser.get(f"https://{SITE}/")
    assert statuses(again) == [200]


def test_login_from_a_foreign_page_is_refused_by_django(browser: Browser) -> None:
    """The other half of the proof that Host and scheme arrive: Django compares Origin with them."""
    refused = browser.log_in(USER, PASSWORD, origin="https://evil.example.test")
    assert statuses(refused) == [403]
    assert b"CSRF" in refused.body


def test_wrong_password_shows_the_form_again(browser: Browser) -> None:
    refused = browser.log_in(USER, "wrong", origin=f"https://{SITE}")
    assert statuses(refused) == [200]
    assert b"csrfmiddlewaretoken" in refused.body


def test_plain_http_is_redirected_once(browser: Browser) -> None:
    asked = browser.get(f"http://{SITE}/login?next=/%2Finsights&x=a+b")
    assert statuses(asked) == [301, 200]
    assert asked.heads[0].values("Location") == [f"https://{SITE}/login?next=/%2Finsights&x=a+b".encode()]
    assert asked.info["num_redirects"] == 1


def test_links_that_django_builds_are_https(browser: Browser) -> None:
    account = json.loads(browser.get(f"https://{SITE}/meta").body)
    assert account["secure"] is True
    assert account["host"] == SITE
    assert account["next"] == f"https://{SITE}/api/list?offset=100"


@pytest.mark.parametrize(
    "location",
    ["/next?x=1", "https://other.example.test/a%2Fb?c=d", "http://127.0.0.1:8000/internal", "../up"],
)
def test_location_is_not_touched(browser: Browser, location: str) -> None:
    asked = browser.get(
        f"https://{SITE}/moved", "--get", "--data-urlencode", f"to={location}", "--max-redirs", "0"
    )
    assert asked.heads[0].values("Location") == [location.encode()]


def test_streamed_page_arrives_whole(browser: Browser) -> None:
    result = browser.get(f"https://{SITE}/download")
    assert result.status == 200
    assert result.body == b"posthog " * 4096 * 64


def test_upload_arrives_whole(browser: Browser, tmp_path: Path) -> None:
    content = bytes(range(256)) * 8000
    upload = tmp_path / "upload"
    upload.write_bytes(content)
    result = browser.get(f"https://{SITE}/digest", "--data-binary", f"@{upload}")
    assert json.loads(result.body) == {"sha256": hashlib.sha256(content).hexdigest(), "length": len(content)}


# The proxy alone before Django.


def ask(address: Address, path: str, *fields: str, source: str = "127.0.0.1") -> tuple[int, Any]:
    """Ask the proxy directly and return the status and what JSON came, if any."""
    lines = "".join(f"{field}\r\n" for field in (f"Host: {SITE}", *fields, "Connection: close"))
    got = exchange(address, f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode(), source=source)
    is_json = any(b"json" in value for value in got.values("Content-Type"))
    return got.status, json.loads(got.body) if is_json else got.values("Location")


def test_plain_http_without_a_front_is_one_redirect(proxy: servers.RunningProxy) -> None:
    assert ask(proxy.address, "/login") == (301, [f"https://{SITE}/login".encode()])


def test_health_page_is_not_redirected(proxy: servers.RunningProxy) -> None:
    assert ask(proxy.address, "/_health")[0] == 200


def test_stranger_cannot_pretend_https(proxy: servers.RunningProxy) -> None:
    lied = ask(proxy.address, "/meta", "X-Forwarded-Proto: https", source="127.0.0.66")
    assert lied == (301, [f"https://{SITE}/meta".encode()])


@pytest.mark.parametrize("spelling", ["https", "HTTPS", "http, https", "wss"])
def test_trusted_front_that_says_https_in_its_own_way(proxy: servers.RunningProxy, spelling: str) -> None:
    """Django takes only `https` for secure; everything else would be an endless redirect."""
    status, account = ask(proxy.address, "/meta", f"X-Forwarded-Proto: {spelling}")
    assert (status, account["secure"]) == (200, True)
    assert account["meta"]["HTTP_X_FORWARDED_PROTO"] == "https"


def test_forwarded_host_is_one_value_that_django_takes(proxy: servers.RunningProxy) -> None:
    """Two values in X-Forwarded-Host are a 400 at Django."""
    status, account = ask(proxy.address, "/meta", "X-Forwarded-Proto: https")
    assert (status, account["host"]) == (200, SITE)


def test_kept_connections_survive_gunicorns_short_patience(proxy: servers.RunningProxy) -> None:
    urls = [f"http://{proxy.authority}/_health"] * 20
    result = curl("--header", f"Host: {SITE}", *urls)
    assert result.exit_code == 0
    assert statuses(result) == [200] * 20
