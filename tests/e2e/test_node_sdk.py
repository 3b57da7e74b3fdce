"""posthog-node (npm) through the proxy: each test plays a scenario of node/scenarios.mjs."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import HERE, Deployment
from tests.support.parts import find
from tests.support.process import Process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.standin.server import Standin
    from tests.support.servers import RunningProxy

pytestmark = [pytest.mark.needs("node", "posthog-node"), pytest.mark.asyncio(loop_scope="module")]

TOKEN = "phc_node"


class Scenario:
    """A node process that plays a scenario and tells what the SDK's own fetch was answered."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def first_answer(self) -> dict[str, Any]:
        """Wait for the first answer that the SDK got."""
        lines = await asyncio.to_thread(self._process.wait_for_lines, r'\{"answer"', stream="stdout")
        return dict(json.loads(lines[0].string)["answer"])

    async def end(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Wait for the end; every answer in order, and the scenario's result."""
        status = await asyncio.to_thread(self._process.wait)
        assert status == 0, self._process.report()
        *answers, result = [json.loads(line) for line in self._process.stdout]
        return [line["answer"] for line in answers], result["result"]


@contextmanager
def playing(name: str, host: str) -> Iterator[Scenario]:
    driver = HERE / "node" / "scenarios.mjs"
    with Process([find("node"), driver, name, host, TOKEN], name=f"node {name}") as process:
        yield Scenario(process)


async def play(name: str, host: str) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    """Play a scenario to its end; path and status of every answer, and the scenario's result."""
    with playing(name, host) as scenario:
        answers, result = await scenario.end()
    return [(answer["path"], answer["status"]) for answer in answers], result


async def test_the_shutdown_flushes_one_batch(proxy: RunningProxy, posthog: Standin) -> None:
    answers, result = await play("shutdownFlush", proxy.url)

    assert answers == [("/batch/", 200)]
    assert result == {"errors": []}
    [request] = posthog.requests
    assert request.header("content-encoding") == "gzip"
    assert str(request.header("user-agent")).startswith("posthog-node/")
    assert set(request.ip.values()) == {"127.0.0.1"}
    counted = [event for event in posthog.events if event.name == "node counted"]
    assert [event.properties["number"] for event in counted] == [0, 1, 2, 3, 4]
    assert {event.name for event in posthog.events} == {
        "node counted",
        "$identify",
        "$groupidentify",
        "$create_alias",
    }


async def test_capture_immediate(proxy: RunningProxy, posthog: Standin) -> None:
    answers, result = await play("captureImmediate", proxy.url)

    assert answers == [("/batch/", 200)]
    assert result == {"errors": []}
    [event] = posthog.events
    assert (event.name, event.distinct_id, event.properties["step"]) == ("node immediate", "nora", 1)


async def test_remote_flags(proxy: RunningProxy, posthog: Standin) -> None:
    answers, result = await play("remoteFlags", proxy.url)

    assert answers == [("/flags/", 200)]
    assert result == {"flags": {"demo-flag": True, "demo-variant": "blue"}, "errors": []}


async def test_local_evaluation_keeps_the_bearer(proxy: RunningProxy, posthog: Standin) -> None:
    answers, result = await play("localFlags", proxy.url)

    assert answers == [("/flags/definitions", 200)]
    assert result["ready"] is True
    assert result["flags"] == {"demo-flag": True, "demo-variant": "blue"}
    [request] = posthog.requests
    assert request.header("authorization") == "Bearer phx_secret"


async def test_flags_are_asked_for_again_after_a_502(proxy: RunningProxy, posthog: Standin) -> None:
    posthog.fail_with(502, paths=["/flags"], times=1)

    answers, result = await play("remoteFlags", proxy.url)

    assert answers == [("/flags/", 502), ("/flags/", 200)]
    assert result["flags"]["demo-flag"] is True


async def test_an_outage_is_a_503_that_the_sdk_outlasts(deployment: Deployment) -> None:
    with playing("captureUntilTaken", deployment.proxy.url) as scenario:
        refused = await scenario.first_answer()
        async with deployment.posthog() as posthog:
            answers, result = await scenario.end()

            assert [(event.name, event.distinct_id) for event in posthog.events] == [("node patient", "nora")]
    assert (refused["path"], refused["status"]) == ("/batch/", 503)
    assert int(refused["retryAfter"]) >= 1
    *earlier, last = [answer["status"] for answer in answers]
    assert set(earlier) == {503}
    assert last == 200
    assert result == {"errors": []}


async def test_a_413_halves_the_batch_until_it_fits(strict_proxy: RunningProxy, posthog: Standin) -> None:
    answers, result = await play("captureBigBatch", strict_proxy.url)

    assert [status for _, status in answers] == [413, 200, 200]
    assert result == {"errors": []}
    assert [event.properties["number"] for event in posthog.events] == [0, 1, 2, 3]


async def test_an_event_over_the_limit_is_dropped_without_a_retry(
    strict_proxy: RunningProxy, posthog: Standin
) -> None:
    answers, result = await play("captureTooLarge", strict_proxy.url)

    assert [status for _, status in answers] == [413, 200]
    assert result == {"errors": [413]}
    assert [event.name for event in posthog.events] == ["node small"]
