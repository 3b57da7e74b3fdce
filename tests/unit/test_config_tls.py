"""`[tls]`, `[[certificates]]`, their short forms, and what contradicts them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from proxy.config.load import FLAGS, config_from, load_config
from proxy.config.schema import (
    CertificateConfig,
    ClientAuth,
    ListenerConfig,
    TcpAddress,
    TlsVersion,
    configured_certificates,
    configured_listeners,
)
from proxy.errors import ConfigError
from tests.support.tls import self_signed

if TYPE_CHECKING:
    from tests.support.tls import Certificate

pytestmark = pytest.mark.needs("openssl")

UPSTREAM = {"upstream": "http://web:1"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("tls"), "a.test", days=90)


def problems(**mapping: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config_from({**UPSTREAM, **mapping}, "file")
    return [str(problem) for problem in caught.value.problems]


def test_by_flags_alone(made: Certificate) -> None:
    flags = {
        "upstream": "http://web:1",
        "listen_tls": "0.0.0.0:443",
        "tls.certificate": str(made.certificate),
        "tls.key": str(made.key),
    }
    config = load_config(flags=flags).config
    assert configured_listeners(config) == (ListenerConfig(TcpAddress("0.0.0.0", 443), tls=True),)
    assert configured_certificates(config) == (CertificateConfig(str(made.certificate), str(made.key)),)
    assert {FLAGS["listen_tls"], FLAGS["tls.certificate"], FLAGS["tls.key"]} == {
        "--listen-tls",
        "--tls-cert",
        "--tls-key",
    }


def test_by_the_environment_alone(made: Certificate) -> None:
    environ = {
        "POSTHOG_PROXY_UPSTREAM": "http://web:1",
        "POSTHOG_PROXY_LISTEN_TLS": "0.0.0.0:443",
        "POSTHOG_PROXY_TLS__CERTIFICATE": str(made.pem),
    }
    config = load_config(environ=environ).config
    assert configured_certificates(config) == (CertificateConfig(str(made.pem)),)


def test_beside_plain_http(made: Certificate) -> None:
    mapping = {
        "listen_tls": "127.0.0.1:443",
        "listen": "127.0.0.1:80",
        "tls": {"certificate": str(made.pem), "minimum": "1.3"},
    }
    config = config_from({**UPSTREAM, **mapping}).config
    assert [listener.tls for listener in configured_listeners(config)] == [False, True]
    assert config.tls.minimum is TlsVersion.TLS_1_3
    assert config.tls.client_auth is ClientAuth.OFF


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({"listen_tls": "127.0.0.1:443"}, 'listen_tls = "127.0.0.1:443": needs a certificate'),
        ({"listeners": [{"address": "a:1", "tls": True}]}, "listeners[0].tls = true: needs a certificate"),
        ({"tls": {"key": "/k"}}, 'tls.key = "/k": is a key without its certificate'),
        ({"tls": {"client_auth": "required"}}, 'tls.client_auth = "required": needs tls.client_ca'),
        ({"tls": {"minimum": "1.1"}}, 'tls.minimum = "1.1": must be one of `1.2`, `1.3`'),
        ({"tls": {"hsts": "3y"}}, 'tls.hsts = "3y": must be a number of seconds'),
        (
            {"upstreams": {"default": {"url": "https://w", "client_key": "/k"}}, "upstream": None},
            "client_cert",
        ),
    ],
)
def test_contradictions(mapping: dict[str, Any], said: str) -> None:
    assert said in "\n".join(problems(**mapping))


def test_authorities_that_nobody_asks(made: Certificate) -> None:
    (problem,) = problems(tls={"client_ca": str(made.certificate)})
    assert 'is never read while tls.client_auth is "off"' in problem


def test_an_address_that_is_given_twice(made: Certificate) -> None:
    mapping = {"listen": "a:443", "listen_tls": ["a:443"], "tls": {"certificate": str(made.pem)}}
    assert any("is given more than once" in problem for problem in problems(**mapping))


def test_what_is_probably_not_meant(made: Certificate) -> None:
    said = config_from({**UPSTREAM, "tls": {"certificate": str(made.pem), "redirect_https": True}}).warnings
    assert any(warning.startswith("certificates are given, but no listener speaks TLS") for warning in said)
    assert any("every page is redirected for ever" in warning for warning in said)


def test_tls_of_our_own_can_say_https(made: Certificate) -> None:
    mapping = {**UPSTREAM, "listen_tls": "a:443", "tls": {"certificate": str(made.pem)}}
    assert config_from(mapping).warnings == ()
