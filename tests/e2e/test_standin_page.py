"""The stand-in's own pages in a browser: what `posthog-proxy demo` shows, and the snippet it prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from aiohttp import web

from proxy.standin.page import js_snippet
from proxy.standin.server import Standin
from tests.e2e.chromium import opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.asyncio(loop_scope="module")]

PHONE = {"viewport": {"width": 360, "height": 740}}


@pytest_asyncio.fixture(loop_scope="module")
async def posthog() -> AsyncIterator[Standin]:
    async with Standin() as standin:
        yield standin


async def test_the_button_sends_an_event_and_the_page_follows(posthog: Standin, browser: Browser) -> None:
    async with opened(browser, f"{posthog.url}/__standin__/") as tab:
        assert await tab.page.inner_text("#count") == "no event yet"
        await tab.page.click("#send")
        await tab.page.wait_for_selector("article")
        assert await tab.page.inner_text("article h2") == "sent from the page"
        assert await tab.page.inner_text("#count") == "1 event"
        assert await tab.page.locator(".empty").count() == 0
        # What arrives by other ways comes on top, and what was opened stays open.
        await tab.page.click("article summary")
        await tab.page.evaluate('fetch(\'/e/\', {method: \'POST\', body: \'{"event":"other","token":"t"}\'})')
        await tab.page.wait_for_selector("article:nth-of-type(2)")
        assert await tab.page.locator("article h2").all_inner_texts() == ["other", "sent from the page"]
        assert await tab.page.locator("article details[open]").count() == 1
        assert tab.troubles == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_fits_a_phone(posthog: Standin, browser: Browser, scheme: str) -> None:
    async with opened(browser, f"{posthog.url}/__standin__/", color_scheme=scheme, **PHONE) as tab:
        await tab.page.click("#send")
        await tab.page.wait_for_selector("article")
        for summary in await tab.page.locator("summary").all():
            await summary.click()
        assert await tab.page.evaluate("document.documentElement.scrollWidth") <= 360
        background = await tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
        dark = sum(map(int, background.removeprefix("rgb(").removesuffix(")").split(","))) < 3 * 128
        assert dark == (scheme == "dark")


async def test_the_printed_snippet_works_without_posthog_js(posthog: Standin, browser: Browser) -> None:
    async def shop(_: web.Request) -> web.Response:
        text = f"<!DOCTYPE html><html><head>{js_snippet(posthog.url)}</head><body>shop</body></html>"
        return web.Response(text=text, content_type="text/html")

    app = web.Application()
    app.router.add_get("/shop", shop)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with opened(browser, f"http://127.0.0.1:{runner.addresses[0][1]}/shop") as tab:
            [event] = await posthog.wait_for_events(1, name="hello")
            assert tab.troubles == []
    finally:
        await runner.cleanup()
    assert event.token == "phc_demo"
    assert event.request.header("origin") not in (None, posthog.url)
    assert [one.name for one in posthog.events] == ["$pageview", "hello"]
