"""The contexts towards upstreams; the handshakes themselves are in test_net_dial.py."""

from __future__ import annotations

import dataclasses
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from proxy.config.schema import TcpAddress, UnixAddress, UpstreamConfig, UpstreamUrl
from proxy.errors import ConfigError
from proxy.net.tls import client_context, server_name
from tests.support.tls import self_signed

if TYPE_CHECKING:
    from pathlib import Path


def upstream(host: str = "us.i.posthog.com", **keys: Any) -> UpstreamConfig:
    return dataclasses.replace(UpstreamConfig(UpstreamUrl(TcpAddress(host, 443), tls=True)), **keys)


class TestContext:
    def test_verifies_by_default(self) -> None:
        context = client_context(upstream())
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2

    @pytest.mark.needs("openssl")
    def test_the_systems_authorities_unless_there_is_a_file(self, tmp_path: Path) -> None:
        certificate = self_signed(tmp_path, "posthog.test").certificate
        context = client_context(upstream(ca_file=str(certificate)))
        assert context.verify_mode is ssl.CERT_REQUIRED
        (authority,) = context.get_ca_certs()
        assert ("DNS", "posthog.test") in authority["subjectAltName"]

    def test_insecure_only_by_its_key(self) -> None:
        context = client_context(upstream(insecure=True))
        assert context.verify_mode is ssl.CERT_NONE
        assert not context.check_hostname
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            client_context(upstream(ca_file=f"{tmp_path}/no.pem"), "cloud")
        (problem,) = caught.value.problems
        assert (problem.key, problem.value) == ("upstreams.cloud.ca_file", f"{tmp_path}/no.pem")
        assert "No such file" in problem.allowed

    @pytest.mark.parametrize("text", ["", "not PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n"])
    def test_a_file_without_a_certificate(self, tmp_path: Path, text: str) -> None:
        file = tmp_path / "ca.pem"
        file.write_text(text)
        with pytest.raises(ConfigError, match="no certificate in it"):
            client_context(upstream(ca_file=str(file)))


class TestName:
    @pytest.mark.parametrize(
        ("host", "given", "name"),
        [
            ("us.i.posthog.com", "", "us.i.posthog.com"),
            ("us.i.posthog.com.", "", "us.i.posthog.com"),
            ("10.0.0.1", "posthog.internal", "posthog.internal"),
            ("::1", "", "::1"),
        ],
    )
    def test_the_urls_host_unless_another_is_given(self, host: str, given: str, name: str) -> None:
        assert server_name(upstream(host, server_name=given)) == name

    def test_a_unix_socket_has_none(self) -> None:
        assert server_name(UpstreamConfig(UpstreamUrl(UnixAddress("/run/posthog.sock")))) == ""
