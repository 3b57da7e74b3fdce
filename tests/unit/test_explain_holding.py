from __future__ import annotations

from typing import Any

import pytest

from proxy.config.load import config_from
from proxy.explain.holding import holding
from proxy.message import CHUNKED, NO_BODY, AddressSource, ClientAddress, Framing, RequestHead, Route
from proxy.rules.decide import Tables


def keys(path: str, framing: Framing = NO_BODY, **settings: Any) -> dict[str, str]:
    config = config_from({"upstream": "http://127.0.0.1:9", **settings}).config
    tables = Tables.of(config)
    route = tables.routing.route(path.encode())
    assert isinstance(route, Route)
    head = RequestHead(b"POST", path.encode(), 1, (), b"a", framing)
    return {one.key: one.value for one in holding(head, None, route, config, tables)}


@pytest.mark.parametrize(
    ("path", "body", "timeout", "connect", "first", "stall"),
    [
        ("/e/", "body_ingest", "body_ingest", "connect", "first_byte_ingest", "answer_stall"),
        ("/s/", "body_replay", "body_ingest", "connect", "first_byte_ingest", "answer_stall"),
        ("/flags/", "body_flags", "body_ingest", "connect_flags", "first_byte_flags", "answer_stall"),
        ("/app", "body_app", "body_app", "connect", "first_byte_app", "answer_stall"),
        ("/livestream/x", "body_flags", "body_ingest", "connect", "first_byte_app", "stream_stall"),
    ],
)
def test_the_keys_of_each_class(
    path: str, body: str, timeout: str, connect: str, first: str, stall: str
) -> None:
    assert list(keys(path, CHUNKED)) == [
        "limits.head_bytes",
        "timeouts.head",
        f"limits.{body}",
        f"timeouts.{timeout}",
        f"timeouts.{connect}",
        f"timeouts.{first}",
        f"timeouts.{stall}",
    ]


def test_a_route_of_its_own() -> None:
    said = keys("/e/", CHUNKED, routes=[{"path": "/e", "body_limit": "3MiB", "first_byte_timeout": "7s"}])
    assert said["routes[].body_limit"] == "3MiB"
    assert said["routes[].first_byte_timeout"] == "7s"


def test_the_spool_and_its_patience() -> None:
    said = keys("/e/", spool={"directory": "/var/lib/spool"})
    assert said["spool.first_byte"] == "8s"
    assert said["spool.mode"] == "/var/lib/spool"
    assert "spool.mode" not in keys("/flags/", spool={"directory": "/var/lib/spool"})


def test_no_body_no_limit_of_it() -> None:
    assert not [key for key in keys("/e/") if "body" in key]


def test_the_rate_of_a_client_and_of_a_proxy() -> None:
    config = config_from(
        {
            "upstream": "http://127.0.0.1:9",
            "limits": {"rate_per_client": 5},
            "trust": {"proxies": ["10.0.0.0/8"]},
        }
    ).config
    head, tables = RequestHead(b"GET", b"/", 1, (), b"a", NO_BODY), Tables.of(config)
    unnamed = ClientAddress(None, AddressSource.UNIX, True)
    (rate,) = [one for one in holding(head, unnamed, None, config, tables) if "rate" in one.key]
    assert rate.value == "not counted: a proxy"
