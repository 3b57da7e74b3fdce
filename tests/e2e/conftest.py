"""What the end-to-end tests share: PostHog's stand-in, the proxy before it, and a port that is down.

The SDKs are the released ones, the proxy is `posthog-proxy run` as a child process, and only PostHog
itself is a stand-in (proxy/standin), in the test's own event loop so that a test can look at what arrived
and script what goes wrong.
"""

from __future__ import annotations

import socket
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from proxy.standin.server import Standin
from tests.e2e.chromium import chromium, web_site
from tests.support.servers import RunningProxy, posthog_proxy
from tests.support.tidiness import leaving_nothing_behind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from playwright.async_api import Browser

HERE = Path(__file__).parent

POSTHOG_JS = HERE / "node_modules" / "posthog-js" / "dist"
"""The scripts that the stand-in serves under /static/."""

SMALL_BODIES = """
[[routes]]
path = "/batch/"
body_limit = 20_000

[[routes]]
path = "/e/"
body_limit = 20_000

[[routes]]
path = "/i/v0/e/"
body_limit = 20_000
"""
"""A body limit between one small event and four events of 8 KB."""

QUICK_RECOVERY = """
[health]
open_min = 0.2
open_max = 0.5
"""
"""A breaker that tries a dead upstream again soon, so that an outage in a test is short."""


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def tidy_loop() -> AsyncIterator[None]:
    """Watches a module where tests/conftest.py watches a test: the tests of a module share a loop, a
    stand-in and a browser, whose connections outlive a single test."""
    async with leaving_nothing_behind():
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def posthog_module() -> AsyncIterator[Standin]:
    async with Standin(static=POSTHOG_JS) as standin:
        yield standin


@pytest.fixture
def posthog(posthog_module: Standin) -> Iterator[Standin]:
    """PostHog, with nothing arrived yet and behaving well."""
    posthog_module.journal.clear()
    posthog_module.behave()
    yield posthog_module
    posthog_module.behave()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncIterator[str]:
    """The origin of a customer's web site."""
    async with web_site() as origin:
        yield origin


@pytest.fixture(scope="module")
def proxy(posthog_module: Standin) -> Iterator[RunningProxy]:
    """The proxy with its defaults, facing its clients directly: nobody is trusted."""
    with posthog_proxy(posthog_module.url, trusted="") as running:
        yield running


@contextmanager
def configured_proxy(upstream: str, folder: Path, toml: str) -> Iterator[RunningProxy]:
    """The proxy with a configuration file."""
    config = folder / "proxy.toml"
    config.write_text(toml, encoding="utf-8")
    with posthog_proxy(upstream, "--config", config, trusted="") as running:
        yield running


@pytest.fixture
def strict_proxy(posthog: Standin, tmp_path: Path) -> Iterator[RunningProxy]:
    """The proxy with a small body limit on the event endpoints."""
    with configured_proxy(posthog.url, tmp_path, SMALL_BODIES) as running:
        yield running


@dataclass(frozen=True, slots=True)
class Deployment:
    """``proxy`` before an ``address`` where nothing listens until the test starts PostHog there."""

    proxy: RunningProxy
    address: str

    def posthog(self) -> Standin:
        """PostHog, up for as long as the returned context is open."""
        return Standin(self.address, static=POSTHOG_JS)


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    """The proxy before a PostHog that is down at first.

    The port is bound all the time but does not listen, so that nobody else is given it and connections
    are refused; a stand-in can listen there because both sockets have SO_REUSEADDR.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        with configured_proxy(f"http://{address}", tmp_path, QUICK_RECOVERY) as running:
            yield Deployment(running, address)
