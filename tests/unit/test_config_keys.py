from __future__ import annotations

import dataclasses
from ipaddress import IPv4Network, IPv6Network

import pytest

from proxy.config import keys
from proxy.config.schema import (
    CertificateConfig,
    Config,
    FrontConfig,
    ListenerConfig,
    LogFormat,
    RouteConfig,
    TrustConfig,
    UpstreamConfig,
    UpstreamUrl,
)


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    """Each test walks the schema itself."""
    for walk in (keys.keys_of, keys.sections, keys.arrays, keys.all_keys):
        walk.cache_clear()


def test_a_key_knows_its_type_and_whether_it_is_a_list() -> None:
    trust = keys.keys_of(TrustConfig, "trust")
    assert trust["proxies"].kind == IPv4Network | IPv6Network
    assert (trust["proxies"].many, trust["hops"].many) == (True, False)
    assert trust["hops"].path == "trust.hops"
    assert trust["hops"].name == "hops"
    assert keys.keys_of(RouteConfig)["body_limit"].kind is int
    assert keys.keys_of(RouteConfig)["body_limit"].optional
    assert keys.all_keys()["upstream"].kind is UpstreamUrl
    assert keys.all_keys()["log.format"].kind is LogFormat


def test_every_field_of_the_schema_is_a_key_or_a_table() -> None:
    arrays = {
        "routes": RouteConfig,
        "fronts": FrontConfig,
        "listeners": ListenerConfig,
        "certificates": CertificateConfig,
    }
    assert keys.arrays() == arrays
    tables = {"upstreams": UpstreamConfig, **arrays, **keys.sections()}
    # A list of tables is a key and a table.
    count = len(dataclasses.fields(Config)) - len(tables) + len(arrays)
    count += sum(len(dataclasses.fields(table)) for table in tables.values())
    assert len(keys.all_keys()) == count


def test_required_keys_have_no_default() -> None:
    assert [path for path, key in keys.all_keys().items() if key.required] == [
        "upstreams.NAME.url",
        "routes[].path",
        "fronts[].networks",
        "listeners[].address",
        "certificates[].certificate",
    ]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("listen", "listen"),
        ("routes", "routes"),
        ("limits.head_bytes", "limits.head_bytes"),
        ("upstreams.replay.url", "upstreams.NAME.url"),
        ("upstreams.replay", None),
        ("upstreams.replay.url.x", None),
        ("upstreams.replay.nothing", None),
        ("limits", None),
        ("limits.nothing", None),
        ("routes[].path", None),
        ("listeners[].address", None),
        ("", None),
    ],
)
def test_find(path: str, found: str | None) -> None:
    key = keys.find(path)
    assert (key.path if key is not None else None) == found


@pytest.mark.parametrize(
    ("path", "phrase"),
    [
        ("trust.all", "true or false"),
        ("log.format", "one of `json`, `text`"),
        ("limits.head_bytes", "a size from 1KiB to 1MiB"),
        ("timeouts.dns_refresh", "a time from 1s to 5m"),
        ("limits.connections", "a whole number of connections from 1 to 1,000,000"),
        ("pool.retry_share", "a number from 0 to 1"),
        ("workers", "a whole number of processes from 1 to 256, or `auto`"),
        ("upstream", "`http://host[:port]`, `https://host[:port]` or `unix:/path`"),
        ("listen", "a list (each `HOST:PORT` or `unix:/path`), or one text with commas"),
        ("log.access", "`stdout`, `stderr`, `off` or a file's path"),
        ("routes", "a list of tables"),
    ],
)
def test_what_is_allowed_is_a_phrase(path: str, phrase: str) -> None:
    assert keys.all_keys()[path].allowed == phrase


def test_environment_names() -> None:
    assert keys.environment_name("listen") == "POSTHOG_PROXY_LISTEN"
    assert keys.environment_name("limits.head_bytes") == "POSTHOG_PROXY_LIMITS__HEAD_BYTES"
    assert keys.environment_name("upstreams.a-b.url") == "POSTHOG_PROXY_UPSTREAMS__A_B__URL"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("timeouts.hed", "timeouts.head"),
        ("timeouts.head_bytes", "limits.head_bytes"),
        ("lissten", "listen"),
        ("limts.head_bytes", "limits.head_bytes"),
        ("timeout_head", "timeouts.head"),
        ("upstreams.eu.ulr", "upstreams.eu.url"),
        ("routes[3].pth", "routes[3].path"),
        ("routes[3].colour", None),
        ("listeners[1].adress", "listeners[1].address"),
        ("log.colour", None),
        ("zzz", None),
        ("", None),
    ],
)
def test_nearest(path: str, meant: str | None) -> None:
    assert keys.nearest(path) == meant


def test_nearest_looks_at_a_bounded_part_of_a_long_path() -> None:
    assert keys.nearest("x" * 1_000_000) is None


def test_closest_word() -> None:
    assert keys.closest_word("replya", ["default", "replay"]) == "replay"
    assert keys.closest_word("x", ["default", "replay"]) is None


def test_what_cannot_be_printed_is_not_repeated() -> None:
    found = keys.nearest("[000000000000000\x1f")
    assert found is not None
    assert found.isprintable()
