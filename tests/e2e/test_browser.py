"""What a browser asks of a proxy, told by Chromium: CORS on every answer, streams, host, cookies."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.chromium import POSTHOG_HOST, Tab, opened

if TYPE_CHECKING:
    from playwright.async_api import Browser

    from proxy.standin.server import Standin
    from tests.e2e.conftest import Deployment
    from tests.support.servers import RunningProxy

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.asyncio(loop_scope="module")]

POST = """async ([url, size, type]) => {
    const answer = await fetch(url, {
        method: "POST",
        credentials: "include",
        headers: {"Content-Type": type},
        body: "x".repeat(size),
    });
    return {status: answer.status, body: await answer.json()};
}"""
"""The status and the JSON that a script can read; throws where the browser hides the answer."""

CONTENT_TYPES = ("text/plain", "application/json")
"""A simple request, and one that the browser asks for with a pre-flight first."""

LIE = """async (url) => {
    const lies = {"X-Forwarded-For": "6.6.6.6", "X-Real-IP": "6.6.6.6", "Forwarded": "for=6.6.6.6"};
    return (await fetch(url, {method: "POST", headers: lies, body: "{}"})).status;
}"""

READ_EVENTS = """(url) => {
    const source = new EventSource(url);
    source.addEventListener("connected", () => tell("connected"));
    source.onmessage = (message) => tell(JSON.parse(message.data));
}"""

READ_STREAM = """async (url) => {
    const answer = await fetch(url, {headers: {Authorization: "Bearer phs_secret"}});
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    (async () => {
        for (let part = await reader.read(); !part.done; part = await reader.read()) {
            tell(part.value);
        }
    })();
    return answer.status;
}"""

ECHO = """([url, messages]) => new Promise((resolve, reject) => {
    const socket = new WebSocket(url);
    const echoed = [];
    socket.onopen = () => socket.send(messages[0]);
    socket.onerror = () => reject(new Error("the WebSocket failed"));
    socket.onmessage = (message) => {
        echoed.push(message.data);
        if (echoed.length < messages.length) {
            socket.send(messages[echoed.length]);
        } else {
            socket.close();
        }
    };
    socket.onclose = (closed) => resolve({echoed, code: closed.code, clean: closed.wasClean});
})"""


async def post(tab: Tab, url: str, size: int, content_type: str) -> dict[str, Any]:
    """POST ``size`` bytes from the page; the status and the JSON that its script could read."""
    return dict(await tab.page.evaluate(POST, [url, size, content_type]))


async def test_a_413_can_be_read_by_the_page(strict_proxy: RunningProxy, browser: Browser, site: str) -> None:
    async with opened(browser, f"{site}/blank.html") as tab:
        for size, content_type in itertools.product([30_000, 3_000_000], CONTENT_TYPES):
            answer = await post(tab, f"{strict_proxy.url}/batch/", size, content_type)

            assert answer["status"] == 413
            assert answer["body"]["detail"] == "the body is larger than 20000 bytes"


async def test_an_outage_can_be_read_by_the_page(deployment: Deployment, browser: Browser, site: str) -> None:
    """More requests than it takes to open the breaker: refused connections and an open breaker both tell."""
    paths = {"/i/v0/e/": 503, "/s/": 503, "/flags/?v=2": 502}
    async with opened(browser, f"{site}/blank.html") as tab:
        for (path, status), content_type in itertools.product(paths.items(), CONTENT_TYPES):
            answer = await post(tab, deployment.proxy.url + path, 1_000, content_type)

            assert answer["status"] == status
            assert answer["body"]["type"] == "proxy_error"


async def test_an_error_of_posthog_can_be_read_by_the_page(
    proxy: RunningProxy, posthog: Standin, browser: Browser, site: str
) -> None:
    posthog.fail_with(429, paths=["/i/v0/e"], times=1)
    async with opened(browser, f"{site}/blank.html") as tab:
        answer = await post(tab, f"{proxy.url}/i/v0/e/", 1_000, "text/plain")

    assert answer == {
        "status": 429,
        "body": {"type": "validation_error", "code": "invalid", "detail": "made to fail"},
    }


async def test_the_cors_headers_are_posthogs_own_and_come_once(
    proxy: RunningProxy, posthog: Standin, browser: Browser, site: str
) -> None:
    async with opened(browser, f"{site}/blank.html") as tab:
        async with tab.page.expect_response(lambda answer: answer.request.method == "POST") as answered:
            await post(tab, f"{proxy.url}/flags/?v=2", 0, "text/plain")
        lines = await (await answered.value).headers_array()

    fields = [(line["name"].lower(), line["value"]) for line in lines]
    assert sorted(field for field in fields if field[0].startswith("access-control-")) == [
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-origin", site),
    ]


async def test_a_page_cannot_lie_about_its_address(
    proxy: RunningProxy, posthog: Standin, browser: Browser, site: str
) -> None:
    async with opened(browser, f"{site}/blank.html") as tab:
        assert await tab.page.evaluate(LIE, f"{proxy.url}/report") == 200

    preflight, report = posthog.requests
    assert preflight.method == "OPTIONS"
    assert "x-forwarded-for" in str(preflight.header("access-control-request-headers"))
    for request in (preflight, report):
        assert set(request.ip.values()) == {"127.0.0.1"}
        assert "6.6.6.6" not in str(request.fields)


async def test_host_cookies_and_page_pass(proxy: RunningProxy, posthog: Standin, browser: Browser) -> None:
    host = f"{POSTHOG_HOST}:{proxy.address[1]}"
    async with opened(browser, "about:blank") as tab:
        await tab.page.context.add_cookies(
            [{"name": name, "value": "a=b c", "url": f"http://{host}"} for name in ("sessionid", "csrftoken")]
        )
        await tab.page.goto(f"http://{host}/insights?q=%2Fa%20b")
        heading = await tab.page.inner_text("h1")

    assert heading == "Log in"
    [request] = [request for request in posthog.requests if request.target != "/favicon.ico"]
    assert request.target == "/insights?q=%2Fa%20b"
    assert request.header("host") == host
    assert request.header("x-forwarded-host") == host
    assert request.header("cookie") == "sessionid=a=b c; csrftoken=a=b c"


async def test_an_event_source_gets_each_event_as_it_is_sent(
    proxy: RunningProxy, posthog: Standin, browser: Browser, site: str
) -> None:
    async with opened(browser, f"{site}/blank.html") as tab:
        await tab.page.evaluate(READ_EVENTS, f"{proxy.url}/livestream/events")
        assert await tab.heard() == "connected"
        for number in range(5):  # the next is sent only after the page has the last
            posthog.publish({"number": number})
            assert await tab.heard() == {"number": number}
        await tab.page.close()
        await posthog.wait_for(lambda: posthog.open_streams == 0)


async def test_the_flag_stream_passes_with_its_bearer(
    proxy: RunningProxy, posthog: Standin, browser: Browser, site: str
) -> None:
    async with opened(browser, f"{site}/blank.html") as tab:
        assert await tab.page.evaluate(READ_STREAM, f"{proxy.url}/flags/stream") == 200
        assert "connected" in await tab.heard()
        posthog.publish({"demo-flag": False})
        assert await tab.heard() == 'event: message\ndata: {"demo-flag": false}\n\n'
        await tab.page.close()
        await posthog.wait_for(lambda: posthog.open_streams == 0)


async def test_a_web_socket_is_relayed(
    proxy: RunningProxy, posthog: Standin, browser: Browser, site: str
) -> None:
    messages = ["hello", "Träume 🎈", "x" * 200_000]
    async with opened(browser, f"{site}/blank.html") as tab:
        url = proxy.url.replace("http://", "ws://") + "/ws/echo"
        result = await tab.page.evaluate(ECHO, [url, messages])

    assert result == {"echoed": messages, "code": 1000, "clean": True}
    await posthog.wait_for(lambda: posthog.open_streams == 0)
