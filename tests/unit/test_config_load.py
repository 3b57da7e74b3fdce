from __future__ import annotations

import datetime
import subprocess
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest

from proxy.config.load import MAX_FILE_BYTES, config_from, load_config
from proxy.config.schema import (
    HostPolicy,
    LogFormat,
    RouteConfig,
    TcpAddress,
    UnixAddress,
    UpstreamConfig,
    UpstreamUrl,
)
from proxy.errors import ConfigError
from tests.support.tls import self_signed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from proxy.config.load import Loaded

UPSTREAM = {"upstream": "http://web:8000"}
WEB = UpstreamUrl(TcpAddress("web", 8000))

FULL_FILE = """
listen = ["127.0.0.1:8000", "unix:/run/posthog-proxy.sock"]
upstream = "http://web:8000"
workers = 4

[upstreams.default]
host = "keep"

[upstreams.cloud]
url = "https://us.i.posthog.com"
host = "upstream"

[[routes]]
path = "/static/*"
upstream = "cloud"

[trust]
proxies = ["10.0.0.0/8"]

[timeouts]
head = "5s"
"""


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return tmp_path / "proxy.toml"


def load(file: Path, text: str, *stronger: Mapping[str, Any]) -> Loaded:
    file.write_text(text)
    return load_config(str(file), *stronger)


def problems(*sources: Any) -> list[str]:
    with pytest.raises(ConfigError) as failure:
        load_config(*sources)
    return [str(problem) for problem in failure.value.problems]


def test_a_start_needs_no_file() -> None:
    loaded = load_config(flags={**UPSTREAM, "trust.proxies": "10.0.0.0/8,192.168.0.0/16"})
    assert loaded.warnings == ()
    assert loaded.config.listen == (TcpAddress("127.0.0.1", 8000),)
    assert loaded.config.upstreams == {"default": UpstreamConfig(WEB)}
    assert loaded.config.trust.proxies == (ip_network("10.0.0.0/8"), ip_network("192.168.0.0/16"))


def test_a_file(written: Path) -> None:
    config = load(written, FULL_FILE).config
    assert config.listen == (TcpAddress("127.0.0.1", 8000), UnixAddress("/run/posthog-proxy.sock"))
    assert config.workers == 4
    assert config.upstream is None
    assert config.upstreams["default"] == UpstreamConfig(WEB)
    assert config.upstreams["cloud"] == UpstreamConfig(
        UpstreamUrl(TcpAddress("us.i.posthog.com", 443), tls=True), host=HostPolicy.UPSTREAM
    )
    assert config.routes == (RouteConfig("/static/*", "cloud"),)
    assert config.timeouts.head == 5.0


def test_flags_beat_variables_which_beat_posthogs_names_which_beat_the_file(written: Path) -> None:
    text = """
    upstream = "http://file"
    [trust]
    proxies = ["10.0.0.1"]
    [timeouts]
    head = 1
    connect = 1
    linger = 1
    """
    posthog = {"TRUSTED_PROXIES": "10.0.0.2", "IS_BEHIND_PROXY": "true"}
    own = {"POSTHOG_PROXY_TIMEOUTS__HEAD": "2", "POSTHOG_PROXY_TIMEOUTS__CONNECT": "2"}

    config = load(written, text, {**posthog, **own}, {"timeouts.head": 3}).config
    assert config.trust.proxies == (ip_network("10.0.0.2"),)
    assert (config.timeouts.head, config.timeouts.connect, config.timeouts.linger) == (3.0, 2.0, 1.0)

    config = load(written, text, {**posthog, "POSTHOG_PROXY_TRUST__PROXIES": "10.0.0.3"}).config
    assert config.trust.proxies == (ip_network("10.0.0.3"),)


def test_the_flag_replaces_the_url_of_the_default_upstream_and_nothing_else(written: Path) -> None:
    text = '[upstreams.default]\nurl = "http://file"\nhost = "upstream"\n'
    config = load(written, text, {"POSTHOG_PROXY_UPSTREAM": "http://variable"}, UPSTREAM).config
    assert config.upstreams == {"default": UpstreamConfig(WEB, host=HostPolicy.UPSTREAM)}


def test_a_variable_finds_the_upstream_of_the_file(written: Path) -> None:
    text = 'upstream = "http://web:8000"\n[upstreams.eu-west]\nurl = "http://eu"\n'
    config = load(written, text, {"POSTHOG_PROXY_UPSTREAMS__EU_WEST__HOST": "upstream"}).config
    assert config.upstreams["eu-west"].host is HostPolicy.UPSTREAM


def test_a_default_gives_way_to_a_setting_that_forbids_it() -> None:
    config = config_from({**UPSTREAM, "timeouts": {"drain": 2}, "limits": {"body_flags": "2KiB"}}).config
    assert config.timeouts.drain_streams == 2.0
    assert config.limits.held_body == 2048


def test_an_embedder_gives_a_mapping() -> None:
    loaded = config_from(
        {"listen": ["127.0.0.1:0"], **UPSTREAM, "log": {"format": "text"}, "trust": {"hops": 1}}
    )
    assert loaded.config.listen == (TcpAddress("127.0.0.1", 0),)
    assert loaded.config.log.format is LogFormat.TEXT
    assert loaded.warnings == ()
    with pytest.raises(ConfigError, match=r"^my settings: workers = 0: must be"):
        config_from({**UPSTREAM, "workers": 0}, "my settings")


def test_upstreams_do_not_change() -> None:
    upstreams: Any = config_from(UPSTREAM).config.upstreams
    with pytest.raises(TypeError):
        upstreams["other"] = UpstreamConfig(WEB)


def test_no_upstream_at_all() -> None:
    (found,) = problems()
    assert found == (
        "upstream = (nothing): no upstream is given: say --upstream http://HOST:PORT, set "
        'POSTHOG_PROXY_UPSTREAM, or write upstream = "http://HOST:PORT" in the file'
    )


def test_no_default_upstream_among_others() -> None:
    (found,) = problems(None, {"POSTHOG_PROXY_UPSTREAMS__EU__URL": "http://eu"})
    assert found.startswith("upstream = (nothing): no upstream is given")


def test_an_upstream_without_a_url() -> None:
    with pytest.raises(
        ConfigError, match=r"^configuration: upstreams\.eu\.url = \(nothing\): must be given: `http"
    ):
        config_from({**UPSTREAM, "upstreams": {"eu": {"host": "keep"}}})


def test_everything_wrong_is_listed_from_every_source(written: Path) -> None:
    written.write_text('workers = 0\n[limits]\nheadbytes = 1\n[[routes]]\nupstream = "eu"\n')
    found = problems(
        str(written),
        {"POSTHOG_PROXY_WORKERS": "none", "TRUSTED_PROXIES": "web", "POSTHOG_PROXY_LISTN": "x"},
        {"workers": 2, "upstream": "web", "timeouts.hed": "1"},
    )
    assert [line.split(" = ")[0] for line in found] == [
        f"{written}: workers",
        f"{written}: limits.headbytes",
        f"{written}: routes[0].path",
        "TRUSTED_PROXIES: trust.proxies",
        "environment: POSTHOG_PROXY_LISTN",
        "POSTHOG_PROXY_WORKERS: workers",
        "--upstream: upstream",
        "--set: timeouts.hed",
        f"{written}: routes[0].upstream",
    ]


def test_warnings_come_from_the_environment_and_the_configuration() -> None:
    warnings = load_config(None, {"IS_BEHIND_PROXY": "true", "TRUST_ALL_PROXIES": "false"}, UPSTREAM).warnings
    assert [warning.split(":")[0] for warning in warnings] == [
        "TRUST_ALL_PROXIES=false",
        "IS_BEHIND_PROXY=true with neither TRUSTED_PROXIES nor TRUST_ALL_PROXIES",
        "posthog.secure_ssl_redirect = true while no proxy is trusted",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'upstream = "http://web"\nlisten = [\n', "is not valid TOML: Invalid value (at end of document)"),
        (b"a = 1\nb = \n", "(at line 2, column 5)"),
        (b"a = 1\na = 2\n", "is not valid TOML: Cannot overwrite a value (at line 2"),
        (b"a = " + b"9" * 5000, "is not valid TOML: Exceeds the limit"),
        (b"a = " + b"[" * 50_000, "is not valid TOML: "),
        (b"a = 1\n# \xff\n", "is not UTF-8 text (at line 2)"),
        (b"#" * (MAX_FILE_BYTES + 1), "is larger than 1048576 bytes"),
    ],
    ids=["unfinished", "no value", "twice", "huge number", "deep", "latin-1", "huge"],
)
def test_a_file_that_is_not_toml(written: Path, text: bytes, reason: str) -> None:
    written.write_bytes(text)
    (found,) = problems(str(written))
    assert found.startswith(f'file = "{written}": ')
    assert reason in found


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert problems(str(tmp_path / "none")) == [
        f'file = "{tmp_path / "none"}": cannot be read: No such file or directory'
    ]
    assert problems(str(tmp_path)) == [f'file = "{tmp_path}": cannot be read: Is a directory']
    assert problems("a\0b") == ['file = "a\\x00b": cannot be read: embedded null byte']


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "must be readable: No such file or directory"),
        ("", "must be a PEM file with certificates; it holds none that can be read"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "it holds none that can be read"),
    ],
)
def test_authorities_must_be_there(tmp_path: Path, content: str | None, reason: str) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as failure:
        config_from({"upstreams": {"default": {"url": "https://web", "ca_file": str(path)}}})
    (found,) = failure.value.problems
    assert str(found) == f'configuration: upstreams.default.ca_file = "{path}": {found.allowed}'
    assert reason in found.allowed


def test_a_revocation_list_is_no_authority(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path, "web")
    settings, revoked = tmp_path / "ca.cnf", tmp_path / "revoked.pem"
    index = tmp_path / "index"
    index.touch()
    settings.write_text(f"[ca]\ndefault_ca = a\n[a]\ndatabase = {index}\ndefault_md = sha256\n")
    authority: list[str | Path] = [
        "-keyfile",
        certificate.key,
        "-cert",
        certificate.certificate,
        "-crldays",
        "1",
    ]
    command: list[str | Path] = ["openssl", "ca", "-config", settings, "-gencrl", *authority, "-out", revoked]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(ConfigError, match=r"must be a PEM file with certificates; it holds none$"):
        config_from({"upstreams": {"default": {"url": "https://web", "ca_file": str(revoked)}}})


def test_authorities_that_can_be_read(tmp_path: Path) -> None:
    path = str(self_signed(tmp_path, "web").certificate)
    config = config_from({"upstreams": {"default": {"url": "https://web", "ca_file": path}}}).config
    assert config.upstreams["default"].ca_file == path


# --- preset and behind (what they stand for: test_config_expansion.py) -----------------------------


def test_a_preset_is_weaker_than_all_else() -> None:
    loaded = load_config(flags={"preset": "posthog-cloud-us", "upstreams.assets.idle_timeout": "5s"})
    assert loaded.config.upstreams["assets"].idle_timeout == 5
    assert [route.path for route in loaded.config.routes] == ["/static/*", "/array/*"]


def test_networks_are_those_of_the_file_and_their_age_is_judged_by_the_day(written: Path) -> None:
    written.write_text('[cloudflare]\nnetworks = ["192.0.2.0/24"]\ndate = 2026-01-01\n')
    flags = {**UPSTREAM, "behind": "cloudflare,nginx", "trust.ranges_file": str(written)}
    day = datetime.date(2027, 1, 1)
    for today, warnings in ((None, 0), (day, 0), (day + datetime.timedelta(1), 1)):
        loaded = load_config(flags=flags, today=today)
        assert ip_network("192.0.2.0/24") in loaded.config.trust.proxies
        assert len(loaded.warnings) == warnings


@pytest.mark.parametrize(("text", "said"), [("x = 1", "must have tables: [x]"), ("[", "is not valid TOML")])
def test_a_file_of_networks_with_mistakes(written: Path, text: str, said: str) -> None:
    written.write_text(text)
    flags = {**UPSTREAM, "behind": "cloudflare", "trust.ranges_file": str(written)}
    (found,) = problems(None, {}, flags)
    assert said in found


def test_users_that_cannot_be_read_are_a_problem_of_the_setting(tmp_path: Path) -> None:
    file = tmp_path / "users"
    with pytest.raises(ConfigError) as failure:
        config_from({"upstream": "http://web", "access": {"basic_auth_file": str(file)}}, "file")
    (found,) = failure.value.problems
    assert str(found).startswith(f'file: access.basic_auth_file = "{file}": must be readable: ')
    file.write_text("ann:$2y$05$SToIVQgmq4m6K3wKsiicb.dPfmmj4EYBq/4CXWeFZll3Gb7Gw7peq\n")
    read = config_from({"upstream": "http://web", "access": {"basic_auth_file": str(file)}})
    assert read.config.access.basic_auth_file == str(file)


def test_one_listener_that_cannot_be_read_leaves_the_others_their_numbers() -> None:
    with pytest.raises(ConfigError) as failure:
        config_from({"upstream": "http://web", "listeners": [{"address": "x"}, {"address": "[::1]:0"}]})
    assert [problem.key for problem in failure.value.problems] == ["listeners[0].address"]
