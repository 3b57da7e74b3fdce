from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from proxy.config.contradictions import advice, contradictions, trusts_somebody, value_at
from proxy.config.load import config_from
from proxy.config.schema import (
    AccessConfig,
    CertificateConfig,
    Config,
    PosthogConfig,
    RouteConfig,
    TcpAddress,
    TimeoutsConfig,
    TrustConfig,
    UpstreamConfig,
    UpstreamUrl,
)
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = {"url": "http://web:8000"}
SECURE = {"url": "https://web"}


def problems(**mapping: Any) -> list[str]:
    """What is wrong with a configuration; its default upstream is given here where it is not there."""
    mapping.setdefault("upstreams", {})
    mapping["upstreams"].setdefault("default", PLAIN)
    try:
        config_from(mapping, "file")
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        (
            {"trust": {"all": True, "proxies": ["10.0.0.1"]}},
            "file: trust.all = true: contradicts trust.proxies = a list of 1 (file): they are different ways",
        ),
        (
            {"trust": {"hops": 1, "proxies": "10.0.0.1"}},
            'trust.hops = 1: contradicts trust.proxies = "10.0.0.1"',
        ),
        ({"trust": {"hops": 1, "all": True}}, "trust.all = true: contradicts trust.hops = 1"),
        (
            {"health": {"open_min": 10, "open_max": "5s"}},
            'file: health.open_min = 10: must not exceed health.open_max = "5s" (file)',
        ),
        (
            {"health": {"open_min": 100}},
            "file: health.open_min = 100: must not exceed health.open_max = 60 (the default)",
        ),
        (
            {"access": {"client_certificate": True}},
            "file: access.client_certificate = true: no listener speaks TLS",
        ),
        (
            {"access": {"forward_auth": "sso"}},
            'file: access.forward_auth = "sso": is not an upstream; there are: default',
        ),
        (
            {"access": {"forward_auth_copy": ["Remote-User"]}},
            "file: access.forward_auth_copy = a list of 1: only means something with access.forward_auth",
        ),
        (
            {"timeouts": {"drain": 1, "drain_streams": 2}},
            "timeouts.drain_streams = 2: must not exceed timeouts.drain = 1",
        ),
        (
            {"limits": {"held_body": 4096, "body_flags": 2048}},
            "limits.held_body = 4096: must not exceed limits.body_flags = 2048",
        ),
        (
            {"upstreams": {"default": {**PLAIN, "insecure": True}}},
            'insecure = true: contradicts upstreams.default.url = "http://web:8000" (file): it only means',
        ),
        ({"upstreams": {"default": {**PLAIN, "server_name": "x"}}}, 'default.server_name = "x": contradicts'),
        ({"listen": ["[::1]:80", "[0::1]:80"]}, 'file: listen = "[::1]:80": is given more than once'),
        ({"listen": ["unix:/x", "unix:/x"]}, 'file: listen = "unix:/x": is given more than once'),
        (
            {"listen": "web:8000"},
            'upstreams.default.url = "http://web:8000": is where this proxy itself listens (web:8000)',
        ),
        (
            {"routes": [{"path": "/a"}, {"path": "/b"}, {"path": "/a"}]},
            'file: routes[2].path = "/a": is the path of routes[0] too',
        ),
        (
            {"routes": [{"path": "/a", "upstream": "defaul"}]},
            'routes[0].upstream = "defaul": is not an upstream; there are: default (did you mean default?)',
        ),
        (
            {"listen": "[::1]:80", "listeners": [{"address": "[0::1]:80"}]},
            'file: listen = "[::1]:80": is given more than once',
        ),
        (
            {"listeners": [{"address": "unix:/x"}, {"address": "unix:/x", "mode": "tcp"}]},
            'file: listeners = "unix:/x": is given more than once',
        ),
        (
            {"listeners": [{"address": "web:8000"}]},
            'upstreams.default.url = "http://web:8000": is where this proxy itself listens (web:8000)',
        ),
        (
            {"listeners": [{"address": "web:1", "mode": "tcp", "upstream": "defaul"}]},
            'listeners[0].upstream = "defaul": is not an upstream; there are: default (did you',
        ),
        (
            {"listeners": [{"address": "web:1", "upstream": "default"}]},
            'listeners[0].upstream = "default": only means something with mode = "tcp"',
        ),
        ({"spool": {"mode": "first"}}, 'spool.mode = "first": means nothing without spool.directory'),
        (
            {"routes": [{"path": "/e", "spool": "first"}]},
            'file: routes[0].spool = "first": means nothing without spool.directory',
        ),
        (
            {"spool": {"directory": "/v"}, "routes": [{"path": "/i/v1/*", "spool": "fallback"}]},
            'routes[0].spool = "fallback": is only for v0 ingest and replay',
        ),
        (
            {"spool": {"directory": "/v"}, "routes": [{"path": "/e", "cls": "flags", "spool": "first"}]},
            'routes[0].spool = "first": is only for v0 ingest and replay',
        ),
        (
            {"spool": {"directory": "/v"}, "routes": [{"path": "/mine", "spool": "first"}]},
            'routes[0].spool = "first": is only for v0 ingest and replay',
        ),
        (
            {"listen": "127.0.0.1:9000", "admin": {"listen": "127.0.0.1:9000"}},
            'file: admin.listen = "127.0.0.1:9000": is where clients are served; take another',
        ),
        (
            {"admin": {"listen": "0.0.0.0:9001"}},
            'file: admin.listen = "0.0.0.0:9001": can be reached from other machines: give admin.token_file',
        ),
    ],
)
def test_two_settings_that_contradict_each_other(mapping: dict[str, Any], said: str) -> None:
    (found,) = problems(**mapping)
    assert said in found


@pytest.mark.parametrize(
    "mapping",
    [
        {"trust": {"all": False, "proxies": ["10.0.0.1"], "hops": 0}},
        {"listen": ["127.0.0.1:0", "127.0.0.1:0"]},
        {"routes": [{"path": "/a", "upstream": "default"}, {"path": "/a*"}]},
        {"health": {"open_min": 60, "open_max": 60}},
        {"spool": {"mode": "off"}, "routes": [{"path": "/flags", "spool": "off"}]},
        {"admin": {"listen": "127.0.0.1:9001"}},
        {"admin": {"listen": "unix:/run/admin.sock"}},
        {"listen": "127.0.0.1:0", "admin": {"listen": "127.0.0.1:0"}},
        {
            "spool": {"directory": "/v"},
            "routes": [
                {"path": "/*", "spool": "first"},
                {"path": "/s/*", "spool": "first"},
                {"path": "/batch/", "spool": "first"},
                {"path": "/mine", "cls": "ingest_v0", "spool": "first"},
            ],
        },
        {"upstreams": {"default": {**SECURE, "server_name": "x", "insecure": True}}},
    ],
)
def test_what_only_looks_like_a_contradiction(mapping: dict[str, Any]) -> None:
    assert problems(**mapping) == []


@pytest.mark.parametrize(
    ("listen", "upstream", "loops"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000", True),
        ("127.0.0.1:8000", "http://localhost:8000", True),
        ("0.0.0.0:8000", "http://127.0.0.1:8000", True),
        ("[::]:8000", "http://[::1]:8000", True),
        ("unix:/x", "unix:/x", True),
        ("127.0.0.1:8000", "http://127.0.0.1:8001", False),
        ("127.0.0.1:8000", "http://10.0.0.1:8000", False),
        ("0.0.0.0:8000", "http://10.0.0.1:8000", False),
        ("0.0.0.0:8000", "http://web:8000", False),
        ("unix:/x", "unix:/y", False),
        ("unix:/x", "http://127.0.0.1:8000", False),
    ],
)
def test_a_proxy_in_front_of_itself(listen: str, upstream: str, loops: bool) -> None:
    found = problems(listen=listen, upstreams={"default": {"url": upstream}})
    assert any("is where this proxy itself listens" in problem for problem in found) is loops


def test_an_upstream_at_the_default_listener_loops_too() -> None:
    (found,) = problems(upstreams={"default": {"url": "http://localhost:8000"}})
    assert "is where this proxy itself listens (127.0.0.1:8000)" in found


def test_insecure_with_an_authority() -> None:
    found = problems(
        upstreams={"default": {**SECURE, "insecure": True, "ca_file": "/etc/ssl/certs/ca-certificates.crt"}}
    )
    assert any(
        "nothing is checked against an authority where nothing is verified" in problem for problem in found
    )


def test_a_route_may_name_an_upstream_whose_url_is_wrong() -> None:
    (found,) = problems(upstreams={"eu": {"url": "eu"}}, routes=[{"path": "/a", "upstream": "eu"}])
    assert "upstreams.eu.url" in found


def test_a_setting_that_nobody_gave_is_blamed_as_the_default() -> None:
    config = Config(upstreams={"default": UpstreamConfig(UpstreamUrl(TcpAddress("127.0.0.1", 8000)))})
    (found,) = contradictions(config, {}, ["default"])
    assert found.where == "default"
    routes = (RouteConfig("/a", "eu"),)
    (found,) = contradictions(Config(routes=routes, access=AccessConfig()), {}, [])
    assert found.where == ""


def test_value_at() -> None:
    assert value_at(Config(timeouts=TimeoutsConfig(drain=3.0)), "timeouts.drain") == 3.0


@pytest.mark.parametrize(
    ("trust", "somebody"),
    [
        (TrustConfig(), False),
        (TrustConfig(forwarded=True, client_header="X-Client"), False),
        (TrustConfig(all=True), True),
        (TrustConfig(unix=True), True),
        (TrustConfig(hops=1), True),
    ],
)
def test_trusts_somebody(trust: TrustConfig, somebody: bool) -> None:
    assert trusts_somebody(trust) is somebody


def config(
    url: str = "https://web", *, insecure: bool = False, redirect: bool = True, **trust: Any
) -> Config:
    loaded = config_from(
        {
            "upstreams": {"default": {"url": url, "insecure": insecure}},
            "posthog": {"secure_ssl_redirect": redirect},
            "trust": trust,
        }
    )
    return loaded.config


def test_no_advice_is_needed() -> None:
    assert advice(config()) == []
    assert advice(config("http://web", proxies=["10.0.0.1"], forwarded=True)) == []
    assert advice(config("http://web", redirect=False)) == []


def test_an_unverified_upstream_is_warned_about() -> None:
    (warning,) = advice(config(insecure=True))
    assert warning.startswith(
        "upstreams.default.insecure = true: whoever stands between here and https://web"
    )
    assert "ca_file" in warning


@pytest.mark.parametrize(("key", "value"), [("forwarded", True), ("client_header", "CF-Connecting-IP")])
def test_a_header_that_is_never_read(key: str, value: object) -> None:
    trust: dict[str, Any] = {key: value}
    (warning,) = advice(config(**trust))
    assert warning.startswith(f"trust.{key} = ")
    assert "never read" in warning


def test_an_endless_redirect_is_foreseen() -> None:
    assert PosthogConfig().secure_ssl_redirect
    (warning,) = advice(config("http://web"))
    assert warning.startswith("posthog.secure_ssl_redirect = true while no proxy is trusted")
    for cure in ("trust.proxies", "--trusted-proxies", "TRUSTED_PROXIES", "DISABLE_SECURE_SSL_REDIRECT=true"):
        assert cure in warning


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        (
            {"aliases": {"prefix": "/static/x"}},
            'file: aliases.prefix = "/static/x": hides PostHog\'s own /static;',
        ),
        ({"aliases": {"prefix": "/e"}}, "hides PostHog's own /e"),
        ({"aliases": {"prefix": "/api"}}, "hides PostHog's own /api"),
        ({"aliases": {"paths": "/e/=/s/"}}, 'aliases.paths = "/e/=/s/": has a name that is PostHog\'s own'),
        ({"aliases": {"paths": ["/a=/e", "/a/=/s"]}}, '"/a/=/s": has a name that another one has'),
        ({"aliases": {"prefix": "/x", "paths": "/x/y=/e"}}, "has a name below aliases.prefix"),
        ({"aliases": {"prefix": "/x", "paths": "/x=/e"}}, "has a name below aliases.prefix"),
        (
            {"routes": [{"path": "/live/*", "strip": "/li"}]},
            'file: routes[0].strip = "/li": must be the beginning of routes[0].path, before a /',
        ),
        ({"routes": [{"path": "/live", "strip": "/live"}]}, "must be the beginning of routes[0].path"),
        ({"routes": [{"path": "/live*", "strip": "/live"}]}, "must be the beginning of routes[0].path"),
    ],
)
def test_names_and_prefixes_that_cannot_be_meant(mapping: dict[str, Any], said: str) -> None:
    (found,) = problems(**mapping)
    assert said in found


def test_names_and_prefixes_that_can() -> None:
    aliases = {"prefix": "/xy", "paths": ["/x=/e", "/static/lib.js=/static/array.js"]}
    assert problems(aliases=aliases, routes=[{"path": "/live/*", "strip": "/live"}]) == []


def test_trust_in_everybody_says_what_it_gives_up() -> None:
    (warning,) = config_from({"upstream": "http://web:1", "trust": {"all": True}}).warnings
    assert warning.startswith(
        "trust.all = true (TRUST_ALL_PROXIES): whoever can connect here chooses the address"
    )


def test_demands_that_can_be_met() -> None:
    assert problems(access={"forward_auth": "default", "forward_auth_path": "/x"}) == []
    finished = Config(
        upstreams={"default": UpstreamConfig(UpstreamUrl(TcpAddress("web", 8000)))},
        access=AccessConfig(forward_auth="sso"),
    )
    (found,) = contradictions(finished, {}, ["default"])
    assert (found.key, found.where) == ("access.forward_auth", "default")


def test_a_certificate_that_nobody_is_asked_for() -> None:
    found = problems(listeners=[{"address": "[::1]:0", "tls": True}], access={"client_certificate": True})
    said = 'file: access.client_certificate = true: needs tls.client_auth = "optional" or "required"'
    assert any(problem.startswith(said) for problem in found)


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({"tls": {"key": "/k"}}, 'tls.key = "/k": is a key without its certificate'),
        ({"tls": {"client_auth": "optional"}}, 'tls.client_auth = "optional": needs tls.client_ca'),
        (
            {"tls": {"client_ca": "/ca"}},
            'tls.client_ca = "/ca": is never read while tls.client_auth is "off"',
        ),
        (
            {"upstreams": {"default": {"url": "https://web", "client_key": "/k"}}},
            'upstreams.default.client_key = "/k": a key without its certificate',
        ),
        (
            {"upstreams": {"default": {"url": "https://web", "ca_file": "/ca", "insecure": True}}},
            "nothing is checked against an authority where nothing is verified; keep one",
        ),
        (
            {"fronts": [{"networks": ["10.0.0.0/8"]}], "trust": {"hops": 1}},
            "they are different ways to say whom to believe; keep one",
        ),
        ({"listen_tls": "127.0.0.1:0"}, "needs a certificate: give tls.certificate (--tls-cert)"),
    ],
)
def test_tls_and_trust_that_lack_their_other_half(mapping: dict[str, Any], said: str) -> None:
    """Beside these, files that are not there are found too (test_config_files.py)."""
    if "upstreams" in mapping:
        with pytest.raises(ConfigError) as failure:
            config_from(mapping, "file")
        found = [str(problem) for problem in failure.value.problems]
    else:
        found = problems(**mapping)
    assert any(said in problem for problem in found)


def test_tls_that_nobody_will_speak() -> None:
    warnings = config_from({"upstream": "http://web:1", "tls": {"redirect_https": True}}).warnings
    assert warnings[0].startswith("tls.redirect_https = true, while no listener speaks TLS")
    config = Config(
        upstreams={"default": UpstreamConfig(UpstreamUrl(TcpAddress("web", 8000)))},
        certificates=(CertificateConfig("/c", "/k"),),
    )
    assert any("no listener speaks TLS" in warning for warning in advice(config))


def test_a_token_goes_with_an_admin_listener(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-that-is-long-enough-to-be-taken\n")
    assert problems(admin={"listen": "0.0.0.0:9001", "token_file": str(token)}) == []
    (said,) = problems(admin={"token_file": str(token)})
    assert said == f'file: admin.token_file = "{token}": only means something with admin.listen'
