"""The event endpoints over a real connection."""

from __future__ import annotations

import gzip
import json
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp
import pytest
import pytest_asyncio

from proxy.clock import Clock
from proxy.standin.ingest import OPAQUE, V0, V1, V1_CAP, V1_HEADERS
from proxy.standin.server import Standin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOW = 1_795_600_000.0
EVENT: dict[str, Any] = {
    "event": "x",
    "token": "phc_1",
    "distinct_id": "u",
    "uuid": "id-1",
    "properties": {"a": 1},
}
DATED = {"timestamp": "2026-11-24T00:00:00Z"}
V1_LINES = dict.fromkeys(V1_HEADERS, "1") | {
    "Authorization": "Bearer phc_1",
    "PostHog-Request-Timestamp": "2026-11-25T00:00:00Z",
}


class StoppedClock(Clock):
    def wall(self) -> float:
        return NOW


@pytest_asyncio.fixture
async def standin() -> AsyncIterator[Standin]:
    async with Standin(clock=StoppedClock()) as running:
        yield running


@pytest_asyncio.fixture
async def client(standin: Standin) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(standin.url) as session:
        yield session


@pytest.mark.parametrize("path", [form for name in V0 for form in (name, f"{name}/")])
async def test_v0_says_ok_in_both_forms(standin: Standin, client: aiohttp.ClientSession, path: str) -> None:
    async with client.post(path, data=gzip.compress(json.dumps(EVENT).encode())) as answer:
        assert (answer.status, await answer.read()) == (200, b'{"status":"Ok"}')
        assert answer.content_type == "application/json"
    [event] = standin.events
    assert (event.name, event.token, event.distinct_id, event.uuid) == ("x", "phc_1", "u", "id-1")
    assert event.request.target == path


async def test_v0_by_get(standin: Standin, client: aiohttp.ClientSession) -> None:
    async with client.get(f"/e/?data={quote(json.dumps(EVENT))}&_=1") as answer:
        assert await answer.read() == b'{"status":"Ok"}'
    assert standin.events[0].properties == {"a": 1}


async def test_what_cannot_be_read_is_a_400_and_leaves_no_event(
    standin: Standin, client: aiohttp.ClientSession
) -> None:
    async with client.post("/e/", data=b"nonsense{") as answer:
        assert answer.status == 400
        assert "detail" in await answer.json()
    assert standin.events == []
    assert standin.requests[0].status == 400


async def test_ip_of_the_properties_wins_over_the_header(
    standin: Standin, client: aiohttp.ClientSession
) -> None:
    batch = {
        "api_key": "phc_1",
        "batch": [EVENT, EVENT | {"properties": {"$ip": "198.51.100.1", "distinct_id": "p"}}],
    }
    headers = {"X-Forwarded-For": "203.0.113.7"}
    async with client.post("/batch/", json=batch, headers=headers) as answer:
        assert answer.status == 200
    assert [event.ip for event in standin.events] == ["203.0.113.7", "198.51.100.1"]
    assert {event.request.ip["capture"] for event in standin.events} == {"203.0.113.7"}


async def test_ids_in_odd_places(standin: Standin, client: aiohttp.ClientSession) -> None:
    odd = {"event": "x", "token": "t", "properties": {"distinct_id": 7}}
    async with client.post("/e/", json=[odd, {"event": "y", "properties": "none"}]) as answer:
        assert answer.status == 200
    assert [event.distinct_id for event in standin.events] == ["7", ""]
    assert len({event.uuid for event in standin.events}) == 2


@pytest.mark.parametrize(
    ("event", "query", "moment"),
    [
        ({}, "", NOW),
        (DATED, "", 1_795_478_400.0),
        (DATED | {"sent_at": "2026-11-24T00:01:00Z"}, "", NOW - 60),
        (DATED, "?_=1795478430000", NOW - 30),
        (DATED, "?sent_at=1795478420000&_=1", NOW - 20),
        (
            DATED | {"sent_at": "2026-11-24T00:01:00Z"},
            "?_=1795478430000",
            NOW - 60,
        ),
        ({"offset": 1500}, "", NOW - 1.5),
    ],
)
async def test_the_time_of_an_event(
    standin: Standin, client: aiohttp.ClientSession, event: dict[str, Any], query: str, moment: float
) -> None:
    async with client.post(f"/e/{query}", json=EVENT | event) as answer:
        assert answer.status == 200
    assert standin.events[0].time == moment


async def test_v1_names_each_uuid(standin: Standin, client: aiohttp.ClientSession) -> None:
    batch = [EVENT | {"timestamp": "2026-11-24T23:59:00Z"}, EVENT | {"uuid": "id-2"}]
    body = gzip.compress(json.dumps({"batch": batch}).encode())
    async with client.post(V1, data=body, headers=V1_LINES | {"Content-Encoding": "gzip"}) as answer:
        assert answer.status == 200
        assert await answer.json() == {"results": {"id-1": {"result": "ok"}, "id-2": {"result": "ok"}}}
    assert standin.events[0].time == NOW - 60
    assert standin.events[0].token == "phc_1"


@pytest.mark.parametrize("lost", V1_LINES)
async def test_v1_misses_a_lost_header(client: aiohttp.ClientSession, lost: str) -> None:
    headers = {name: value for name, value in V1_LINES.items() if name != lost}
    async with client.post(V1, json={"batch": [EVENT]}, headers=headers) as answer:
        assert answer.status == (401 if lost == "Authorization" else 400)
        assert lost in (await answer.json())["detail"]


async def test_v1_refuses(client: aiohttp.ClientSession) -> None:
    async with client.post(V1, json={"batch": []}, headers=V1_LINES) as answer:
        assert answer.status == 400
    async with client.post(V1, data=BytesIO(bytes(V1_CAP + 1)), headers=V1_LINES) as answer:
        assert answer.status == 413


@pytest.mark.parametrize("path", OPAQUE)
async def test_bodies_that_are_no_events_are_taken(
    standin: Standin, client: aiohttp.ClientSession, path: str
) -> None:
    async with client.post(path, data=b"\x0a\x05otlp!") as answer:
        assert answer.status == 200
    assert standin.requests[0].body_bytes == 7
    async with client.post(path, data=BytesIO(bytes(21 * 1024 * 1024))) as answer:
        assert answer.status == 413
