"""`[access]` as operators write it: what can be read, what contradicts what, and what files must hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from proxy.config.load import config_from, load_config
from proxy.config.schema import AccessConfig, Satisfy
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

LINE = "ann:$2y$05$SToIVQgmq4m6K3wKsiicb.dPfmmj4EYBq/4CXWeFZll3Gb7Gw7peq\n"
SSO = {"upstreams": {"sso": {"url": "http://sso:4180"}}}


def access(**settings: Any) -> AccessConfig:
    return config_from({"upstream": "http://web:8000", "access": settings, **SSO}).config.access


def problems(root: dict[str, Any] | None = None, **settings: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config_from({"upstream": "http://web:8000", "access": settings, **SSO, **(root or {})})
    return [str(problem) for problem in caught.value.problems]


def test_nothing_is_demanded_unless_it_is_said() -> None:
    config = access()
    assert config == AccessConfig()
    assert (config.allowed_hosts, config.allowed_ip_blocks, config.satisfy) == (("*",), (), Satisfy.ALL)
    assert (config.basic_auth_file, config.forward_auth, config.client_certificate) == ("", "", False)


def test_everything_said() -> None:
    config = access(
        allowed_ip_blocks="10.0.0.0/8, 2001:db8::1",
        probe_paths=["/_health"],
        basic_realm="The app (staff)",
        forward_auth="sso",
        forward_auth_path="/api/verify?rd=https://login.example.com/",
        forward_auth_copy=["Remote-User", "X-Auth-Request-Email"],
        forward_auth_sign_in="https://login.example.com/start?x=1",
        satisfy="any",
    )
    assert [str(block) for block in config.allowed_ip_blocks] == ["10.0.0.0/8", "2001:db8::1/128"]
    assert config.forward_auth_path == "/api/verify?rd=https://login.example.com/"
    assert config.satisfy is Satisfy.ANY


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("allowed_ip_blocks", ["10.0.0.1/8"], "host bits"),
        ("probe_paths", ["_health"], "begin with /"),
        ("probe_paths", ["/_health?x"], "without ? or #"),
        ("basic_realm", 'a"b', "ASCII text"),
        ("basic_realm", "a\\b", "ASCII text"),
        ("basic_realm", "Büro", "ASCII text"),
        ("basic_auth_checks", 0, "from 1 to 1,024"),
        ("forward_auth_path", "oauth2/auth", "begin with /"),
        ("forward_auth_path", "/a#b", "without #"),
        ("forward_auth_path", "/a b", "visible ASCII"),
        ("forward_auth_copy", ["a b"], "header's name"),
        ("forward_auth_sign_in", "//evil.example.com/", "one /"),
        ("forward_auth_sign_in", "login", "one /"),
        ("forward_auth_sign_in", "https:///x", "one /"),
        ("satisfy", "either", "one of `all`, `any`"),
    ],
)
def test_what_cannot_be_meant(key: str, value: object, allowed: str) -> None:
    (found,) = problems(**{"forward_auth": "sso", key: value})
    assert f"access.{key} = " in found
    assert allowed in found


def test_a_service_that_is_no_upstream() -> None:
    (found,) = problems(forward_auth="ssso")
    assert 'access.forward_auth = "ssso": is not an upstream' in found
    assert "did you mean sso?" in found


def test_details_of_a_service_without_one() -> None:
    (found,) = problems(forward_auth_path="/oauth2/auth")
    assert 'access.forward_auth_path = "/oauth2/auth": only means something with access.forward_auth' in found


def test_client_certificates_need_a_listener_with_tls() -> None:
    (found,) = problems(client_certificate=True)
    assert "access.client_certificate = true: no listener speaks TLS" in found


def test_the_file_of_users_is_read(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text(LINE + "bob:$apr1$x$y\n")
    (found,) = problems(basic_auth_file=str(file))
    assert f'access.basic_auth_file = "{file}": line 2 (user "bob") holds an apr1 (MD5) hash' in found
    file.write_text(LINE)
    assert access(basic_auth_file=str(file)).basic_auth_file == str(file)


def test_the_flag_of_the_blocks_beats_posthogs_variable() -> None:
    said = {"upstream": "http://web:8000", "access.allowed_ip_blocks": "10.0.0.0/8"}
    config = load_config(None, {"ALLOWED_IP_BLOCKS": "192.0.2.0/24"}, said).config
    assert [str(block) for block in config.access.allowed_ip_blocks] == ["10.0.0.0/8"]
