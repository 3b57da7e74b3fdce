from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.config.environment import posthog_advice, read_own, read_posthog
from proxy.config.load import config_from
from proxy.config.reading import Reading

if TYPE_CHECKING:
    from proxy.config.schema import Config


def own(environ: dict[str, str], upstreams: tuple[str, ...] = ()) -> Reading:
    reading = Reading()
    read_own(environ, upstreams, reading)
    return reading


def posthog(environ: dict[str, str]) -> tuple[dict[str, object], list[str]]:
    """What PostHog's variables set, as texts, and the warnings."""
    reading = Reading()
    warnings = read_posthog(environ, reading)
    assert not reading.problems
    values = {path: setting.value for path, setting in reading.settings.items()}
    if "trust.proxies" in values:
        values["trust.proxies"] = [str(network) for network in values["trust.proxies"]]
    return values, warnings


def config(**trust: object) -> Config:
    return config_from({"upstream": "http://web:8000", "trust": trust}).config


def test_a_variable_for_every_kind_of_key() -> None:
    reading = own(
        {
            "POSTHOG_PROXY_LISTEN": "127.0.0.1:8000,unix:/x",
            "POSTHOG_PROXY_TIMEOUTS__HEAD": "5",
            "POSTHOG_PROXY_TRUST__ALL": "yes",
            "POSTHOG_PROXY_ROUTES": '[{path = "/s*"}]',
            "POSTHOG_PROXY_UPSTREAMS__EU_REPLAY__URL": "http://x",
            "PATH": "/bin",
            "posthog_proxy_listen": "nonsense",
        }
    )
    assert not reading.problems
    assert sorted(reading.settings) == [
        "listen",
        "routes",
        "timeouts.head",
        "trust.all",
        "upstreams.eu_replay.url",
    ]
    assert reading.settings["timeouts.head"].value == 5.0
    assert reading.settings["timeouts.head"].where == "POSTHOG_PROXY_TIMEOUTS__HEAD"


def test_an_upstream_of_the_file_is_found_by_its_name_in_capitals() -> None:
    reading = own({"POSTHOG_PROXY_UPSTREAMS__EU_REPLAY__URL": "http://x"}, ("default", "eu-replay"))
    assert list(reading.settings) == ["upstreams.eu-replay.url"]


def test_an_empty_variable_is_not_set() -> None:
    reading = own({"POSTHOG_PROXY_LISTEN": "", "POSTHOG_PROXY_TRUST__PROXIES": ""})
    assert not reading.settings
    assert not reading.problems


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("POSTHOG_PROXY_LISTN", "POSTHOG_PROXY_LISTEN"),
        ("POSTHOG_PROXY_TIMEOUT_HEAD", "POSTHOG_PROXY_TIMEOUTS__HEAD"),
        ("POSTHOG_PROXY_UPSTREAMS__EU__ULR", "POSTHOG_PROXY_UPSTREAMS__EU__URL"),
        ("POSTHOG_PROXY_UPSTREAMS__EU", "POSTHOG_PROXY_UPSTREAMS__EU__URL"),
        ("POSTHOG_PROXY_LIMITS", None),
        ("POSTHOG_PROXY_COLOUR", None),
        ("POSTHOG_PROXY_", None),
        ("POSTHOG_PROXY_ROUTES__PATH", None),
        ("POSTHOG_PROXY_XYZ", None),
    ],
)
def test_an_unknown_variable_is_an_error_with_the_nearest_known_one(name: str, meant: str | None) -> None:
    (found,) = own({name: "8000"}).problems
    assert found.key == name
    assert found.nearest == meant
    assert str(found).startswith(f'environment: {name} = "8000": is not a known variable')


def test_an_unknown_variable_is_an_error_even_where_it_is_empty() -> None:
    assert [found.key for found in own({"POSTHOG_PROXY_LISTN": ""}).problems] == ["POSTHOG_PROXY_LISTN"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POSTHOG_PROXY_SERVICE_HOST", "10.0.0.1"),
        ("POSTHOG_PROXY_SERVICE_PORT", "8000"),
        ("POSTHOG_PROXY_SERVICE_PORT_HTTP", "8000"),
        ("POSTHOG_PROXY_PORT", "tcp://10.0.0.1:8000"),
        ("POSTHOG_PROXY_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("POSTHOG_PROXY_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("POSTHOG_PROXY_ADMIN_SERVICE_HOST", "10.0.0.1"),
    ],
)
def test_variables_that_kubernetes_makes_for_a_service_of_our_name_are_left_alone(
    name: str, value: str
) -> None:
    reading = own({name: value})
    assert not reading.problems
    assert not reading.settings


def test_posthogs_names_set_our_keys() -> None:
    values, warnings = posthog(
        {
            "IS_BEHIND_PROXY": "True",
            "TRUSTED_PROXIES": "10.0.0.7, 2001:db8::1",
            "ALLOWED_HOSTS": "posthog.example.com,.example.org",
            "DISABLE_SECURE_SSL_REDIRECT": "1",
        }
    )
    assert warnings == []
    assert values == {
        "trust.proxies": ["10.0.0.7/32", "2001:db8::1/128"],
        "access.allowed_hosts": ("posthog.example.com", ".example.org"),
        "posthog.secure_ssl_redirect": False,
    }


def test_posthog_says_that_it_trusts_everybody() -> None:
    values, warnings = posthog({"IS_BEHIND_PROXY": "y", "TRUST_ALL_PROXIES": "true"})
    assert values == {"trust.all": True}
    assert warnings == []


def test_nothing_and_empty_variables_set_nothing() -> None:
    assert posthog({}) == ({}, [])
    empty = dict.fromkeys(("IS_BEHIND_PROXY", "TRUSTED_PROXIES", "TRUST_ALL_PROXIES"), "")
    assert posthog({**empty, "DISABLE_SECURE_SSL_REDIRECT": ""}) == ({}, [])


def test_a_false_disable_leaves_the_redirect_on() -> None:
    assert posthog({"DISABLE_SECURE_SSL_REDIRECT": "false"}) == ({"posthog.secure_ssl_redirect": True}, [])


@pytest.mark.parametrize("value", ["false", "0", "banana"])
def test_what_is_not_true_is_true_at_posthog_all_the_same(value: str) -> None:
    values, (warning,) = posthog({"IS_BEHIND_PROXY": "true", "TRUST_ALL_PROXIES": value})
    assert values == {"trust.all": False}
    assert warning.startswith(f"TRUST_ALL_PROXIES={value}: any text is true at PostHog")
    assert "remove the variable" in warning


def test_a_block_matches_nobody_at_posthog() -> None:
    values, (warning,) = posthog({"IS_BEHIND_PROXY": "true", "TRUSTED_PROXIES": "10.0.0.0/8,192.168.1.1"})
    assert values == {"trust.proxies": ["10.0.0.0/8", "192.168.1.1/32"]}
    assert warning.startswith("TRUSTED_PROXIES=10.0.0.0/8,192.168.1.1: PostHog compares addresses as text")
    assert "so 10.0.0.0/8 matches nobody there" in warning


def test_an_empty_list_of_hosts_refuses_everybody_at_posthog() -> None:
    values, (warning,) = posthog({"ALLOWED_HOSTS": ""})
    assert values == {}
    assert warning.startswith("ALLOWED_HOSTS is empty: PostHog then refuses every host")


@pytest.mark.parametrize("state", ["", "false"])
def test_posthog_ignores_its_proxies_unless_it_is_behind_one(state: str) -> None:
    environ = {"IS_BEHIND_PROXY": state, "TRUSTED_PROXIES": "10.0.0.7", "TRUST_ALL_PROXIES": "true"}
    _, (warning,) = posthog(environ)
    assert "PostHog ignores TRUSTED_PROXIES=10.0.0.7 and TRUST_ALL_PROXIES=true" in warning
    assert "set IS_BEHIND_PROXY=true" in warning


@pytest.mark.parametrize("name", ["IS_BEHIND_PROXY", "DISABLE_SECURE_SSL_REDIRECT"])
def test_a_word_that_is_neither_true_nor_false(name: str) -> None:
    _, (warning,) = posthog({name: "maybe"})
    assert warning == f"{name}=maybe: counts as false at PostHog and here; write true or false"


def test_a_value_that_cannot_be_used_names_posthogs_variable() -> None:
    reading = Reading()
    read_posthog({"IS_BEHIND_PROXY": "true", "TRUSTED_PROXIES": "web"}, reading)
    (found,) = reading.problems
    assert str(found) == 'TRUSTED_PROXIES: trust.proxies = "web": must be a valid IPv4 or IPv6 address'


def test_behind_a_proxy_that_nobody_named() -> None:
    (warning,) = posthog_advice({"IS_BEHIND_PROXY": "true"}, config())
    assert warning.startswith("IS_BEHIND_PROXY=true with neither TRUSTED_PROXIES nor TRUST_ALL_PROXIES")
    assert list(posthog_advice({"IS_BEHIND_PROXY": "true"}, config(hops=1))) == []
    assert list(posthog_advice({}, config())) == []


def test_not_behind_a_proxy_but_redirecting() -> None:
    (warning,) = posthog_advice({"IS_BEHIND_PROXY": "false"}, config(hops=1))
    assert warning.startswith("IS_BEHIND_PROXY=false: PostHog then ignores X-Forwarded-Proto")


@pytest.mark.parametrize(
    ("value", "blocks", "warned"),
    [
        ("10.0.0.0/8,192.0.2.1 , 2001:db8::/32", ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"], []),
        (" , ", None, []),
        ("", None, []),
        ("10.0.0.1/8", ["10.0.0.0/8"], ["10.0.0.1/8 has host bits set and is read as 10.0.0.0/8"]),
    ],
)
def test_allowed_ip_blocks_as_posthog_reads_them(
    value: str, blocks: list[str] | None, warned: list[str]
) -> None:
    values, warnings = posthog({"ALLOWED_IP_BLOCKS": value})
    found = values.get("access.allowed_ip_blocks")
    assert (found and [str(block) for block in found]) == blocks  # type: ignore[attr-defined]
    assert len(warnings) == len(warned)
    assert all(words in warning for words, warning in zip(warned, warnings, strict=True))


@pytest.mark.parametrize("value", ["office", "10.0.0.0/33", "10.0.0.0/8/8"])
def test_allowed_ip_blocks_that_are_none_are_an_error(value: str) -> None:
    reading = Reading()
    read_posthog({"ALLOWED_IP_BLOCKS": value}, reading)
    (found,) = reading.problems
    assert (found.key, found.where) == ("access.allowed_ip_blocks", "ALLOWED_IP_BLOCKS")
