"""The status page in a browser, before a proxy with two workers and one that is set up wrongly."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.e2e.chromium import opened
from tests.support.asking import admin_address, ask
from tests.support.servers import posthog_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.async_api import Browser

    from proxy.standin.server import Standin
    from tests.support.servers import RunningProxy

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.asyncio(loop_scope="module")]

PHONE = {"viewport": {"width": 360, "height": 740}}
REDRAWN = 'html:not([data-drawn="1"])'
"""The page once it has had an event. (Playwright's functions need eval; the policy forbids it.)"""


@pytest.fixture
def proxy(posthog: Standin) -> Iterator[RunningProxy]:
    settings = ("--workers", "2", "--set", "admin.listen=127.0.0.1:0", "--access-log", "off")
    with posthog_proxy(posthog.url, *settings) as running:
        yield running


async def send(proxy: RunningProxy, path: str, count: int = 1, client: str = "203.0.113.7") -> None:
    """Requests as a browser's, one after another on one connection."""
    reader, writer = await asyncio.open_connection(*proxy.address)
    body = b'{"event":"a","token":"t"}'
    for _ in range(count):
        lines = ["Host: a", f"X-Forwarded-For: {client}", f"Content-Length: {len(body)}", "", ""]
        writer.write(f"POST {path} HTTP/1.1\r\n".encode() + "\r\n".join(lines).encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        (length,) = [
            int(line[15:]) for line in answer.split(b"\r\n") if line.lower().startswith(b"content-length:")
        ]
        await reader.readexactly(length)
    writer.close()
    await writer.wait_closed()


async def test_it_is_live_and_sums_the_workers(proxy: RunningProxy, browser: Browser) -> None:
    admin = admin_address(proxy.process)
    await send(proxy, "/e/", 3)
    async with opened(browser, f"http://{admin}/status") as tab:
        page = tab.page
        assert await page.inner_text("#state") == "ready"
        assert "2 workers" in await page.inner_text("#live")
        for _ in range(4):  # a new connection each, for either worker
            await send(proxy, "/e/", 5)
        events = page.locator("tr", has_text="events").locator("td:last-child", has_text="23")
        await events.wait_for()
        await page.locator("td", has_text="X-Forwarded-For").wait_for()
        assert await page.locator(".upstream h3").inner_text() == "default up"
        assert await page.locator("polyline").count() >= 1
        assert await page.locator(".warning").count() == 0
        assert tab.troubles == []
        assert {url.partition("/")[2].partition("/")[2].partition("/")[0] for url, _ in tab.statuses} == {
            admin
        }


async def test_it_says_what_is_wrong_and_what_cures_it(
    proxy: RunningProxy, posthog: Standin, browser: Browser
) -> None:
    posthog.fail_with(301, paths=["/e"], headers={"Location": "/e/"})
    await send(proxy, "/e")
    async with opened(browser, f"http://{admin_address(proxy.process)}/status") as tab:
        await tab.page.wait_for_selector(".warning")
        warning = await tab.page.inner_text(".warning")
    assert "redirect loop" in warning
    assert "[[routes]]" in warning


async def test_it_says_when_nobody_answers_any_more(proxy: RunningProxy, browser: Browser) -> None:
    async with opened(browser, f"http://{admin_address(proxy.process)}/") as tab:
        await tab.page.wait_for_selector(REDRAWN)
        proxy.process.stop()
        await tab.page.locator("#state", has_text="not answering").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_fits_a_phone(proxy: RunningProxy, browser: Browser, scheme: str) -> None:
    await send(proxy, "/e/", 3)
    url = f"http://{admin_address(proxy.process)}/status"
    async with opened(browser, url, color_scheme=scheme, **PHONE) as tab:
        await tab.page.wait_for_selector(REDRAWN)
        assert await tab.page.evaluate("document.documentElement.scrollWidth") <= 360
        background = await tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
        dark = sum(map(int, background.removeprefix("rgb(").removesuffix(")").split(","))) < 3 * 128
        assert dark == (scheme == "dark")


async def test_a_token_is_the_password_of_the_browsers_question(
    posthog: Standin, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    token = tmp_path_factory.mktemp("admin") / "token"
    token.write_text("0123456789abcdef0123\n")
    settings = (
        "--set",
        "admin.listen=127.0.0.1:0",
        "--set",
        f"admin.token_file={token}",
        "--access-log",
        "off",
    )
    with posthog_proxy(posthog.url, *settings) as running:
        url = f"http://{admin_address(running.process)}/status"
        credentials = {"username": "me", "password": "0123456789abcdef0123"}
        async with opened(browser, url, http_credentials=credentials) as tab:
            await tab.page.wait_for_selector(REDRAWN)
            assert await tab.page.inner_text("#state") == "ready"
        assert ask(admin_address(running.process), "/status")[0] == 401
