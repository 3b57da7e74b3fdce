"""From http to https, once and not for ever: Django with and without SECURE_SSL_REDIRECT, behind the proxy
alone and behind a front that ends TLS.

The page asked for is the one that needs a login: Django sends it to /login (302), which then shows (200).
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.integration.conftest import SITE
from tests.integration.django_behind import Browser, django, make_database, statuses
from tests.support import servers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.tls import Certificate

pytestmark = pytest.mark.needs("curl", "openssl", "nginx", "haproxy")

FRONTS = {
    "nginx": (servers.nginx, "nginx_posthog_page.conf"),
    "haproxy": (servers.haproxy, "haproxy_front.cfg"),
}
REDIRECT = ("--set", "tls.redirect_https=true")
HTTP, HTTPS = f"http://{SITE}/", f"https://{SITE}/"


@pytest.fixture(scope="module", params=["redirects", "does not"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, bool]]:
    """Django, and whether it redirects to https itself."""
    folder = tmp_path_factory.mktemp("django")
    make_database(folder)
    env = {"IS_BEHIND_PROXY": "true", "TRUSTED_PROXIES": "127.0.0.1", "ALLOWED_HOSTS": SITE}
    if request.param == "does not":
        env["DISABLE_SECURE_SSL_REDIRECT"] = "true"
    with django(folder, **env) as url:
        yield url, request.param == "redirects"


@contextmanager
def behind(
    front: str, site: str, folder: Path, certificate: Certificate, *arguments: str, trusted: str = "127.0.0.1"
) -> Iterator[Browser]:
    """A browser before a front (or before the proxy itself: `alone`)."""
    pair = {"certificate": certificate.certificate, "key": certificate.key, "pem": certificate.pem}
    with ExitStack() as started:
        if front == "alone":
            own = ("--listen-tls", "127.0.0.1:0", "--tls-cert", pair["certificate"], "--tls-key", pair["key"])
            proxy = started.enter_context(servers.posthog_proxy(site, *own, *arguments, trusted=""))
            http, https = servers.listening(proxy.process, 2)
        else:
            proxy = started.enter_context(servers.posthog_proxy(site, *arguments, trusted=trusted))
            start, template = FRONTS[front]
            server = started.enter_context(start(template, folder, upstream=proxy.authority, **pair))
            http, https = server.authority, server.tls_authority
        yield Browser(folder / "cookies", http, https, certificate)


@pytest.mark.parametrize("front", [*FRONTS, "alone"])
def test_once_and_by_the_proxy(
    front: str, site: tuple[str, bool], tmp_path: Path, certificate: Certificate
) -> None:
    url, _ = site
    with behind(front, url, tmp_path, certificate, *REDIRECT) as browser:
        asked = browser.get(HTTP)
        assert statuses(asked) == [308, 302, 200]
        assert asked.info["url_effective"] == f"https://{SITE}/login?next=/"
        assert statuses(browser.get(HTTPS)) == [302, 200]
        assert browser.get(HTTP, "--data", "a=b", "--max-redirs", "0").status == 426
        assert browser.get(f"{HTTP}_health").status == 200


@pytest.mark.parametrize("front", [*FRONTS, "alone"])
def test_without_it_django_decides(
    front: str, site: tuple[str, bool], tmp_path: Path, certificate: Certificate
) -> None:
    url, redirects = site
    with behind(front, url, tmp_path, certificate) as browser:
        assert statuses(browser.get(HTTP)) == ([301, 302, 200] if redirects else [302, 200])
        assert statuses(browser.get(HTTPS)) == [302, 200]


def test_hsts_over_https_only(site: tuple[str, bool], tmp_path: Path, certificate: Certificate) -> None:
    with behind("nginx", site[0], tmp_path, certificate, "--set", "tls.hsts=300") as browser:
        assert browser.get(HTTPS).values("Strict-Transport-Security") == [b"max-age=300"]
        assert browser.get(f"{HTTP}_health").values("Strict-Transport-Security") == []
