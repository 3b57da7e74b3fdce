"""`Standin`: listening, faults, CORS, and the records of requests."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import aiohttp
import pytest
import pytest_asyncio
from yarl import URL

from proxy.standin.server import Standin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

EVENT = {"event": "x", "token": "t", "distinct_id": "u"}
ORIGIN = {"Origin": "https://app.example"}


@pytest_asyncio.fixture
async def standin() -> AsyncIterator[Standin]:
    async with Standin() as running:
        yield running


@pytest_asyncio.fixture
async def client(standin: Standin) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(standin.url) as session:
        yield session


async def test_listens_on_ipv6() -> None:
    async with Standin("[::1]:0") as standin, aiohttp.ClientSession(standin.url) as session:
        assert standin.url.startswith("http://[::1]:")
        async with session.post("/e/", json=EVENT) as answer:
            assert answer.status == 200
        assert standin.requests[0].peer == "::1"


async def test_listens_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "posthog.sock"
    connector = aiohttp.UnixConnector(str(path))
    async with Standin(f"unix:{path}") as standin, aiohttp.ClientSession(connector=connector) as session:
        assert standin.url == f"unix:{path}"
        async with session.post("http://localhost/e/", json=EVENT) as answer:
            assert answer.status == 200
        assert standin.requests[0].peer == ""
    assert not path.exists()


async def test_an_address_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        await Standin(f"127.0.0.1:{taken.getsockname()[1]}").__aenter__()


async def test_a_path_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        await Standin(f"unix:{tmp_path}/none/posthog.sock").__aenter__()


async def test_records_keep_lines_in_order_and_spelling(
    standin: Standin, client: aiohttp.ClientSession
) -> None:
    lines = [("X-a", "1"), ("x-B", "2"), ("X-a", "3"), ("Cookie", "c" * 60_000)]
    url = URL(f"{standin.url}/static/%61rray.js?x=%20", encoded=True)
    async with client.get(url, headers=lines) as answer:
        assert answer.status == 200
    record = standin.requests[0]
    own = [line for line in record.fields if line[0].lower().startswith("x-") or line[0] == "Cookie"]
    assert own == lines
    assert record.target == "/static/%61rray.js?x=%20"
    assert record.status == 200
    assert record.header("host") == standin.url.removeprefix("http://")


async def test_failing_for_a_while(standin: Standin, client: aiohttp.ClientSession) -> None:
    standin.fail_with(503, paths=["/e"], times=1, headers={"Retry-After": "2"})
    async with client.post("/e/", json=EVENT, headers=ORIGIN) as answer:
        assert answer.status == 503
        assert answer.headers["Retry-After"] == "2"
        assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
    async with client.post("/e/", json=EVENT) as answer:
        assert answer.status == 200
    assert [one.status for one in standin.requests] == [503, 200]


async def test_failing_until_told_to_behave(standin: Standin, client: aiohttp.ClientSession) -> None:
    standin.fail_with(502)
    for path in ("/flags/?v=2", "/login"):
        async with client.get(path) as answer:
            assert answer.status == 502
    standin.behave()
    async with client.get("/login") as answer:
        assert answer.status == 200


async def test_dropping(standin: Standin, client: aiohttp.ClientSession) -> None:
    standin.drop(times=1)
    with pytest.raises(aiohttp.ClientConnectionError):
        await client.post("/e/", json=EVENT)
    assert standin.requests[0].status == 0
    async with client.post("/e/", json=EVENT) as answer:
        assert answer.status == 200


async def test_a_client_that_leaves_during_a_delay(standin: Standin, client: aiohttp.ClientSession) -> None:
    standin.delay(3600, paths=["/flags"])
    with pytest.raises(TimeoutError):
        await client.post("/flags/", json=EVENT, timeout=aiohttp.ClientTimeout(total=0.05))
    await standin.wait_for(lambda: standin.requests[0].status == 0)


async def test_a_delay_ends(standin: Standin, client: aiohttp.ClientSession) -> None:
    standin.delay(0.001, times=1)
    async with client.post("/e/", json=EVENT) as answer:
        assert answer.status == 200


async def test_waiting_for_events(standin: Standin, client: aiohttp.ClientSession) -> None:
    for name in ("x", "y", "x"):
        async with client.post("/e/", json=EVENT | {"event": name}) as answer:
            assert answer.status == 200
    assert len(await standin.wait_for_events(3)) == 3
    assert [event.number for event in await standin.wait_for_events(2, name="x")] == [1, 3]
    with pytest.raises(TimeoutError):
        await standin.wait_for_events(1, name="z", timeout=0)


async def test_cors_is_mirrored(client: aiohttp.ClientSession) -> None:
    wanted = ORIGIN | {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,x-posthog-session-id",
    }
    async with client.options("/e/", headers=wanted) as answer:
        assert answer.status == 200
        assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
        assert answer.headers["Access-Control-Allow-Credentials"] == "true"
        assert answer.headers["Access-Control-Allow-Headers"] == "authorization,x-posthog-session-id"
        assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    async with client.options("/flags/", headers=ORIGIN) as answer:
        assert "Access-Control-Allow-Headers" not in answer.headers
    async with client.post("/e/", data=b"{", headers=ORIGIN) as answer:
        assert answer.status == 400
        assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
    async with client.get("/array/phc_1/config", headers=ORIGIN) as answer:
        assert answer.headers["Vary"] == "Origin, Referer"
    async with client.post("/e/", json=EVENT) as answer:
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_a_method_that_a_path_does_not_take(client: aiohttp.ClientSession) -> None:
    async with client.put("/e/", data=b"", headers=ORIGIN) as answer:
        assert answer.status == 405
        assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
