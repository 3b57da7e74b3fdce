from __future__ import annotations

import datetime
import math
from ipaddress import ip_network
from typing import Any

import pytest

from proxy.config.reading import MAX_ENTRIES, MAX_GUESSES, MAX_TABLES, Reading
from proxy.config.schema import (
    Auto,
    ChainMode,
    LogLevel,
    RouteConfig,
    TcpAddress,
    UnixAddress,
    UpstreamUrl,
)
from proxy.message import EndpointClass

WEB = UpstreamUrl(TcpAddress("web", 8000))


def read(mapping: dict[Any, Any]) -> Reading:
    reading = Reading()
    reading.take_mapping(mapping, "proxy.toml")
    return reading


def one(path: str, value: object, *, textual: bool = False) -> Any:
    """The typed value of a single setting."""
    reading = Reading()
    reading.take(path, value, "here", textual=textual)
    assert not reading.problems, reading.problems
    return reading.settings[path].value


def problem(path: str, value: object, *, textual: bool = False) -> str:
    """The text of the only problem that a single setting has."""
    reading = Reading()
    reading.take(path, value, "here", textual=textual)
    (found,) = reading.problems
    assert found.where == "here"
    return str(found)


def test_a_whole_file() -> None:
    reading = read(
        {
            "listen": ["127.0.0.1:8000", "unix:/run/x"],
            "limits": {"body_app": "1MiB"},
            "upstreams": {"default": {"url": "http://web:8000"}, "replay": {}},
            "routes": [{"path": "/s*", "upstream": "replay", "cls": "replay", "body_limit": 10}],
        }
    )
    assert not reading.problems
    values = {path: setting.value for path, setting in reading.settings.items()}
    assert values == {
        "listen": (TcpAddress("127.0.0.1", 8000), UnixAddress("/run/x")),
        "limits.body_app": 1024**2,
        "upstreams.default.url": WEB,
        "routes": (RouteConfig("/s*", "replay", EndpointClass.REPLAY, 10),),
    }
    assert reading.upstreams == {"default": "proxy.toml", "replay": "proxy.toml"}
    assert reading.settings["limits.body_app"].shown == '"1MiB"'
    assert reading.settings["limits.body_app"].where == "proxy.toml"


@pytest.mark.parametrize(
    ("path", "value", "typed"),
    [
        ("trust.all", True, True),
        ("workers", 4, 4),
        ("workers", "auto", Auto.AUTO),
        ("limits.head_bytes", 4096, 4096),
        ("limits.head_bytes", "4KiB", 4096),
        ("timeouts.head", 5, 5.0),
        ("timeouts.head", 0.5, 0.5),
        ("timeouts.head", "250ms", 0.25),
        ("pool.retry_share", 1, 1.0),
        ("forwarding.chain", "append", ChainMode.APPEND),
        ("log.level", "debug", LogLevel.DEBUG),
        ("upstream", "http://web:8000", WEB),
        ("upstreams.default.ca_file", "", ""),
        ("trust.proxies", "10.0.0.0/8, ::1,", (ip_network("10.0.0.0/8"), ip_network("::1"))),
        ("trust.proxies", ["10.0.0.1", "10.0.0.1"], (ip_network("10.0.0.1"),)),
        ("trust.proxies", [], ()),
        ("access.allowed_hosts", (".example.com", "*"), (".example.com", "*")),
        ("forwarding.allow_names", ["X_Old"], ("X_Old",)),
    ],
)
def test_typed_values(path: str, value: object, typed: object) -> None:
    found = one(path, value)
    assert found == typed
    assert type(found) is type(typed)


@pytest.mark.parametrize(
    ("path", "text", "typed"),
    [
        ("trust.all", "yes", True),
        ("workers", " 4 ", 4),
        ("workers", " auto ", Auto.AUTO),
        ("limits.head_bytes", "4096", 4096),
        ("timeouts.head", "5", 5.0),
        ("pool.retry_share", "0.5", 0.5),
        ("trust.proxies", "", ()),
        ("routes", '[{path = "/s*"}]', (RouteConfig("/s*"),)),
    ],
)
def test_text_is_enough_for_a_source_that_knows_only_text(path: str, text: str, typed: object) -> None:
    assert one(path, text, textual=True) == typed


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("trust.all", 1, "trust.all = 1: must be true or false"),
        ("trust.all", "true", 'trust.all = "true": must be true or false'),
        ("workers", True, "workers = true: must be a whole number of processes from 1 to 256"),
        ("workers", 1.0, "workers = 1: must be a whole number of processes from 1 to 256"),
        ("workers", "4", "without quotes"),
        ("workers", 0, "from 1 to 256"),
        ("workers", 10**400, "from 1 to 256"),
        ("limits.head_bytes", "4096", "without quotes"),
        ("limits.head_bytes", 4096.5, "a size from 1KiB to 1MiB"),
        ("limits.head_bytes", "2MiB", "a size from 1KiB to 1MiB"),
        ("timeouts.head", "5", "without quotes"),
        ("timeouts.head", math.nan, "a time from 0.1s to 7d"),
        ("timeouts.head", math.inf, "a time from 0.1s to 7d"),
        ("timeouts.head", 10**400, "a time from 0.1s to 7d"),
        ("timeouts.head", datetime.time(1, 2), "a value of type time: must be a time from"),
        ("pool.retry_share", "half", "without quotes"),
        ("forwarding.chain", "collapsed", "must be one of `collapse`, `append`"),
        ("forwarding.chain", 1, "must be one of `collapse`, `append`"),
        ("upstream", 8001, "upstream = 8001: must be `http://host[:port]`"),
        ("upstream", "http://w\neb", "must not contain control characters"),
        ("upstreams.default.url", None, "upstreams.default.url = (nothing): must be `http://"),
        ("log.access", "", "must be stdout"),
        ("trust.proxies", 5, "trust.proxies = 5: must be a list (each an address or a CIDR block)"),
        ("trust.proxies", [5], "trust.proxies = 5: must be an address or a CIDR block"),
        ("trust.proxies", ["10.0.0.1/8"], 'trust.proxies = "10.0.0.1/8": has host bits set'),
        ("access.allowed_hosts", [], "must have 1 to 10000 entries"),
        ("trust.proxies", ["::1"] * (MAX_ENTRIES + 1), "must have 0 to 10000 entries"),
        ("routes", "/s*", "must be a list of at most 1000 tables"),
        ("routes", [{"path": "/"}] * (MAX_TABLES + 1), "must be a list of at most 1000 tables"),
        ("routes", ["/s*"], 'routes[0] = "/s*": must be a table'),
        ("routes", [{"upstream": "x"}], "routes[0].path = (nothing): must be given: a path"),
        ("routes", [{"path": "s"}], 'routes[0].path = "s": must begin with /'),
        ("listeners", [{}], "listeners[0].address = (nothing): must be given: `HOST:PORT` or `unix:/path`"),
        ("listeners", [{"address": ":x"}], 'listeners[0].address = ":x"'),
        ("listeners", [{"address": "a:1", "mode": "udp"}], 'mode = "udp": must be one of `http`, `tcp`'),
        (
            "listeners",
            [{"address": "a:1", "proxy_protocol": ["10.0.0.0/8", "x"]}],
            'listeners[0].proxy_protocol = "x"',
        ),
        ("routes", [{"path": "/s", "body_limit": "1"}], 'routes[0].body_limit = "1": must be a size'),
        (
            "routes",
            [{"path": "/", "pathh": 1}],
            "routes[0].pathh = 1: is not a known key (did you mean routes[0].path?)",
        ),
        ("limits", 5, "limits = 5: is a table: name a key in it"),
        ("limits.head_byte", 5, "is not a known key (did you mean limits.head_bytes?)"),
        ("upstreams.Eu.url", "http://x", 'upstreams = "Eu": an upstream\'s name must be lower-case'),
    ],
)
def test_a_wrong_value_names_key_value_and_what_is_allowed(path: str, value: object, said: str) -> None:
    assert said in problem(path, value)


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("trust.all", "maybe", "must be true or false"),
        ("workers", "four", "must be a whole number of processes from 1 to 256, or `auto`"),
        ("workers", "AUTO", "or `auto`"),
        ("pool.retry_share", "half", "must be a number"),
        ("timeouts.head", "soon", "must be a number of seconds"),
        ("routes", "/s*", "must be written as in the file"),
        ("routes", '[]\nlisten = "x:1"', "must be written as in the file"),
        ("routes", "[" * 100_000, "must be written as in the file"),
        ("routes", "5", "must be a list of at most 1000 tables"),
    ],
)
def test_a_wrong_text_names_what_is_allowed(path: str, text: str, said: str) -> None:
    assert said in problem(path, text, textual=True)


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({"limits": 5}, "proxy.toml: limits = 5: must be a table: [limits]"),
        ({"upstreams": 5}, "upstreams = 5: must be tables: [upstreams.NAME]"),
        ({"upstreams": {"eu": 5}}, "upstreams.eu = 5: must be a table: [upstreams.eu]"),
        ({"upstreams": {"a.b": {}}}, 'upstreams = "a.b": an upstream\'s name must be'),
        ({"lissten": 5}, "lissten = 5: is not a known key (did you mean listen?)"),
        ({"limits.head_bytes": 4096}, "is not a known key (did you mean limits.head_bytes?)"),
        ({"a\nb": {}}, "a\\nb = a table: is not a known key"),
        ({5: 6}, "(int) = 6: is not a known key"),
    ],
)
def test_a_wrong_shape_is_named(mapping: dict[Any, Any], said: str) -> None:
    (found,) = read(mapping).problems
    assert said in str(found)


def test_nothing_given_for_an_optional_key_leaves_it_unset() -> None:
    reading = read({"upstream": None, "routes": [{"path": "/", "body_limit": None}]})
    assert not reading.problems
    assert reading.attempted == {"routes"}
    assert {path: setting.value for path, setting in reading.settings.items()} == {
        "routes": (RouteConfig("/"),)
    }


def test_guessing_ends_after_many_mistakes() -> None:
    reading = read({f"listen{number}": 1 for number in range(MAX_GUESSES + 5)})
    guesses = [found.nearest for found in reading.problems]
    assert guesses == ["listen"] * MAX_GUESSES + [None] * 5


def test_the_short_upstream_is_spelled_out() -> None:
    reading = read({"upstream": "http://web:8000"})
    reading.spell_out_upstream()
    assert reading.settings["upstreams.default.url"].value == WEB
    assert reading.settings["upstreams.default.url"].said == "upstream"
    assert list(reading.upstreams) == ["default"]
    assert "upstream" not in reading.settings


def test_the_short_upstream_that_cannot_be_read_counts_as_given() -> None:
    reading = read({"upstream": 5})
    reading.spell_out_upstream()
    assert "upstreams.default.url" in reading.attempted
    assert "upstreams.default.url" not in reading.settings


def test_the_short_and_the_long_upstream_contradict_each_other() -> None:
    reading = read({"upstream": "http://a", "upstreams": {"default": {"url": "http://b"}}})
    reading.spell_out_upstream()
    (found,) = reading.problems
    assert str(found) == (
        'proxy.toml: upstream = "http://a": says the same as upstreams.default.url = "http://b": '
        "give only one of the two"
    )
