"""The command's table is the one that requests are routed by."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy import cli
from proxy.config.load import config_from
from proxy.config.presets import BUILT_IN
from proxy.message import Route
from proxy.routes import EVERYTHING_ELSE, as_json, as_text, table_lines
from proxy.rules.decide import Tables

ROUTES = [
    {"path": "/s*", "upstream": "replay", "access": "protected"},
    {"path": "/shared/*", "access": "protected"},
    {"path": "/flags", "body_limit": "1KiB", "access": "never"},
]


def shown(**config: Any) -> dict[str, Any]:
    read = config_from({"upstream": "http://web", "upstreams": {"replay": {"url": "http://r"}}, **config})
    found: dict[str, Any] = json.loads(as_json(read.config, Tables.of(read.config)))
    return found


def by_path(**config: Any) -> dict[str, dict[str, Any]]:
    return {line["path"]: line for line in shown(**config)["routes"]}


def test_every_pattern_has_its_line_and_the_rest_has_one() -> None:
    lines = by_path(routes=ROUTES)
    assert list(lines)[:3] == ["/s*", "/shared/*", "/flags"]
    assert set(lines) == {*(preset.path for preset in BUILT_IN), "/s*", EVERYTHING_ELSE}


def test_a_line_says_what_the_data_path_does() -> None:
    lines = by_path(routes=ROUTES)
    assert lines["/s"] == {
        "path": "/s",
        "route": "/s*",
        "class": "replay",
        "access": "public",
        "body_limit": 64 * 1024**2,
        "body_timeout": 90,
        "connect_timeout": 3,
        "first_byte_timeout": 30,
        "answer_stall_timeout": 60,
        "upstream": "replay",
        "websocket": False,
        "fast": True,
    }
    assert (lines["/s*"]["class"], lines["/s*"]["access"]) == ("protected", "protected")
    assert lines["/shared/*"]["access"] == "protected"
    assert (lines["/flags"]["body_limit"], lines["/flags"]["access"]) == (1024, "never")
    assert not lines["/flags"]["fast"]
    assert lines[EVERYTHING_ELSE]["route"] == "app"


def test_every_line_is_what_a_request_meets() -> None:
    config = config_from({"upstream": "http://web"}).config
    table = Tables.of(config).routing
    for line in table_lines(config, table):
        if "<" not in line.path and line.path != EVERYTHING_ELSE:
            found = table.route(line.path.replace("*", "any").encode())
            assert isinstance(found, Route)
            assert found == line.route


def test_a_route_for_everything_leaves_nothing_else() -> None:
    assert EVERYTHING_ELSE not in by_path(routes=[{"path": "/*"}])


def test_nothing_is_fast_where_the_fast_path_is_off() -> None:
    assert not any(line["fast"] for line in by_path(fast_path=False).values())


def test_what_protected_paths_demand() -> None:
    assert shown()["protected"] == {"demands": [], "satisfy": "all"}
    demanding = {"allowed_ip_blocks": ["10.0.0.0/8"], "forward_auth": "replay", "satisfy": "any"}
    assert shown(access=demanding)["protected"] == {
        "demands": ["allowed_ip_blocks", "forward_auth"],
        "satisfy": "any",
    }


@pytest.mark.parametrize(
    ("access", "said"),
    [
        ({}, "protected: everybody may ask, because nothing in [access] demands anything"),
        (
            {"allowed_ip_blocks": ["10.0.0.0/8"], "forward_auth": "default"},
            "protected: demands access.allowed_ip_blocks and access.forward_auth",
        ),
        (
            {"allowed_ip_blocks": ["10.0.0.0/8"], "forward_auth": "default", "satisfy": "any"},
            "protected: demands access.allowed_ip_blocks or access.forward_auth",
        ),
    ],
)
def test_the_text(access: dict[str, Any], said: str) -> None:
    config = config_from({"upstream": "http://web", "access": access}).config
    lines = as_text(config, Tables.of(config)).splitlines()
    assert lines[-2:] == ["", said]
    (line,) = [line for line in lines if line.startswith("/flags ")]
    assert " ".join(line.split()) == "/flags /flags flags public 4MiB 90s 1s 2.5s 60s default yes"
    assert line.index("yes") == lines[0].index("FAST")


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOWED_IP_BLOCKS", "10.0.0.0/8")
    assert cli.main(["routes", "--upstream", "http://web:8000"]) == 0
    assert "demands access.allowed_ip_blocks" in capsys.readouterr().out
    assert cli.main(["routes", "--upstream", "http://web:8000", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["protected"]["demands"] == ["allowed_ip_blocks"]


def test_the_command_with_a_wrong_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--upstream", "http://web:8000", "--set", 'routes=[{path="/%41"}]']
    assert cli.main(["routes", *words]) == cli.main(["check", *words]) == 2
    assert "routes[].path" in capsys.readouterr().err
