"""posthog-js (npm) in Chromium through the proxy, on a page of another origin."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from proxy.standin.server import Standin
from tests.e2e.chromium import Tab, opened
from tests.e2e.conftest import POSTHOG_JS, Deployment, configured_proxy
from tests.support.servers import RunningProxy, posthog_proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from playwright.async_api import Browser, Response

    from proxy.standin.journal import Event, Request

pytestmark = [pytest.mark.needs("chromium", "posthog-js"), pytest.mark.asyncio(loop_scope="module")]

TOKEN = "phc_browser"

EVENTS = ("/e/", "/i/v0/e/")
"""Where posthog-js sends events: to the first until the remote config names the second."""

LIES = {"X-Forwarded-For": "6.6.6.6", "X-Real-IP": "6.6.6.6", "Forwarded": "for=6.6.6.6"}
"""What a client says that wants to be somebody else."""

FILL_PAGE = """() => {
    // 2.4 MB of text that gzip cannot shrink below 1.8 MB
    const bytes = new Uint8Array(60_000);
    for (let part = 0; part < 30; part += 1) {
        crypto.getRandomValues(bytes);
        document.body.append(btoa(String.fromCharCode(...bytes)));
    }
}"""

NOISE = """() => {
    const bytes = crypto.getRandomValues(new Uint8Array(50_000));
    return btoa(String.fromCharCode(...bytes));
}"""


@pytest_asyncio.fixture(loop_scope="module")
async def posthog() -> AsyncIterator[Standin]:
    """A PostHog for one test: a page that is closed goes on sending for a moment."""
    async with Standin(static=POSTHOG_JS) as standin:
        yield standin


@pytest.fixture
def proxy(posthog: Standin) -> Iterator[RunningProxy]:
    with posthog_proxy(posthog.url, trusted="") as running:
        yield running


async def click_while_recording(tab: Tab) -> None:
    """posthog-js holds a recording back until it sees somebody do something."""
    await tab.page.wait_for_function("posthog.sessionRecordingStarted()")
    await tab.page.click("#buy")


def named(posthog: Standin, name: str) -> list[Event]:
    return [event for event in posthog.events if event.name == name]


def uploads(posthog: Standin, *prefixes: str) -> list[Request]:
    return [
        request
        for request in posthog.requests
        if request.method == "POST" and request.target.startswith(prefixes)
    ]


def refused_events(answer: Response) -> bool:
    return urlsplit(answer.url).path in EVENTS and answer.status != 200


async def test_a_visit(proxy: RunningProxy, posthog: Standin, browser: Browser, site: str) -> None:
    async with opened(browser, f"{site}/shop.html", extra_http_headers=LIES) as tab:
        await tab.start_posthog(proxy.url, TOKEN)
        await click_while_recording(tab)
        await tab.page.evaluate("posthog.capture('bought', {price: 9.5})")
        for name in ("$pageview", "$autocapture", "bought", "$snapshot"):
            await posthog.wait_for_events(1, name=name)
        assert await tab.page.evaluate("posthog.getFeatureFlag('demo-variant')") == "blue"
        assert {status for url, status in tab.statuses if url.startswith(proxy.url)} == {200}
        assert tab.troubles == []

    [bought] = named(posthog, "bought")
    assert (bought.token, bought.properties["price"], bought.ip) == (TOKEN, 9.5, "127.0.0.1")
    targets = {request.target.partition("?")[0] for request in posthog.requests}
    assert targets >= {"/static/array.js", f"/array/{TOKEN}/config.js", "/flags/", "/i/v0/e/", "/s/"}
    for request in posthog.requests:
        assert set(request.ip.values()) == {"127.0.0.1"}, request.target
        assert request.header("host") == proxy.authority
    for request in uploads(posthog, *EVENTS, "/s/"):
        assert request.header("content-type") == "text/plain"
        assert request.header("content-encoding") is None
        assert request.header("origin") == site


async def test_the_next_visitor_gets_the_scripts_from_the_cache(
    proxy: RunningProxy, posthog: Standin, browser: Browser, site: str
) -> None:
    for visit in (1, 2):
        async with opened(browser, f"{site}/shop.html") as tab:  # with a cache of its own
            await tab.start_posthog(proxy.url, TOKEN)
            await posthog.wait_for_events(visit, name="$pageview")
            await tab.page.wait_for_load_state("networkidle")
            assert tab.troubles == []
    proxy.process.wait_for_lines(r'"path":"/array/phc_\*\*\*/config\.js"', 2, stream="stdout")
    assets = [line for line in proxy.access_log(1) if line["route"].startswith(("/static", "/array"))]
    origins: dict[str, list[str]] = {}
    for line in assets:
        origins.setdefault(line["path"], []).append(line["origin"])
    assert origins["/static/array.js"] == ["upstream", "cache"]
    assert origins["/array/phc_***/config.js"] == ["upstream", "cache"]
    asked = [request.target.partition("?")[0] for request in posthog.requests]
    assert asked.count("/static/array.js") == asked.count(f"/array/{TOKEN}/config.js") == 1


async def test_what_is_left_goes_out_as_a_beacon_when_the_page_closes(
    proxy: RunningProxy, posthog: Standin, browser: Browser, site: str
) -> None:
    async with opened(browser, f"{site}/shop.html") as tab:
        await tab.start_posthog(
            proxy.url,
            TOKEN,
            request_queue_config={"flush_interval_ms": 5_000},
            disable_session_recording=True,
        )
        await tab.page.evaluate("posthog.capture('leaving')")
        await tab.page.close(run_before_unload=True)
        [left] = await posthog.wait_for_events(1, name="$pageleave")
        [leaving] = await posthog.wait_for_events(1, name="leaving")

    for event in (leaving, left):
        assert event.request.header("sec-fetch-mode") == "no-cors"
        assert set(event.request.ip.values()) == {"127.0.0.1"}


async def test_a_replay_of_more_than_a_megabyte_passes(
    proxy: RunningProxy, posthog: Standin, browser: Browser, site: str
) -> None:
    async with opened(browser, f"{site}/shop.html") as tab:
        await tab.page.evaluate(FILL_PAGE)
        await tab.start_posthog(proxy.url, TOKEN)
        await click_while_recording(tab)

        def large() -> list[int]:
            """The statuses that large recordings were answered with."""
            recordings = [upload for upload in uploads(posthog, "/s/") if upload.body_bytes > 1_000_000]
            return [recording.status for recording in recordings if recording.status is not None]

        await posthog.wait_for(lambda: large() != [])
        assert large() == [200]
        assert tab.troubles == []


async def test_an_outage_loses_nothing(deployment: Deployment, browser: Browser, site: str) -> None:
    async with opened(browser, f"{site}/shop.html") as tab:
        async with deployment.posthog() as posthog:
            await tab.start_posthog(deployment.proxy.url, TOKEN, disable_session_recording=True)
            await posthog.wait_for_events(1, name="$pageview")
        async with tab.page.expect_response(refused_events) as answer:
            await tab.page.evaluate("posthog.capture('patient')")
        assert (await answer.value).status == 503
        async with deployment.posthog() as posthog:
            await posthog.wait_for_events(1, name="patient", timeout=30)
            assert len({event.key for event in named(posthog, "patient")}) == 1


async def test_an_event_over_the_limit_is_dropped_and_the_next_goes_on(
    strict_proxy: RunningProxy, posthog: Standin, browser: Browser, site: str
) -> None:
    async with opened(browser, f"{site}/shop.html") as tab:
        await tab.start_posthog(strict_proxy.url, TOKEN, disable_session_recording=True)
        await posthog.wait_for_events(1, name="$pageview")
        async with tab.page.expect_response(refused_events) as answer:
            await tab.page.evaluate(f"posthog.capture('too large', {{ballast: ({NOISE})()}})")
        assert (await answer.value).status == 413
        await tab.page.evaluate("posthog.capture('small')")
        await posthog.wait_for_events(1, name="small")
        assert named(posthog, "too large") == []
        assert tab.troubles == []


async def test_a_visit_under_another_name(
    posthog: Standin, browser: Browser, site: str, tmp_path: Path
) -> None:
    """What an ad blocker sees are names of the site's own; what PostHog sees are PostHog's."""
    aliases = '[aliases]\nprefix = "/ingest-x9"\npaths = ["/lib.js=/static/array.js"]\n'
    with configured_proxy(posthog.url, tmp_path, aliases) as proxy:
        async with opened(browser, f"{site}/shop.html") as tab:
            await tab.start_posthog(f"{proxy.url}/ingest-x9", TOKEN)
            await click_while_recording(tab)
            await tab.page.evaluate("posthog.capture('bought', {price: 9.5})")
            for name in ("$pageview", "$autocapture", "bought", "$snapshot"):
                await posthog.wait_for_events(1, name=name)
            assert await tab.page.evaluate("posthog.getFeatureFlag('demo-variant')") == "blue"
            asked = {urlsplit(url).path: status for url, status in tab.statuses if url.startswith(proxy.url)}
            library = await tab.page.evaluate(
                "url => fetch(url).then(answer => answer.arrayBuffer()).then(bytes => bytes.byteLength)",
                f"{proxy.url}/lib.js",
            )
            assert tab.troubles == []
        assert set(asked.values()) == {200}
        assert all(path.startswith("/ingest-x9/") for path in asked), asked
        assert {"/ingest-x9/flags/", "/ingest-x9/static/array.js"} <= set(asked)
        assert library == (POSTHOG_JS / "array.js").stat().st_size
    targets = {request.target.partition("?")[0] for request in posthog.requests}
    assert targets >= {"/static/array.js", f"/array/{TOKEN}/config.js", "/flags/", "/i/v0/e/", "/s/"}
    assert not any("ingest-x9" in request.target for request in posthog.requests)
