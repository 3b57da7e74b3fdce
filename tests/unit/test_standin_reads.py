"""What SDKs read, over a real connection."""

from __future__ import annotations

import json
from io import BytesIO
from typing import TYPE_CHECKING

import aiohttp
import pytest
import pytest_asyncio
from yarl import URL

from proxy.standin.payloads import READS
from proxy.standin.server import Standin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BEARER = {"Authorization": "Bearer phx_1"}


@pytest_asyncio.fixture
async def client(tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    (tmp_path / "array.js").write_text("/* the real one */", "utf-8")
    (tmp_path / "lazy-recorder.js").write_text("/* recorder */", "utf-8")
    async with Standin(static=tmp_path) as standin, aiohttp.ClientSession(standin.url) as session:
        yield session


@pytest.mark.parametrize("path", ["/flags", "/flags/", "/decide", "/decide/"])
async def test_flags_by_post_and_get(client: aiohttp.ClientSession, path: str) -> None:
    async with client.post(f"{path}?v=2", json={"token": "t", "distinct_id": "u"}) as answer:
        assert answer.status == 200
        assert "demo-flag" in (await answer.json())["flags"]
    async with client.post(f"{path}?v=1", json={"token": "t"}) as answer:
        assert (await answer.json())["featureFlags"]["demo-flag"] is True
    async with client.post(f"{path}?v=x", json={"token": "t"}) as answer:
        assert "featureFlags" in await answer.json()
    async with client.get(path) as answer:
        assert answer.status == 200
        assert (await answer.json())["flags"] == {}


async def test_flags_answer_with_the_request_id(client: aiohttp.ClientSession) -> None:
    headers = {"X-Request-Id": "01939c4e-0000-7000-8000-000000000001"}
    async with client.post("/flags/?v=2", json={"token": "t"}, headers=headers) as answer:
        assert (await answer.json())["requestId"] == headers["X-Request-Id"]


async def test_flags_refuse(client: aiohttp.ClientSession) -> None:
    async with client.post("/flags/?v=2", data=b"{") as answer:
        assert answer.status == 400
    async with client.post("/flags/?v=2", data=BytesIO(bytes(3 * 1024 * 1024))) as answer:
        assert answer.status == 413


@pytest.mark.parametrize("path", ["/flags/definitions", "/api/feature_flag/local_evaluation/"])
async def test_definitions_and_their_etag(client: aiohttp.ClientSession, path: str) -> None:
    async with client.get(f"{path}?token=t&send_cohorts", headers=BEARER) as answer:
        assert answer.status == 200
        assert len((await answer.json())["flags"]) == 2
        tag = answer.headers["ETag"]
    async with client.get(path, headers=BEARER | {"If-None-Match": tag}) as answer:
        assert (answer.status, await answer.read()) == (304, b"")
        assert answer.headers["ETag"] == tag
    async with client.get(path) as answer:
        assert answer.status == 401


async def test_the_payload_of_one_flag(client: aiohttp.ClientSession) -> None:
    path = "/api/projects/@current/feature_flags/{}/remote_config"
    async with client.get(path.format("demo-variant"), headers=BEARER) as answer:
        assert json.loads(await answer.json()) == {"colour": "blue"}
    async with client.get(path.format("unknown"), headers=BEARER) as answer:
        assert answer.status == 404
    async with client.get(path.format("demo-variant")) as answer:
        assert answer.status == 401


async def test_remote_config(client: aiohttp.ClientSession) -> None:
    async with client.get("/array/phc_1/config?ip=0") as answer:
        assert (await answer.json())["token"] == "phc_1"
        assert answer.headers["Cache-Control"] == "public, max-age=300"
        assert answer.headers["Vary"] == "Origin, Referer"
    async with client.get("/array/phc_1/config.js") as answer:
        assert "_POSTHOG_REMOTE_CONFIG" in await answer.text()
        assert answer.content_type == "application/javascript"
    async with client.get("/array/phc_1/array.js") as answer:
        text = await answer.text()
        assert "_POSTHOG_REMOTE_CONFIG" in text
        assert text.endswith("/* the real one */")


async def test_array_paths_have_no_slash_form(client: aiohttp.ClientSession) -> None:
    async with client.get("/array/phc_1/config/") as answer:
        assert answer.content_type == "text/html"


@pytest.mark.parametrize("name", ["lazy-recorder.js", "1.449.2/lazy-recorder.js"])
async def test_static_files_with_and_without_a_version(client: aiohttp.ClientSession, name: str) -> None:
    async with client.get(f"/static/{name}") as answer:
        assert answer.status == 200
        assert await answer.text() == "/* recorder */"


@pytest.mark.parametrize("name", ["missing.js", "", "%2e%2e%2fsecret", "..%2fsecret", ".hidden", "a//b"])
async def test_static_files_that_are_none(client: aiohttp.ClientSession, tmp_path: Path, name: str) -> None:
    (tmp_path.parent / "secret").write_text("secret", "utf-8")
    (tmp_path / ".hidden").write_text("secret", "utf-8")
    async with client.get(URL(f"/static/{name}", encoded=True)) as answer:
        assert answer.status == 404


async def test_without_posthog_js_a_small_one_is_served() -> None:
    async with Standin() as standin, aiohttp.ClientSession(standin.url) as session:
        async with session.get("/static/array.js") as answer:
            assert "window.posthog = small" in await answer.text()
        async with session.get("/static/recorder.js") as answer:
            assert answer.status == 404


@pytest.mark.parametrize("path", READS)
async def test_other_reads(client: aiohttp.ClientSession, path: str) -> None:
    for form in (path, f"{path}/"):
        async with client.get(f"{form}?token=t") as answer:
            assert await answer.json() == READS[path]
