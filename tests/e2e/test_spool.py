"""posthog-js in Chromium while PostHog is away: the tab is closed, and its events arrive all the same."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from tests.e2e.chromium import opened
from tests.e2e.conftest import POSTHOG_JS
from tests.support.storm import Arrivals, Site

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.async_api import Browser, Response

pytestmark = [pytest.mark.needs("chromium", "posthog-js"), pytest.mark.asyncio(loop_scope="module")]

TOKEN = "phc_outage"


@pytest.mark.parametrize("mode", ["fallback", "first"])
async def test_events_of_a_tab_that_is_closed_during_an_outage(
    mode: str, browser: Browser, site: str, tmp_path: Path
) -> None:
    with Site(tmp_path, mode, workers=1, static=POSTHOG_JS) as running:
        arrivals = Arrivals(running.journal)

        def when(name: str) -> list[tuple[float, str]]:
            arrivals.read()
            return [(seen[4], seen[5]) for each in arrivals.seen.values() for seen in each if seen[2] == name]

        url = f"http://127.0.0.1:{running.port}"
        async with opened(browser, f"{site}/shop.html") as tab:
            await tab.start_posthog(url, TOKEN, disable_compression=True)
            await met(lambda: bool(when("$pageview")))
            running.kill_posthog()
            answered: list[int] = []

            def note(answer: Response) -> None:
                if "bought" in (answer.request.post_data or ""):
                    answered.append(answer.status)

            tab.page.on("response", note)
            before = time.time()
            await tab.page.evaluate("posthog.capture('bought', {price: 9.5})")
            await met(lambda: bool(answered))
            after = time.time()
            assert answered == [200]
        assert when("bought") == []
        await asyncio.sleep(2)  # the outage: long enough for an uncorrected time to be wrong
        running.start_posthog()
        await met(lambda: bool(when("bought")))
        [(moment, ip)] = when("bought")
        assert before - 1 < moment < after + 1
        assert ip == "127.0.0.1"


async def met(condition: Callable[[], bool]) -> None:
    """Wait for what a file or a browser tells."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - neither has an event
            await asyncio.sleep(0.05)
