"""The configuration as JSON: every key, nothing that is secret."""

from __future__ import annotations

import json
from dataclasses import dataclass

from proxy.admin.settings import HIDDEN, _plain, settings
from proxy.config import keys
from proxy.config.load import config_from


def test_every_key_is_there_and_all_of_it_is_json() -> None:
    config = config_from(
        {
            "upstream": "https://posthog.example",
            "trust": {"proxies": ["10.0.0.0/8"]},
            "admin": {"listen": "unix:/run/admin.sock"},
            "aliases": {"paths": ["/k7=/e"]},
            "routes": [{"path": "/s/*", "body_limit": 5}],
        }
    ).config
    found = json.loads(json.dumps(settings(config)))
    for table, cls in keys.sections().items():
        assert found[table].keys() >= keys.keys_of(cls).keys()
    assert found["admin"]["listen"] == "unix:/run/admin.sock"
    assert found["trust"]["proxies"] == ["10.0.0.0/8"]
    assert found["upstreams"]["default"]["url"] == "https://posthog.example"
    assert found["aliases"]["paths"] == ["/k7=/e"]
    assert found["routes"][0]["body_limit"] == 5
    assert found["log"]["level"] == "info"


def test_a_key_that_is_called_secret_is_hidden_and_its_file_is_named() -> None:
    @dataclass
    class Table:
        token: str = "phx_1"
        client_secret: str = "s"
        passwords: tuple[str, ...] = ("p",)
        password: str = ""
        token_file: str = "/run/token"

    assert _plain(Table()) == {
        "token": HIDDEN,
        "client_secret": HIDDEN,
        "passwords": HIDDEN,
        "password": "",
        "token_file": "/run/token",
    }
