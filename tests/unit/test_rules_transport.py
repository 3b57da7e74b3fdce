"""Plain http: pages go to https, SDK paths never; Host and the certificate that was shown."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from proxy.config.schema import Config, TcpAddress, TlsConfig, TrustConfig, UpstreamUrl
from proxy.message import (
    EndpointClass,
    Field,
    Forward,
    Framing,
    FramingKind,
    Peer,
    Refuse,
    RequestHead,
    first_value,
)
from proxy.rules.answers import answer_refusal
from proxy.rules.decide import Tables, decide

PLAIN = Peer(ip_address("203.0.113.7"), 51234, local_port=80)
SECURE = replace(PLAIN, tls=True, local_port=443)
BALANCER = Peer(ip_address("10.0.0.2"), 4711, local_port=80)
PROTO = b"X-Forwarded-Proto"
CONFIG = Config(
    upstream=UpstreamUrl(TcpAddress("web", 8000)),
    trust=TrustConfig(proxies=(ip_network("10.0.0.0/8"),)),
    tls=TlsConfig(redirect_https=True, hsts=300.0),
)


def decided(
    target: bytes = b"/insights?a=1",
    *fields: Field,
    method: bytes = b"GET",
    peer: Peer = PLAIN,
    host: bytes | None = b"App.test:80",
    config: Config = CONFIG,
    framing: Framing | None = None,
) -> Forward | Refuse:
    named: tuple[Field, ...] = () if host is None else ((b"Host", host),)
    head = RequestHead(method, target, 1, (*named, *fields), host, framing or Framing(FramingKind.NONE))
    return decide(head, peer, Tables.of(config), "id")


def location(decision: Forward | Refuse) -> bytes | None:
    assert isinstance(decision, Refuse)
    assert (decision.status, decision.reason) == (308, "https_redirect")
    return first_value(decision.fields, b"location")


class TestPages:
    @pytest.mark.parametrize("method", [b"GET", b"HEAD"])
    def test_go_to_https(self, method: bytes) -> None:
        assert location(decided(method=method)) == b"https://app.test/insights?a=1"

    def test_to_the_port_that_is_published(self) -> None:
        config = replace(CONFIG, tls=TlsConfig(redirect_https=True, redirect_port=8443))
        assert location(decided(config=config)) == b"https://app.test:8443/insights?a=1"
        assert location(decided(config=config, host=b"[::1]:80")) == b"https://[::1]:8443/insights?a=1"
        assert location(decided(config=config, host=b"[::1]")) == b"https://[::1]:8443/insights?a=1"

    def test_a_target_that_looks_like_another_host_stays_a_path(self) -> None:
        assert location(decided(b"//evil.test/x")) == b"https://app.test//evil.test/x"

    @pytest.mark.parametrize("method", [b"POST", b"PUT", b"OPTIONS"])
    def test_other_methods_would_lose_their_body(self, method: bytes) -> None:
        decision = decided(method=method)
        assert isinstance(decision, Refuse)
        assert (decision.status, decision.fields) == (426, ())

    def test_without_a_host_there_is_nowhere_to_go(self) -> None:
        decision = decided(host=None)
        assert isinstance(decision, Refuse)
        assert decision.status == 426

    def test_only_where_it_is_asked_for(self) -> None:
        assert isinstance(decided(config=replace(CONFIG, tls=TlsConfig())), Forward)

    def test_public_pages_too_but_not_the_one_that_balancers_probe(self) -> None:
        assert location(decided(b"/shared/abc")) == b"https://app.test/shared/abc"
        assert isinstance(decided(b"/_health"), Forward)
        assert isinstance(decided(b"/_health/?x"), Forward)
        assert location(decided(b"/_health/x")) is not None

    def test_what_is_never_public_is_not_confirmed(self) -> None:
        decision = decided(b"/metrics")
        assert isinstance(decision, Refuse)
        assert decision.status == 404


class TestScheme:
    def test_our_own_tls(self) -> None:
        assert isinstance(decided(peer=SECURE), Forward)

    @pytest.mark.parametrize("said", [b"https", b"HTTPS", b"http, https", b"wss"])
    def test_a_trusted_proxys_word(self, said: bytes) -> None:
        assert isinstance(decided(b"/x", (PROTO, said), peer=BALANCER), Forward)

    def test_a_trusted_proxy_that_took_plain_http_and_speaks_tls_to_us(self) -> None:
        secure = replace(BALANCER, tls=True)
        assert location(decided(b"/x", (PROTO, b"http"), peer=secure)) == b"https://app.test/x"

    def test_a_strangers_word_counts_for_nothing(self) -> None:
        assert location(decided(b"/x", (PROTO, b"https"))) == b"https://app.test/x"

    def test_the_host_that_the_client_asked_for(self) -> None:
        fields = ((PROTO, b"http"), (b"X-Forwarded-Host", b"posthog.test"))
        assert location(decided(b"/x", *fields, peer=BALANCER)) == b"https://posthog.test/x"


class TestSdkPaths:
    PATHS = (b"/e/", b"/s/", b"/flags?v=2", b"/static/array.js", b"/flags/definitions", b"/i/v1/logs")

    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize("method", [b"GET", b"POST"])
    def test_are_never_redirected(self, path: bytes, method: bytes) -> None:
        assert isinstance(decided(path, method=method), Forward)

    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize("method", [b"GET", b"POST"])
    def test_are_refused_by_option(self, path: bytes, method: bytes) -> None:
        config = replace(CONFIG, tls=TlsConfig(refuse_http=True))
        decision = decided(path, method=method, config=config)
        assert isinstance(decision, Refuse)
        assert (decision.status, decision.reason) == (426, "https_required")
        assert isinstance(decided(path, method=method, config=config, peer=SECURE), Forward)
        assert isinstance(decided(b"/insights", config=config), Forward)


class TestAnswers:
    def test_a_redirect_says_where(self) -> None:
        decision = decided()
        assert isinstance(decision, Refuse)
        answer = answer_refusal(decision, None, 0.0)
        assert answer.reason == b"Permanent Redirect"
        assert (b"Location", b"https://app.test/insights?a=1") in answer.fields

    def test_a_426_names_what_to_upgrade_to(self) -> None:
        decision = decided(method=b"POST")
        assert isinstance(decision, Refuse)
        answer = answer_refusal(decision, None, 0.0)
        assert answer.reason == b"Upgrade Required"
        assert (b"Upgrade", b"TLS/1.2, HTTP/1.1") in answer.fields
        assert (b"Connection", b"Upgrade") in answer.fields


class TestHsts:
    def test_over_https_only(self) -> None:
        decision = decided(b"/e/")
        assert isinstance(decision, Forward)
        assert decision.hsts == b""
        decision = decided(peer=SECURE)
        assert isinstance(decision, Forward)
        assert decision.hsts == b"max-age=300"

    def test_subdomains(self) -> None:
        config = replace(CONFIG, tls=TlsConfig(hsts=31_536_000.0, hsts_subdomains=True))
        decision = decided(b"/x", (PROTO, b"https"), peer=BALANCER, config=config)
        assert isinstance(decision, Forward)
        assert decision.hsts == b"max-age=31536000; includeSubDomains"

    def test_off(self) -> None:
        decision = decided(peer=SECURE, config=replace(CONFIG, tls=TlsConfig()))
        assert isinstance(decision, Forward)
        assert decision.hsts == b""


class TestCertificate:
    SHOWN = replace(SECURE, certificate_names=("app.test", "*.example.test"))

    @pytest.mark.parametrize("host", [b"app.test", b"App.Test:8443", b"x.example.test", None])
    def test_covers_the_host(self, host: bytes | None) -> None:
        assert isinstance(decided(peer=self.SHOWN, host=host), Forward)

    @pytest.mark.parametrize("path", [b"/insights", b"/e/"])
    def test_does_not_cover_it(self, path: bytes) -> None:
        decision = decided(path, peer=self.SHOWN, host=b"other.test")
        assert isinstance(decision, Refuse)
        assert (decision.status, decision.reason) == (421, "host_not_in_certificate")
        assert decision.cls in (EndpointClass.PROTECTED, EndpointClass.INGEST_V0)
