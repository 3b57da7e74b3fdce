"""One line that stands for many, and single keys that are stronger than it."""

from __future__ import annotations

import datetime
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import pytest

from proxy.config.expansion import preset_reading
from proxy.config.load import Loaded, config_from, load_config
from proxy.config.reading import Reading
from proxy.config.schema import FrontConfig, configured_listeners
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

WEB = {"upstream": "http://web:1"}


def load(**mapping: Any) -> Loaded:
    return config_from(mapping, "file")


def problems(**mapping: Any) -> list[str]:
    with pytest.raises(ConfigError) as failure:
        load(**mapping)
    return [str(problem) for problem in failure.value.problems]


# --- preset ---------------------------------------------------------------------------------------


def test_without_a_preset_nothing_is_added() -> None:
    assert preset_reading([Reading()]).settings == {}


def test_the_strongest_source_names_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text('preset = "posthog-cloud-us"\n')
    by_file = load_config(str(file)).config
    assert str(by_file.upstreams["default"].url) == "https://us.i.posthog.com"
    by_flag = load_config(str(file), {"POSTHOG_PROXY_PRESET": "hobby"}, {"preset": "posthog-cloud-eu"}).config
    assert str(by_flag.upstreams["default"].url) == "https://eu.i.posthog.com"
    by_variable = load_config(str(file), {"POSTHOG_PROXY_PRESET": "hobby"}).config
    assert str(by_variable.upstreams["default"].url) == "http://web:8000"


def test_upstreams_are_merged_key_by_key() -> None:
    config = load(
        preset="posthog-cloud-us",
        upstream="http://127.0.0.1:1",
        upstreams={"assets": {"idle_timeout": 7}, "other": {"url": "http://other:1"}},
    ).config
    default, assets = config.upstreams["default"], config.upstreams["assets"]
    assert (str(default.url), default.host.value, default.idle_timeout) == (
        "http://127.0.0.1:1",
        "upstream",
        55,
    )
    assert (str(assets.url), assets.idle_timeout) == ("https://us-assets.i.posthog.com", 7)
    assert set(config.upstreams) == {"default", "assets", "other"}


def test_routes_are_merged_path_by_path_and_the_operators_come_first() -> None:
    config = load(
        preset="posthog-cloud-us",
        routes=[{"path": "/array/*", "upstream": "default"}, {"path": "/x/*", "upstream": "assets"}],
    ).config
    assert [(route.path, route.upstream) for route in config.routes] == [
        ("/array/*", "default"),
        ("/x/*", "assets"),
        ("/static/*", "assets"),
    ]


def test_a_preset_that_has_no_upstream_needs_one() -> None:
    assert "no upstream is given" in problems(preset="self-hosted")[0]


def test_an_unknown_preset() -> None:
    (first, *_) = problems(preset="posthog-cloud-uk")
    assert first.startswith('file: preset = "posthog-cloud-uk": must be one of `posthog-cloud-us`')


# --- behind ---------------------------------------------------------------------------------------


def test_behind_is_trust_in_networks() -> None:
    config = load(**WEB, behind=["nginx", "10.0.0.7", "fd00::/8"], trust={"proxies": "192.0.2.1"}).config
    assert config.trust.proxies == tuple(
        map(ip_network, ("192.0.2.1", "127.0.0.0/8", "::1/128", "10.0.0.7", "fd00::/8"))
    )
    assert config.behind == ("nginx", "10.0.0.7/32", "fd00::/8")


def test_an_operator_can_describe_a_front_of_its_own() -> None:
    entry = {"networks": ["192.0.2.0/24"], "client_header": "Fastly-Client-IP"}
    config = load(**WEB, fronts=[entry]).config
    assert config.fronts == (FrontConfig((ip_network("192.0.2.0/24"),), "Fastly-Client-IP"),)
    assert config.trust.proxies == (ip_network("192.0.2.0/24"),)


def test_who_speaks_the_proxy_protocol_is_not_believed_otherwise() -> None:
    config = load(**WEB, behind="aws-nlb").config
    assert config.trust.proxies == ()
    (listener,) = configured_listeners(config)
    assert ip_network("10.0.0.0/8") in listener.proxy_protocol


@pytest.mark.parametrize("way", ["all", "hops"])
def test_behind_and_another_way_to_trust_contradict(way: str) -> None:
    (found,) = problems(**WEB, behind="nginx", trust={way: 1 if way == "hops" else True})
    assert 'contradicts behind = "nginx" (file): they are different ways' in found
    entry = {"networks": ["192.0.2.0/24"]}
    (found,) = problems(**WEB, fronts=[entry], trust={way: 1 if way == "hops" else True})
    assert "contradicts fronts = a list of 1 (file)" in found


def test_an_unknown_word() -> None:
    (found,) = problems(**WEB, behind="cloudfare")
    assert found.startswith('file: behind = "cloudfare": is not known; known are cloudflare, aws-alb')
    assert found.endswith("(did you mean cloudflare?)")


def test_a_broken_entry_of_fronts_is_one_problem() -> None:
    (found,) = problems(**WEB, fronts=[{"client_header": "X-A"}])
    assert "fronts[0].networks" in found


# --- trust.ranges_file ----------------------------------------------------------------------------


def test_a_file_replaces_and_adds(tmp_path: Path) -> None:
    file = tmp_path / "ranges.toml"
    file.write_text(
        '[cloudflare]\nnetworks = ["192.0.2.0/24"]\n'
        '[fastly]\nnetworks = ["198.51.100.0/24"]\ndate = 2020-01-01\n'
    )
    flags = {**WEB, "behind": "cloudflare,fastly,gcp", "trust.ranges_file": str(file)}
    loaded = load_config(flags=flags, today=datetime.date(2026, 11, 25))
    assert loaded.config.fronts[0] == FrontConfig((ip_network("192.0.2.0/24"),))
    assert loaded.config.fronts[1].networks == (ip_network("198.51.100.0/24"),)
    assert loaded.config.fronts[2].own_address
    assert [warning.split(":")[0] for warning in loaded.warnings] == ['behind = "fastly"']


def test_shipped_networks_age(tmp_path: Path) -> None:
    flags = {**WEB, "behind": "cloudflare,private"}
    assert load_config(flags=flags).warnings == ()
    assert load_config(flags=flags, today=datetime.date(2027, 9, 29)).warnings == ()
    (warning,) = load_config(flags=flags, today=datetime.date(2027, 9, 30)).warnings
    assert warning.startswith('behind = "cloudflare": its networks are those of 2026-09-29')


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cloudflare = 1", 'trust.ranges_file = "{file}": must have tables: [cloudflare]'),
        ("[cloudflare", "is not valid TOML"),
        ('[cloudflare]\nnetworks = ["10.0.0.1/8"]', "{file}, [cloudflare]: fronts[0].networks"),
        ("[cloudflare]\nheader = 1", "fronts[0].header"),
        ("[cloudflare]\n", "fronts[0].networks = (nothing): must be given"),
    ],
)
def test_a_file_with_mistakes(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "ranges.toml"
    file.write_text(text)
    found = problems(**WEB, behind="cloudflare", trust={"ranges_file": str(file)})
    assert any(said.format(file=file) in problem for problem in found), found


def test_a_file_that_is_not_there() -> None:
    (found,) = problems(**WEB, behind="cloudflare", trust={"ranges_file": "/nowhere/ranges.toml"})
    assert '"/nowhere/ranges.toml": cannot be read' in found
