"""Listeners: the long form, the short one, and what is left of the default."""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import pytest

from proxy.config.load import config_from
from proxy.config.schema import ListenerConfig, ListenerMode, TcpAddress, configured_listeners
from proxy.errors import ConfigError
from tests.support.tls import self_signed

if TYPE_CHECKING:
    from pathlib import Path


def listeners(**mapping: Any) -> tuple[ListenerConfig, ...]:
    return configured_listeners(config_from({"upstream": "http://web:1", **mapping}).config)


DEFAULT = ListenerConfig(TcpAddress("127.0.0.1", 8000))
PLAIN = ListenerConfig(TcpAddress("0.0.0.0", 80))


@pytest.mark.parametrize(
    ("mapping", "found"),
    [
        ({}, (DEFAULT,)),
        ({"listen": "0.0.0.0:80"}, (PLAIN,)),
        ({"listeners": [{"address": "0.0.0.0:80"}]}, (PLAIN,)),
        ({"listen": "127.0.0.1:8000", "listeners": [{"address": "0.0.0.0:80"}]}, (DEFAULT, PLAIN)),
    ],
)
def test_the_default_is_for_those_who_say_none(
    mapping: dict[str, Any], found: tuple[ListenerConfig, ...]
) -> None:
    assert listeners(**mapping) == found


@pytest.mark.needs("openssl")
def test_all_that_a_listener_can_say(tmp_path: Path) -> None:
    pem = self_signed(tmp_path, "posthog.test").pem
    said = {
        "address": "[::]:443",
        "mode": "tcp",
        "tls": True,
        "proxy_protocol": "10.0.0.0/8, 192.168.0.1",
        "upstream": "default",
    }
    assert listeners(listeners=[said], tls={"certificate": str(pem)}) == (
        ListenerConfig(
            TcpAddress("::", 443),
            ListenerMode.TCP,
            True,
            (ip_network("10.0.0.0/8"), ip_network("192.168.0.1")),
            "default",
        ),
    )


def test_one_that_is_not_readable_leaves_the_others_their_numbers() -> None:
    wrong = [{"address": "nowhere"}, {"address": "a:1", "upstream": "default"}]
    with pytest.raises(ConfigError) as caught:
        listeners(listeners=wrong)
    first, second = map(str, caught.value.problems)
    assert "listeners[0].address" in first
    assert "listeners[1].upstream" in second


def test_a_listener_that_names_no_peers_has_those_of_the_fronts() -> None:
    plain, own = listeners(
        listen="127.0.0.1:1",
        listeners=[{"address": "127.0.0.1:2", "proxy_protocol": "192.0.2.1"}],
        fronts=[
            {"networks": "198.51.100.0/24", "proxy_protocol": True},
            {"networks": "203.0.113.0/24", "client_header": "X-C"},
        ],
    )
    assert plain.proxy_protocol == (ip_network("198.51.100.0/24"),)
    assert own.proxy_protocol == (ip_network("192.0.2.1"),)
