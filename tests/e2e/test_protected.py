"""SDKs and browsers of visitors while the app is protected: they notice nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import bcrypt
import pytest
import pytest_asyncio
from playwright.async_api import Error

from proxy.standin.server import Standin
from tests.e2e.chromium import opened
from tests.e2e.conftest import POSTHOG_JS, configured_proxy
from tests.e2e.test_python_sdk import sdk
from tests.support.curl import curl

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from playwright.async_api import Browser

    from tests.support.servers import RunningProxy

pytestmark = [pytest.mark.needs("chromium", "posthog-js", "curl"), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module")
async def posthog() -> AsyncIterator[Standin]:
    async with Standin(static=POSTHOG_JS) as standin:
        yield standin


@pytest.fixture
def proxy(posthog: Standin, tmp_path: Path) -> Iterator[RunningProxy]:
    users = tmp_path / "users"
    users.write_bytes(b"ann:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(5)) + b"\n")
    with configured_proxy(posthog.url, tmp_path, f'[access]\nbasic_auth_file = "{users}"\n') as running:
        yield running


async def test_a_visit(proxy: RunningProxy, posthog: Standin, browser: Browser, site: str) -> None:
    async with opened(browser, f"{site}/shop.html") as tab:
        await tab.start_posthog(proxy.url, "phc_browser")
        await tab.page.wait_for_function("posthog.sessionRecordingStarted()")
        await tab.page.click("#buy")
        for name in ("$pageview", "$autocapture", "$snapshot"):
            await posthog.wait_for_events(1, name=name)
        assert await tab.page.evaluate("posthog.getFeatureFlag('demo-variant')") == "blue"
        assert {status for url, status in tab.statuses if url.startswith(proxy.url)} == {200}
        assert tab.troubles == []


async def test_the_app_wants_the_password_meanwhile(proxy: RunningProxy, browser: Browser) -> None:
    async with opened(browser, "about:blank") as tab:
        # The browser would ask for a password now; nobody is there to type it.
        with pytest.raises(Error, match="ERR_INVALID_AUTH_CREDENTIALS"):
            await tab.page.goto(f"{proxy.url}/__standin__/echo")
    signed_in = {"username": "ann", "password": "secret"}
    async with opened(browser, "about:blank", http_credentials=signed_in) as tab:
        passed = await tab.page.goto(f"{proxy.url}/__standin__/echo")
        assert passed is not None
        assert passed.status == 200
        assert "authorization" not in (await passed.text()).lower()


async def test_the_python_sdk(proxy: RunningProxy, posthog: Standin) -> None:
    async with sdk(proxy.url, secret_key="phx_personal") as python:
        python.client.capture("bought", distinct_id="ann")
        await python.flush()
        [event] = await posthog.wait_for_events(1, name="bought")
        assert event.distinct_id == "ann"
        await asyncio.to_thread(python.client.load_feature_flags)  # with its Bearer
        assert python.client.feature_flags
        assert python.failures == []
    statuses = {record["status"] for record in await asyncio.to_thread(proxy.access_log, 2)}
    assert statuses == {200}
    without = await asyncio.to_thread(curl, f"{proxy.url}/api/feature_flag/local_evaluation?token=phc_x")
    assert without.status == 401
