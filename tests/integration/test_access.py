"""What is public and what is protected, with real programs: Django as the app, htpasswd's files, nginx as
the service of forward authentication, curl as browsers, and the stand-in for what takes events.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.conftest import SITE
from tests.integration.django_behind import django, make_database
from tests.support import servers
from tests.support.curl import CurlResult, curl
from tests.support.parts import find
from tests.support.wire import exchange

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("curl", "nginx", "htpasswd")

EVENT = (
    '{"token":"phc_x","event":"$pageview","distinct_id":"ann","uuid":"0193f2a1-7b3c-7def-8a90-123456789000"}'
)

SERVICES = """
[upstreams.capture]
url = "{capture}"

[[routes]]
path = "/e"
upstream = "capture"

[[routes]]
path = "/flags*"
upstream = "capture"
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app: its /meta page shows which headers reached it."""
    folder = tmp_path_factory.mktemp("django")
    make_database(folder)
    with django(
        folder, IS_BEHIND_PROXY="true", TRUSTED_PROXIES="127.0.0.1", DISABLE_SECURE_SSL_REDIRECT="true"
    ) as url:
        yield url


@pytest.fixture(scope="module")
def capture() -> Iterator[str]:
    with servers.standin() as url:
        yield url


@pytest.fixture
def users(tmp_path: Path) -> Path:
    file = tmp_path / "users"
    add_user(file, "ann", "sécret:1", "-c")
    return file


def add_user(file: Path, user: str, password: str, *options: str) -> None:
    """Let htpasswd write it, into a new file that then takes the old one's place."""
    new = file.with_suffix(".new")
    if file.exists():
        new.write_bytes(file.read_bytes())
    command: list[str | Path] = [find("htpasswd"), "-bB", "-C", "6", *options, new, user, password]
    subprocess.run(command, check=True, capture_output=True)
    os.replace(new, file)


def config(folder: Path, capture: str, *more: str) -> Path:
    path = folder / "proxy.toml"
    path.write_text("\n".join([SERVICES.format(capture=capture), *more]))
    return path


def get(proxy: servers.RunningProxy, path: str, *arguments: str | Path) -> CurlResult:
    return curl("--header", f"Host: {SITE}", *arguments, f"{proxy.url}{path}")


def meta(result: CurlResult) -> dict[str, Any]:
    """The headers that Django saw."""
    assert result.status == 200, result
    found: dict[str, Any] = json.loads(result.body)["meta"]
    return found


def assert_events_pass(proxy: servers.RunningProxy, *arguments: str) -> None:
    origin = ("--header", "Origin: https://shop.example")
    for path, data in (("/e/?ip=0", EVENT), ("/flags/?v=2", '{"token":"phc_x","distinct_id":"ann"}')):
        result = get(proxy, path, "--data", data, *origin, *arguments)
        assert result.status == 200, result
        assert result.values("Access-Control-Allow-Origin") == [b"https://shop.example"]


class TestBasic:
    @pytest.fixture
    def proxy(self, app: str, capture: str, users: Path, tmp_path: Path) -> Iterator[servers.RunningProxy]:
        access = f'[access]\nbasic_auth_file = "{users}"\nbasic_realm = "Staff"'
        file = config(tmp_path, capture, access, '[[routes]]\npath = "/api/*"\naccess = "bearer"')
        with servers.posthog_proxy(app, "--config", file) as running:
            yield running

    def test_the_app_wants_a_password_and_events_do_not(self, proxy: servers.RunningProxy) -> None:
        refused = get(proxy, "/meta")
        assert refused.status == 401
        assert refused.values("WWW-Authenticate") == [b'Basic realm="Staff", charset="UTF-8"']
        assert get(proxy, "/meta", "--user", "ann:wrong").status == 401
        assert get(proxy, "/meta", "--user", "bob:sécret:1").status == 401
        # curl asks without first and answers the challenge, as browsers do.
        passed = get(proxy, "/meta", "--anyauth", "--user", "ann:sécret:1")
        assert [head.status for head in passed.heads] == [401, 200]
        assert "HTTP_AUTHORIZATION" not in meta(passed)
        assert_events_pass(proxy)
        assert_events_pass(proxy, "--user", "ann:wrong")

    def test_api_keys_pass_where_a_route_says_so(self, proxy: servers.RunningProxy) -> None:
        key = ("--header", "Authorization: Bearer phx_1")
        assert get(proxy, "/api/projects/", *key).status == 404  # Django's own
        assert get(proxy, "/api/projects/").status == 401
        assert get(proxy, "/meta", *key).status == 401

    def test_a_new_user_is_let_in_without_a_restart(self, proxy: servers.RunningProxy, users: Path) -> None:
        assert get(proxy, "/meta", "--user", "bob:b").status == 401
        add_user(users, "bob", "b")
        assert proxy.process.poll(lambda: get(proxy, "/meta", "--user", "bob:b").status == 200)
        users.write_text("bob:plain\n")
        assert proxy.process.poll(
            lambda: (
                get(proxy, "/meta", "--user", "bob:b").status == 200
                and "passwords_not_reloaded" in "\n".join(proxy.process.stderr)
            )
        )
        assert 'line 1 (user \\"bob\\") holds no bcrypt hash' in "\n".join(proxy.process.stderr)

    def test_a_page_with_many_requests_costs_one_check(self, proxy: servers.RunningProxy) -> None:
        urls = [f"{proxy.url}/meta" for _ in range(40)]
        parallel = ("--parallel", "--parallel-immediate", "--user", "ann:sécret:1")
        result = curl("--header", f"Host: {SITE}", *parallel, *urls)
        assert result.exit_code == 0
        assert {record["status"] for record in proxy.access_log(40)} == {200}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    with servers.nginx("nginx_forward_auth.conf", tmp_path_factory.mktemp("sso")) as server:
        yield server


@pytest.fixture(scope="module")
def sso_proxy(
    app: str, capture: str, service: servers.Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[servers.RunningProxy]:
    access = f"""
        [upstreams.sso]
        url = "http://{service.authority}"
        [[routes]]
        path = "/oauth2/*"
        upstream = "sso"
        access = "public"
        [access]
        forward_auth = "sso"
        forward_auth_path = "/oauth2/auth"
        forward_auth_copy = ["X-Auth-Request-User", "X-Auth-Request-Email"]
        forward_auth_sign_in = "/oauth2/sign_in"
    """
    file = config(tmp_path_factory.mktemp("proxy"), capture, access)
    with servers.posthog_proxy(app, "--config", file) as running:
        yield running


class TestForwardAuth:
    def test_a_browser_signs_in_and_comes_back_as_somebody(
        self, sso_proxy: servers.RunningProxy, service: servers.Server, tmp_path: Path
    ) -> None:
        jar = ("--cookie", tmp_path / "jar", "--cookie-jar", tmp_path / "jar")
        page = ("--header", "Accept: text/html", "--location", "--max-redirs", "3")
        sent = get(sso_proxy, "/meta?a=b", *jar, *page)
        assert [head.status for head in sent.heads] == [302, 200]
        assert sent.body == b"<form action=/oauth2/start>"
        wanted = b"http%3A%2F%2F" + SITE.encode() + b"%2Fmeta%3Fa%3Db"
        assert sent.values("X-Rd") == [wanted]
        signed_in = get(sso_proxy, "/oauth2/start", *jar, *page)
        assert [head.status for head in signed_in.heads] == [302, 200]
        seen = meta(signed_in)
        assert seen["HTTP_X_AUTH_REQUEST_USER"] == "ann"
        assert seen["HTTP_X_AUTH_REQUEST_EMAIL"] == "ann@example.com"
        asked = rf"\AGET http://{SITE}/meta\?a=b for 127\.0\.0\.1\Z"
        service.process.wait_for_lines(asked, stream="stdout")

    def test_nobody_can_say_who_he_is(self, sso_proxy: servers.RunningProxy, capture: str) -> None:
        lies = ("--header", "X-Auth-Request-User: root", "--header", "X_Auth_Request_Email: root")
        seen = meta(get(sso_proxy, "/meta", "--cookie", "session=of-ann", *lies))
        assert seen["HTTP_X_AUTH_REQUEST_USER"] == "ann"
        assert "root" not in json.dumps(seen)
        # Nor where nobody is asked who it is.
        assert_events_pass(sso_proxy, *lies)
        arrived = json.loads(curl(f"{capture}/__standin__/requests").body)
        assert len(arrived) >= 2
        assert "root" not in json.dumps(arrived)

    def test_calls_hear_the_status_itself(self, sso_proxy: servers.RunningProxy) -> None:
        call = get(sso_proxy, "/meta", "--header", "Accept: application/json")
        assert (call.status, call.body) == (401, b"sign in first")
        forbidden = get(sso_proxy, "/meta", "--cookie", "session=forbidden", "--data", "x=1")
        assert (forbidden.status, forbidden.body) == (403, b"not you")

    def test_events_are_not_asked_about(
        self, sso_proxy: servers.RunningProxy, service: servers.Server
    ) -> None:
        assert_events_pass(sso_proxy)
        assert get(sso_proxy, "/meta", "--cookie", "session=of-ann").status == 200
        service.process.wait_for_lines(r"/meta ", stream="stdout")
        assert not [line for line in service.process.stdout if "/e/" in line or "/flags" in line]


def test_without_the_service_nobody_passes_but_events_do(app: str, capture: str, tmp_path: Path) -> None:
    access = '[upstreams.sso]\nurl = "http://127.0.0.1:9"\n[access]\nforward_auth = "sso"'
    with servers.posthog_proxy(app, "--config", config(tmp_path, capture, access)) as proxy:
        refused = get(proxy, "/meta", "--cookie", "session=of-ann")
        assert refused.status == 503
        assert refused.values("Retry-After") == [b"5"]
        assert_events_pass(proxy)
        proxy.process.wait_for_lines(r'"event":"forward_auth_unreachable"')


@pytest.fixture(scope="module")
def gated_proxy(
    app: str, capture: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[servers.RunningProxy]:
    file = config(tmp_path_factory.mktemp("proxy"), capture)
    environment = {"ALLOWED_IP_BLOCKS": "203.0.113.0/24, 127.20.0.0/16", "ALLOWED_HOSTS": SITE}
    probes = ("--set", "access.probe_paths=/_health")
    with servers.posthog_proxy(app, "--config", file, *probes, env=environment) as running:
        yield running


class TestAddresses:
    """PostHog's own variable, at the proxy: on the client's address, whichever proxies it came through."""

    @pytest.mark.parametrize(
        ("source", "chain", "path", "status"),
        [
            ("127.20.0.9", "", "/meta", 200),
            ("127.30.0.9", "", "/meta", 403),
            ("127.30.0.9", "203.0.113.7", "/meta", 403),
            ("127.0.0.1", "203.0.113.7", "/meta", 200),
            ("127.0.0.1", "203.0.113.7, 198.51.100.1", "/meta", 403),
            ("127.30.0.9", "", "/_health", 200),
            ("127.30.0.9", "", "/static/%2e%2e/meta", 400),
            ("127.30.0.9", "", "/_health/..%2fmeta", 400),
            ("127.30.0.9", "", "//meta", 403),
            ("127.30.0.9", "", "/metrics", 404),
            ("127.20.0.9", "", "/metrics", 404),
        ],
    )
    def test_who_is_let_in(
        self, gated_proxy: servers.RunningProxy, source: str, chain: str, path: str, status: int
    ) -> None:
        lines = f"Host: {SITE}\r\n" + (f"X-Forwarded-For: {chain}\r\n" if chain else "")
        request = f"GET {path} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n"
        assert exchange(gated_proxy.address, request.encode(), source=source).status == status

    def test_events_pass_from_anywhere(self, gated_proxy: servers.RunningProxy) -> None:
        assert_events_pass(gated_proxy, "--interface", "127.30.0.9")

    @pytest.mark.parametrize(
        ("host", "path", "status"),
        [
            ("evil.example", "/e/", 421),
            ("evil.example", "/_health", 421),
            ("{authority}", "/e/", 421),
            ("{authority}", "/_health", 200),
        ],
    )
    def test_hosts(self, gated_proxy: servers.RunningProxy, host: str, path: str, status: int) -> None:
        origin = ("--header", "Origin: https://shop.example")
        said = ("--header", f"Host: {host.format(authority=gated_proxy.authority)}")
        result = curl(*said, *origin, f"{gated_proxy.url}{path}")
        assert result.status == status
        if path == "/e/":  # so that the page can read the status
            assert result.values("Access-Control-Allow-Origin") == [b"https://shop.example"]


def test_a_bad_file_is_found_by_check(tmp_path: Path) -> None:
    file = tmp_path / "users"
    subprocess.run([find("htpasswd"), "-bmc", file, "ann", "x"], check=True, capture_output=True)
    words = ("--upstream", "http://127.0.0.1:9", "--set", f"access.basic_auth_file={file}")
    for command in ("check", "routes", "run"):
        done = subprocess.run(
            servers.proxy_command(command, *words),
            env=servers.clean_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert (
            f'access.basic_auth_file = "{file}": line 1 (user "ann") holds an apr1 (MD5) hash' in done.stderr
        )
