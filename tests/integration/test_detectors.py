"""The detectors before real servers that are set up wrongly: each names the setting that cures it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from proxy.rules.symptoms import CURES, Loop, Symptom
from tests.integration.conftest import SITE
from tests.integration.django_behind import django, make_database
from tests.support import servers
from tests.support.curl import curl

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import RunningProxy

pytestmark = pytest.mark.needs("nginx", "curl")


def said(proxy: RunningProxy, symptom: Symptom) -> dict[str, Any]:
    """Wait for the line about ``symptom``."""
    pattern = rf'\A\{{.*"event": ?"{symptom.value}"'
    line: dict[str, Any] = json.loads(proxy.process.wait_for_lines(pattern, 1)[0].string)
    return line


def test_the_login_page_on_an_event_endpoint(tmp_path: Path) -> None:
    with (
        servers.nginx("nginx_assets.conf", tmp_path) as origin,
        servers.posthog_proxy(f"http://{origin.authority}") as proxy,
    ):
        assert curl("--data", "{}", f"{proxy.url}/e/").status == 200
        line = said(proxy, Symptom.HTML)
        assert (line["path"], line["status"]) == ("/e/", 200)
        assert line["cure"] == CURES[Symptom.HTML]


@pytest.mark.parametrize(
    ("trusted", "loop"),
    [("", Loop.SCHEME), ("127.0.0.1", Loop.ITSELF)],
    ids=["proto-not-believed-here", "proto-not-believed-there"],
)
def test_a_django_that_redirects_to_https_for_ever(tmp_path: Path, trusted: str, loop: Loop) -> None:
    """Behind a front that ends TLS. Not trusted, we say http; trusted, we say https to a Django that was not
    told IS_BEHIND_PROXY."""
    make_database(tmp_path)
    believing = {"IS_BEHIND_PROXY": "true", "TRUSTED_PROXIES": "127.0.0.1"} if loop is Loop.SCHEME else {}
    with (
        django(tmp_path, ALLOWED_HOSTS=SITE, **believing) as site,
        servers.posthog_proxy(site, trusted=trusted) as proxy,
    ):
        answer = curl("-H", f"Host: {SITE}", "-H", "X-Forwarded-Proto: https", f"{proxy.url}/login")
        assert answer.status == 301
        assert answer.values("Location") == [f"https://{SITE}/login".encode()]
        line = said(proxy, Symptom.REDIRECT)
        assert (line["kind"], line["cure"]) == (loop.value, CURES[loop])


def test_a_recording_that_somebody_behind_cuts_off(tmp_path: Path) -> None:
    """nginx's own limit of 1 MiB, which loses recordings."""
    template = "nginx_small.conf"
    with (
        servers.nginx(template, tmp_path) as origin,
        servers.posthog_proxy(f"http://{origin.authority}") as proxy,
    ):
        body = tmp_path / "recording"
        body.write_bytes(b"x" * 1_200_000)
        assert curl("--data-binary", f"@{body}", f"{proxy.url}/s/").status == 413
        assert said(proxy, Symptom.REPLAY)["cure"] == CURES[Symptom.REPLAY]
