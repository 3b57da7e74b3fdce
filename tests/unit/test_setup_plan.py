"""What `init` writes and says, for each wish."""

from __future__ import annotations

import datetime
import tomllib
from pathlib import Path

import pytest

from proxy.config.load import load_config
from proxy.errors import ConfigError
from proxy.setup.plan import (
    CONFIG,
    DISABLE,
    ENABLE,
    SERVICE,
    SOCKET,
    UNITS,
    Wish,
    advice,
    hidden,
    listen_stream,
    plan,
)

ALIAS = "/k7-mirelo"
TODAY = datetime.date(2026, 11, 25)
PROGRAM = ("/usr/local/bin/posthog-proxy",)
SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"


def test_a_cloud_behind_cloudflare() -> None:
    wish = Wish("posthog-cloud-eu", behind=("cloudflare",), hosts=("e.example.com",))
    what = plan(wish, PROGRAM, ALIAS, TODAY)
    assert set(what.files) == {CONFIG, SERVICE, SOCKET}
    assert tomllib.loads(what.files[CONFIG]) == {
        "listen": ["0.0.0.0:80"],
        "preset": "posthog-cloud-eu",
        "behind": ["cloudflare"],
        "workers": "auto",
        "access": {"allowed_hosts": ["e.example.com"]},
        "aliases": {"prefix": ALIAS},
        "spool": {"directory": "/var/lib/posthog-proxy/spool"},
        "admin": {"listen": "unix:/run/posthog-proxy/admin.sock"},
    }
    assert what.warnings == ()
    said = advice(wish, ALIAS)
    assert f"  {ENABLE}" in said
    assert "  curl -i -H 'Host: e.example.com' http://127.0.0.1:80/_health" in said
    called = 'api_host: "https://e.example.com/k7-mirelo", ui_host: "https://eu.posthog.com"'
    assert f'  posthog.init("<project key>", {{ {called} }})' in said
    assert not any("--behind" in line or "IS_BEHIND_PROXY" in line for line in said)


def test_networks_that_are_old_are_warned_of() -> None:
    wish = Wish("posthog-cloud-eu", behind=("cloudflare",))
    [warning] = plan(wish, PROGRAM, ALIAS, TODAY.replace(year=2040)).warnings
    assert "cloudflare" in warning


def test_a_posthog_of_ones_own() -> None:
    wish = Wish(upstream="http://127.0.0.1:8000", listen=("[::]:8080", "unix:/run/x y.sock"))
    what = plan(wish, PROGRAM, ALIAS, TODAY)
    loaded = load_config(toml=what.files[CONFIG].encode(), toml_path=CONFIG).config
    assert str(loaded.upstreams["default"].url) == "http://127.0.0.1:8000"
    assert "ListenStream=[::]:8080\nListenStream=/run/x y.sock\n" in what.files[SOCKET]
    said = "\n".join(advice(wish, ALIAS))
    assert "curl -i http://[::1]:8080/_health" in said
    assert "IS_BEHIND_PROXY=true TRUSTED_PROXIES=" in said
    assert "https://<public name of this host>/k7-mirelo" in said
    assert "--behind" in said


def test_a_wildcard_is_no_name_to_call() -> None:
    wish = Wish("hobby", hosts=(".example.com", "e.example.com"), listen=("unix:/run/x",))
    said = advice(wish, ALIAS)
    assert "  curl -i -H 'Host: e.example.com' --unix-socket /run/x http://localhost/_health" in said


@pytest.mark.parametrize(
    ("wish", "addresses"),
    [
        (Wish(), ("0.0.0.0:80",)),
        (Wish(behind=("nginx",)), ("127.0.0.1:8000",)),
        (Wish(behind=("nginx",), listen=("0.0.0.0:81",)), ("0.0.0.0:81",)),
    ],
)
def test_where_it_listens(wish: Wish, addresses: tuple[str, ...]) -> None:
    assert wish.addresses == addresses


@pytest.mark.parametrize(
    ("wish", "problem"),
    [
        (Wish("cloud"), 'preset = "cloud": must be one of'),
        (Wish("self-hosted"), "upstream"),
        (Wish("hobby", behind=("cloudflair",)), "did you mean cloudflare"),
        (Wish("hobby", listen=("example.com:80",)), "listen = example.com:80: must be a number"),
        (Wish("hobby", listen=("80",)), "must name the host too"),
    ],
)
def test_what_cannot_be_served_is_refused(wish: Wish, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        plan(wish, PROGRAM, ALIAS, TODAY)
    assert problem in "\n".join(map(str, refused.value.problems))


@pytest.mark.parametrize(
    ("address", "stream"),
    [
        ("localhost:8000", "127.0.0.1:8000"),
        ("[::1]:8000", "[::1]:8000"),
        ("unix:/run/posthog.sock", "/run/posthog.sock"),
    ],
)
def test_addresses_as_systemd_writes_them(address: str, stream: str) -> None:
    assert listen_stream(address) == stream


def test_an_address_that_is_none_is_no_stream() -> None:
    with pytest.raises(ConfigError, match="must have a port"):
        listen_stream("0.0.0.0")


@pytest.mark.parametrize(
    ("program", "start"),
    [
        (("/opt/p/bin/posthog-proxy",), "/opt/p/bin/posthog-proxy run --config"),
        (("/usr/bin/python3", "-P", "-m", "proxy"), "/usr/bin/python3 -P -m proxy run --config"),
        (("/opt/a b/100%",), '"/opt/a b/100%%" run --config'),
    ],
)
def test_the_service_starts_the_program_that_is_there(program: tuple[str, ...], start: str) -> None:
    unit = plan(Wish("hobby"), program, ALIAS, TODAY).files[SERVICE]
    assert f"ExecStart={start}" in unit
    assert f"ExecStartPre={start.replace(' run ', ' check ')}" in unit
    assert ("/usr/local/bin" in unit) is ("/usr/local/bin" in start)


def test_the_units_to_copy_are_those_that_are_written() -> None:
    files = plan(Wish("hobby"), PROGRAM, ALIAS, TODAY).files
    for path in (SERVICE, SOCKET):
        name = Path(path).name
        assert files[path] == (UNITS / name).read_text() == (SYSTEMD / name).read_text()


def test_what_a_service_cannot_see() -> None:
    assert hidden(["/home/a/venv", "/opt/x", "/roots/x", "/tmp", "/usr"]) == ["/home/a/venv", "/tmp"]
    assert DISABLE.endswith("posthog-proxy.socket posthog-proxy.service")
