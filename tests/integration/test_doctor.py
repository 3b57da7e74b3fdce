"""The doctor before servers that are set up wrongly: each fault is found, and its cure named."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from proxy import cli
from tests.integration.conftest import SITE
from tests.integration.django_behind import django, make_database
from tests.support import servers
from tests.support.ports import free_port
from tests.support.services import services
from tests.support.tls import self_signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.tls import Certificate

    Doctor = Callable[..., list[dict[str, Any]]]

pytestmark = pytest.mark.needs("nginx", "openssl")

TRUSTED = ("--trusted-proxies", "127.0.0.1")


@pytest.fixture(scope="module")
def of_faults(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate that names another host."""
    return self_signed(tmp_path_factory.mktemp("tls"), "other.test", address=False)


@pytest.fixture(scope="module")
def faults(of_faults: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    folder = tmp_path_factory.mktemp("faults")
    values = {"certificate": of_faults.certificate, "key": of_faults.key}
    with servers.nginx("nginx_faults.conf", folder, **values) as server:
        yield server


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Run the command and return its findings; the exit status is the worst of them."""
    for name in [*os.environ]:
        if name.startswith(servers.CONFIGURING):
            monkeypatch.delenv(name)

    def examine(*words: str) -> list[dict[str, Any]]:
        status = cli.main(["doctor", "--json", *words])
        said = json.loads(capsys.readouterr().out)
        worst = {"ok": 0, "warning": 1, "error": 2}
        assert status == said["status"] == max(worst[each["severity"]] for each in said["findings"])
        findings: list[dict[str, Any]] = said["findings"]
        assert all(each["cure"] for each in findings if each["severity"] != "ok")
        return findings

    return examine


def bad(findings: list[dict[str, Any]], code: str) -> list[str]:
    """Text and cure of what is wrong."""
    return [
        f"{each['text']}; {each['cure']}"
        for each in findings
        if each["code"] == code and each["severity"] != "ok"
    ]


def upstream(server: servers.Server, port: str) -> tuple[str, ...]:
    return ("--upstream", f"http://127.0.0.1:{server.ports[port]}", *TRUSTED)


def test_all_is_well_before_the_stand_in(doctor: Doctor) -> None:
    with servers.standin() as url, servers.posthog_proxy(url, trusted="") as proxy:
        found = doctor(
            "--upstream", url, *TRUSTED, "--origin", "https://shop.example", "--through", proxy.url
        )
    assert {each["code"] for each in found if each["severity"] == "error"} == {"client_address"}
    good = {(each["code"], each["subject"]) for each in found if each["severity"] == "ok"}
    assert good >= {
        (code, "default")
        for code in ("connect", "clock", "health", "sdk_path", "flags", "cache", "cors", "redirects")
    }
    assert good >= {("client_address", "default"), ("body_cap", proxy.authority), ("cors", proxy.authority)}
    # Through the proxy PostHog sees this machine, which is nobody's address on the Internet.
    assert "PostHog would see capture 127.0.0.1" in bad(found, "client_address")[0]


def test_the_web_app_answers_an_sdk(doctor: Doctor, faults: servers.Server) -> None:
    found = doctor(*upstream(faults, "html_port"))
    (first, *_) = bad(found, "html_on_sdk_path")
    assert first.startswith("/e/ answers 200 with a web page")
    assert "[[routes]]" in first


def test_the_wrong_host(doctor: Doctor, faults: servers.Server) -> None:
    found = doctor(*upstream(faults, "wrong_port"), "--origin", "https://shop.example")
    assert "us-assets.i.posthog.com" in bad(found, "asset_host")[0]
    assert "/i/v0/e/ answers 502; send /i/v0/e/ to the service" in bad(found, "sdk_path")[0]
    assert bad(found, "health")[0].startswith("/_health answers 500")
    assert bad(found, "cache")[0].startswith("/static/array.js says Cache-Control: no-store")
    assert "something else than flags" in bad(found, "flags")[0]
    assert "two Access-Control-Allow-Origin" in bad(found, "cors")[0]


def test_cookies_and_no_cors(doctor: Doctor, faults: servers.Server) -> None:
    found = doctor(*upstream(faults, "cookie_port"), "--origin", "https://shop.example")
    assert "sets a cookie" in bad(found, "cache")[0]
    assert "allowed origin none" in bad(found, "cors")[0]
    assert bad(found, "redirect_loop")[0].startswith("/batch/ is redirected to itself")


def test_plain_http_to_a_tls_port(doctor: Doctor, faults: servers.Server) -> None:
    found = doctor(*upstream(faults, "tls_port"))
    assert bad(found, "tls") == [
        "it is asked in plain HTTP and wants TLS; write https:// in upstreams.default.url"
    ]


def test_tls_to_a_plain_port(doctor: Doctor, faults: servers.Server) -> None:
    found = doctor("--upstream", f"https://{faults.authority}")
    assert "write http://" in bad(found, "tls")[0]


def test_a_certificate_of_nobody_known(doctor: Doctor, faults: servers.Server) -> None:
    found = doctor("--upstream", f"https://{faults.tls_authority}")
    assert "upstreams.default.ca_file" in bad(found, "tls")[0]


def with_tls(server: servers.Server, certificate: Certificate, *settings: str) -> tuple[str, ...]:
    words = ["--upstream", f"https://{server.tls_authority}"]
    for setting in (f"ca_file={certificate.certificate}", *settings):
        words += ["--set", f"upstreams.default.{setting}"]
    return tuple(words)


def test_a_certificate_with_another_name(
    doctor: Doctor, faults: servers.Server, of_faults: Certificate
) -> None:
    found = doctor(*with_tls(faults, of_faults))
    assert "upstreams.default.server_name" in bad(found, "tls")[0]
    # With it all is well, but for its end.
    found = doctor(*with_tls(faults, of_faults, "server_name=other.test"))
    assert not bad(found, "tls")
    assert "renew it" in bad(found, "certificate")[0]


def test_a_certificate_that_has_expired(doctor: Doctor, tmp_path: Path) -> None:
    made = self_signed(tmp_path, "localhost", days=0)
    with services("web", certificate=made) as running:
        found = doctor(
            "--upstream", running["web"].url, "--set", f"upstreams.default.ca_file={made.certificate}"
        )
    assert bad(found, "tls")[0].endswith("renew the certificate of the upstream")


def test_nobody_there(doctor: Doctor) -> None:
    found = doctor("--upstream", f"http://127.0.0.1:{free_port()}")
    assert "start what listens there" in bad(found, "connect")[0]
    assert not [each for each in found if each["code"] == "sdk_path"]


def test_no_such_name(doctor: Doctor) -> None:
    found = doctor("--upstream", "http://posthog.invalid", "--timeout", "2")
    assert "posthog.invalid has no address" in bad(found, "dns")[0]


def test_a_body_limit_in_front(doctor: Doctor, tmp_path: Path) -> None:
    with servers.standin() as url, servers.nginx("nginx_small.conf", tmp_path) as front:
        found = doctor("--upstream", url, *TRUSTED, "--through", f"http://{front.authority}")
    caps = bad(found, "body_cap")
    assert [text.partition(" is refused")[0] for text in caps] == [
        "a body of 2 MB to /e/",
        "a body of 20 MB to /s/",
    ]
    assert "client_max_body_size 64m" in caps[0]


def test_our_own_body_limit(doctor: Doctor) -> None:
    settings = ("--set", "limits.body_replay=1MiB", "--set", "limits.body_ingest=4MiB")
    with servers.standin() as url, servers.posthog_proxy(url, *settings) as proxy:
        found = doctor("--upstream", url, *TRUSTED, *settings, "--through", proxy.url)
    (cap,) = bad(found, "body_cap")
    assert "raise limits.body_ingest and limits.body_replay" in cap
    assert [text.partition(" ")[0] for text in bad(found, "limits")] == [
        "limits.body_ingest",
        "limits.body_replay",
    ]


def test_the_certificate_of_the_public_name(
    doctor: Doctor, faults: servers.Server, of_faults: Certificate
) -> None:
    public = ("--through", f"https://{faults.tls_authority}")
    found = doctor(*upstream(faults, "html_port"), *public)
    assert "show a certificate of this name" in bad(found, "tls")[0]
    assert not bad(found, "body_cap")
    found = doctor(*upstream(faults, "html_port"), *public, "--through-ca", str(of_faults.certificate))
    assert "mismatch" in bad(found, "tls")[0]


# --- Django as PostHog sets it up -----------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("django")
    make_database(folder)
    return folder


def test_django_does_not_believe_the_proxy(doctor: Doctor, site: Path) -> None:
    with django(site) as url:
        found = doctor("--upstream", url, *TRUSTED)
    loops = bad(found, "redirect_loop")
    assert any("X-Forwarded-Proto: https is redirected to itself" in text for text in loops)
    assert all("IS_BEHIND_PROXY" in text for text in loops)


BELIEVING = {"IS_BEHIND_PROXY": "true", "TRUSTED_PROXIES": "127.0.0.1"}


def test_django_believes_but_nobody_says_https(doctor: Doctor, site: Path) -> None:
    with django(site, **BELIEVING) as url:
        found = doctor("--upstream", url)
        (loop,) = bad(found, "redirect_loop")
        assert "X-Forwarded-Proto: http is redirected to itself" in loop
        assert "DISABLE_SECURE_SSL_REDIRECT" in loop
        # Where a proxy in front can say it, the redirect is what it is meant to be.
        found = doctor("--upstream", url, *TRUSTED)
        assert not bad(found, "redirect_loop")
    # Current versions of the web app take no events.
    assert len(bad(found, "html_on_sdk_path")) > 3


def test_django_does_not_know_the_host(doctor: Doctor, site: Path) -> None:
    with django(site, **BELIEVING, ALLOWED_HOSTS=SITE) as url:
        found = doctor("--upstream", url, *TRUSTED, "--host", "ph.example")
        assert "add ph.example to ALLOWED_HOSTS" in bad(found, "allowed_hosts")[0]
        assert not bad(doctor("--upstream", url, *TRUSTED, "--allowed-hosts", SITE), "allowed_hosts")


def test_django_shuts_the_proxy_out(doctor: Doctor, site: Path) -> None:
    env = {**BELIEVING, "TRUSTED_PROXIES": "10.0.0.1", "ALLOWED_IP_BLOCKS": "203.0.113.0/24"}
    with django(site, **env) as url:
        found = doctor("--upstream", url, *TRUSTED)
    assert "TRUSTED_PROXIES" in bad(found, "address_gate")[0]
