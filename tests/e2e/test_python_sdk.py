"""The posthog Python SDK (PyPI) through the proxy: events, flags, and what it makes of each failure."""

from __future__ import annotations

import asyncio
import gc
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from posthog import Posthog
from posthog.request import APIError, reset_sessions

from tests.e2e.conftest import configured_proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from proxy.standin.journal import Event
    from proxy.standin.server import Standin
    from tests.e2e.conftest import Deployment
    from tests.support.servers import RunningProxy

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKEN = "phc_python"


@dataclass
class Sdk:
    """The client, and what its background threads failed to deliver."""

    client: Posthog
    failures: list[Exception] = field(default_factory=list)

    async def flush(self) -> None:
        """Wait until the SDK has delivered, or given up, all that was captured."""
        await asyncio.to_thread(self.client.flush, None)


@asynccontextmanager
async def sdk(host: str, **options: Any) -> AsyncIterator[Sdk]:
    """An SDK that flushes only when told to, or when a batch is full."""
    failures: list[Exception] = []

    def failed(error: Exception, batch: Sequence[Any]) -> None:
        failures.append(error.with_traceback(None))  # whose frames hold the connection

    client = Posthog(TOKEN, host=host, flush_interval=60, on_error=failed, **options)
    try:
        yield Sdk(client, failures)
    finally:
        await asyncio.to_thread(client.shutdown)
        reset_sessions()
        gc.collect()  # connections that broke sit in cycles of tracebacks


def arrived(posthog: Standin) -> list[tuple[str, str]]:
    """Name and distinct id of each event, in order of arrival."""
    return [(event.name, event.distinct_id) for event in posthog.events]


def stored(events: Sequence[Event]) -> int:
    """How many events are left once ClickHouse has de-duplicated them."""
    return len({event.key for event in events})


async def logged_statuses(proxy: RunningProxy, count: int) -> list[int]:
    """Wait until the access log has ``count`` records; their statuses."""
    return [record["status"] for record in await asyncio.to_thread(proxy.access_log, count)]


async def test_a_captured_event_arrives_whole(proxy: RunningProxy, posthog: Standin) -> None:
    async with sdk(proxy.url) as python:
        properties = {"price": 9.5, "name": "Träume 🎈", "tags": ["a", "b"]}
        uuid = python.client.capture("basket filled", distinct_id="ann", properties=properties)
        await python.flush()

    [event] = posthog.events
    assert (event.name, event.distinct_id, event.token, event.uuid) == ("basket filled", "ann", TOKEN, uuid)
    assert {key: event.properties[key] for key in properties} == properties
    assert event.properties["$lib"] == "posthog-python"
    assert python.failures == []


async def test_every_service_sees_the_client_and_the_host_that_it_asked_for(
    proxy: RunningProxy, posthog: Standin
) -> None:
    async with sdk(proxy.url) as python:
        python.client.capture("looked", distinct_id="ann")
        await python.flush()

    [request] = posthog.requests
    assert set(request.ip.values()) == {"127.0.0.1"}
    assert [value for name, value in request.fields if name.lower() == "x-forwarded-for"] == ["127.0.0.1"]
    assert request.header("host") == proxy.authority
    assert request.header("x-forwarded-proto") == "http"
    assert (request.method, request.target) == ("POST", "/batch/")
    assert str(request.header("user-agent")).startswith("posthog-python/")


async def test_a_full_queue_goes_out_in_batches_of_one_hundred(proxy: RunningProxy, posthog: Standin) -> None:
    async with sdk(proxy.url) as python:
        for number in range(250):
            python.client.capture("counted", distinct_id="ann", properties={"number": number})
        await python.flush()

    events = posthog.events
    assert [event.properties["number"] for event in events] == list(range(250))
    assert stored(events) == 250
    assert [(request.target, request.status) for request in posthog.requests] == [("/batch/", 200)] * 3


async def test_gzip_passes_byte_for_byte(proxy: RunningProxy, posthog: Standin) -> None:
    async with sdk(proxy.url, gzip=True) as python:
        for number in range(20):
            python.client.capture("pressed", distinct_id="ann", properties={"number": number})
        await python.flush()

    [request] = posthog.requests
    assert request.header("content-encoding") == "gzip"
    assert request.header("content-length") == str(request.body_bytes)
    assert [event.properties["number"] for event in posthog.events] == list(range(20))


async def test_persons_aliases_and_groups(proxy: RunningProxy, posthog: Standin) -> None:
    async with sdk(proxy.url) as python:
        python.client.set(distinct_id="ann", properties={"plan": "free"})
        python.client.alias(previous_id="anonymous", distinct_id="ann")
        python.client.group_identify("company", "acme", {"size": 3})
        python.client.capture("joined", distinct_id="ann", groups={"company": "acme"})
        await python.flush()

    person, alias, group, joined = posthog.events
    assert (person.name, person.distinct_id) == ("$set", "ann")
    assert (alias.name, alias.properties["alias"]) == ("$create_alias", "ann")
    assert (group.name, group.properties["$group_key"]) == ("$groupidentify", "acme")
    assert joined.properties["$groups"] == {"company": "acme"}


async def test_capture_v1_keeps_its_headers_and_its_per_event_answers(
    proxy: RunningProxy, posthog: Standin
) -> None:
    async with sdk(proxy.url, capture_mode="v1", capture_compression="gzip") as python:
        for number in range(3):
            python.client.capture("versioned", distinct_id="ann", properties={"number": number})
        await python.flush()

    [request] = posthog.requests
    assert (request.target, request.status) == ("/i/v1/analytics/events", 200)
    assert stored(posthog.events) == 3
    assert python.failures == []


async def test_remote_flags(proxy: RunningProxy, posthog: Standin) -> None:
    async with sdk(proxy.url) as python:
        flags = await asyncio.to_thread(python.client.evaluate_flags, "ann")

    assert flags.get_flag("demo-flag") is True
    assert flags.get_flag("demo-variant") == "blue"
    assert flags.get_flag_payload("demo-variant") == {"colour": "blue"}
    request = posthog.requests[0]
    assert request.target == "/flags/?v=4"
    assert set(request.ip.values()) == {"127.0.0.1"}


async def test_local_evaluation_keeps_the_bearer_and_its_entity_tag(
    proxy: RunningProxy, posthog: Standin
) -> None:
    async with sdk(proxy.url, secret_key="phx_secret", poll_interval=3600) as python:
        await asyncio.to_thread(python.client.load_feature_flags)
        flags = await asyncio.to_thread(
            lambda: python.client.evaluate_flags("ann", only_evaluate_locally=True)
        )
        assert {key: flags.get_flag(key) for key in flags.keys} == {"demo-flag": True, "demo-variant": "blue"}
        await asyncio.to_thread(python.client.load_feature_flags)

    reads = [request for request in posthog.requests if request.target.startswith("/flags/definitions")]
    assert [read.status for read in reads] == [200, 304]
    assert {read.header("authorization") for read in reads} == {"Bearer phx_secret"}
    assert not [request for request in posthog.requests if request.target.startswith("/flags/?")]


async def test_flags_are_asked_for_again_after_a_504(proxy: RunningProxy, posthog: Standin) -> None:
    posthog.fail_with(504, paths=["/flags"], times=1)
    async with sdk(proxy.url) as python:
        flags = await asyncio.to_thread(python.client.evaluate_flags, "ann")

    assert flags.get_flag("demo-flag") is True
    asked = [request.status for request in posthog.requests if request.target.startswith("/flags/")]
    assert asked == [504, 200]


async def test_flags_that_come_too_late_are_a_504_that_the_sdk_asks_again_after(
    posthog: Standin, tmp_path: Path
) -> None:
    posthog.delay(30, paths=["/flags"], times=1)
    with configured_proxy(posthog.url, tmp_path, "[timeouts]\nfirst_byte_flags = 0.5") as proxy:
        async with sdk(proxy.url) as python:
            flags = await asyncio.to_thread(python.client.evaluate_flags, "ann")
        assert await logged_statuses(proxy, 2) == [504, 200]

    assert flags.get_flag("demo-flag") is True


async def test_a_503_of_posthog_is_retried_and_stored_once(proxy: RunningProxy, posthog: Standin) -> None:
    posthog.fail_with(503, paths=["/batch"], times=1)
    async with sdk(proxy.url) as python:
        python.client.capture("patient", distinct_id="ann")
        await python.flush()

    assert [request.status for request in posthog.requests] == [503, 200]
    assert arrived(posthog) == [("patient", "ann")]
    assert python.failures == []


async def test_a_connection_that_posthog_drops_loses_nothing(proxy: RunningProxy, posthog: Standin) -> None:
    async with sdk(proxy.url) as python:
        python.client.capture("first", distinct_id="ann")
        await python.flush()
        posthog.drop(paths=["/batch"], times=1)
        python.client.capture("second", distinct_id="ann")
        await python.flush()

    assert {name for name, _ in arrived(posthog)} == {"first", "second"}
    assert stored(posthog.events) == 2
    assert python.failures == []


async def test_an_outage_is_a_503_that_the_sdk_outlasts(deployment: Deployment) -> None:
    async with sdk(deployment.proxy.url) as python:
        python.client.capture("patient", distinct_id="ann")
        flushing = asyncio.create_task(python.flush())
        assert await logged_statuses(deployment.proxy, 1) == [503]
        async with deployment.posthog() as posthog:
            await flushing

            assert arrived(posthog) == [("patient", "ann")]
    assert python.failures == []


async def test_a_batch_over_the_limit_is_dropped_without_a_retry(
    strict_proxy: RunningProxy, posthog: Standin
) -> None:
    async with sdk(strict_proxy.url) as python:
        python.client.capture("too large", distinct_id="ann", properties={"ballast": "x" * 50_000})
        await python.flush()
        python.client.capture("small", distinct_id="ann")
        await python.flush()

    [failure] = python.failures
    assert isinstance(failure, APIError)
    assert failure.status == 413
    assert arrived(posthog) == [("small", "ann")]
    assert await logged_statuses(strict_proxy, 2) == [413, 200]
