"""The asset cache before a real nginx, asked by curl: variants, conditions, an outage."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support import servers
from tests.support.curl import CurlResult, curl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import RunningProxy, Server

pytestmark = pytest.mark.needs("nginx", "curl")

SCRIPT = b"".join(b"console.log(%d);\n" % number for number in range(12_000))
"""190 KB, as array.js."""


@dataclass(frozen=True, slots=True)
class Site:
    """The proxy before nginx."""

    proxy: RunningProxy
    origin: Server
    folder: Path

    def get(self, path: str, *arguments: str) -> CurlResult:
        return curl(*arguments, f"{self.proxy.url}{path}")

    def asked(self) -> list[str]:
        """What nginx was asked, line by line."""
        return (self.folder / "asked.log").read_text().splitlines()

    def origins(self, count: int) -> list[str]:
        """Who answered, as the access log has it."""
        return [line["origin"] for line in self.proxy.access_log(count)]


@pytest.fixture(params=["true", "false"], ids=["fast", "general"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "array.js").write_bytes(SCRIPT)
    with (
        servers.nginx("nginx_assets.conf", tmp_path) as origin,
        servers.posthog_proxy(f"http://{origin.authority}", "--set", f"fast_path={request.param}") as proxy,
    ):
        yield Site(proxy, origin, tmp_path)


def test_each_encoding_is_kept_apart(site: Site) -> None:
    for _ in range(2):
        plain = site.get("/static/array.js")
        zipped = site.get("/static/array.js", "-H", "Accept-Encoding: gzip")
        assert plain.body == SCRIPT
        assert zipped.values("Content-Encoding") == [b"gzip"]
        assert gzip.decompress(zipped.body) == SCRIPT
    assert plain.values("Age") == zipped.values("Age") == [b"0"]
    assert len(site.asked()) == 2
    assert site.origins(4) == ["upstream", "upstream", "cache", "cache"]


def test_a_client_that_has_it_hears_so(site: Site) -> None:
    tag = site.get("/static/array.js").values("ETag")[0].decode()
    again = site.get("/static/array.js", "-H", f"If-None-Match: {tag}")
    assert (again.status, again.body) == (304, b"")
    since = site.get("/static/array.js").values("Last-Modified")[0].decode()
    assert site.get("/static/array.js", "-H", f"If-Modified-Since: {since}").status == 304
    assert len(site.asked()) == 1


def test_head_and_range(site: Site) -> None:
    site.get("/static/array.js")
    head = site.get("/static/array.js", "--head")
    assert (head.status, head.values("Content-Length")) == (200, [b"%d" % len(SCRIPT)])
    part = site.get("/static/array.js", "--range", "0-6")
    assert (part.status, part.body) == (206, b"console")
    assert [line.split()[2] for line in site.asked()] == ["200", "206"]


def test_the_whole_query_counts(site: Site) -> None:
    for query in ("", "?v=1", "?v=2", "?v=1"):
        assert site.get(f"/static/array.js{query}").body == SCRIPT
    assert len(site.asked()) == 3


def test_what_is_over_is_asked_for_again_and_bridges_an_outage(site: Site) -> None:
    path = "/static/checked/array.js"
    for _ in range(2):
        assert site.get(path).body == SCRIPT
    first, second = site.asked()
    assert first.endswith("200 [-]")
    assert r"304 [\x22" in second
    site.origin.process.stop()
    stale = site.get(path)
    assert (stale.status, stale.body) == (200, SCRIPT)
    line = site.proxy.access_log(3)[-1]
    assert (line["origin"], line["upstream_status"]) == ("cache", 0)
    assert line["error"].startswith("stale: ")
    assert site.get("/static/other.js").status in (502, 503)


def test_configurations_are_those_of_the_page_and_of_the_kind_of_sdk(site: Site) -> None:
    def configuration(origin: str, agent: str) -> bytes:
        return site.get("/array/phc_x/config", "-H", f"Origin: {origin}", "-A", agent).body

    for _ in range(2):
        assert configuration("https://a.example", "posthog-ios/3.1") == (
            b'{"for": "https://a.example posthog-ios/3.1"}'
        )
        assert b"b.example posthog-ios" in configuration("https://b.example", "posthog-ios/3.1")
        assert b"a.example Mozilla" in configuration("https://a.example", "Mozilla/5.0")
        assert b"a.example Mozilla" in configuration("https://a.example", "curl/8")
    assert len(site.asked()) == 3
