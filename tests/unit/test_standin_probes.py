"""Echo, sinks, sources, health, and the pages of what arrived."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import aiohttp
import pytest
import pytest_asyncio
from yarl import URL

from proxy.standin.probes import BLOCK, NEVER_PUBLIC
from proxy.standin.server import Standin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest_asyncio.fixture
async def standin() -> AsyncIterator[Standin]:
    async with Standin() as running:
        yield running


@pytest_asyncio.fixture
async def client(standin: Standin) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(standin.url) as session:
        yield session


async def test_echo(standin: Standin, client: aiohttp.ClientSession) -> None:
    headers = {"X-Order-1": "a", "x-order-2": "b"}
    url = URL(f"{standin.url}/__standin__/echo?q=%2F", encoded=True)
    async with client.put(url, data=b"body", headers=headers) as answer:
        told = await answer.json()
    assert (told["method"], told["target"], told["version"]) == ("PUT", "/__standin__/echo?q=%2F", "1.1")
    assert told["body_bytes"] == 4
    assert told["body_sha256"] == hashlib.sha256(b"body").hexdigest()
    assert told["peer"] == "127.0.0.1"
    lines = [name for name, _ in told["fields"] if "order" in name.lower()]
    assert lines == ["X-Order-1", "x-order-2"]
    assert standin.requests == []


async def test_the_pages(standin: Standin, client: aiohttp.ClientSession) -> None:
    headers = {"X-Forwarded-For": "203.0.113.7"}
    event = {"event": "signed up", "token": "t", "distinct_id": "u"}
    async with client.post("/e/", json=event, headers=headers) as answer:
        assert answer.status == 200
    async with client.get("/__standin__/", headers={"X-Forwarded-Proto": "https"}) as answer:
        page = await answer.text()
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "signed up" in page
    assert standin.url.replace("http:", "https:") in page
    async with client.get("/__standin__/events") as answer:
        [told] = await answer.json()
    assert told["request"]["ip"] == dict.fromkeys(("capture", "flags", "django", "gate"), "203.0.113.7")
    async with client.get("/__standin__/requests") as answer:
        assert [(one["target"], one["status"]) for one in await answer.json()] == [("/e/", 200)]


@pytest.mark.parametrize("size", [0, 1, 65_536, 200_000])
@pytest.mark.parametrize("query", ["", "?chunked=1"])
async def test_download(client: aiohttp.ClientSession, size: int, query: str) -> None:
    async with client.get(f"/download/{size}{query}") as answer:
        body = await answer.read()
        assert (answer.content_length is None) == bool(query)
    assert body == (BLOCK * (size // len(BLOCK) + 1))[:size]


async def test_upload(client: aiohttp.ClientSession) -> None:
    async with client.post("/upload", data=bytes(300_000)) as answer:
        assert await answer.json() == {"bytes": 300_000}


async def test_health_and_what_must_not_be_public(client: aiohttp.ClientSession) -> None:
    async with client.get("/_health") as answer:
        assert await answer.text() == "ok"
    for path in NEVER_PUBLIC:
        async with client.get(path) as answer:
            assert "never be public" in await answer.text()


@pytest.mark.parametrize("path", ["/", "/login", "/project/1", "/array", "/engagement"])
async def test_everything_else_is_the_login_page(client: aiohttp.ClientSession, path: str) -> None:
    headers = {"Origin": "https://app.example"}
    async with client.post(path, data=b"ignored", headers=headers) as answer:
        assert answer.status == 200
        assert answer.content_type == "text/html"
        assert "Log in" in await answer.text()
        assert "Access-Control-Allow-Origin" not in answer.headers
