"""Chromium under Playwright, and the web site whose pages carry posthog-js.

The site has an origin of its own (another port than the proxy), so whatever its pages send to the proxy
is subject to CORS, as on a customer's site.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web
from playwright.async_api import Browser, Page, async_playwright

from tests.support.parts import find

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PAGES = Path(__file__).parent / "pages"

POSTHOG_HOST = "posthog.test"
"""A host name that this browser finds on the loopback interface."""

ARGUMENTS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--host-resolver-rules=MAP {POSTHOG_HOST} 127.0.0.1",
)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """The installed Chromium, headless, with a new and empty profile."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=find("chromium"), chromium_sandbox=False, args=ARGUMENTS
        )
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def web_site() -> AsyncIterator[str]:
    """The pages of tests/e2e/pages; yields the site's origin."""
    app = web.Application()
    app.router.add_static("/", PAGES)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Tab:
    """A page in a browser context of its own, and what it tells.

    ``statuses`` are the answers it got by URL, ``troubles`` its failed requests and uncaught errors.
    A script on the page calls ``tell(value)``; ``heard`` returns those values one after another.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.statuses: list[tuple[str, int]] = []
        self.troubles: list[str] = []
        self._told: asyncio.Queue[Any] = asyncio.Queue()
        page.on("response", lambda answer: self.statuses.append((answer.url, answer.status)))
        page.on("requestfailed", lambda request: self.troubles.append(f"{request.url}: {request.failure}"))
        page.on("pageerror", lambda error: self.troubles.append(str(error)))

    async def listen(self) -> None:
        await self.page.expose_function("tell", self._told.put_nowait)

    async def heard(self, timeout: float = 10.0) -> Any:
        """Wait for the next value that the page tells."""
        return await asyncio.wait_for(self._told.get(), timeout)

    async def start_posthog(self, api_host: str, token: str, **options: Any) -> None:
        """Load posthog-js as a customer's page does; returns once it is loaded."""
        settings = {
            "api_host": api_host,
            # Headless Chromium names itself in its User-Agent; posthog-js would take it for a bot.
            "opt_out_useragent_filter": True,
            "request_queue_config": {"flush_interval_ms": 250},
            **options,
        }
        await self.page.evaluate("([token, settings]) => startPosthog(token, settings)", [token, settings])


@asynccontextmanager
async def opened(browser: Browser, url: str, **context: Any) -> AsyncIterator[Tab]:
    """A new tab that shows ``url``; ``context`` are Playwright's options for its browser context."""
    surroundings = await browser.new_context(**context)
    try:
        tab = Tab(await surroundings.new_page())
        await tab.listen()
        await tab.page.goto(url)
        yield tab
    finally:
        await surroundings.close()
