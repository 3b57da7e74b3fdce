"""Bodies with PostHog's caps, counted in the record of the request."""

from __future__ import annotations

import asyncio
from io import BytesIO
from typing import TYPE_CHECKING

import aiohttp
import pytest

from proxy.standin.arrival import both_forms, refusal
from proxy.standin.ingest import V0
from proxy.standin.server import Standin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def pieces(total: int) -> AsyncIterator[bytes]:
    for _ in range(total // 65_536 + 1):
        yield bytes(65_536)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_cap_is_refused_with_cors(chunked: bool) -> None:
    size = V0["/e"] + 1
    async with Standin() as standin, aiohttp.ClientSession() as client:
        body = pieces(size) if chunked else BytesIO(bytes(size))
        headers = {"Origin": "https://app.example", "Expect": "100-continue"}
        async with client.post(f"{standin.url}/e/", data=body, headers=headers) as answer:
            assert answer.status == 413
            assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
            assert (await answer.json())["detail"] == "payload too large"
        assert standin.events == []


async def test_the_bearer_is_read_as_posthog_does() -> None:
    async with Standin() as standin, aiohttp.ClientSession() as client:
        for header, status in (
            ("Bearer phx_1", 200),
            ("bearer  phx_1", 200),
            ("Bearer ", 401),
            ("Basic phx_1", 401),
            ("", 401),
        ):
            headers = {"Authorization": header}
            async with client.get(f"{standin.url}/flags/definitions", headers=headers) as answer:
                assert answer.status == status, header


async def test_what_was_read_of_an_aborted_body_is_counted() -> None:
    async with Standin() as standin:
        host, port = standin.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n0123456789")
        await standin.wait_for(lambda: bool(standin.requests))
        writer.close()
        await writer.wait_closed()
        await standin.wait_for(lambda: standin.requests[0].status == 0)
        assert standin.requests[0].body_bytes == 10


def test_both_forms() -> None:
    assert both_forms("/e") == ("/e", "/e/")


def test_a_refusal_is_json() -> None:
    assert refusal(418, "teapot").content_type == "application/json"
